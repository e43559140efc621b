"""Progress of a sweep on a terminal."""

from __future__ import annotations

from collections import Counter
from typing import Any

from tqdm import tqdm


class Progress:
    """A bar on a terminal, and one line for each trial that ends."""

    def __init__(self, name: str, num_samples: int | None, max_epochs: int, outcomes: Counter) -> None:
        self.outcomes, self.max_epochs = outcomes, max_epochs
        self.running: dict[str, int] = {}
        self.best: tuple[float, str] = (float("-inf"), "")
        layout = "{desc} {percentage:3.0f}%|{bar:16}| {elapsed} ETA {remaining}{postfix}"
        self.bar = tqdm(total=num_samples, disable=None, bar_format=layout, desc=name, leave=False)
        self._show()

    def start(self, name: str) -> None:
        self.running[name] = 0
        self._show()

    def epoch(self, name: str, epoch: int, score: float, missed: list[str]) -> None:
        self.running[name] = epoch
        if score > self.best[0]:
            self.best = (score, "; ".join(missed) or "passes")
        self._show()

    def end(self, name: str, outcome: str, epoch: int, result: dict[str, Any]) -> None:
        self.running.pop(name, None)
        why = result["reason"] or "; ".join(result["missed"])
        with tqdm.external_write_mode():
            print(f"{name} {outcome:9} after {epoch:3} epochs  {why}", flush=True)
        self._show()

    def close(self) -> None:
        self.bar.close()

    def _show(self) -> None:
        done = sum(self.outcomes.values()) + sum(epoch / self.max_epochs for epoch in self.running.values())
        self.bar.n = min(done, self.bar.total) if self.bar.total else done
        counts = [f"{self.outcomes[name]} {name}" for name in ("passed", "stopped", "finished", "diverged", "failed")]
        best = f"best {self.best[0]:.3f}: {self.best[1]}" if self.best[1] else "no epoch yet"
        self.bar.set_postfix_str(f"{len(self.running)} running, {', '.join(counts)}; {best}")
