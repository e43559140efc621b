"""The file that a sweep's study lives in: Optuna's journal, for one writer, who says when it has to be on disk."""

from __future__ import annotations

import json
import os
from collections.abc import Container, Iterable
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState


class StudyJournal(JournalFileBackend):
    """Optuna's file, without a lock for every line (the sweep's folder is locked), and without reading it back.

    A line leaves this process at once, so a kill loses none; `sync` makes those so far outlive the machine as well. A
    trial takes five to a dozen lines, and nobody acts on a part of them.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        whole, newline, torn = path.read_bytes().rpartition(b"\n")
        if torn:  # a machine that went down
            os.truncate(path, len(whole) + len(newline))
        self.file = path.open("ab", buffering=0)
        self.unread: list[dict[str, Any]] | None = None  # until what an earlier process wrote has been read

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        lines = [json.dumps(log, separators=(",", ":")) for log in logs]
        self.file.write("".join(f"{line}\n" for line in lines).encode())
        if self.unread is not None:
            self.unread += [json.loads(line) for line in lines]  # as anyone reads them

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:  # type: ignore[override]
        if self.unread is None:
            self.unread = []
            return super().read_logs(log_number_from)
        unread, self.unread = self.unread, []
        return unread

    def sync(self) -> None:
        os.fsync(self.file.fileno())


class StudyStorage(JournalStorage):
    """Knows that nothing is ever enqueued, which Optuna otherwise looks for in all trials before it makes one."""

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        return [] if states == (TrialState.WAITING,) else super().get_all_trials(study_id, deepcopy, states)
