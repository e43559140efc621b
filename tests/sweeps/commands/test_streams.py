"""Standard streams that fail, and locales without UTF-8: neither ends a command, or changes its exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gatesweep.sweeps.commands.cli import BAD_INPUT, PASSED

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("redirected", "code", "shown"),
    [
        ("--help >&-", PASSED, ""),
        ("--help >/dev/full", PASSED, "standard output cannot be written, so nothing more is shown"),
        ("--help | true", PASSED, ""),
        ("nonsense 2>&-", BAD_INPUT, ""),
        ("nonsense 2>/dev/full", BAD_INPUT, ""),
    ],
)
def test_a_stream_that_cannot_be_written_changes_no_exit_code(redirected: str, code: int, shown: str) -> None:
    script = f"set -o pipefail; {sys.executable} -m gatesweep {redirected}"
    ended = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (code, "") and ended.stderr.startswith(shown)
    assert ended.stderr.count("\n") == bool(shown)


def test_a_locale_without_utf8_changes_nothing() -> None:
    plain = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    command = [sys.executable, "-m", "gatesweep", "Läufe"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, env=plain)
    assert ended.returncode == BAD_INPUT and ended.stderr.decode().startswith("error: Läufe: unknown command")
