"""Standard output and error of a command's process: a reader that has gone, or a full disk, must not end the work."""

from __future__ import annotations

import contextlib
import errno
import io
import locale
import os
import sys
from collections.abc import Iterator
from typing import Any


def use_utf8() -> None:
    """Start this process again in Python's UTF-8 mode where the locale has another encoding.

    The files of a record are UTF-8 on every machine, and the processes of trials inherit the mode.
    """
    if locale.getencoding().lower() not in ("utf-8", "utf8") and not sys.flags.utf8_mode:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, "PYTHONUTF8": "1"})


@contextlib.contextmanager
def lasting_streams() -> Iterator[None]:
    """Let standard output and error go silent within the block, once they cannot be written any more."""
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = LastingStream(sys.stdout, 1), LastingStream(sys.stderr, 2)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = streams


class LastingStream:
    """A text stream that leads nowhere from its first fault on. A fault that is no closed pipe is said once."""

    def __init__(self, stream: Any, descriptor: int) -> None:
        """`stream` may be None: so is a standard stream that was closed before the process began."""
        self.stream, self.descriptor = stream or open(os.devnull, "w"), descriptor  # noqa: SIM115
        if isinstance(self.stream, io.TextIOWrapper):
            self.stream.reconfigure(errors="backslashreplace")  # names of files need not be text

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write `text`, as far as that is possible; returns its length."""
        try:
            self.stream.write(text)
        except (OSError, ValueError) as fault:
            self._give_up(fault)
        return len(text)

    def flush(self) -> None:
        """Flush, as far as that is possible."""
        try:
            self.stream.flush()
        except (OSError, ValueError) as fault:
            self._give_up(fault)

    def _give_up(self, fault: OSError | ValueError) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.descriptor)  # what the stream still holds goes there when it is flushed again
        os.close(nowhere)
        if self.descriptor == 1 and getattr(fault, "errno", None) != errno.EPIPE:
            print(f"standard output cannot be written, so nothing more is shown: {fault}", file=sys.stderr)
