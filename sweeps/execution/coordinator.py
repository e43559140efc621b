"""Where worker groups hear which trial to train and whether to go on: between Tune's trials and Ray Train's workers."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import Any

import ray
from ray import tune

from gatesweep.core.gate import WORST_SCORE

Job = dict[str, Any]  # one trial for a group: its serial number in the group, its name, and its whole configuration
FAULT_SECONDS = 5.0  # seconds in which a fault of the trial's own shows on every rank


@dataclass
class GroupState:
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
    holder: Any = None  # the trial's process


class WorkerGroupCoordinator:
    """Where worker groups hear which trial to train, and whether to go on; an async actor, one a sweep."""

    def __init__(self) -> None:
        self.desks: dict[str, GroupState] = {}
        self.changed = asyncio.Condition()

    async def assign(self, group: str, job: Job | None, holder: Any) -> None:
        """Give the group of a `holder` its next trial, which also ends the one before; None ends the group."""
        desk = self.desks.setdefault(group, GroupState(holder=holder))
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
                    await self._give_up(desk, {"score": WORST_SCORE, "outcome": "failed", "reason": reason})
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
                await asyncio.wait_for(self.changed.wait_for(lambda: len(failed) == world), FAULT_SECONDS)
        together = len(failed) == world
        if desk.serial == serial and desk.starts[-1] == job["start"] and not desk.over:
            desk.last_fault = f": {found['reason']}"
            if together or final:
                await self._give_up(desk, found)
            else:
                failed.clear()
        return together

    async def _give_up(self, desk: GroupState, found: dict[str, Any]) -> None:
        async with self.changed:
            desk.over = True
            desk.reports.put_nowait({"epoch": desk.epoch, "done": True, **found})
            self.changed.notify_all()

    async def register(self, group: str, placement_group: Any) -> None:
        self.desks[group].placement_group = placement_group

    async def clear(self, name: str) -> None:
        """Forget a group, or the one that had a trial, and all whose holder has died; free what they hold.

        A Ray Train that is killed does not. A holder that dies between two trials takes neither's name with it.
        """
        for group, desk in list(self.desks.items()):
            if name in (group, desk.trial) or await _is_dead(desk.holder):
                if desk.placement_group:
                    ray.util.remove_placement_group(desk.placement_group)
                self.desks.pop(group, None)


async def _is_dead(actor: Any) -> bool:
    try:
        async with asyncio.timeout(1):  # one that lives may be busy
            await actor.__ray_ready__.remote()
    except TimeoutError:
        return False
    except ray.exceptions.RayActorError:
        return True
    return False


class OrphanCleanup(tune.Callback):
    """Has the office clear up when a trial's process is gone, and closes it at the end."""

    def __init__(self, office: Any) -> None:
        self.office = office

    def on_trial_recover(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        ray.get(self.office.clear.remote(trial.config["trial"]))

    on_trial_error = on_trial_recover

    def on_experiment_end(self, trials: list, **info: Any) -> None:
        ray.kill(self.office)  # every group has left; what runs sweep after sweep would gather offices
