"""A tree of files in a folder or an object store, by pyarrow's file systems."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import fsspec
from fsspec.implementations.local import LocalFileSystem
from pyarrow import ArrowInvalid, fs

from gatesweep.core.errors import InputError
from gatesweep.core.files import full_path
from gatesweep.sweeps.config.secrets import STORAGE_VARIABLE, redact, with_secrets

FileVersion = tuple[int, int]  # size in bytes, and time of the last change in ns
COPY_BYTES = 1 << 22  # bytes that are in memory at a time while a file is copied


class Store:
    """A tree of files under a URI. Its methods raise OSError where the storage does not answer."""

    def __init__(self, uri: str, *parts: str) -> None:
        """Open `uri`, and below it the folder that `parts` name.

        `uri` is a plain folder, `s3://bucket/sweeps`, or any other URI that pyarrow or fsspec opens. Raises InputError
        for a URI that neither opens.
        """
        uri = str(with_secrets("storage", uri, STORAGE_VARIABLE))
        try:
            if "://" not in uri:
                self.files, root = fs.LocalFileSystem(), str(full_path("storage", uri))
            else:
                self.files, root = _from_uri(uri)
        except InputError:
            raise
        except Exception as error:  # of any kind: fsspec has thirty file systems
            expected = f"expected a folder or a URI like s3://bucket/sweeps ({error})"
            raise InputError(redact(f"storage: got {uri!r}, {expected}")) from error
        self.top = PurePosixPath(root)
        self.root = self.top.joinpath(*parts)

    def check(self, sweep: Path) -> None:
        """Write a file and remove it again. Raises InputError where that fails, or where the root holds `sweep`.

        Of a local folder nothing is left: the sweep makes it, once it begins.
        """
        if str(self.root) == str(sweep.parent.resolve()):
            raise InputError(f"storage: got {str(self.root)!r}, which is `results` itself: storage=null")
        probe, root = str(self.root / ".gatesweep"), Path(self.root)
        is_local = isinstance(self.files, fs.LocalFileSystem)
        missing = [path for path in (root, *root.parents) if not path.exists()] if is_local else []
        try:
            self.files.create_dir(str(self.root), recursive=True)
            self.files.open_output_stream(probe).close()
            self.files.delete_file(probe)
        except Exception as error:  # of any kind, as above
            reason = redact(str(error)) or type(error).__name__
            raise InputError(f"storage: got {str(self.root)!r}, which cannot be written ({reason})") from error
        finally:
            for path in missing:
                with contextlib.suppress(OSError):
                    path.rmdir()

    def listed(self) -> list[str]:
        """List every file by its path below the root. Raises InputError for a path that leads out of it."""
        root = str(self._inside(""))
        entries = self.files.get_file_info(fs.FileSelector(root, allow_not_found=True, recursive=True))
        names = [entry.path[len(root) :].lstrip("/") for entry in entries if entry.type == fs.FileType.File]
        for name in names:
            self._inside(name)
        return names

    def put(self, name: str, content: bytes | Path) -> None:
        """Write one file, from bytes or from a local file. Readers see the whole file or none."""
        path = self._inside(name)
        self.files.create_dir(str(path.parent), recursive=True)
        # An object store shows a file only once it is whole. In a folder the file is written aside, then renamed.
        aside = path.with_name(f".{path.name}.part") if isinstance(self.files, fs.LocalFileSystem) else path
        with self.files.open_output_stream(str(aside)) as stream:
            if isinstance(content, bytes):
                stream.write(content)
            else:
                with content.open("rb") as source:
                    shutil.copyfileobj(source, stream, COPY_BYTES)
        if aside != path:
            self.files.move(str(aside), str(path))

    def get(self, name: str, path: Path) -> None:
        """Copy one file to the local `path`; missing folders are made."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with self.files.open_input_stream(str(self._inside(name))) as stream, path.open("wb") as target:
            shutil.copyfileobj(stream, target, COPY_BYTES)

    def delete(self, name: str) -> None:
        """Delete one file."""
        self.files.delete_file(str(self._inside(name)))

    def _inside(self, name: str) -> PurePosixPath:
        """Return the path of a file. Raises InputError where a `..`, or a link in a folder, leads out of it."""
        path = self.root / name
        is_local = isinstance(self.files, fs.LocalFileSystem)
        if ".." in path.parts or (is_local and not Path(path).resolve().is_relative_to(Path(self.top).resolve())):
            raise InputError(
                f"storage: got {str(path)!r}, which leads out of {str(self.top)!r}, expected files below it"
            )
        return path


def visible_files(folder: Path) -> Iterator[Path]:
    """Yield every file below a folder, except hidden ones: those are half-written."""
    return (
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def file_version(path: Path) -> FileVersion:
    """Return a value that changes when a file is written again. Raises OSError."""
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


def _from_uri(uri: str) -> tuple[fs.FileSystem, str]:
    """Return the file system of a URI, and the path in it."""
    if uri.startswith("memory:"):
        raise ValueError("what is in memory ends with the process")
    try:
        return fs.FileSystem.from_uri(uri)
    except (ArrowInvalid, NotImplementedError):  # pyarrow does not know the scheme, or was built without it
        opened, root = fsspec.core.url_to_fs(uri)
        if isinstance(opened, LocalFileSystem):
            return fs.LocalFileSystem(), root
        return fs.PyFileSystem(fs.FSSpecHandler(opened)), root
