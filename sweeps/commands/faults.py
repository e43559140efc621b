"""Faults of gatesweep itself: their tracebacks go to a file, and a command says in one line where it lies."""

from __future__ import annotations

import contextlib
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path

from gatesweep.core.errors import InputError
from gatesweep.sweeps.config.secrets import redact

FAULT_FILE = "fault.txt"  # in the folder of a sweep or of a run; here, for the layout of a record imports torch


@contextlib.contextmanager
def faults_kept_in(folder: Path) -> Iterator[None]:
    """Write the traceback of a fault within the block into `folder`; the exception goes on."""
    try:
        yield
    except InputError:
        raise
    except Exception as fault:
        keep_traceback(fault, folder)
        raise


def keep_traceback(fault: Exception, folder: Path | None = None) -> Path:
    """Write the traceback of a fault to a file, in `folder` or else a temporary one; a second call writes no other."""
    kept: Path | None = getattr(fault, "kept_in", None)
    if kept:
        return kept
    if folder is None or not folder.is_dir():
        folder = Path(tempfile.mkdtemp(prefix="gatesweep-"))
    path = folder / FAULT_FILE
    path.write_text(redact("".join(traceback.format_exception(fault))))
    fault.kept_in = path  # type: ignore[attr-defined]
    return path


def describe_fault(fault: Exception, folder: Path | None = None) -> str:
    """The line that a command prints; the traceback is kept before."""
    message = redact(" ".join(str(fault).split()))
    return (
        f"gatesweep: a fault of ours, {type(fault).__name__}: {message}; traceback in {keep_traceback(fault, folder)}"
    )


def describe_interruption(end: KeyboardInterrupt | OSError) -> str:
    """The start of the last line of a sweep or run that a signal ended, or the disk or network below its record."""
    return "interrupted" if isinstance(end, KeyboardInterrupt) else f"interrupted: {' '.join(str(end).split())}"
