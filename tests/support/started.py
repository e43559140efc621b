"""Commands in processes of their own, as a terminal or a script starts them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Without what importing gatesweep has set here for Ray.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
ENVIRONMENT |= {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}


def start(command: str, *arguments: str, background: bool = False, cwd: Path = ROOT) -> subprocess.Popen:
    """Start a command in a process group of its own; `background`: as a shell's `&` does, with Ctrl-C ignored."""
    return subprocess.Popen(
        [sys.executable, "-m", "gatesweep", command, *arguments], cwd=cwd, env=ENVIRONMENT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        preexec_fn=lambda: _usual_signals(background),
    )  # fmt: skip


def _usual_signals(background: bool) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN if background else signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored where the tests run under `nohup`


def await_epochs(folder: Path, process: subprocess.Popen, more: int = 1) -> None:
    """Wait until a run, or the trials of a sweep, have trained so many epochs `more` than at the call."""
    wanted, deadline = _epochs(folder) + more, time.monotonic() + 90
    while _epochs(folder) < wanted:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)


def _epochs(folder: Path) -> int:
    return sum(path.read_text().count('"event": "epoch"') for path in folder.glob("**/events.jsonl"))
