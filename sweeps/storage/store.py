"""A tree of files in a folder or an object store, by pyarrow's file systems."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import fsspec
from pyarrow import ArrowInvalid, fs

from gatesweep.core.errors import InputError

FileVersion = tuple[int, int]


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
            raise InputError(f"storage: got {uri!r}, {expected}") from error
        self.root = PurePosixPath(root).joinpath(*parts)

    def check(self, sweep: Path) -> None:
        """Raise InputError unless a file can be written here, and removed again, beside the record of `sweep`."""
        if str(self.root) == str(sweep.parent.resolve()):
            raise InputError(f"storage: got {str(self.root)!r}, which is `results` itself: storage=null")
        probe = str(self.root / ".gatesweep")
        try:
            self.files.create_dir(str(self.root), recursive=True)
            self.files.open_output_stream(probe).close()
            self.files.delete_file(probe)
        except OSError as error:
            raise InputError(f"storage: got {str(self.root)!r}, which cannot be written ({error})") from error

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


def visible_files(folder: Path) -> Iterator[Path]:
    """Every file below a folder, but hidden ones, which are half-written."""
    return (
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def file_version(path: Path) -> FileVersion:
    """What differs once a file was written again."""
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns
