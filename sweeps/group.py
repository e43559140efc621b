"""Trials of several workers: Ray Train's worker group is started once and trains trial after trial.

Three parts talk through the office: Tune's trial (`TrainTrial`) assigns and asks for epochs, the workers (`work`) ask
for trials, train and report, and the driver clears up after processes that were killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
import torch.distributed as dist
from ray import tune
from ray.train.torch import TorchConfig, TorchTrainer, get_device, prepare_model
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from torch import nn

from core.gate import HOPELESS
from sweeps.train import epochs
from sweeps.trial import failure, report, trial_config

Job = dict[str, Any]  # one trial for a group: its serial number in the group, its name, and its whole configuration
WITHIN = 5.0  # seconds in which a fault of the trial's own shows on every rank


@dataclass
class Desk:
    """The office's notes on one worker group."""

    serial: int = 0  # of the trial at hand
    job: Job | None = None  # None: there are no more
    trial: str = ""  # the last one's name
    asked: int = 0  # epochs asked for, since the trial was assigned
    reported: int = 0  # epochs reported, since then
    epoch: int = 0  # the last one reported
    starts: list[str] = field(default_factory=list)  # the groups of processes that began with this trial
    over: bool = False  # the trial has failed
    faults: dict[int, set[int]] = field(default_factory=dict)  # which ranks failed, by the trial's serial
    last_fault: str = ""
    reports: asyncio.Queue = field(default_factory=asyncio.Queue)
    placement_group: Any = None


class RanOut(Exception):
    """A rank is out of memory."""


class Office:
    """Where worker groups hear which trial to train, and whether to go on; an async actor, one a sweep."""

    def __init__(self) -> None:
        self.desks: dict[str, Desk] = {}
        self.changed = asyncio.Condition()

    async def assign(self, group: str, job: Job | None) -> None:
        """Give a group its next trial, which also ends the one before; None ends the group."""
        desk = self.desks.setdefault(group, Desk())
        async with self.changed:
            desk.serial, desk.job = desk.serial + 1, job
            desk.asked = desk.reported = 0
            desk.starts = []
            desk.epoch, desk.trial = 0, job["trial"] if job else desk.trial
            desk.over, desk.last_fault, desk.reports = False, "", asyncio.Queue()
            self.changed.notify_all()

    async def step(self, group: str) -> dict[str, Any]:
        """Ask a group for one more epoch, and wait for what it reports."""
        desk = self.desks[group]
        reports = desk.reports
        async with self.changed:
            desk.asked += 1
            self.changed.notify_all()
        return await reports.get()

    async def next(self, group: str, after: int, start: str) -> Job | None:
        """For a worker: the trial after the one of serial `after`, which may be one that its dead predecessor had.

        `start` is the name that all workers have which were started together.
        """
        desk = self.desks[group]
        while True:
            async with self.changed:
                await self.changed.wait_for(lambda: desk.serial > after and not desk.over)
            if desk.job is None:
                return None
            if start not in desk.starts:
                desk.starts.append(start)
                if (deaths := len(desk.starts) - 1) > desk.job["max_failures"]:
                    reason = f"its workers died, {deaths} x{desk.last_fault}"
                    await self._give_up(desk, {"score": HOPELESS, "outcome": "failed", "reason": reason})
                    continue
            progress = {"recorded": desk.epoch, "reported": desk.reported, "start": start}
            return {**desk.job, **progress, "group": group, "serial": desk.serial}

    async def go(self, group: str, serial: int, reported: int) -> bool:
        """For a worker that has trained `reported` epochs: whether to train another, once that is known."""
        desk = self.desks[group]
        async with self.changed:
            await self.changed.wait_for(lambda: desk.serial != serial or desk.over or desk.asked > reported)
        return desk.serial == serial and not desk.over

    async def report(self, group: str, serial: int, found: dict[str, Any]) -> None:
        desk = self.desks[group]
        if desk.serial == serial and not desk.over:
            desk.reported, desk.epoch = desk.reported + 1, found["epoch"]
            desk.reports.put_nowait(found)

    async def fault(self, job: Job, rank: int, world: int, final: bool, found: dict[str, Any]) -> bool:
        """A rank has failed; returns whether all have, so that none of them hangs in a collective.

        Then, or where it is `final`, the trial has failed. Else its workers will begin again.
        """
        desk, serial = self.desks[job["group"]], job["serial"]
        failed = desk.faults.setdefault(serial, set())
        async with self.changed:
            failed.add(rank)
            self.changed.notify_all()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.changed.wait_for(lambda: len(failed) == world), WITHIN)
        together = len(failed) == world
        if desk.serial == serial and desk.starts[-1] == job["start"] and not desk.over:
            desk.last_fault = f": {found['reason']}"
            if together or final:
                await self._give_up(desk, found)
            else:
                failed.clear()
        return together

    async def _give_up(self, desk: Desk, found: dict[str, Any]) -> None:
        async with self.changed:
            desk.over = True
            desk.reports.put_nowait({"epoch": desk.epoch, "done": True, **found})
            self.changed.notify_all()

    async def register(self, group: str, placement_group: Any) -> None:
        self.desks[group].placement_group = placement_group

    async def clear(self, name: str) -> None:
        """Forget a group, or the one that had a trial, and free what it holds: killed, Ray Train does not."""
        for group, desk in list(self.desks.items()):
            if name in (group, desk.trial):
                if desk.placement_group:
                    ray.util.remove_placement_group(desk.placement_group)
                del self.desks[group]


