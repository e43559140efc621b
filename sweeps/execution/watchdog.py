"""The watchdog of a sweep: it ends the processes of trials that have not been heard of for too long.

A trial is heard of when it starts and with each report, at the end of an epoch. Only seconds in which this process
listens count: a sweep that was suspended, or a machine that slept, has heard of nobody, and nobody is to blame.
"""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import time
from collections import deque
from pathlib import Path
from typing import Any, Literal

import ray
from ray import tune

from gatesweep.sweeps.execution.deaths import Deaths
from gatesweep.sweeps.execution.progress import say
from gatesweep.sweeps.execution.ray_private import ActorTable

FLOOR, FIRST_FLOOR = 60.0, 600.0  # seconds; the first report of a process waits for imports, data and compilation too
MULTIPLE = 10  # of an epoch's usual time
LOOK = 1.0  # seconds between two looks; a longer gap counts as one look, for this process was not listening
REMEMBERED = 1000  # epochs whose median is the usual time


class Watchdog(tune.Callback):
    """Ends a process after `silence` seconds without a word, and says so; after half of them it gives a warning.

    With "auto" it waits ten times the sweep's median epoch, or the trial's own longest where that is longer, and at
    least a minute; for the first report of a process at least ten minutes. None turns the watchdog off.
    """

    def __init__(self, silence: float | Literal["auto"] | None, deaths: Deaths) -> None:
        self.silence, self.deaths = silence, deaths
        self.clock = 0.0  # seconds of listening
        self.looked = time.monotonic()
        self.here = ray.get_runtime_context().get_node_id()
        self.heard: dict[tuple[str, str], float] = {}  # by actor and trial: when it was last heard of
        self.warned: set[tuple[str, str]] = set()
        self.reports: dict[str, int] = {}  # by trial: the number of reports of its process
        self.longest: dict[str, float] = {}  # by trial: the longest time between two of its reports
        self.usual = {first: deque[float](maxlen=REMEMBERED) for first in (True, False)}

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """Hear of a trial whose process is ready."""
        self.reports[trial.trial_id] = 0
        self._hear(trial)

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict[str, Any], **info: Any) -> None:
        """Hear of a trial at the end of an epoch."""
        seconds, name = self._hear(trial), trial.trial_id
        first = self.reports.get(name, 0) == 0
        if seconds is not None:
            self.usual[first].append(seconds)
            epoch = min(seconds, _epoch_seconds(result)) if first else seconds
            self.longest[name] = max(epoch, self.longest.get(name, 0.0))
        self.reports[name] = self.reports.get(name, 0) + 1

    def look(self, awaited: dict[tuple[str, str], tuple[Any, Any]]) -> None:
        """Look at the actors that owe an answer, as `LeanTuneController.awaited_actors` returns them; call it often."""
        now = time.monotonic()
        if (gap := now - self.looked) < LOOK / 2 and awaited.keys() == self.heard.keys():
            return
        self.looked = now
        self.clock += min(gap, LOOK)
        self.heard = {key: self.heard.get(key, self.clock) for key in awaited}
        self.warned &= self.heard.keys()
        running = {key[1]: key[0] for key in awaited if key[1]}
        self.longest = {trial: seconds for trial, seconds in self.longest.items() if trial in running}
        self.reports = {trial: count for trial, count in self.reports.items() if trial in running}
        self.deaths.watch(running)
        for key, (actor, trial) in awaited.items():
            self._look_at(key, actor, trial)

    def limit(self, trial_id: str) -> float:
        """Return the seconds that a trial may be silent, as it stands; "" is an actor that was asked to end."""
        if self.silence != "auto":
            return self.silence or float("inf")
        first = trial_id != "" and self.reports.get(trial_id, 0) == 0
        usual = statistics.median(self.usual[first]) if self.usual[first] else 0.0
        longest = max(usual, self.longest.get(trial_id, 0.0))
        return max(FIRST_FLOOR if first else FLOOR, MULTIPLE * longest)

    def _look_at(self, key: tuple[str, str], actor: Any, trial: Any) -> None:
        """Warn of an actor that has been silent for half its time, and end one that has been for all of it."""
        silent, limit = self.clock - self.heard[key], self.limit(key[1])
        label = trial.config["trial"] if trial else "a trial that ended"
        if silent >= limit:
            self.heard[key] = self.clock
            self.warned.discard(key)
            if trial:
                self.deaths.note(key[1], f"silent for {silent:.0f} s")
            end_actor(actor, self.here)
            say(f"{label}: silent for {silent:.0f} s; its process was ended")
        elif silent >= limit / 2 and key not in self.warned:
            self.warned.add(key)
            say(f"{label}: not heard of for {silent:.0f} s; its process will be ended after {limit:.0f} s")

    def _hear(self, trial: Any) -> float | None:
        """Note that a trial was heard of; return the seconds since the last time."""
        key = next((key for key in self.heard if key[1] == trial.trial_id), None)
        if key is None:
            return None
        self.warned.discard(key)
        seconds, self.heard[key] = self.clock - self.heard[key], self.clock
        return seconds


def _epoch_seconds(result: dict[str, Any]) -> float:
    """Return the seconds that the epoch of a report took, of all members of a stack, without the process's start."""
    reports = [report for _, report in result.get("reports", [])] or [result]
    return sum((report.get("metrics") or {}).get("system/seconds", 0.0) for report in reports)


def end_actor(actor: Any, here: str) -> None:
    """End an actor and what it started. A process that is stopped heeds nothing but SIGKILL.

    On the machine `here` the processes are gone when this returns; elsewhere Ray ends them within seconds.
    """
    processes = ActorTable().family(actor._actor_id.hex())
    ray.kill(actor)  # first: it must not start the others again
    for process in processes:
        if process.node == here and process.pid:
            kill_tree(process.pid)


def kill_tree(pid: int) -> None:
    """Kill a process and its children, such as those of a data loader; one that has ended is left alone."""
    children: list[int] = []
    with contextlib.suppress(OSError):  # it has ended, or this system has no /proc
        for thread in Path(f"/proc/{pid}/task").iterdir():
            children += map(int, (thread / "children").read_text().split())
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)
    for child in children:
        kill_tree(child)
