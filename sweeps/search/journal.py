"""The file of a sweep's study: Optuna's journal with one writer, which decides when lines must be on disk."""

from __future__ import annotations

import json
import os
from collections.abc import Container, Iterable
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from gatesweep.core.record import DamagedRecord


class StudyJournal(JournalFileBackend):
    """Optuna's journal file without a lock for every line, and without reading lines back.

    The sweep holds the lock of its folder, so no other process writes. A line leaves this process at once, so a killed
    process loses none. `sync` makes the lines so far outlive the machine too: a trial takes five to a dozen lines, and
    nobody acts on a part of them.
    """

    def __init__(self, path: Path) -> None:
        """Open the journal, or create it. A last line that a crash cut short is removed.

        Raises DamagedRecord where the last whole line is not JSON (Optuna would pass over it, and then refuse the
        lines behind it), and OSError.
        """
        super().__init__(str(path))
        whole, newline, torn = path.read_bytes().rpartition(b"\n")
        if torn:
            os.truncate(path, len(whole) + len(newline))
        if whole:
            try:
                json.loads(whole.rpartition(b"\n")[2])
            except ValueError as error:
                raise journal_damage(path, error) from error
        self.file = path.open("ab", buffering=0)
        self.unread: list[dict[str, Any]] | None = None  # None until the lines of earlier processes have been read

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Write one line for each of `logs`. Raises OSError."""
        lines = [json.dumps(log, separators=(",", ":")) for log in logs]
        self.file.write("".join(f"{line}\n" for line in lines).encode())
        if self.unread is not None:
            self.unread += [json.loads(line) for line in lines]  # the same values as another reader gets

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:  # type: ignore[override]
        """Return the lines from this number on: from the file the first time, from memory after that."""
        if self.unread is None:
            self.unread = []
            return super().read_logs(log_number_from)
        unread, self.unread = self.unread, []
        return unread

    def sync(self) -> None:
        """Wait until every line so far is on the disk (fsync). Raises OSError."""
        os.fsync(self.file.fileno())


class StudyStorage(JournalStorage):
    """A storage in which no trial is ever enqueued: Optuna otherwise searches all trials for one before each ask."""

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Return the trials in one of `states`; the answer for enqueued (WAITING) trials is empty."""
        return [] if states == (TrialState.WAITING,) else super().get_all_trials(study_id, deepcopy, states)


def journal_damage(path: Path, error: Exception) -> DamagedRecord:
    """Return the error of a journal that Optuna cannot read because of `error`: it names the first line not in JSON."""
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            json.loads(line)
        except ValueError:
            start = line[:40].decode(errors="replace")
            return DamagedRecord(f"{path}, line {number}: got {start!r}, expected a line of Optuna's journal as JSON")
    return DamagedRecord(f"{path}: expected a journal of Optuna ({type(error).__name__}: {error})")
