"""A copy of a sweep's record in storage, a few seconds behind the original."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path

from gatesweep.sweeps.records.layout import JOURNAL, belongs_to_trial
from gatesweep.sweeps.storage.store import FileVersion, Store, file_version, visible_files


class Mirror:
    """Copies a sweep's record to storage in a thread, because the driver's machine may die too.

    The files that trials write are left out: `TrialStorage` sends those.
    """

    def __init__(self, storage: str, sweep: Path, every: float = 5.0) -> None:
        """Begin to copy the folder `sweep`, at least `every` seconds apart. Raises InputError for a bad `storage`."""
        self.store, self.sweep, self.every = Store(storage, sweep.name), sweep, every
        self.sent: dict[str, FileVersion] = {}
        self.closed = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def close(self) -> bool:
        """Stop the thread and send the rest; returns False if the storage did not take it."""
        self.closed.set()
        self.thread.join()
        try:
            self.sync()
        except OSError:
            return False
        return True

    def sync(self) -> None:
        """Send the files that have changed. Raises OSError.

        The study is read first and sent last, so the copied study knows no trial whose files are missing.
        """
        study = self.sweep / JOURNAL
        journal = study.read_bytes().rpartition(b"\n")[0] + b"\n" if study.exists() else b""
        for path in visible_files(self.sweep):
            name, version = str(path.relative_to(self.sweep)), file_version(path)
            if name == JOURNAL or belongs_to_trial(name) or self.sent.get(name) == version:
                continue
            self.store.put(name, path.read_bytes())
            self.sent[name] = version
        if len(journal) > 1 and self.sent.get(JOURNAL) != (len(journal), 0):
            self.store.put(JOURNAL, journal)
            self.sent[JOURNAL] = (len(journal), 0)

    def _run(self) -> None:
        """Synchronise until `close`."""
        wait = self.every
        while not self.closed.wait(wait):
            began = time.monotonic()
            with contextlib.suppress(OSError):  # the next turn sends what this one could not
                self.sync()
            wait = max(self.every, 10 * (time.monotonic() - began))  # a large record takes a tenth of the time at most
