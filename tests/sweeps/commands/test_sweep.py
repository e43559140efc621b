"""Sweeps, for real: Ray, Optuna and the record around the trivial trainable."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
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

pytestmark = pytest.mark.usefixtures("ray_here")
ROOT = Path(__file__).parents[3]


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


def test_the_folder_of_a_trial_holds_what_was_promised(tmp_path: Path) -> None:
    _, folder, _ = run(trivial(tmp_path, None, "num_samples=1", "scheduler=none"))
    names = {path.name for path in (folder / "trial_0000").iterdir()}
    assert names == {"config.yaml", "events.jsonl", "scalars.csv", "result.json", "checkpoints"}
    assert {path.name for path in folder.iterdir() if path.name[0] != "."} == {
        "config.yaml", "events.jsonl", "leaderboard.csv", "report.html", "source.zip", "study.journal", "summary.json",
        "trial_0000",
    }  # fmt: skip
    assert len(list((folder / "trial_0000" / "checkpoints").iterdir())) <= 5


def test_what_is_far_from_the_gate_is_stopped_and_told_pruned(tmp_path: Path) -> None:
    _, folder, summary = run(trivial(tmp_path, None, "scheduler.grace_period=1"))
    assert summary["stopped"] >= 1
    stopped = [trial for trial in open_study(folder).trials if trial.user_attrs["outcome"] == "stopped"]
    assert stopped and all(trial.state == optuna.trial.TrialState.PRUNED for trial in stopped)
    assert all(trial.constraints["val/closeness"] > 0 for trial in stopped)


def test_enough_passes_end_a_sweep_that_can_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    space = {"lr": {"type": "float", "low": 0.25, "high": 0.35}}
    options = ["max_concurrent=2", "stop_after_passes=2", "num_samples=6", "scheduler=none"]
    code, folder, summary = run(trivial(tmp_path, space, *options, epoch_seconds=0.2))
    assert code == 0 and summary["passed"] >= 2 and summary["passed"] + summary["interrupted"] == summary["trials"] < 6
    last = capsys.readouterr().out.splitlines()[-1]
    left = f"interrupted {summary['interrupted']}, never began {6 - summary['trials']}"
    advice = f"go on with: gatesweep run resume={folder} stop_after_passes=null"
    assert last == f"ended by stop_after_passes=2: {left}; {advice}"
    code, _, later = run([f"resume={folder}", "stop_after_passes=null"])
    assert (code, later["trials"], later["interrupted"], later["stopped"]) == (0, 6, 0, 0)


def test_time_ends_a_sweep_that_can_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overrides = trivial(
        tmp_path, None, "time_budget=3", "scheduler=none", epoch_seconds=0.5
    )  # it takes some 50 epochs to pass
    code, folder, summary = run([*overrides, "training.max_epochs=1000", "num_samples=2"])
    assert code == 3 and summary["trials"] == summary["interrupted"] == 1
    assert [trial.state.name for trial in open_study(folder).trials] == ["RUNNING"]
    _, _, later = run([f"resume={folder}", "num_samples=9"])  # its time was up before, and still is
    assert later["trials"] == 1
    ended = "ended by time_budget=3: interrupted 1, never began 8; go on with: "
    assert capsys.readouterr().out.splitlines()[-1] == f"{ended}gatesweep run resume={folder} time_budget=null"


def test_a_grid_is_every_point_once(tmp_path: Path) -> None:
    space = {
        "lr": {"type": "categorical", "choices": [0.01, 0.1]},
        "split": {"type": "composition", "total": 4, "parts": {"a": 1, "b": 1}},
        "dropout": {"type": "float", "low": 0.0, "high": 0.2, "step": 0.1, "when": {"trainable.lr": 0.1}},
    }
    _, folder, summary = run(trivial(tmp_path, space, "search=grid", "num_samples=null", "training.max_epochs=2"))
    points = [
        tuple(sorted(read_events(trial / "events.jsonl")[0]["values"].items())) for trial in trial_folders(folder)
    ]
    assert summary["trials"] == len(points) == len(set(points)) == 3 + 3 * 3


@pytest.mark.parametrize(("search", "scheduler"), [("tpe", "median"), ("random", "hyperband"), ("gp", "none")])
def test_searches_and_schedulers(search: str, scheduler: str, tmp_path: Path) -> None:
    options = [f"search={search}", f"scheduler={scheduler}", "grace_period=1", "num_samples=10"]
    _, folder, summary = run(trivial(tmp_path, None, *options))
    assert summary["trials"] == 10 and not summary["failed"]
    tried = [trial.params["trainable.lr"] for trial in open_study(folder).trials]
    assert len(set(tried)) == 10 and all(1e-4 <= lr <= 1.0 for lr in tried)
    assert (summary["stopped"] > 0) == (scheduler != "none")
    stopped = [name for name, *_, outcome in recorded(folder) if outcome == "stopped"]
    assert len(stopped) == summary["stopped"]


def test_population_based_training_copies_and_changes_trials(tmp_path: Path) -> None:
    options = ["scheduler=pbt", "num_samples=2", "max_concurrent=2", "training.max_epochs=20"]
    _, folder, summary = run(trivial(tmp_path, None, *options, epoch_seconds=0.5))
    assert summary["trials"] == 2 and not summary["failed"] and not summary["stopped"]
    changes = [event for trial in trial_folders(folder) for event in read_events(trial / "events.jsonl")]
    assert any(event["event"] == "values" for event in changes)


def test_a_killed_worker_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    overrides = trivial(tmp_path, None, "num_samples=1", "scheduler=none", misbehave="kill", at_epoch=4, lr=0.0001)
    (tmp_path / "marker").write_text("")
    _, folder, summary = run([*overrides, f"trainable.marker={tmp_path / 'marker'}"])
    assert not (tmp_path / "marker").exists()  # it did die
    assert summary["finished"] == 1
    events = read_events(folder / "trial_0000" / "events.jsonl")
    assert [event["epoch"] for event in events if event["event"] == "epoch"] == [1, 2, 3, 4, 5, 6]


def start(overrides: list[str]) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "sweeps" / "run.py"), *overrides]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, text=True, env=environment, start_new_session=True, **streams)  # type: ignore[call-overload]


def wait_for_epochs(results: Path, count: int) -> Path:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        folder = (results / "latest").resolve()
        events = [event for trial in trial_folders(folder) for event in read_events(trial / "events.jsonl")]
        if sum(event["event"] == "epoch" for event in events) >= count:
            return folder
        time.sleep(0.05)
    raise AssertionError("the sweep did not get that far")


def test_a_resumed_sweep_ends_as_if_it_had_not_been_interrupted(tmp_path: Path) -> None:
    """By Ctrl-C; tests/sweeps/commands/test_chaos.py kills it."""
    options = ["num_samples=7", "scheduler.grace_period=1", "seed=1"]
    _, whole, _ = run(trivial(tmp_path / "whole", LR, *options, epoch_seconds=0.2))

    process = start(trivial(tmp_path / "cut", LR, *options, epoch_seconds=0.2))
    folder = wait_for_epochs(tmp_path / "cut", 9)
    os.killpg(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert output.splitlines()[-1] == f"interrupted; go on with: gatesweep run resume={folder}"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["interrupted"] == 1
    assert read_events(max(trial_folders(folder)) / "events.jsonl")[-1]["event"] == "interrupted"

    code, resumed, summary = run([f"resume={folder}"])
    assert resumed == folder and code == (0 if summary["passed"] else 3)
    assert recorded(resumed) == recorded(whole)
    assert [trial.state.is_finished() for trial in open_study(folder).trials] == [True] * 7


def test_a_finished_sweep_can_be_extended_to_what_the_same_seed_gives_at_once(tmp_path: Path) -> None:
    _, folder, first = run(trivial(tmp_path, None, "num_samples=3"))
    _, again, second = run([f"resume={folder}", "num_samples=5"])
    _, _, longer = run(trivial(tmp_path / "long", None, "num_samples=5"))
    assert again == folder and (first["trials"], second["trials"]) == (3, 5)
    assert recorded(folder) == recorded((tmp_path / "long" / "latest").resolve()) and longer["trials"] == 5
    assert second["seconds"] > first["seconds"]
    _, other, _ = run(trivial(tmp_path / "other", None, "seed=4", "num_samples=1"))
    assert recorded(other) != recorded(folder)[:1]
