"""The files that a trial's process writes, and their way into storage."""

from __future__ import annotations

import shutil
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from gatesweep.core.checkpoint import META
from gatesweep.sweeps.records.layout import TRIAL_FOLDERS
from gatesweep.sweeps.storage.store import FileVersion, Store, file_version, visible_files

SYNC_SECONDS = 1.0  # of training that a machine's loss of power may cost


class TrialStorage:
    """The folder that a trial's process writes its checkpoints and figures in.

    Without `storage` it is the trial's own. Else it is a scratch folder of this machine that begins with what is in
    storage, and what changes follows there while the next epoch trains.
    """

    def __init__(self, storage: str | None, trial: Path) -> None:
        self.store = Store(storage, trial.parent.name, trial.name) if storage else None
        self.folder, self.synced = trial, time.monotonic()
        if self.store is None:
            return
        self.folder = Path(tempfile.mkdtemp(prefix=f"gatesweep-{trial.name}-"))
        self.sent: dict[str, FileVersion] = {}
        for name in self.store.listed():
            if name.startswith("checkpoints/"):
                self.store.get(name, self.folder / name)
                self.sent[name] = file_version(self.folder / name)
        self.uploads = ThreadPoolExecutor(1)
        self.last: Future[None] | None = None

    def sync_is_due(self) -> bool:
        """Whether it is time for a checkpoint to reach the disk itself, which can take as long as a short epoch."""
        due = time.monotonic() - self.synced >= SYNC_SECONDS
        if due:
            self.synced = time.monotonic()
        return due

    def push(self) -> None:
        """Begin to send what has changed."""
        if self.store:
            self.last = self.uploads.submit(self._send, self.store)

    def settle(self) -> None:
        """Wait for what is on its way, which must not change meanwhile; what failed is sent with the next push."""
        if self.store and self.last:
            self.last.exception()

    def arrived(self, tries: int = 5) -> None:
        """Wait until all is in storage. Raises OSError where that cannot be."""
        if not self.store or not self.last:
            return
        for left in reversed(range(tries)):
            try:
                return self.last.result()
            except OSError:
                if not left:
                    raise
                time.sleep(2.0)
                self.push()

    def close(self) -> None:
        if self.store:
            self.uploads.shutdown()
            shutil.rmtree(self.folder, ignore_errors=True)

    def _send(self, store: Store) -> None:
        """New files first, what makes a checkpoint one last; then the pruned ones go, in the other order."""
        here = {str(path.relative_to(self.folder)): file_version(path) for path in visible_files(self.folder)}
        new = (name for name in here if here[name] != self.sent.get(name))  # an epoch trained again, too
        for name in sorted(new, key=lambda name: name.endswith(META)):
            store.put(name, self.folder / name)
            self.sent[name] = here[name]
        for name in sorted(self.sent.keys() - here.keys(), key=lambda name: not name.endswith(META)):
            store.delete(name)
            del self.sent[name]


def fetch_trial(storage: str | None, trial: Path) -> None:
    """Bring what a trial wrote into its folder, where it is not there yet."""
    if storage is None:
        return
    store = Store(storage, trial.parent.name, trial.name)
    for name in sorted(store.listed(), key=lambda name: name.endswith(META)):
        if name.startswith(TRIAL_FOLDERS) and not (trial / name).exists():
            store.get(name, trial / name)
