"""Trials of two workers: one group of processes for all of them, whatever goes wrong in one."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml

from gatesweep.core.record import read_events
from gatesweep.sweeps.execution.coordinator import Job, WorkerGroupCoordinator
from gatesweep.sweeps.records.layout import trial_folders
from tests.conftest import LR, tiny, trivial
from tests.support.processes import descendants
from tests.support.undisturbed import differences
from tests.sweeps.commands.test_sweep import run

pytestmark = pytest.mark.usefixtures("ray_here")
TWO = ["resources.workers=2", "resources.cpus_per_worker=0.5"]


def groups() -> dict[str, str]:
    """The state of every placement group of two workers that there ever was."""
    table = ray.util.placement_group_table()
    return {group["placement_group_id"]: group["state"] for group in table.values() if len(group["bundles"]) == 2}


def by_fault(folder: Path) -> dict[Any, tuple[int, dict[str, Any]]]:
    """The seed and the result of each trial, by its fault."""
    trials = {}
    for trial in trial_folders(folder):
        config = yaml.safe_load((trial / "config.yaml").read_text())
        trials[config["trainable"].get("misbehave")] = config["seed"], json.loads((trial / "result.json").read_text())
    return trials


def test_one_group_trains_all_trials_and_survives_their_faults(tmp_path: Path) -> None:
    """Only a fault of one rank costs the group: the other ranks wait for it in a collective, for ever."""
    faults = ["nan", "memory", "boom", "boom on rank 1", None]
    space = {"misbehave": {"type": "categorical", "choices": faults}}
    grid = ["search=grid", "num_samples=null", "scheduler=none", "resources.max_failures=0"]
    before = groups()
    _, folder, summary = run(trivial(tmp_path / "two", space, *grid, *TWO, lr=0.1, at_epoch=2))
    assert (summary["passed"], summary["diverged"], summary["failed"]) == (1, 1, 3)
    trials = by_fault(folder)
    assert trials["memory"][1]["reason"].startswith("out of memory at batch size 16: try")
    assert trials["boom"][1]["reason"] == "RuntimeError: boom"
    assert trials["boom on rank 1"][1]["reason"] == "its workers died, 1 x: RuntimeError: boom"
    logs = [path.read_text() for path in folder.glob("trial_*/log.txt")]
    assert any("[rank 0] RuntimeError: boom\n" in log and "[rank 1] RuntimeError: boom\n" in log for log in logs)
    started = groups().keys() - before.keys()
    assert len(started) == 2  # one more than the trials that cost a group
    assert {groups()[group] for group in started} == {"REMOVED"} and descendants(
        os.getpid(), ("ray::RayTrainWorker",)
    ) == []

    seed, result = trials[None]
    _, alone, _ = run(
        trivial(tmp_path / "one", {}, "num_samples=1", "scheduler=none", f"seed={seed}", "data.seed=0", lr=0.1)
    )
    curves, curves_alone = result["curves"], by_fault(alone)[None][1]["curves"]
    assert curves["train/step_loss"] == pytest.approx(curves_alone["train/step_loss"], rel=1e-4)
    assert curves["val/closeness"] == pytest.approx(curves_alone["val/closeness"], rel=1e-4)


def test_a_worker_or_who_holds_it_is_killed_and_the_trial_goes_on_with_others(tmp_path: Path) -> None:
    """The trial ends bitwise as if nothing had happened. See `python -m tests.support.chaos worker holder gang`."""
    victims = {  # by the epoch after which they die
        2: ("ray::TrainTrial", "ray::_Inner"),
        3: ("ray::RayTrainWorker",),
        4: ("ray::TrainController",),
    }

    def kill() -> None:
        for epoch, titles in victims.items():
            while not list(tmp_path.glob(f"two/*/trial_0000/checkpoints/epoch_{epoch:04d}")):
                time.sleep(0.05)
            killed.append(descendants(os.getpid(), titles)[0])
            os.kill(killed[-1], signal.SIGKILL)

    killed: list[int] = []
    before = groups()
    threading.Thread(target=kill, daemon=True).start()
    slow = ["num_samples=1", "scheduler=none", "gate.thresholds={val/closeness:'> 2'}", "tracking=mlflow"]
    _, folder, summary = run(trivial(tmp_path / "two", LR, *slow, *TWO, "resources.max_failures=3", epoch_seconds=0.3))
    assert len(killed) == 3 and summary["finished"] == 1
    events = read_events(folder / "trial_0000" / "events.jsonl")
    epochs = [event["epoch"] for event in events if event["event"] == "epoch"]
    assert epochs == [1, 2, 3, 4, 5, 6]
    started = groups().keys() - before.keys()
    assert len(started) == 4 and {groups()[group] for group in started} == {"REMOVED"}

    _, whole, _ = run(trivial(tmp_path / "whole", LR, *slow, *TWO))
    assert differences(folder, whole) == []


def test_trials_may_differ_in_workers(tmp_path: Path) -> None:
    """Each then gets a group of its own."""
    before = groups()
    base = [override for override in trivial(tmp_path, None, TWO[1]) if not override.startswith("search.space=")]
    shown = "search.space={resources:{workers:{type:categorical,choices:[1,2]}}}"
    _, _, summary = run([*base, shown, "search=grid", "num_samples=null", "scheduler=none"])
    assert summary["trials"] == summary["passed"] == 2
    assert len(groups().keys() - before.keys()) == 1  # of two workers; the other is of one


def test_what_a_holder_held_is_freed_if_it_dies_between_two_trials() -> None:
    """The group does not know the next trial's name yet. Groups of living holders stay, even of busy ones."""

    class Holder:
        def hold(self, coordinator: Any, group: str) -> Any:
            job = Job(f"trial of {group}", tiny("mlp"), max_failures=0)
            ray.get(coordinator.assign.remote(group, job, ray.get_runtime_context().current_actor))
            self.reserved = ray.util.placement_group([{"CPU": 0.1}, {"CPU": 0.1}])
            ray.get(coordinator.register.remote(group, self.reserved))
            return self.reserved.id.hex()

        def train(self) -> None:
            time.sleep(4)

    coordinator = ray.remote(num_cpus=0)(WorkerGroupCoordinator).remote()
    holders = [ray.remote(num_cpus=0)(Holder).remote() for _ in range(2)]
    dying, living = (ray.get(holder.hold.remote(coordinator, name)) for name, holder in zip("ab", holders, strict=True))
    busy = holders[1].train.remote()
    ray.kill(holders[0])
    ray.get(coordinator.clear.remote("the next trial"))
    assert groups()[dying] == "REMOVED" and groups()[living] == "CREATED"
    ray.get([busy, coordinator.clear.remote("b")])
    assert groups()[living] == "REMOVED"
