"""Where machines that share no disk keep what they write: a folder or an object store, by pyarrow's file systems."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import fsspec
from pyarrow import ArrowInvalid, fs

from gatesweep.core.checkpoint import META

JOURNAL = "study.journal"
Version = tuple[int, int]
SYNC_SECONDS = 1.0  # of training that a machine's loss of power may cost
OF_TRIALS = ("checkpoints", "figures")  # what trials write; all else in a sweep's folder is the driver's


class Store:
    """A tree of files under `uri`: `s3://bucket/sweeps`, anything else pyarrow or fsspec opens, or a plain folder."""

    def __init__(self, uri: str, *parts: str) -> None:
        try:
            if "://" not in uri:
                self.files, root = fs.LocalFileSystem(), str(Path(uri).expanduser().resolve())
            else:
                self.files, root = _from_uri(uri)
        except (OSError, ValueError, ImportError, KeyError) as error:
            expected = f"expected a folder or a URI like s3://bucket/sweeps ({error})"
            raise ValueError(f"storage: got {uri!r}, {expected}") from error
        self.root = PurePosixPath(root).joinpath(*parts)

    def check(self, sweep: Path) -> None:
        """Raise ValueError unless a file can be written here, and removed again, beside the record of `sweep`."""
        if str(self.root) == str(sweep.parent.resolve()):
            raise ValueError(f"storage: got {str(self.root)!r}, which is `results` itself: storage=null")
        probe = str(self.root / ".gatesweep")
        try:
            self.files.create_dir(str(self.root), recursive=True)
            self.files.open_output_stream(probe).close()
            self.files.delete_file(probe)
        except OSError as error:
            raise ValueError(f"storage: got {str(self.root)!r}, which cannot be written ({error})") from error

    def listed(self) -> list[str]:
        """Every file, by its path below the root."""
        selector = fs.FileSelector(str(self.root), allow_not_found=True, recursive=True)
        found = self.files.get_file_info(selector)
        root = str(self.root)
        return [one.path[len(root) :].lstrip("/") for one in found if one.type == fs.FileType.File]

    def put(self, name: str, content: bytes | Path) -> None:
        """Write one file: object stores show it whole or not at all, and a folder after its renaming."""
        path = self.root / name
        self.files.create_dir(str(path.parent), recursive=True)
        aside = path if not isinstance(self.files, fs.LocalFileSystem) else path.with_name(f".{path.name}.part")
        with self.files.open_output_stream(str(aside)) as stream:
            if isinstance(content, bytes):
                stream.write(content)
            else:
                with content.open("rb") as source:
                    shutil.copyfileobj(source, stream, 1 << 22)
        if aside != path:
            self.files.move(str(aside), str(path))

    def get(self, name: str, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with self.files.open_input_stream(str(self.root / name)) as stream, path.open("wb") as target:
            shutil.copyfileobj(stream, target, 1 << 22)

    def delete(self, name: str) -> None:
        self.files.delete_file(str(self.root / name))


def _from_uri(uri: str) -> tuple[fs.FileSystem, str]:
    try:
        return fs.FileSystem.from_uri(uri)
    except (ArrowInvalid, NotImplementedError):  # a scheme that pyarrow has not, or was built without
        opened, root = fsspec.core.url_to_fs(uri)
        return fs.PyFileSystem(fs.FSSpecHandler(opened)), root


class Workplace:
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
        self.sent: dict[str, Version] = {}
        for name in self.store.listed():
            if name.startswith("checkpoints/"):
                self.store.get(name, self.folder / name)
                self.sent[name] = version(self.folder / name)
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
        here = {str(path.relative_to(self.folder)): version(path) for path in files(self.folder)}
        new = (name for name in here if here[name] != self.sent.get(name))  # an epoch trained again, too
        for name in sorted(new, key=lambda name: name.endswith(META)):
            store.put(name, self.folder / name)
            self.sent[name] = here[name]
        for name in sorted(self.sent.keys() - here.keys(), key=lambda name: not name.endswith(META)):
            store.delete(name)
            del self.sent[name]


def files(folder: Path) -> Iterator[Path]:
    """Every file below a folder, but hidden ones, which are half-written."""
    return (
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def version(path: Path) -> Version:
    """What differs once a file was written again."""
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


def fetch(storage: str | None, trial: Path) -> None:
    """Bring what a trial wrote into its folder, where it is not there yet."""
    if storage is None:
        return
    store = Store(storage, trial.parent.name, trial.name)
    for name in sorted(store.listed(), key=lambda name: name.endswith(META)):
        if name.startswith(OF_TRIALS) and not (trial / name).exists():
            store.get(name, trial / name)


class Mirror:
    """Keeps a copy of a sweep's record in storage, a few seconds behind: the driver's machine may die too."""

    def __init__(self, storage: str, sweep: Path, every: float = 5.0) -> None:
        self.store, self.sweep, self.every = Store(storage, sweep.name), sweep, every
        self.sent: dict[str, Version] = {}
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
        for path in files(self.sweep):
            name, now = str(path.relative_to(self.sweep)), version(path)
            if name == JOURNAL or _of_trials(name) or self.sent.get(name) == now:
                continue
            self.store.put(name, path.read_bytes())
            self.sent[name] = now
        if len(lines) > 1 and self.sent.get(JOURNAL) != (len(lines), 0):
            self.store.put(JOURNAL, lines)
            self.sent[JOURNAL] = (len(lines), 0)


def _of_trials(name: str) -> bool:
    """Whether a file of a sweep, by its path below the sweep, is a trial's own."""
    return any(part in OF_TRIALS for part in PurePosixPath(name).parts)


def restore(uri: str, results: Path) -> Path:
    """Bring the record of a sweep back from storage, into `results`; returns its folder. Raises ValueError."""
    store = Store(uri)
    folder = results / store.root.name
    if folder.exists():
        raise ValueError(f"resume: got {uri!r}, which is in {str(folder)!r} already: resume={folder}")
    names = store.listed()
    if "config.yaml" not in names:
        raise ValueError(f"resume: got {uri!r}, expected the copy of a sweep (it has no config.yaml)")
    aside = results / f".{folder.name}.part"
    shutil.rmtree(aside, ignore_errors=True)
    for name in names:
        if not _of_trials(name):
            store.get(name, aside / name)
    aside.rename(folder)
    _forget_unknown(store, folder)
    return folder


def _forget_unknown(store: Store, folder: Path) -> None:
    """Remove trials that the study had not heard of when its copy was made: it will ask for others by their names."""
    from gatesweep.sweeps.search import open_study
    from gatesweep.sweeps.warm import numbers

    study = open_study(folder)
    known = len(study.get_trials(deepcopy=False)) - len(numbers(study))
    for name in store.listed():
        trial = PurePosixPath(name).parts[0]
        if trial.startswith("trial_") and int(trial.removeprefix("trial_")) >= known:
            store.delete(name)
            shutil.rmtree(folder / trial, ignore_errors=True)
