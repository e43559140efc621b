"""Failures of one cause: a sweep whose trials all fail alike has a fault that no further trial will miss."""

from __future__ import annotations

import math
import re
from pathlib import Path

ONCE_PROVEN = 5  # times as many in a row end a sweep in which other trials have come further

FRAME = re.compile(r'^  File "(.+)", line (\d+)', re.MULTILINE)


class FailedAlike(Exception):
    """Raised to end a sweep whose trials fail alike; the message says the cause, and where a traceback is."""


class AlikeFailures:
    """Counts trials that failed with the same cause in a row, in the order in which the trials began.

    A row of `limit` failures ends the sweep if it begins with the sweep's first trial, and no trial has come further
    than these. A later row ends it at five times the length: some points of a space may well fail. With None nothing
    ends it. A sweep that goes on counts anew.
    """

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.causes: dict[str, str | None] = {}  # by trial; None for one that runs, or ended otherwise
        self.epochs: dict[str, float] = {}  # by trial: the last epoch; infinite for one that ended otherwise
        self.ended_by: str | None = None  # the message, once there are too many

    def begin(self, trial: str, epoch: int) -> None:
        """Note that a trial begins, or goes on after `epoch`."""
        self.causes[trial], self.epochs[trial] = None, epoch

    def report(self, trial: str, epoch: int) -> None:
        """Note that a trial has trained an epoch."""
        self.epochs[trial] = epoch

    def end(self, trial: str) -> None:
        """Note that a trial ended otherwise than by a failure."""
        self.epochs[trial] = math.inf

    def fail(self, trial: str, reason: str, traceback: str | None, file: Path, is_common: bool = False) -> None:
        """Note that a trial failed; `file` holds its traceback, if there is one.

        An error that `is_common` to all trials ends a sweep whose first trial has it.
        """
        self.causes[trial] = cause = failure_cause(reason, traceback)
        trials, causes = list(self.causes), list(self.causes.values())
        last = first = trials.index(trial)
        while first > 0 and causes[first - 1] == cause:
            first -= 1
        while last + 1 < len(causes) and causes[last + 1] == cause:
            last += 1
        row = trials[first : last + 1]
        reached = max(self.epochs[name] for name in row)
        proven = first > 0 or any(epoch > reached for epoch in self.epochs.values())
        limit = 1 if is_common and self.limit and not proven else self.limit
        if limit is not None and len(row) >= limit * (ONCE_PROVEN if proven else 1):
            which = f"{len(row)} trials in a row" if proven else f"the first {len(row)} trials"
            if is_common and len(row) == 1:
                self.ended_by = f"the first trial failed, as all would: {' '.join(reason.split())}"
                return
            where = f"; traceback in {file}" if traceback else ""
            self.ended_by = f"{which} failed alike: {' '.join(reason.split())}{where}"

    def check(self) -> None:
        """Raise FailedAlike once too many trials have failed alike."""
        if self.ended_by:
            raise FailedAlike(self.ended_by)


def failure_cause(reason: str, traceback: str | None) -> str:
    """Return what equal failures share: the type of the error and the line that raised it, or the reason.

    Numbers in a reason are masked, for they differ from trial to trial.
    """
    frames = FRAME.findall(traceback or "")
    if frames:
        return f"{reason.partition(':')[0]} at {frames[-1][0]}:{frames[-1][1]}"
    return re.sub(r"\d+(\.\d+)?", "#", reason)