class Janitor(tune.Callback):
    """Has the office clear up when a trial's process is gone."""

    def __init__(self, office: Any) -> None:
        self.office = office

    def on_trial_recover(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        ray.get(self.office.clear.remote(trial.config["trial"]))

    on_trial_error = on_trial_recover


class WorkerGroup(TorchTrainer):
    """Ray's trainer without its detached cleaner, which asks the dashboard whether to act; the office does its work."""

    def _create_default_callbacks(self) -> list[Any]:
        return [
            one for one in super()._create_default_callbacks() if not isinstance(one, PlacementGroupCleanerCallback)
        ]


class TrainTrial(tune.Trainable):
    """What Tune runs where a trial has several workers: a thread of it holds the worker group."""

    def setup(self, config: dict[str, Any], base: dict[str, Any], sweep: str, office: Any) -> None:
        self.base, self.sweep, self.office = base, Path(sweep), office
        self.group: str | None = None
        self.size: dict[str, Any] = {}
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Give the group the next trial; one whose resources differ gets a group of its own."""
        config = trial_config(self.base, new_config)
        size = config["resources"]
        if self.group and (size != self.size or not size["reuse_workers"]):
            self.cleanup()
        job = {"trial": new_config["trial"], "config": config, "max_failures": size["max_failures"]}
        group, self.size = self.group or uuid.uuid4().hex, size
        ray.get(self.office.assign.remote(group, job))
        if self.group is None:
            self.group = group
            self.thread = threading.Thread(target=self._hold, args=(group, size), daemon=True)
            self.fault: BaseException | None = None
            self.thread.start()
        return True

    def step(self) -> dict[str, Any]:
        asked = self.office.step.remote(self.group)
        while not ray.wait([asked], timeout=0.5)[0]:
            if not self.thread.is_alive():
                raise RuntimeError(f"the worker group ended: {self.fault}")
        return ray.get(asked)

    def cleanup(self) -> None:
        """Let the workers go; their resources are free when this returns."""
        if self.group:
            ray.get(self.office.assign.remote(self.group, None))
            self.thread.join(timeout=30)
            ray.get(self.office.clear.remote(self.group))
            self.group = None

    def _hold(self, group: str, size: dict[str, Any]) -> None:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        gpu = size["gpus_per_worker"] > 0
        amounts = {"CPU": size["cpus_per_worker"], "GPU": size["gpus_per_worker"]}
        loop = {"office": self.office, "group": group, "sweep": str(self.sweep)}
        try:
            WorkerGroup(
                work,
                train_loop_config=loop,
                torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
                scaling_config=ray.train.ScalingConfig(
                    num_workers=size["workers"],
                    use_gpu=gpu,
                    resources_per_worker={kind: amount for kind, amount in amounts.items() if amount},
                ),
                run_config=ray.train.RunConfig(
                    name=group,
                    storage_path=self.logdir,  # Train's own state, of no use later: trials keep their checkpoints
                    failure_config=ray.train.FailureConfig(max_failures=-1),  # the office counts, trial by trial
                ),
            ).fit()
        except BaseException as error:  # whatever ended the group ends the trial, in `step`
            self.fault = error


# What Ray Train reads: poll a group that ends sooner than every two seconds, and start fewer processes for it.
ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}


def work(loop: dict[str, Any]) -> None:
    """What each worker of a group runs: trial after trial, until there are no more."""
    office, group = loop["office"], loop["group"]
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    device = get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if rank == 0:
        ray.get(office.register.remote(group, ray.util.get_current_placement_group()))
    start = [uuid.uuid4().hex]
    dist.broadcast_object_list(start, device=device)
    serial = 0
    while (job := ray.get(office.next.remote(group, serial, *start))) is not None:
        serial = job["serial"]
        try:
            _train(office, rank, job, str(device), Path(loop["sweep"]))
        except (torch.AcceleratorError, dist.DistError):
            raise  # this process is of no use any more, or another has gone: Ray Train starts the group again
        except Exception as error:
            final = isinstance(error, RanOut)
            found = failure(error, job["recorded"]) | ({"reason": str(error)} if final else {})
            if "gloo" in str(error) or not ray.get(office.fault.remote(job, rank, world, final, found)):
                raise


def _train(office: Any, rank: int, job: Job, device: str, sweep: Path) -> None:
    """Train one trial as far as the office wants."""
    config, group, serial = job["config"], job["group"], job["serial"]
    if config["device"] in ("auto", "cuda"):
        config = {**config, "device": device}
    running = epochs(config, sweep / job["trial"], recorded=job["recorded"], rank=rank, wrap=wrap)
    reported = job["reported"]
    try:
        while ray.get(office.go.remote(group, serial, reported)):
            epoch = next(running)
            if epoch.outcome == "failed":  # by one rank's memory, maybe, while the others wait for it
                raise RanOut(epoch.reason)
            if rank == 0:
                ray.get(office.report.remote(group, serial, report(epoch)))
            reported += 1
            if epoch.outcome is not None:
                break
    finally:
        running.close()


def wrap(module: nn.Module) -> nn.Module:
    """In DistributedDataParallel; buffers are equal on all ranks as it is."""
    kwargs = {"forward_sync_buffers": False, "gradient_as_bucket_view": True}
    return prepare_model(module, move_to_device=False, parallel_strategy_kwargs=kwargs)
