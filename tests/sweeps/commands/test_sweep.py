"""Sweeps, for real: Ray, Optuna and the record around the trivial trainable."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import optuna
import pytest

from gatesweep.core.record import read_events
from gatesweep.sweeps.commands.resume import configure
from gatesweep.sweeps.commands.run import run_sweep
from gatesweep.sweeps.records.layout import trial_folders
from gatesweep.sweeps.search.study import open_study
from tests.conftest import LR, trivial
from tests.support.processes import await_end, descendants
from tests.support.sockets import check_closed
from tests.support.started import ENVIRONMENT, await_epochs, start

pytestmark = pytest.mark.usefixtures("ray_here")


def run(overrides: list[str]) -> tuple[int, Path, dict[str, Any]]:
    """Exit code, folder and summary of a sweep in this process."""
    config = configure(overrides)
    code = run_sweep(config)
    folder = (Path(config.results) / "latest").resolve()
    return code, folder, json.loads((folder / "summary.json").read_text())


def recorded(folder: Path) -> list[Any]:
    """What each trial tried and reported, without clocks and memory."""
    trials = []
    for trial in trial_folders(folder):
        events = read_events(trial / "events.jsonl")
        metrics = [
            (event["epoch"], {key: one for key, one in event["metrics"].items() if not key.startswith("system/")})
            for event in events
            if event["event"] == "epoch"
        ]
        losses = [event["losses"] for event in events if event["event"] == "epoch"]
        trials.append((trial.name, events[0]["values"], metrics, losses, events[-1]["outcome"]))
    return trials


SEVEN = ["num_samples=7", "scheduler.grace_period=1", "seed=1"]


@pytest.fixture(scope="module")
def whole(ray_here: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sweep of seven trials that nothing interrupts."""
    return run(trivial(tmp_path_factory.mktemp("whole"), LR, *SEVEN))[1]


def test_every_outcome_is_counted_recorded_and_told(tmp_path: Path) -> None:
    faults = [None, "nan", "memory", "boom", "late"]
    space = {"misbehave": {"type": "categorical", "choices": faults}}
    code, folder, summary = run(
        trivial(tmp_path, space, "search=grid", "num_samples=null", "scheduler=none", lr=0.1, at_epoch=2)
    )
    assert code == 0
    assert {key: summary[key] for key in ("trials", "passed", "stopped", "finished", "diverged", "failed")} == {
        "trials": 5, "passed": 1, "stopped": 0, "finished": 0, "diverged": 1, "failed": 3
    }  # fmt: skip
    assert summary["best"]["outcome"] == "passed" and summary["best"]["params"] == {"trainable.misbehave": None}
    assert summary["first_pass_epochs"] >= 3 and summary["seconds"] >= summary["first_pass_seconds"] > 0
    assert summary["versions"]["ray"].startswith("2.60") and len(summary["git_commit"] or "0" * 40) >= 40

    results = {}
    for trial in trial_folders(folder):
        fault = read_events(trial / "events.jsonl")[0]["values"]["trainable.misbehave"]
        results[fault] = json.loads((trial / "result.json").read_text())
    assert results["memory"]["reason"].startswith("out of memory at batch size 16: try data.batch_size=8")
    assert results["boom"]["reason"] == "RuntimeError: boom"
    assert results["nan"]["outcome"] == "diverged" and results["nan"]["curves"]["epoch"] == [1, 2]
    assert results[None]["gate_passed"] and results[None]["curves"]["train/step_loss"]
    assert any("RuntimeError: boom" in path.read_text() for path in folder.glob("*/error.txt"))

    states = {trial.params["trainable.misbehave"]: trial for trial in open_study(folder).trials}
    assert states[None].state == optuna.trial.TrialState.COMPLETE and states[None].constraints["val/closeness"] <= 0
    assert states["nan"].state == optuna.trial.TrialState.PRUNED and states["nan"].constraints["val/closeness"] == 1e9
    assert states["boom"].state == states["memory"].state == optuna.trial.TrialState.FAIL
    with (folder / "leaderboard.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert rows[0]["outcome"] == "passed" and len(rows) == 5


def test_the_folder_of_a_trial_holds_what_was_promised(whole: Path) -> None:
    for trial in (trials := trial_folders(whole)):
        names = {path.name for path in trial.iterdir()} - {"test.json"}  # only winners have that
        assert names == {"config.yaml", "events.jsonl", "scalars.csv", "result.json", "checkpoints"}
        assert len(list((trial / "checkpoints").iterdir())) <= 5
    assert {path.name for path in whole.iterdir() if path.name[0] != "."} == {
        "config.yaml", "events.jsonl", "leaderboard.csv", "report.html", "source.zip", "study.journal", "summary.json",
        *(trial.name for trial in trials),
    }  # fmt: skip


def test_what_is_far_from_the_gate_is_stopped_and_told_pruned(whole: Path) -> None:
    stopped = [trial for trial in open_study(whole).trials if trial.user_attrs["outcome"] == "stopped"]
    assert len(stopped) == json.loads((whole / "summary.json").read_text())["stopped"] >= 1
    assert all(trial.state == optuna.trial.TrialState.PRUNED for trial in stopped)
    assert all(trial.constraints["val/closeness"] > 0 for trial in stopped)


def test_a_sweep_that_is_extended_and_cut_by_signals_ends_as_if_nothing_had_happened(
    whole: Path, tmp_path: Path
) -> None:
    """By Ctrl-C, then by SIGTERM to its whole tree; tests/sweeps/commands/test_chaos.py kills it."""
    _, folder, first = run(trivial(tmp_path, LR, *SEVEN, "num_samples=2", epoch_seconds=0.3))
    assert (first["trials"], first["interrupted"]) == (2, 0)
    process = start("run", f"resume={folder}", "num_samples=7")
    await_epochs(folder, process, 3)
    os.killpg(process.pid, signal.SIGINT)
    check_interrupted(process, folder)

    process = start("run", f"resume={folder}", background=True)
    await_epochs(folder, process, 3)
    family = descendants(process.pid)
    assert all(os.getpgid(pid) != process.pid for pid in family)
    check_closed([process.pid, *family], ENVIRONMENT)
    for pid in (process.pid, *family):
        os.kill(pid, signal.SIGTERM)
    os.killpg(process.pid, signal.SIGTERM)  # `timeout` sends it twice
    check_interrupted(process, folder)
    await_end(family, 20)

    code, resumed, last = run([f"resume={folder}"])
    assert resumed == folder and code == (0 if last["passed"] else 3)
    assert recorded(folder) == recorded(whole)
    assert last["seconds"] > first["seconds"]
    assert [trial.state.is_finished() for trial in open_study(folder).trials] == [True] * 7


def check_interrupted(process: subprocess.Popen, folder: Path) -> None:
    """Wait for the end of a sweep that a signal has reached: its page, its advice and its events say so."""
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "")
    assert output.splitlines()[-1] == f"interrupted; go on with: gatesweep run resume={folder}"
    assert (folder / "report.html").is_file()
    assert json.loads((folder / "summary.json").read_text())["interrupted"] == 1
    assert read_events(trial_folders(folder)[-1] / "events.jsonl")[-1]["event"] == "interrupted"


