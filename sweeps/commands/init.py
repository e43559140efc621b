"""Write a sweep of the user's own code to begin with."""

from __future__ import annotations

import argparse
from pathlib import Path

from gatesweep.core.errors import InputError
from gatesweep.sweeps.commands.cli import PASSED

TEMPLATES = Path(__file__).parent / "templates"


def init_command(arguments: argparse.Namespace) -> int:
    """Write the files of a sweep, and say how to run it; returns the exit code. Raises InputError, and OSError."""
    folder, kind = arguments.folder, "trainable" if arguments.trainable else "function"
    texts = {path.stem: path.read_text() for path in sorted((TEMPLATES / kind).glob("*.txt"))}
    for name in texts:
        if (folder / name).exists():
            raise InputError(f"init: got {str(folder / name)!r}, which is there already: gatesweep init FOLDER")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (folder / name).write_text(text)
    except OSError as error:
        raise InputError(
            f"init: got {str(folder)!r}, expected a folder that can be written ({error.strerror})"
        ) from error
    print("\n".join(f"wrote {folder / name}" for name in texts))
    print(f"next: gatesweep run {folder / 'sweep.yaml'}")
    return PASSED
