"""How commands end: exit codes, one line for bad input, for a fault of gatesweep, for Ctrl-C."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from gatesweep.core.errors import InputError
from gatesweep.sweeps.commands import cli
from gatesweep.sweeps.commands.cli import BAD_INPUT, FAULT, INTERRUPTED, run_command
from gatesweep.sweeps.commands.faults import faults_kept_in
from gatesweep.sweeps.commands.publisher_process import _environment

ROOT = Path(__file__).parents[3]


def ending(error: BaseException, folder: Path | None = None) -> object:
    """A command that ends with an error, in a folder of its own or none."""

    def work(arguments: argparse.Namespace) -> int:
        if folder is None:
            raise error
        with faults_kept_in(folder):
            raise error

    return work


@pytest.fixture
def end(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def run(work: object) -> tuple[int, str]:
        monkeypatch.setattr(cli, "pkgutil", SimpleNamespace(resolve_name=lambda name: work))
        code = run_command("report", ["somewhere"])
        return code, capsys.readouterr().err

    return run


def test_bad_input_is_one_line_and_2(end, tmp_path: Path) -> None:
    for folder in (None, tmp_path):
        ended = end(ending(InputError("lr: got 2,\n  expected 1"), folder))
        assert ended == (BAD_INPUT, "error: lr: got 2, expected 1\n")
    assert list(tmp_path.iterdir()) == []


def test_a_fault_is_one_line_that_names_the_file_with_its_traceback(end, tmp_path: Path) -> None:
    code, said = end(ending(KeyError("no\nsuch key"), tmp_path))
    path = tmp_path / "fault.txt"
    assert code == FAULT
    assert said == f"gatesweep: a fault of ours, KeyError: 'no\\nsuch key'; traceback in {path}\n"
    assert path.read_text().startswith("Traceback (most recent call last)") and "raise error" in path.read_text()


def test_a_fault_before_there_is_a_folder_leaves_a_temporary_file(end, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code, said = end(ending(RuntimeError("two\nlines")))
    [path] = tmp_path.glob("gatesweep-*/fault.txt")
    assert code == FAULT
    assert said == f"gatesweep: a fault of ours, RuntimeError: two lines; traceback in {path}\n"
    assert path.read_text().rstrip().endswith("RuntimeError: two\nlines")


def test_ctrl_c_is_one_line_and_130(end, tmp_path: Path) -> None:
    assert end(ending(KeyboardInterrupt(), tmp_path)) == (INTERRUPTED, "interrupted\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("seconds", [0.1, 0.5, 1.0])
def test_ctrl_c_before_anything_began(seconds: float, tmp_path: Path) -> None:
    """In the middle of the imports, or of the checks."""
    command = [sys.executable, "-m", "gatesweep", "run", "experiment=mlp", f"results={tmp_path / 'results'}"]
    process = subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=tmp_path, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    while not loaded(process.pid):
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (INTERRUPTED, "")
    assert errors in ("", "interrupted\n")
    assert not (tmp_path / "results").exists()


def loaded(pid: int) -> bool:
    """True once Python has begun to map the libraries that the command imports after parsing."""
    return "site-packages" in Path(f"/proc/{pid}/maps").read_text()


def test_a_reader_that_goes_away_is_no_fault() -> None:
    command = f"{sys.executable} -m gatesweep run --help | head -1"
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout.count("\n"), done.stderr) == (1, "")


def test_the_publisher_finds_a_gatesweep_that_is_not_installed() -> None:
    environment = {**_environment(), "PATH": os.environ["PATH"]}
    code = "import gatesweep; print(gatesweep.__file__)"
    done = subprocess.run([sys.executable, "-c", code], cwd="/", env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == str(ROOT / "gatesweep" / "__init__.py")
