"""The files that a trial's process writes, and their upload to storage."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from gatesweep.core.checkpoint import META
from gatesweep.sweeps.config.confirmed import confirm, is_confirmed
from gatesweep.sweeps.config.secrets import STORAGE_VARIABLE, bare_address, redact_address
from gatesweep.sweeps.records.layout import CHECKPOINTS, TRIAL_FOLDERS
from gatesweep.sweeps.storage.store import FileVersion, Store, file_version, visible_files

SYNC_SECONDS = 1.0  # training that a machine's loss of power may cost
RETRY_SECONDS = 2.0


class TrialStorage:
    """The folder in which a trial's process writes its checkpoints and figures.

    Without `storage` it is the trial's own folder. With `storage` it is a scratch folder of this machine: it begins
    with the checkpoints in storage, and changes are uploaded while the next epoch trains.
    """

    def __init__(self, storage: str | None, trial: Path) -> None:
        """Open the folder of `trial`. Raises InputError for a bad `storage`, and OSError."""
        self.store = Store(storage, trial.parent.name, trial.name) if storage else None
        self.folder, self.trial, self.synced = trial, trial.name, time.monotonic()
        if self.store is None:
            return
        self.folder = Path(tempfile.mkdtemp(prefix=f"gatesweep-{trial.name}-"))
        self.sent: dict[str, FileVersion] = {}
        for name in self.store.listed():
            if name.startswith(f"{CHECKPOINTS}/"):
                self.store.get(name, self.folder / name)
                self.sent[name] = file_version(self.folder / name)
        self.uploads = ThreadPoolExecutor(1)
        self.pending: Future[None] | None = None

    def sync_is_due(self) -> bool:
        """Return True once a second: then a checkpoint must reach the disk, which can take as long as an epoch."""
        is_due = time.monotonic() - self.synced >= SYNC_SECONDS
        if is_due:
            self.synced = time.monotonic()
        return is_due

    def push(self) -> None:
        """Begin to upload the files that have changed."""
        if self.store:
            self.pending = self.uploads.submit(self._send, self.store)

    def wait_pending(self) -> None:
        """Wait until no upload runs; before that, files must not change. The next `push` repeats a failed upload."""
        if self.store and self.pending:
            self.pending.exception()

    def wait_uploaded(self, tries: int = 5) -> None:
        """Wait until all files are in storage. Raises OSError after `tries` uploads that failed."""
        if not self.store or not self.pending:
            return
        for tries_left in reversed(range(tries)):
            try:
                return self.pending.result()
            except OSError:
                if not tries_left:
                    raise
                time.sleep(RETRY_SECONDS)
                self.push()

    def close(self) -> None:
        """End the uploads, and remove the scratch folder."""
        if self.store:
            self.uploads.shutdown()
            shutil.rmtree(self.folder, ignore_errors=True)

    def _send(self, store: Store) -> None:
        """Upload new files, then delete pruned ones.

        A checkpoint counts from the moment its META is there, so META is uploaded last and deleted first.
        """
        versions = {str(path.relative_to(self.folder)): file_version(path) for path in visible_files(self.folder)}
        # An epoch that is trained again has the name of an earlier file, and another version.
        changed = (name for name in versions if versions[name] != self.sent.get(name))
        for name in sorted(changed, key=lambda name: name.endswith(META)):
            store.put(name, self.folder / name)
            self.sent[name] = versions[name]
        for name in sorted(self.sent.keys() - versions.keys(), key=lambda name: not name.endswith(META)):
            store.delete(name)
            del self.sent[name]


def remember_storage(sweep: Path, storage: str) -> None:
    """Remember on this machine that the record of a sweep is in this storage: then readers may connect to it."""
    confirm("storage", str(sweep.resolve()), redact_address(storage))


def may_connect(sweep: Path, storage: str) -> bool:
    """Return True for the storage of a sweep that went there from this machine, or that GATESWEEP_STORAGE names.

    The address in a record alone is not enough: it may be any place that this user, but not the sender, can read.
    """
    given = os.environ.get(STORAGE_VARIABLE)
    is_given = bool(given) and bare_address(str(given)) == bare_address(storage)
    return is_given or is_confirmed("storage", str(sweep.resolve()), redact_address(storage))


def fetch_trial(storage: str | None, trial: Path) -> None:
    """Copy a trial's checkpoints and figures from storage into its folder, where they are missing.

    Raises InputError for a bad `storage`, and OSError.
    """
    if storage is None:
        return
    store = Store(storage, trial.parent.name, trial.name)
    for name in sorted(store.listed(), key=lambda name: name.endswith(META)):
        if name.startswith(TRIAL_FOLDERS) and not (trial / name).exists():
            store.get(name, trial / name)
