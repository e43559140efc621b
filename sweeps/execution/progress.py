"""Progress of a sweep: a few lines that follow it on a terminal, and a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import shutil
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from gatesweep.sweeps.records.layout import OUTCOMES
from gatesweep.sweeps.records.text import format_cell, printable, short_name

REFRESH = 0.25  # seconds between two pictures on a terminal
FIRST_NEWS, NEWS = 10.0, 60.0  # seconds until the first line, and between two, where output is no terminal
CARET = 4  # columns that stay free at the right: a terminal writes ^C there, which must not begin another line
OTHER_LINES = 5  # of a terminal: what stays free beside the lines of running trials
COLORS = {"passed": "green", "failed": "red", "diverged": "red"}

_is_silent = False
_live: Live | None = None  # the lines at the bottom of the terminal, while there are any


class Progress:
    """Follows the running trials, and prints a line for each trial that ends.

    `num_samples` is the number of trials, None where it is unknown. `outcomes` is the recorder's count of ended trials.
    Call `tick` often: it draws.
    """

    def __init__(self, name: str, num_samples: int | None, max_epochs: int, outcomes: Counter) -> None:
        global _live
        self.name, self.num_samples, self.max_epochs, self.outcomes = name, num_samples, max_epochs, outcomes
        self.running: dict[str, RunningTrial] = {}
        self.best: tuple[float, str] = (float("-inf"), "")
        self.began = time.monotonic()
        self.done_before = float(sum(outcomes.values()))
        self.drawn, self.news = 0.0, self.began + FIRST_NEWS - NEWS
        console = _LastingCursor(force_terminal=sys.stdout.isatty(), force_jupyter=False)
        if console.is_interactive and not _is_silent and _live is None:
            _live = Live(
                self._view(),
                console=console,
                auto_refresh=False,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=sys.stderr.isatty(),
            )
            _live.start(refresh=True)

    def start(self, name: str, epoch: int = 0) -> None:
        """Show a trial that begins, or goes on after `epoch`."""
        self.running[name] = RunningTrial(epoch)

    def epoch(self, name: str, epoch: int, score: float, missed: list[str], metrics: Mapping[str, Any]) -> None:
        """Show an epoch of a trial: what it misses of the gate, and the metrics that the gate reads."""
        trial = self.running.setdefault(name, RunningTrial(0))
        trial.epoch, trial.metrics = epoch, _pairs(metrics, " ")
        if score > self.best[0]:
            reached = "; ".join(line.removeprefix("val/") for line in missed)
            self.best = (score, reached or f"{name} passes, {', '.join(trial.metrics)}")

    def end(
        self,
        name: str,
        outcome: str,
        epoch: int,
        result: Mapping[str, Any],
        values: Mapping[str, Any],
        gated: list[str],
    ) -> None:
        """Print the line of a trial that ended; `result` is its result.json, `gated` are the metrics of the gate."""
        self.running.pop(name, None)
        why = result["reason"] or "; ".join(result["missed"])
        if outcome == "passed":
            metrics = {metric: result["metrics"].get(metric) for metric in gated}
            why = ", ".join([*_pairs(metrics, " "), *_pairs(values, "=")])
        head, width = f"{name} {outcome:9} after {epoch:3} epochs", terminal_width()
        gap = "\n    " if width and len(f"{head}  {why}") > width else "  "
        say(f"{head}{gap}{why}", COLORS.get(outcome, ""))
        self.news = time.monotonic()

    def tick(self) -> None:
        """Draw the lines on a terminal; elsewhere print one from time to time."""
        now = time.monotonic()
        if _live and now - self.drawn >= REFRESH:
            self.drawn = now
            _live.update(self._view(), refresh=True)
        elif not _live and not _is_silent and now - self.news >= NEWS:
            self.news = now
            say(f"{self.name}: {self._counts()}; {self._best()}")

    def close(self) -> None:
        """Remove the lines from the terminal."""
        global _live
        if _live:
            live, _live = _live, None
            live.stop()

    def _view(self) -> Group:
        """Draw what matters first: the best trial, the counts, then as many running trials as fit."""
        height = _live.console.height if _live else 24
        shown = list(self.running.items())[: max(1, height - OTHER_LINES)]
        lines = [Text(self._best(), style="bold"), Text(self._counts())]
        width = max((len(name) for name in self.running), default=0)
        for name, trial in shown:
            seconds = f"{time.monotonic() - trial.began:5.0f} s"
            metrics = "  ".join(trial.metrics)
            lines.append(Text(f"  {name:{width}} epoch {trial.epoch:3} of {self.max_epochs} {seconds}  {metrics}"))
        if more := len(self.running) - len(shown):
            lines.append(Text(f"  and {more} more"))
        for line in lines:
            line.no_wrap = True
            line.truncate((_live.console.width if _live else 80) - CARET)
        return Group(*lines)

    def _best(self) -> str:
        if self.best[1]:
            return f"best {self.best[0]:.3g}: {self.best[1]}"
        return "no epoch yet" if self.running else "starting the processes of the trials"

    def _counts(self) -> str:
        counts = [f"{self.outcomes[name]} {name}" for name in OUTCOMES if self.outcomes[name]]
        counts += [f"{len(self.running)} running"] * bool(self.running)
        spent = time.monotonic() - self.began
        if self.num_samples is None:
            return f"{', '.join(counts) or 'none ended'}; {_clock(spent)}"
        partly = sum(min(trial.epoch / self.max_epochs, 1.0) for trial in self.running.values())
        done = sum(self.outcomes.values()) + partly
        text = f"{', '.join(counts) or 'none ended'}, of {self.num_samples}; {_clock(spent)}"
        if done > self.done_before:
            left = max(0.0, self.num_samples - done) * spent / (done - self.done_before)
            text += f", ETA {_clock(left)}"
        return text


class RunningTrial:
    """The last epoch of a running trial, its gated metrics as text, and the moment at which it began."""

    def __init__(self, epoch: int) -> None:
        self.epoch, self.metrics, self.began = epoch, list[str](), time.monotonic()


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Show no progress within the block, and no line of `say`."""
    global _is_silent
    before, _is_silent = _is_silent, True
    try:
        yield
    finally:
        _is_silent = before


