"""Progress of a sweep on a terminal."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm

from gatesweep.sweeps.records.layout import OUTCOMES

_is_silent = False


class Progress:
    """A bar on a terminal, and one line for each trial that ends.

    `num_samples` is the number of trials, None where it is unknown. `outcomes` is the recorder's count of ended trials.
    """

    def __init__(self, name: str, num_samples: int | None, max_epochs: int, outcomes: Counter) -> None:
        self.outcomes, self.max_epochs = outcomes, max_epochs
        self.running: dict[str, int] = {}  # the last epoch of each running trial
        self.best: tuple[float, str] = (float("-inf"), "")
        layout = "{desc} {percentage:3.0f}%|{bar:16}| {elapsed} ETA {remaining}{postfix}"
        self.bar = tqdm(total=num_samples, disable=_is_silent or None, bar_format=layout, desc=name, leave=False)
        self._refresh()

    def start(self, name: str) -> None:
        """Show a trial that begins."""
        self.running[name] = 0
        self._refresh()

    def epoch(self, name: str, epoch: int, score: float, missed: list[str]) -> None:
        """Show an epoch of a trial; `missed` describes the thresholds that it misses."""
        self.running[name] = epoch
        if score > self.best[0]:
            self.best = (score, "; ".join(missed) or "passes")
        self._refresh()

    def end(self, name: str, outcome: str, epoch: int, result: dict[str, Any]) -> None:
        """Print the line of a trial that ended; `result` is the content of its result.json."""
        self.running.pop(name, None)
        why = result["reason"] or "; ".join(result["missed"])
        say(f"{name} {outcome:9} after {epoch:3} epochs  {why}")
        self._refresh()

    def close(self) -> None:
        """Remove the bar."""
        self.bar.close()

    def _refresh(self) -> None:
        done = sum(self.outcomes.values()) + sum(epoch / self.max_epochs for epoch in self.running.values())
        self.bar.n = min(done, self.bar.total) if self.bar.total else done
        counts = [f"{self.outcomes[name]} {name}" for name in OUTCOMES]
        best = f"best {self.best[0]:.3f}: {self.best[1]}" if self.best[1] else "no epoch yet"
        self.bar.set_postfix_str(f"{len(self.running)} running, {', '.join(counts)}; {best}")


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Show no progress within the block: no bar, and no line of `say`."""
    global _is_silent
    before, _is_silent = _is_silent, True
    try:
        yield
    finally:
        _is_silent = before


def is_silent() -> bool:
    """Return True within a block of `silence`."""
    return _is_silent


def say(line: str) -> None:
    """Print a line, above the bar where there is one."""
    if _is_silent:
        return
    with tqdm.external_write_mode():
        print(line, flush=True)
