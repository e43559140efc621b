"""Processes of this machine: find them by ancestor and title, kill them, and wait for their end."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path


def descendants(ancestor: int, titles: tuple[str, ...] = ("",)) -> list[int]:
    """Return the living descendants of a process whose titles begin with one of `titles`."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        status, parent = _status(int(entry.name))
        if status != "Z":
            children.setdefault(parent, []).append(int(entry.name))
    family, new = [], [ancestor]
    while new:
        new = [child for pid in new for child in children.get(pid, [])]
        family += new
    return sorted(pid for pid in family if title(pid).startswith(titles))


def title(pid: int) -> str:
    """Return the command line of a process, which Ray sets to the work of a worker; empty once it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        return ""


def kill(pids: list[int]) -> None:
    """Send SIGKILL to all, and wait for their end. The first must exist; the others may have ended with it."""
    os.kill(pids[0], signal.SIGKILL)
    for pid in pids[1:]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    await_end(pids)


def await_end(pids: list[int], patience: float = 60.0) -> None:
    """Wait until processes have ended, for at most `patience` seconds."""
    deadline = time.monotonic() + patience
    while living := [pid for pid in pids if _status(pid)[0] != "Z"]:
        assert time.monotonic() < deadline, f"still there: {[(pid, title(pid)) for pid in living]}"
        time.sleep(0.01)


def _status(pid: int) -> tuple[str, int]:
    """The state of a process as one letter, Z once it has ended, and the number of its parent."""
    try:
        status, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
        return status, int(parent)
    except OSError:
        return "Z", 0
