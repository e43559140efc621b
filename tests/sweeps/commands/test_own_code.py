"""Sweeps of people's own code, for real: a file and a function, Python, and functions that misbehave."""

from __future__ import annotations

import html
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import gatesweep
from gatesweep.core import checkpoint
from gatesweep.core.errors import InputError
from gatesweep.core.record import read_events
from gatesweep.core.reporting import Last
from gatesweep.sweeps.commands.cli import run_command
from gatesweep.sweeps.commands.resume import configure
from gatesweep.sweeps.commands.run import run_sweep
from gatesweep.sweeps.config import trust
from gatesweep.sweeps.records.layout import CHECKPOINTS, trial_folders
from gatesweep.sweeps.tracking.models import pack_model
from tests.support.processes import descendants, kill

ROOT = Path(__file__).parents[3]
TRIAL = ("ray::DirectTrial", "ray::_Inner")
FILE = """
function: stranger:classify
trainable: {nap: 0.2}
space: {lr: [0.01, 0.1, log], width: [4, 8]}
gate: {val/accuracy: "> 0.999"}
max_epochs: 4
num_samples: 3
max_concurrent: 1
search: random
scheduler: none
tracking: none
figures: none
"""
QUIET = {"tracking": "none", "figures": "none", "scheduler": "none", "search": "random", "verbose": 0}


def curves(folder: Path) -> list[Any]:
    """Values and reports of each trial, without clocks and memory, and its outcome."""
    trials = []
    for trial in trial_folders(folder):
        events = read_events(trial / "events.jsonl")
        reports = [
            (
                event["epoch"],
                {name: value for name, value in event["metrics"].items() if not name.startswith("system/")},
            )
            for event in events
            if event["event"] == "epoch"
        ]
        trials.append((trial.name, events[0]["values"], reports, events[-1].get("outcome")))
    return trials


def epochs(folder: Path) -> int:
    return sum(len(trial[2]) for trial in curves(folder))


def wait_for(condition: Any, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.05)


