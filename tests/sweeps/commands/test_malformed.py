"""Malformed configurations, arguments and files: one line, exit 2, nothing left behind, before Ray starts."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray

from gatesweep.sweeps.commands.dispatch import main
from gatesweep.sweeps.commands.faults import FAULT_FILE
from tests.conftest import trivial
from tests.sweeps.commands.malformed import SWEEP, Row
from tests.sweeps.commands.malformed_files import COMMANDS, DATA, FAMILIES, GOOD_DATA, write_files
from tests.sweeps.commands.malformed_spaces import BARE, SPACES

ROOT = Path(__file__).parents[3]
SECONDS = 20  # for a row in a process of its own, imports included


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with some files that are no sweeps."""
    monkeypatch.chdir(tmp_path)
    write_files(tmp_path)
    return tmp_path


Refused = Callable[[list[str], str], None]


@pytest.fixture
def refused(place: Path, capfd: pytest.CaptureFixture[str]) -> Refused:
    """A check that a command line is refused with these first words."""

    def check(argv: list[str], words: str) -> None:
        before, has_ray, faults = snapshot(place), ray.is_initialized(), fault_files()
        assert main(argv) == 2
        out, err = capfd.readouterr()
        assert out == "" and err.startswith(f"error: {words}") and err.count("\n") == 1, err
        assert snapshot(place) == before and ray.is_initialized() == has_ray
        assert fault_files() <= faults

    return check


def fault_files() -> set[Path]:
    """Return the tracebacks that commands have kept outside of records."""
    return set(Path(tempfile.gettempdir()).glob(f"gatesweep-*/{FAULT_FILE}"))


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Return every file below a folder with its content, and every folder."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def rows(*tables: dict[str, list[Row]]) -> list[Any]:
    """Return the rows of tables as parameters, each with its kind as its name."""
    return [
        pytest.param([typed] if isinstance(typed, str) else [*typed], words, id=kind)
        for table in tables
        for kind, entries in table.items()
        for typed, words in entries
    ]


def test_a_refusal_leaves_the_ray_that_it_did_not_start(ray_here: None, refused: Refused) -> None:
    refused(["run", *trivial(Path("results")), "resources.cpus_per_worker=1000"], "resources: got 1 x (1000 CPUs")
    assert ray.is_initialized()


@pytest.mark.parametrize(("overrides", "words"), rows(SWEEP, SPACES))
def test_a_sweep_that_cannot_be(refused: Refused, overrides: list[str], words: str) -> None:
    refused(["run", *trivial(Path("results")), *overrides], words)


@pytest.mark.parametrize(("overrides", "words"), rows(BARE, FAMILIES))
def test_a_command_line_that_cannot_be(refused: Refused, overrides: list[str], words: str) -> None:
    refused(["run", "tracking=none", "figures=none", *overrides], words)


@pytest.mark.parametrize(("arguments", "words"), rows(COMMANDS))
def test_a_command_that_cannot_do_its_work(refused: Refused, arguments: list[str], words: str) -> None:
    refused(arguments, words)


@pytest.mark.parametrize(("family", "name", "content", "words"), DATA)
def test_a_file_that_cannot_be_read(
    refused: Refused, place: Path, family: list[str], name: str, content: bytes, words: str
) -> None:
    (place / name).write_bytes(content)
    refused(["train", "figures=none", *family], words)


@pytest.mark.parametrize(("read", "files"), GOOD_DATA)
def test_a_file_as_spreadsheets_write_it(read: Callable[[], object], files: dict[str, str], place: Path) -> None:
    """Read: a byte order mark, spaces around fields, lines that end as on Windows."""
    for name, text in files.items():
        (place / name).write_text(text)
    plain = read()
    for name, text in files.items():
        padded = "\r\n".join(",".join(f" {field} " for field in line.split(",")) for line in text.splitlines())
        (place / name).write_bytes(b"\xef\xbb\xbf" + padded.encode())
    assert repr(read()) == repr(plain)


def test_the_same_in_processes_of_their_own(place: Path) -> None:
    """A row of several commands: no traceback, no warning, no hang, and the exit code of the process."""
    some = [
        (["run", "resources.threads=100000"], "resources.threads: got 100000, expected"),
        (["train", "trainable=mlp", "lr=0.1"], "lr: unknown key, did you mean trainable.lr?"),
        (["publish", "damaged"], ""),
        (["rnu"], "rnu: unknown command, did you mean run?"),
    ]
    before = snapshot(place)
    command = [sys.executable, "-W", "error", "-m", "gatesweep"]
    started = [
        subprocess.Popen(
            [*command, *argv],
            cwd=place,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for argv, _ in some
    ]
    for process, (argv, words) in zip(started, some, strict=True):
        out, err = process.communicate(timeout=SECONDS * len(some))
        assert (process.returncode, out) == (2, ""), (argv, err)
        assert err.startswith(f"error: {words}") and err.count("\n") == 1, err
    assert snapshot(place) == before
