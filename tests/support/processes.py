"""Processes of this machine, by their ancestor and their title: to find the right ones, kill them, and see them end."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path


def descendants(ancestor: int, titles: tuple[str, ...] = ("",)) -> list[int]:
    """The living descendants of a process whose titles begin so."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        status, parent = _status(int(entry.name))
        if status != "Z":
            children.setdefault(parent, []).append(int(entry.name))
    found, new = [], [ancestor]
    while new:
        new = [child for pid in new for child in children.get(pid, [])]
        found += new
    return sorted(pid for pid in found if title(pid).startswith(titles))


def title(pid: int) -> str:
    """Its command line, which Ray sets to what a worker is doing; empty once it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        return ""


def kill(pids: list[int]) -> None:
    """SIGKILL all at once, and see them end. The first must have been there; the others may have ended with it."""
    os.kill(pids[0], signal.SIGKILL)
    for pid in pids[1:]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    await_end(pids)


def await_end(pids: list[int], patience: float = 60.0) -> None:
    deadline = time.monotonic() + patience
    while living := [pid for pid in pids if _status(pid)[0] != "Z"]:
        assert time.monotonic() < deadline, f"still there: {[(pid, title(pid)) for pid in living]}"
        time.sleep(0.01)


def _status(pid: int) -> tuple[str, int]:
    """One letter, Z for one that has ended, and the parent's number."""
    try:
        status, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
        return status, int(parent)
    except OSError:
        return "Z", 0