def test_limits_end_a_sweep_that_can_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By its time, then by enough passes; each limit is lifted as the last line says."""

    def check_line(limit: str, interrupted: int, not_begun: int) -> list[str]:
        advice = [f"resume={folder}", f"{limit.partition('=')[0]}=null"]
        left = f"interrupted {interrupted}, never began {not_begun}"
        line = f"ended by {limit}: {left}; go on with: gatesweep run {' '.join(advice)}"
        assert capsys.readouterr().out.splitlines()[-1] == line
        return advice

    space = {"lr": {"type": "float", "low": 0.05, "high": 0.1}}  # passes after four to nine epochs
    options = ["time_budget=1.5", "num_samples=2", "training.max_epochs=20", "search=random", "scheduler=none"]
    code, folder, summary = run(trivial(tmp_path, space, *options, epoch_seconds=0.4))
    assert code == 3 and summary["trials"] == summary["interrupted"] == 1
    assert [trial.state.name for trial in open_study(folder).trials] == ["RUNNING"]
    _, _, later = run([f"resume={folder}", "num_samples=4"])  # its time was up before, and still is
    assert later["trials"] == 1
    advice = check_line("time_budget=1.5", 1, 3)

    code, _, summary = run([*advice, "stop_after_passes=2"])
    assert (code, summary["passed"], summary["trials"]) == (0, 2, 2)
    code, _, summary = run(check_line("stop_after_passes=2", 0, 2))
    assert (code, summary["trials"], summary["passed"], summary["interrupted"]) == (0, 4, 4, 0)


def test_a_sampler_that_fits_a_model_and_a_scheduler_of_medians(whole: Path, tmp_path: Path) -> None:
    """Of the other searches and schedulers: TPE and ASHA above, the grid and Hyperband in test_simulation.py."""
    options = ["search=gp", "scheduler=median", "grace_period=1", "num_samples=10"]
    _, folder, summary = run(trivial(tmp_path, LR, *options))
    assert summary["trials"] == 10 and not summary["failed"]
    tried = [trial.params["trainable.lr"] for trial in open_study(folder).trials]
    assert len(set(tried)) == 10 and all(1e-4 <= lr <= 1.0 for lr in tried)
    stopped = [name for name, *_, outcome in recorded(folder) if outcome == "stopped"]
    assert len(stopped) == summary["stopped"] > 0


def test_population_based_training_copies_and_changes_trials(tmp_path: Path) -> None:
    options = ["scheduler=pbt", "num_samples=2", "max_concurrent=2", "training.max_epochs=20"]
    _, folder, summary = run(trivial(tmp_path, None, *options, epoch_seconds=0.5))
    assert summary["trials"] == 2 and not summary["failed"] and not summary["stopped"]
    changes = [event for trial in trial_folders(folder) for event in read_events(trial / "events.jsonl")]
    assert any(event["event"] == "values" for event in changes)
