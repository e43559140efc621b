"""Signals that end a command: Ctrl-C, SIGTERM (`kill`, `timeout`) and SIGHUP (a closed terminal), and warnings.

A batch system warns of a time limit by SIGTERM or, as it is configured, by SIGUSR1, SIGUSR2 or SIGXCPU.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

INTERRUPTED = 130  # the exit code
WARNINGS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)  # of batch systems; by default they end a process at once
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, *WARNINGS)
REPEATED = 1.0  # seconds: `timeout` sends its signal twice, to its child and to the whole group


class Interruption:
    """The handler of all these signals. The first signal raises KeyboardInterrupt, and later ones change nothing."""

    def __init__(self, owns_process: bool = True) -> None:
        self.owns_process = owns_process
        self.received = self.held = self.leave = self.told = False
        self.at = 0.0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Act on a signal; `number` is its number."""
        if self.received or self.held:
            if not self.told and time.monotonic() - self.at > REPEATED:
                self.told = True
                _say("signal received; the end is being recorded already, which takes a moment\n")
            return
        self.received, self.at = True, time.monotonic()
        if self.leave:
            _say("interrupted\n")
            os._exit(INTERRUPTED)
        raise KeyboardInterrupt


_interruption = Interruption()


@contextlib.contextmanager
def handle_signals(last: bool = False, owns_process: bool = True) -> Iterator[None]:
    """Raise KeyboardInterrupt for the first of SIGNALS within the block; a block inside another does nothing.

    A shell that runs a command in the background has Ctrl-C ignored; SIGTERM must end the command there too, so nothing
    is passed on from one signal to another. SIGHUP stays ignored where it is (`nohup`), and WARNINGS are left to a
    program that ignores or handles them. Only the main thread of a process can handle signals: in another thread the
    block changes nothing. `last`: the process ends behind the block, so signals that are held stay ignored, for its
    exit code's sake. `owns_process`: the process may be ended at once.
    """
    global _interruption
    before = {number: signal.getsignal(number) for number in SIGNALS}
    main = threading.current_thread() is threading.main_thread()
    if not main or isinstance(before[signal.SIGTERM], Interruption):
        yield
        return
    if before[signal.SIGHUP] is signal.SIG_IGN:
        del before[signal.SIGHUP]
    for number in WARNINGS:
        if before[number] is not signal.SIG_DFL:
            del before[number]
    _interruption = Interruption(owns_process)
    for number in before:
        signal.signal(number, _interruption)
    try:
        yield
    finally:
        for number, handler in before.items():
            after = signal.SIG_IGN if last and _interruption.held else handler
            signal.signal(number, signal.SIG_DFL if after is None else after)
        _interruption = Interruption()


@contextlib.contextmanager
def leave_at_once() -> Iterator[None]:
    """End the process at a signal within the block, with a line; for blocks in which nothing is recorded yet.

    A KeyboardInterrupt in the middle of an import may be turned into another error, or printed and ignored. A process
    that is not a command's own, such as a notebook's, goes on.
    """
    before, _interruption.leave = _interruption.leave, _interruption.owns_process
    try:
        yield
    finally:
        _interruption.leave = before


def hold_signals(silently: bool = False) -> None:
    """Ignore all of them from here to the end of `handle_signals`.

    Unless it is to be `silently`, the first of them is answered with a line.
    """
    _interruption.held, _interruption.told = True, silently


def raise_if_interrupted() -> None:
    """Raise KeyboardInterrupt if a signal came whose KeyboardInterrupt was lost, as in an object's `__del__`."""
    if _interruption.received:
        raise KeyboardInterrupt


def _say(line: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, line.encode())
