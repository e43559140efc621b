"""The part of a run that decides: the epochs so far, the gate's streak, early stopping, and the end."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gatesweep.core.gate import WORST_SCORE
from gatesweep.core.resume import ran_out_of_epochs
from gatesweep.core.settings import Settings
from gatesweep.core.trainable import Metrics

Outcome = Literal["passed", "finished", "diverged", "failed"]  # a sweep adds "stopped": by its scheduler
CUT_SHORT = ("diverged", "failed")  # outcomes whose last epoch may lack metrics, and has no checkpoint


@dataclass(frozen=True)
class Epoch:
    """One item of `fit`: the results of an epoch, and the means to save it."""

    index: int
    """The number of the epoch, from 1."""
    metrics: Metrics
    losses: list[float]
    """The training loss of every step."""
    score: float
    """The gate's score of `metrics`."""
    outcome: Outcome | None
    """The end of the run: a word of `Outcome`; None while it goes on."""
    reason: str | None
    """The reason for the outcome, where its word does not say all."""
    state: Callable[[], dict[str, Any]]
    """Returns the state to resume from. It is a live view: call it before asking for the next epoch."""
    is_resumable: bool = True
    """False where the state holds nothing to resume from: a function reported without a checkpoint."""
    write_files: Callable[[Path], None] | None = None
    """Writes the files of the checkpoint, beside its state, into the folder of one that is being made."""


class JudgedRun:
    """A run whose epochs are judged, whatever trains them.

    Attributes:
        seed: that of the run's random numbers.
        epoch: the number of epochs done.
        streak: the number of epochs in a row that cleared the gate.
        history: number, metrics and losses of each epoch done.
        best: number and value of the best epoch, and what `_keep_best` keeps of it, for early stopping.
    """

    def __init__(self, settings: Settings, seed: int) -> None:
        self.settings, self.seed = settings, seed
        self.epoch, self.streak = 0, 0
        self.outcome: Outcome | None = None
        self.reason: str | None = None
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Any] | None = None

    def epochs_after(self, index: int) -> Iterator[Epoch]:
        """Yield the epochs of the history whose number is above `index`."""
        return (self._make_epoch(entry) for entry in self.history if entry["epoch"] > index)

    def state_dict(self) -> dict[str, Any]:
        """Return what a run goes on from; what trains it adds its own."""
        return {
            "epoch": self.epoch,  # the schedule's position and the data's order are functions of it
            "seed": self.seed,
            "streak": self.streak,
            "outcome": self.outcome,
            "reason": self.reason,
            "history": self.history,
            "best": self.best,
        }

    def _restore_judged(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned. A run that had used its epochs up goes on where there are more now."""
        self.epoch, self.streak, self.seed = state["epoch"], state["streak"], state.get("seed", self.seed)
        self.outcome, self.reason = state["outcome"], state["reason"]
        self.history, self.best = list(state["history"]), state["best"]
        if self.outcome == "finished" and ran_out_of_epochs(self.reason) and self.epoch < self.settings.max_epochs:
            self.outcome = self.reason = None  # `max_epochs` has grown since

    def _keep_best(self) -> dict[str, Any]:
        """Return what is kept of an epoch that is the best so far."""
        return {}

    def _restore_best(self, metrics: Metrics) -> None:
        """Go back to what was kept of the best epoch, at the end of a run with early stopping."""

    def _record_epoch(self, metrics: Metrics, losses: list[float]) -> Epoch:
        """Count an epoch that was judged, and return it."""
        self.epoch += 1
        self.history.append({"epoch": self.epoch, "metrics": metrics, "losses": losses})
        return self._make_epoch(self.history[-1])

    def _decide_outcome(self, metrics: Metrics) -> None:
        """End the run if it passed, if early stopping says so, or if this was the last epoch."""
        carried = self._carry_metrics(metrics)
        if not self.settings.gate.cleared(metrics):
            self.streak = 0
        elif not carried:
            self.streak += 1
        if self.streak >= self.settings.gate.consecutive and not carried:
            self._end("passed")
        elif reason := self._stop_early(metrics):
            self._end("finished", reason)
        elif self.epoch + 1 == self.settings.max_epochs:
            self._end("finished")
        if self.outcome == "finished" and self.best:
            self._restore_best(metrics)

    def _carry_metrics(self, metrics: Metrics) -> bool:
        """Copy gated metrics that were not evaluated in this epoch from the last one; returns True if there are any."""
        previous = self.history[-1]["metrics"] if self.history else {}
        absent = [name for name in self.settings.gate.reads if name not in metrics and name in previous]
        for name in absent:
            metrics |= {key: previous[key] for key in (name, f"{name}_low", f"{name}_high") if key in previous}
        return bool(absent)

    def _stop_early(self, metrics: Metrics) -> str | None:
        """Keep a better epoch as the best; return the reason for stopping now, or None."""
        patience = self.settings.patience
        if patience is None:
            return None
        value = patience.value(metrics, [entry["metrics"] for entry in self.history])
        threshold = self.best["value"] + patience.min_delta if self.best else -math.inf
        if value > threshold:  # False for NaN
            self.best = {"epoch": self.epoch + 1, "value": value, **self._keep_best()}
        if patience.goal is not None and value >= patience.goal * patience.sign:
            return f"{patience.metric} reached {patience.goal:g}"
        if self.epoch + 1 - (self.best["epoch"] if self.best else 0) >= patience.epochs:
            return f"no better {patience.metric} for {patience.epochs} epochs"
        return None

    def _end(self, outcome: Outcome, reason: str | None = None) -> None:
        self.outcome, self.reason = outcome, reason

    def _make_epoch(self, entry: dict[str, Any]) -> Epoch:
        """Return the Epoch of an entry of the history; only the last one can have an outcome."""
        index, metrics, losses = entry["epoch"], entry["metrics"], entry["losses"]
        outcome, reason = (self.outcome, self.reason) if index == self.epoch else (None, None)
        score = WORST_SCORE if outcome in CUT_SHORT else self.settings.gate.score(metrics)
        return Epoch(index, metrics, losses, score, outcome, reason, self.state_dict)
