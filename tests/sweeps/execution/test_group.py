"""Trials of several workers: one group of processes for all of them, whatever goes wrong in one.

Two sweeps, each with several faults: starting workers is what costs time.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from gatesweep.core import checkpoint
from gatesweep.core.loop import fit
from gatesweep.core.record import read_events
from gatesweep.core.trainable import Trainable
from gatesweep.sweeps.config.build import build_run
from gatesweep.sweeps.config.compose import load_file
from gatesweep.sweeps.config.schema import make_settings
from gatesweep.sweeps.execution import watchdog
from gatesweep.sweeps.execution.coordinator import Job, WorkerGroupCoordinator
from tests.conftest import tiny, trivial
from tests.support.processes import descendants
from tests.support.undisturbed import trial_differences
from tests.sweeps.commands.test_sweep import run

pytestmark = pytest.mark.usefixtures("ray_here")
# The seed decides the order of the grid: this one ends with the fault whose mending would cost a new group.
FAULTS = ["boom", "nan", "memory", None, "boom on rank 1", "freeze at epoch 2 on rank 1"]
CHOICES = [FAULTS[5], FAULTS[2], FAULTS[1], FAULTS[0], FAULTS[3], FAULTS[4]]
TWIN = FAULTS.index(None)  # the trial that nothing disturbs, and its seed
GRID = ["search=grid", "num_samples=null", "scheduler=none", "resources.cpus_per_worker=0.5"]
PASSES = "gate.thresholds={val/closeness:'> 0.978'}"  # in the sixth epoch of the twin's seed, the last


@dataclass
class Swept:
    """A sweep that has ended, and the placement groups that it had."""

    folder: Path
    summary: dict[str, Any]
    groups: set[str]

    def trial(self, number: int) -> Path:
        return self.folder / f"trial_{number:04d}"

    def reason(self, number: int) -> str:
        return json.loads((self.trial(number) / "result.json").read_text())["reason"]

    def started(self) -> int:
        """How many groups of two workers there were."""
        return len(self.groups & groups(2).keys())


def groups(size: int | None = None) -> dict[str, str]:
    """The state of every placement group of `size` that there ever was."""
    table = ray.util.placement_group_table().values()
    return {group["placement_group_id"]: group["state"] for group in table if size in (None, len(group["bundles"]))}


def swept(overrides: list[str]) -> Swept:
    before = groups()
    _, folder, summary = run(overrides)
    return Swept(folder, summary, groups().keys() - before.keys())


def all_gone(swept: Swept) -> bool:
    """Neither a reservation nor a worker is left, also none that is stopped."""
    states = groups()
    return {states[group] for group in swept.groups} == {"REMOVED"} and not descendants(
        os.getpid(), ("ray::RayTrainWorker",)
    )


def trained_here(trial: Path) -> tuple[Trainable, dict[str, list[float]]]:
    """The trial trained by this process alone: the trainable, and its curves."""
    config = load_file(trial / "config.yaml", [])
    trainable, data = build_run(config)
    epochs = list(fit(trainable, data, make_settings(config)))
    losses = [loss for epoch in epochs for loss in epoch.losses]
    return trainable, {"loss": losses, "closeness": [epoch.metrics["val/closeness"] for epoch in epochs]}


def recorded_curves(trial: Path) -> dict[str, list[float]]:
    epochs = [event for event in read_events(trial / "events.jsonl") if event["event"] == "epoch"]
    losses = [loss for epoch in epochs for loss in epoch["losses"]]
    return {"loss": losses, "closeness": [epoch["metrics"]["val/closeness"] for epoch in epochs]}


@pytest.fixture(scope="module")
def faulty(ray_here: None, tmp_path_factory: pytest.TempPathFactory) -> Swept:
    """A sweep of two workers with a fault in nearly every trial."""
    space = {"misbehave": {"type": "categorical", "choices": CHOICES}}
    options = [*GRID, PASSES, "resources.workers=2", "resources.max_failures=0"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watchdog, "FLOOR", 5.0)  # the default is a minute
        return swept(trivial(tmp_path_factory.mktemp("faulty"), space, *options, lr=0.1))


def test_one_group_trains_all_trials_and_survives_their_faults(faulty: Swept) -> None:
    """Only a fault of one rank costs the group: the other ranks wait for it in a collective, for ever."""
    counts = [faulty.summary[outcome] for outcome in ("passed", "diverged", "failed")]
    assert counts == [1, 1, 4]
    assert faulty.reason(FAULTS.index("memory")).startswith("out of memory at batch size 16: try")
    assert faulty.reason(FAULTS.index("boom")) == "RuntimeError: boom"
    assert faulty.reason(FAULTS.index("boom on rank 1")) == "its workers died, 1 x: RuntimeError: boom"
    log = (faulty.trial(FAULTS.index("boom")) / "log.txt").read_text()
    assert "[rank 0] RuntimeError: boom\n" in log and "[rank 1] RuntimeError: boom\n" in log
    assert faulty.started() == 2  # "boom on rank 1" costs the first, and no trial after the last needs another


def test_a_frozen_rank_of_a_group_that_has_no_restart_left_is_a_failure(faulty: Swept) -> None:
    frozen = len(FAULTS) - 1
    assert faulty.reason(frozen).startswith("silent for ")
    assert len(recorded_curves(faulty.trial(frozen))["closeness"]) == 1
    assert all_gone(faulty)


def test_two_workers_train_as_one_process_does(faulty: Swept) -> None:
    _, alone = trained_here(faulty.trial(TWIN))
    curves = recorded_curves(faulty.trial(TWIN))
    assert len(curves["closeness"]) == 6
    assert curves == {name: pytest.approx(values, rel=1e-4) for name, values in alone.items()}


@pytest.fixture(scope="module")
def killed(ray_here: None, tmp_path_factory: pytest.TempPathFactory) -> Swept:
    """A sweep of a trial with two workers and one with one: a worker, its holder and its controller are killed."""
    results = tmp_path_factory.mktemp("killed")
    victims = (  # with the trial and the epoch after which they die
        ("trial_0000", 2, ("ray::RayTrainWorker",)),
        ("trial_0001", 2, ("ray::TrainTrial", "ray::_Inner")),
        ("trial_0001", 3, ("ray::TrainController",)),
    )

    def kill() -> None:
        for trial, epoch, titles in victims:
            while not list(results.glob(f"*/{trial}/checkpoints/epoch_{epoch:04d}")):
                time.sleep(0.05)
            pids.append(descendants(os.getpid(), titles)[0])
            os.kill(pids[-1], signal.SIGKILL)

    pids: list[int] = []
    threading.Thread(target=kill, daemon=True).start()
    base = [override for override in trivial(results, {}, lr=0.1) if not override.startswith("search.space=")]
    # The seed of this sweep begins with the second choice.
    space = "search.space={resources:{workers:{type:categorical,choices:[1,2]}}}"
    seeds = [f"seed={TWIN}", "data.seed=0"]  # of the trial with two workers
    slow = [PASSES, "resources.max_failures=2", "trainable.epoch_seconds=0.3"]
    found = swept([*base, space, *GRID, *seeds, *slow])
    assert len(pids) == len(victims)
    return found


def test_trials_may_differ_in_workers(killed: Swept) -> None:
    """Each then gets a group of its own."""
    workers = [load_file(killed.trial(number) / "config.yaml", []).resources.workers for number in range(2)]
    assert workers == [2, 1] and (killed.summary["passed"], killed.summary["finished"]) == (1, 1)
    assert killed.started() == 2  # with the one whose worker was killed; those of one worker are not among them
    assert all_gone(killed)


def test_a_worker_is_killed_and_the_trial_goes_on_with_others(killed: Swept, faulty: Swept) -> None:
    """The trial ends bitwise as if nothing had happened. See `python -m tests.support.chaos worker gang`."""
    assert trial_differences(killed.trial(0), faulty.trial(TWIN)) == []


def test_who_holds_workers_is_killed_and_the_trial_goes_on_with_others(killed: Swept) -> None:
    """The trial ends bitwise as if nothing had happened. See `python -m tests.support.chaos holder`."""
    trainable, alone = trained_here(killed.trial(1))
    assert recorded_curves(killed.trial(1)) == alone and len(alone["closeness"]) == 6
    newest = checkpoint.newest(killed.trial(1) / "checkpoints")
    assert newest and newest[0].epoch == 6
    for name, value in trainable.state_dict().items():
        assert torch.equal(newest[1]["trainable"][name], value), name


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
