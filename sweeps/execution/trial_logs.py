"""The logs of trials: what their processes print, `trial_0003/log.txt`, and on the screen if it is asked for.

Ray's log monitors read the standard output and error of all worker processes, also what C code writes there and the
last words of a process that dies. The process of a trial prints a line (`mark_output`) where another trial begins, by
which this module tells whose lines follow. The driver writes the files, so they need no disk that machines share.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gatesweep.sweeps.config.secrets import redact
from gatesweep.sweeps.execution.alike import failure_cause
from gatesweep.sweeps.execution.progress import say
from gatesweep.sweeps.execution.ray_private import WorkerOutput
from gatesweep.sweeps.execution.trial import OUTPUT_MARK
from gatesweep.sweeps.records.layout import EVENTS, LOG, OLDER_LOG
from gatesweep.sweeps.records.text import printable

MAX_LOG = 2**19  # of log.txt; then it becomes the older part, and replaces the one before
MAX_LINE = 2000  # characters
EARLY_LINES = 1000  # of a trial whose record has not begun: a member of a stack begins with its first epoch
TAIL_LINES, SHOWN_LINE = 8, 160  # of a failure on the screen, and characters of each
TAIL_SECONDS = 1.0  # until the last words of a trial have arrived
QUIET_SECONDS, CLOSE_SECONDS = 0.5, 3.0  # of silence that end the wait for last words, and the whole wait


class TrialLogs:
    """Writes the logs of a sweep's trials; `collect` must be called often.

    Trials of a stack share a process: their lines cannot be told apart, and stand in the log of each. Lines of several
    workers have the rank before them.
    """

    def __init__(self, sweep: Path, on_screen: bool) -> None:
        self.sweep, self.on_screen = sweep, on_screen
        self.output: WorkerOutput | None = None
        self.streams: dict[tuple[str, str, bool], OutputStream] = {}  # by machine, process and kind of stream
        self.early: dict[str, deque[str]] = {}
        self.tails: dict[str, float] = {}  # trials that failed, and when their last lines are shown
        self.causes: set[str] = set()
        self.begun: set[tuple[str, str]] = set()  # trials, and the processes whose lines their logs have
        self.heard = time.monotonic()

    def collect(self) -> None:
        """Write the lines that have arrived, and show the last ones of trials that failed."""
        if self.output is None:
            self.output = WorkerOutput()
        batches = self.output.batches
        for _ in range(min(len(batches), 100)):  # a trial that prints without end must not hold the sweep up
            self.heard = time.monotonic()
            self._route(batches.popleft())
        for name, due in list(self.tails.items()):
            if time.monotonic() >= due:
                del self.tails[name]
                self._show_tail(name)

    def failed(self, name: str, reason: str, traceback: str | None) -> None:
        """Note that a trial failed: its last lines are shown a moment later, for the first failure of each cause."""
        cause = failure_cause(reason, traceback)
        if cause not in self.causes and not self.on_screen:
            self.tails[name] = time.monotonic() + TAIL_SECONDS
        self.causes.add(cause)

    def close(self, wait: bool = True) -> None:
        """Write the last words of the processes; `wait` a moment for them."""
        if self.output is None:
            return
        self.heard, deadline = time.monotonic(), time.monotonic() + CLOSE_SECONDS
        while wait and time.monotonic() < min(self.heard + QUIET_SECONDS, deadline):
            self.collect()
            if not self.output.batches and not any(source.trials for source in self.streams.values()):
                break
            time.sleep(0.02)
        self.output.close()
        self.collect()
        self.output = None
        for name in self.tails:
            self._show_tail(name)
        self.tails = {}

    def _route(self, batch: dict[str, Any]) -> None:
        """Give the lines of a stream to the trials that the last mark in it named."""
        key = (batch["ip"], batch["pid"], batch["is_err"])
        lines: list[str] = []
        for line in batch["lines"]:
            before, mark, rest = line.partition(OUTPUT_MARK)
            if before or not mark:
                lines.append(before)
            if mark:
                self._write(self.streams.get(key), lines)
                self.streams[key], lines = OutputStream(rest, f"process {batch['pid']} on {batch['ip']}"), []
        self._write(self.streams.get(key), lines)

    def _write(self, source: OutputStream | None, lines: list[str]) -> None:
        """Write lines to the logs of the trials of a source; lines before the first mark are none of a trial's."""
        if not source or not source.trials or not lines:
            return
        shown = [source.prefix + line.rstrip("\r").rpartition("\r")[2][:MAX_LINE] for line in lines]
        shown = redact("\n".join(shown)).split("\n")
        if self.on_screen:
            others = f" and {len(source.trials) - 1} more" if len(source.trials) > 1 else ""
            say("\n".join(f"{source.trials[0]}{others} | {printable(line)}" for line in shown))
        for name in source.trials:
            self._append(name, shown, source)

    def _append(self, name: str, lines: list[str], source: OutputStream) -> None:
        folder = self.sweep / name
        if not (folder / EVENTS).exists():
            self.early.setdefault(name, deque(maxlen=EARLY_LINES)).extend(lines)
            return
        lines = [*self.early.pop(name, ()), *lines]
        path = folder / LOG
        with contextlib.suppress(OSError):  # a disk that is full ends the sweep by its record
            if path.exists() and (name, source.process) not in self.begun:
                lines.insert(0, f"--- {source.process}, {time.strftime('%Y-%m-%d %H:%M:%S')}")
            self.begun.add((name, source.process))
            with path.open("a") as file:
                file.write("\n".join(lines) + "\n")
            if path.stat().st_size > MAX_LOG:
                path.replace(folder / OLDER_LOG)

    def _show_tail(self, name: str) -> None:
        path, lines = self.sweep / name / LOG, list[str]()
        with contextlib.suppress(OSError):
            lines = path.read_text(errors="replace").splitlines()
        if lines:
            tail = [printable(line)[:SHOWN_LINE] for line in lines if line.strip()][-TAIL_LINES:]
            say("\n".join([*(f"{name} | {line}" for line in tail), f"{name} | all of it: {path}"]))


class OutputStream:
    """One stream of a process since its last mark: the trials that it trains, and what stands before their lines."""

    def __init__(self, mark: str, process: str) -> None:
        names, _, rank = mark.strip().partition(" rank ")
        self.trials: Sequence[str] = names.split(",") if names else []
        self.prefix, self.process = f"[rank {rank}] " if rank else "", process
