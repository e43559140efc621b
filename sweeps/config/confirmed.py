"""Facts that this user has confirmed on this machine. No folder that is sent can bring them along.

A fact is a few words, e.g. the path of a file and its content. It is kept as an empty file in the folder gatesweep
below ~/.local/state (XDG_STATE_HOME); the name of the file is a digest of the words.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path


def confirm(*words: str) -> None:
    """Remember a fact. Where the user has no folder that can be written, it is forgotten with the process."""
    path = _path(words)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch()


def is_confirmed(*words: str) -> bool:
    """Return True for a fact that was confirmed on this machine."""
    return _path(words).is_file()


def _path(words: tuple[str, ...]) -> Path:
    place = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    digest = hashlib.sha256(json.dumps(words).encode(errors="surrogateescape")).hexdigest()
    return place / "gatesweep" / digest
