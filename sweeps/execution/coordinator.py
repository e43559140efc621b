"""The coordinator of worker groups: it stands between Tune's trials and Ray Train's workers."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import Any

import ray
from ray import tune

from gatesweep.core.gate import WORST_SCORE
from gatesweep.sweeps.config.schema import Config
from gatesweep.sweeps.execution.trial import WORKERS_DIED

FAULT_SECONDS = 5.0  # a fault of the trial's own shows on every rank within this time


@dataclass(frozen=True)
class Job:
    """One trial for a worker group."""

    trial: str
    config: Config
    max_failures: int
    """How many times its workers may die before the trial has failed."""


@dataclass(frozen=True)
class Assignment:
    """A job as a worker receives it, with the progress of earlier workers."""

    job: Job
    group: str
    serial: int
    """The number of the job in its group, from 1."""
    start: str
    """The name that all workers have which were started together."""
    recorded: int
    """The last epoch that was reported."""
    reported: int
    """The number of epochs reported since the job was assigned."""


@dataclass
class GroupState:
    """The coordinator's state of one worker group."""

    holder: Any = None  # the actor of Tune's trial, which started the group
    placement_group: Any = None
    serial: int = 0  # of the current job
    job: Job | None = None  # None: there are no more
    trial: str = ""  # name of the last trial
    requested: int = 0  # epochs requested since the job was assigned
    reported: int = 0  # epochs reported since then
    epoch: int = 0  # the last epoch reported
    starts: list[str] = field(default_factory=list)  # the sets of processes that began with this trial
    failed: bool = False  # the trial has failed
    failed_ranks: dict[int, set[int]] = field(default_factory=dict)  # by the serial of the job
    last_fault: str = ""
    reports: asyncio.Queue = field(default_factory=asyncio.Queue)


class WorkerGroupCoordinator:
    """Tells worker groups which trial to train and whether to go on; an async actor, one for each sweep."""

    def __init__(self) -> None:
        self.groups: dict[str, GroupState] = {}
        self.changed = asyncio.Condition()

    async def assign(self, group: str, job: Job | None, holder: Any) -> None:
        """Give the group of a `holder` its next job, which also ends the one before; None ends the group."""
        state = self.groups.setdefault(group, GroupState(holder=holder))
        async with self.changed:
            state.serial, state.job = state.serial + 1, job
            state.requested = state.reported = 0
            state.starts = []
            state.epoch, state.trial = 0, job.trial if job else state.trial
            state.failed, state.last_fault, state.reports = False, "", asyncio.Queue()
            self.changed.notify_all()

    async def step(self, group: str) -> dict[str, Any]:
        """Ask a group for one more epoch, and wait for its report."""
        state = self.groups[group]
        reports = state.reports
        async with self.changed:
            state.requested += 1
            self.changed.notify_all()
        return await reports.get()

    async def next_job(self, group: str, after: int, start: str) -> Assignment | None:
        """Wait, for a worker, for the job after the one of serial `after`; None when there are no more.

        The job may be the one that dead workers left. `start` is the name that all workers have which were started
        together. A trial whose workers died more than `max_failures` times has failed.
        """
        state = self.groups[group]
        while True:
            async with self.changed:
                await self.changed.wait_for(lambda: state.serial > after and not state.failed)
            job = state.job
            if job is None:
                return None
            if start not in state.starts:
                state.starts.append(start)
                if (deaths := len(state.starts) - 1) > job.max_failures:
                    reason = f"{WORKERS_DIED}, {deaths} x{state.last_fault}"
                    await self._fail(state, {"score": WORST_SCORE, "outcome": "failed", "reason": reason})
                    continue
            return Assignment(job, group, state.serial, start, recorded=state.epoch, reported=state.reported)

    async def may_train(self, group: str, serial: int, reported: int) -> bool:
        """Wait, for a worker that has trained `reported` epochs, until it is known whether to train another one."""
        state = self.groups[group]
        async with self.changed:
            await self.changed.wait_for(lambda: state.serial != serial or state.failed or state.requested > reported)
        return state.serial == serial and not state.failed

    async def report(self, group: str, serial: int, report: dict[str, Any]) -> None:
        """Pass on the report of an epoch; a late one, of a job that has ended, is dropped."""
        state = self.groups[group]
        if state.serial == serial and not state.failed:
            state.reported, state.epoch = state.reported + 1, report["epoch"]
            state.reports.put_nowait(report)

    async def report_fault(
        self, assignment: Assignment, rank: int, world_size: int, final: bool, report: dict[str, Any]
    ) -> bool:
        """Note that a rank has failed; return True if all ranks have, so that none of them hangs in a collective.

        Then, or where the fault is `final`, the trial has failed with `report`. Else its workers will begin again.
        """
        state, serial = self.groups[assignment.group], assignment.serial
        failed_ranks = state.failed_ranks.setdefault(serial, set())
        async with self.changed:
            failed_ranks.add(rank)
            self.changed.notify_all()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.changed.wait_for(lambda: len(failed_ranks) == world_size), FAULT_SECONDS)
        all_failed = len(failed_ranks) == world_size
        if state.serial == serial and state.starts[-1] == assignment.start and not state.failed:
            state.last_fault = f": {report['reason']}"
            if all_failed or final:
                await self._fail(state, report)
            else:
                failed_ranks.clear()
        return all_failed

    async def register(self, group: str, placement_group: Any) -> None:
        """Note the placement group of a worker group, to remove it where its holder no longer can."""
        self.groups[group].placement_group = placement_group

    async def clear(self, name: str) -> None:
        """Forget the group or trial `name`, and all groups of dead holders; free their resources.

        A killed Ray Train leaves them reserved. A holder that dies between two trials is known by neither name.
        """
        for group, state in list(self.groups.items()):
            if name in (group, state.trial) or await _is_dead(state.holder):
                if state.placement_group:
                    ray.util.remove_placement_group(state.placement_group)
                self.groups.pop(group, None)

    async def _fail(self, state: GroupState, report: dict[str, Any]) -> None:
        async with self.changed:
            state.failed = True
            state.reports.put_nowait({"epoch": state.epoch, "done": True, **report})
            self.changed.notify_all()


class OrphanCleanup(tune.Callback):
    """Lets the coordinator clean up after a dead trial process, and ends the coordinator with the sweep."""

    def __init__(self, coordinator: Any) -> None:
        self.coordinator = coordinator

    def on_trial_recover(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """Free the resources of a trial whose process died."""
        ray.get(self.coordinator.clear.remote(trial.config["trial"]))

    on_trial_error = on_trial_recover

    def on_experiment_end(self, trials: list, **info: Any) -> None:
        """End the coordinator: every group has left, and a driver of many sweeps would collect coordinators."""
        ray.kill(self.coordinator)


async def _is_dead(actor: Any) -> bool:
    try:
        async with asyncio.timeout(1):  # a living actor may be busy
            await actor.__ray_ready__.remote()
    except TimeoutError:
        return False
    except ray.exceptions.RayActorError:
        return True
    return False