def is_silent() -> bool:
    """Return True within a block of `silence`."""
    return _is_silent


def say(line: str, style: str = "", wrap: bool = True) -> None:
    """Print lines, above the progress where there is any; nothing for an empty text.

    On a terminal long lines are broken between words, unless `wrap` is False: a command stays one line to copy.
    """
    if _is_silent or not line:
        return
    if wrap and (width := terminal_width()):
        line = "\n".join(part for one_line in line.split("\n") for part in wrap_line(one_line, width))
    if _live:
        _live.console.print(Text(line, style=style), soft_wrap=True)
    else:
        print(line, flush=True)


def say_stage(line: str) -> None:
    """Say what takes a moment, to a person before a terminal; elsewhere nobody waits for it."""
    if sys.stdout.isatty():
        say(line)


def terminal_width() -> int | None:
    """Return the number of columns of the terminal; None where standard output is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def wrap_line(line: str, width: int) -> list[str]:
    """Break a line between its words, with its later parts indented; a word that is too long stays whole."""
    if len(line) <= width:
        return [line]
    options: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}
    return textwrap.wrap(line, width, subsequent_indent="    ", **options) or [line]


class _LastingCursor(Console):
    """A console that leaves the cursor visible: a sweep that is killed could not bring it back."""

    def show_cursor(self, show: bool = True) -> bool:
        return False


def _pairs(values: Mapping[str, Any], between: str) -> list[str]:
    """Return names and values as texts."""
    return [f"{short_name(name)}{between}{printable(format_cell(value))}" for name, value in values.items()]


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
