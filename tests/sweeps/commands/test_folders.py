"""Folders of results in real places: taken names, file systems without locks or links."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from gatesweep.core import files
from gatesweep.sweeps.commands.folders import make_folder, point_link


def make(path: Path) -> Path:
    return make_folder(path, new=True)


def test_processes_that_want_one_name_get_a_folder_each(tmp_path: Path) -> None:
    with ProcessPoolExecutor(4, mp_context=get_context("fork")) as pool:
        folders = list(pool.map(make, [tmp_path / "results" / "sweep"] * 40))
    assert len(set(folders)) == 40 and all(folder.is_dir() for folder in folders)


def test_a_link_that_cannot_be_made_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "latest").mkdir()  # a folder cannot be replaced by a link; some file systems have no links at all
    point_link(tmp_path / "latest", tmp_path / "sweep")
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'latest'}: no link to the newest (")
    assert os.listdir(tmp_path) == ["latest"]


def test_without_locks_a_line_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def flock(stream: object, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files.fcntl, "flock", flock)
    files._say_no_locks.cache_clear()
    with files.try_lock(tmp_path / "lock") as locked, files.hold_lock(tmp_path / "lock"):
        assert locked and not files.is_locked(tmp_path / "lock")
    with pytest.raises(OSError), files.try_lock(tmp_path / "lock", required=True):
        pass
    assert capsys.readouterr().err.count("\n") == 1