def test_a_function_in_a_file_survives_kills_of_its_trial_and_of_the_driver(ray_here: None, tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(FILE)
    (tmp_path / "stranger.py").write_text((ROOT / "tests" / "support" / "functions.py").read_text())
    file, results = str(tmp_path / "sweep.yaml"), tmp_path / "results"
    typed = [file, f"results={results}"]
    command = [sys.executable, "-P", "-m", "gatesweep", "run", *typed]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    driver = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        wait_for(lambda: (results / "latest").exists() and epochs(results / "latest") >= 2)
        kill(descendants(driver.pid, TRIAL))
        wait_for(lambda: epochs(results / "latest") >= 6)
    finally:
        kill([driver.pid, *descendants(driver.pid)])
        driver.wait()
    cut = (results / "latest").resolve()
    assert any("process_died" in path.read_text() for path in cut.glob("trial_*/events.jsonl"))

    config = configure([file, f"resume={cut}"])
    assert run_sweep(config, [file, f"resume={cut}"]) in (0, 3)
    assert run_sweep(configure([*typed, "name=whole", "trainable.nap=0.0"])) in (0, 3)
    whole = (results / "latest").resolve()
    assert whole.name.endswith("-whole") and curves(cut) == curves(whole)
    assert len(curves(cut)) == 3 and {trial[3] for trial in curves(cut)} <= {"passed", "finished"}

    trust._trust = trust.Trust()  # load runs no code, so it needs no trust
    best = checkpoint.best(whole / "trial_0000" / CHECKPOINTS)
    loaded = gatesweep.load(whole / "trial_0000")
    assert best and isinstance(loaded, Last) and loaded.epoch == best.epoch and loaded.folder is None
    assert loaded.state and torch.equal(
        loaded.state["model"]["features.1.running_mean"], best.state()["trainable"]["model"]["features.1.running_mean"]
    )
    with pytest.raises(InputError, match=r"a sweep of stranger\.classify, expected one of other\.train"):
        (tmp_path / "other.yaml").write_text(FILE.replace("stranger:classify", "other:train"))
        trust.trust_modules(["stranger.classify"])
        configure([str(tmp_path / "other.yaml"), f"resume={cut}"])


def test_python_sweeps_a_function_of_its_own_and_goes_on(ray_here: None, tmp_path: Path, capfd: Any) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    def walk(lr: float, steps: int = 3) -> Any:
        """Walk down a parabola; nobody could import this function."""
        found = gatesweep.last()
        x, start = (float((found.folder / "x").read_text()), found.epoch) if found else (10.0, 0)
        for _ in range(start, 100):
            for _ in range(steps):
                x -= 2 * lr * x
            yield {"val/closeness": 1 / (1 + x * x)}, lambda folder, x=x: (folder / "x").write_text(str(x))

    sweep = {"space": {"lr": (1e-3, 0.4, "log"), "steps": [1, 3]}, "gate": {"val/closeness": "> 0.99"}, "max_epochs": 4}
    result = gatesweep.sweep(walk, **sweep, num_samples=4, results=tmp_path, **QUIET)
    assert capfd.readouterr().out == ""
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    table = result.trials
    assert list(table.columns) == ["lr", "steps", "outcome", "epochs", "val/closeness", "why"] and len(table) == 4
    assert set(table.outcome) <= {"passed", "finished"} and table.outcome.iloc[0] == result.best.outcome
    assert result.report.is_file() and len(result.curves) == sum(table.epochs)
    assert result.best.curves["val/closeness"].iloc[-1] == pytest.approx(result.best.metrics["val/closeness"])
    assert html.escape(repr(result)) in result._repr_html_() and "<table" in result._repr_html_()
    saved = result.load()
    assert saved.state is None and 1 / (1 + float((saved.folder / "x").read_text()) ** 2) > 0
    (tmp_path / "model").mkdir()
    pack_model(result.best.folder, checkpoint.best(result.best.folder / CHECKPOINTS), tmp_path / "model")
    assert (gatesweep.load(tmp_path / "model").folder / "x").read_text() == (saved.folder / "x").read_text()

    longer: list[Any] = []
    thread = threading.Thread(target=lambda: longer.append(
        gatesweep.sweep(walk, resume=result.folder, num_samples=5, verbose=0)
    ))  # fmt: skip
    thread.start()
    thread.join()
    assert len(longer[0].trials) == 5 and gatesweep.open_sweep(result.folder).best.name == longer[0].best.name
    with pytest.raises(InputError, match="not of"):
        gatesweep.sweep("tests.support.functions:classify", resume=result.folder)


def test_a_gated_metric_that_never_comes_ends_the_sweep_at_its_first_trial(ray_here: None, tmp_path: Path) -> None:
    wrong = {"trainable": {"values": [0.1] * 5, "name": "val/acc"}, "gate": {"val/accuracy": "> 0.5"}, "max_epochs": 4}
    with pytest.raises(RuntimeError, match=r"the first trial failed, as all would: .*reports val/acc"):
        gatesweep.sweep(
            "tests.support.functions:repeat", **wrong, num_samples=9, max_concurrent=1, results=tmp_path, **QUIET
        )
    assert len(trial_folders((tmp_path / "latest").resolve())) == 1


def misbehave(kind: str, folder: str) -> Any:
    """End in the way that is asked for."""
    from gatesweep.core import function
    from tests.support import functions

    function.GRACE = 0.5
    report, last = gatesweep.report, gatesweep.last
    if kind == "return":
        return functions.evaluate_once({"lr": 0.1})
    if kind == "exit":
        functions.leave({})
    if kind == "hang":
        functions.catch_all({"hang": 600})
    if kind == "forget":
        if (Path(folder) / "once").exists():
            functions.forget({})
        (Path(folder) / "once").touch()
        functions.forget({"epochs": 2}) or os.kill(os.getpid(), signal.SIGKILL)
    if kind == "raise":
        report({"val/accuracy": 0.2})
        raise ValueError("mine")
    if kind == "diverge":
        report({"val/accuracy": 0.2})
        raise gatesweep.Diverged("NaN")
    assert last() is None
    (Path(folder) / "cwd").write_text(os.getcwd())
    report({"val/accuracy": 0.9})


def test_every_way_to_end_is_an_outcome_and_costs_no_sweep(ray_here: None, tmp_path: Path) -> None:
    kinds = ["return", "exit", "hang", "forget", "raise", "diverge", "pass"]
    result = gatesweep.sweep(
        misbehave, space={"kind": kinds}, trainable={"folder": str(tmp_path)}, gate={"val/accuracy": "> 0.85"},
        max_epochs=3, num_samples=None, results=tmp_path, max_concurrent=1, resources={"max_alike": None},
        **{**QUIET, "search": "grid"},
    )  # fmt: skip
    outcomes = {row.kind: (row.outcome, row.why) for row in result.trials.itertuples()}
    assert {kind: outcome for kind, (outcome, _) in outcomes.items()} == {
        **{"return": "finished", "exit": "failed", "hang": "finished", "forget": "failed"},
        **{"raise": "failed", "diverge": "diverged", "pass": "passed"},
    }
    assert outcomes["return"][1] == "the function returned" and outcomes["diverge"][1] == "NaN"
    assert "SystemExit: 4" in outcomes["exit"][1] and outcomes["raise"][1] == "ValueError: mine"
    assert "goes on after epoch 2, but its function reported before it called last()" in outcomes["forget"][1]
    assert Path((tmp_path / "cwd").read_text()) == Path.cwd()  # where a user's relative paths begin


def test_population_based_training_copies_what_functions_saved(ray_here: None, tmp_path: Path) -> None:
    space = {"lr": (1e-4, 0.05, "log")}
    result = gatesweep.sweep(
        "tests.support.functions:descend", space=space, trainable={"nap": 0.3}, gate={"val/closeness": "> 0.9999"},
        max_epochs=8, num_samples=2, max_concurrent=2, results=tmp_path, **{**QUIET, "scheduler": "pbt"},
        resources={"cpus_per_worker": 0.5},
    )  # fmt: skip
    assert set(result.trials.outcome) == {"finished"}, result.trials.why.tolist()
    events = [event for folder in trial_folders(result.folder) for event in read_events(folder / "events.jsonl")]
    assert any(event["event"] == "values" for event in events)


SCRIPT = """
import json, signal, sys
from gatesweep import last, report, sweep

SCALE = 2.0

def train(config):
    x, start = 10.0, 0
    if found := last():
        x, start = found.state["x"], found.epoch
    for _ in range(start, 10):
        x -= config["lr"] * SCALE * x
        report({"val/accuracy": 1 / (1 + x * x)}, checkpoint={"x": x})

train({"lr": 0.1})
before = signal.getsignal(signal.SIGINT)
result = sweep(train, space={"lr": (0.01, 0.5, "log")}, gate={"val/accuracy": "> 0.95"}, max_epochs=4, num_samples=2,
               results=sys.argv[1], tracking="none", figures="none", verbose=0)
restored = signal.getsignal(signal.SIGINT) is before
print(json.dumps([len(result.trials), result.best.load().state["x"] is not None, restored]))
"""


def test_a_script_without_a_guard_sweeps_its_own_function(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "script.py", str(tmp_path / "results")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout == "[2, true, true]\n", done.stderr


@pytest.mark.parametrize("kind", ["function", "trainable"])
def test_init_writes_files_that_compose_and_train_and_overwrites_none(
    kind: str, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(trust, "_trust", trust.Trust())
    for name in ("train", "net"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    words = [str(tmp_path / "mine"), *(["--trainable"] if kind == "trainable" else [])]
    assert run_command("init", words) == 0
    file = str(tmp_path / "mine" / "sweep.yaml")
    assert file in capsys.readouterr().out
    assert run_command("init", words) == 2 and "which is there already" in capsys.readouterr().err
    assert len(configure([file]).search.space["trainable"]) == 2
    assert run_command("train", [file, "trainable.lr=0.01", "max_epochs=2", f"results={tmp_path}"]) == 3
    assert "finished after 2 epochs" in capsys.readouterr().out


def test_a_function_trains_alone_and_goes_on(tmp_path: Path, capsys: Any) -> None:
    target = "trainable={_target_: tests.support.functions.classify, lr: 0.05, width: 4}"
    typed = [target, "data={}", "search.space={}", "training=function", "gate.thresholds={val/accuracy: '> 0.999'}",
             "gate.objective=null", f"results={tmp_path}", "figures=none", "training.max_epochs=3"]  # fmt: skip
    assert run_command("train", typed) == 3
    folder = (tmp_path / "latest_run").resolve()
    assert [epoch for epoch, _ in curves_of_run(folder)] == [1, 2, 3]
    failing = [*typed[1:], "trainable={_target_: tests.support.functions.leave}"]
    assert run_command("train", failing) == 3
    assert (
        "failed after 1 epochs: RuntimeError: the function raised SystemExit: 4; traceback in"
        in capsys.readouterr().out
    )
    assert (
        run_command("train", [*typed[1:], "trainable={_target_: tests.support.functions.evaluate_once, lr: 0.1}"]) == 3
    )
    assert "finished after 1 epochs: the function returned" in capsys.readouterr().out
    assert run_command("train", [*typed, "resources.workers=2"]) == 2
    assert "resources.workers: got 2, expected 1 for a function, which is one process" in capsys.readouterr().err


def curves_of_run(folder: Path) -> list[Any]:
    return [
        (event["epoch"], event["metrics"])
        for event in read_events(folder / "events.jsonl")
        if event["event"] == "epoch"
    ]


def test_gatesweep_is_imported_without_torch() -> None:
    names = ["torch", "ray", "numpy", "pandas", "lightning", "transformers"]
    code = f"import gatesweep, sys; print([name for name in {names} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "[]\n"
