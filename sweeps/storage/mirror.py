"""A copy of a sweep's record in storage, a few seconds behind the original."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path

from gatesweep.sweeps.records.layout import JOURNAL, belongs_to_trial
from gatesweep.sweeps.storage.store import FileVersion, Store, file_version, visible_files


class Mirror:
    """Keeps a copy of a sweep's record in storage, a few seconds behind: the driver's machine may die too."""

    def __init__(self, storage: str, sweep: Path, every: float = 5.0) -> None:
        self.store, self.sweep, self.every = Store(storage, sweep.name), sweep, every
        self.sent: dict[str, FileVersion] = {}
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def close(self) -> bool:
        """Send the rest; returns whether all arrived."""
        self.over.set()
        self.thread.join()
        try:
            self.sync()
        except OSError:
            return False
        return True

    def _run(self) -> None:
        wait = self.every
        while not self.over.wait(wait):
            began = time.monotonic()
            with contextlib.suppress(OSError):  # what did not arrive is sent the next time
                self.sync()
            wait = max(self.every, 10 * (time.monotonic() - began))  # a tenth of the time, of a large record too

    def sync(self) -> None:
        """Send what has changed. The study never gets ahead of the trials: it is read first, and sent last."""
        study = self.sweep / JOURNAL
        lines = study.read_bytes().rpartition(b"\n")[0] + b"\n" if study.exists() else b""
        for path in visible_files(self.sweep):
            name, now = str(path.relative_to(self.sweep)), file_version(path)
            if name == JOURNAL or belongs_to_trial(name) or self.sent.get(name) == now:
                continue
            self.store.put(name, path.read_bytes())
            self.sent[name] = now
        if len(lines) > 1 and self.sent.get(JOURNAL) != (len(lines), 0):
            self.store.put(JOURNAL, lines)
            self.sent[JOURNAL] = (len(lines), 0)
