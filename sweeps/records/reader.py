"""Read a sweep's folder: its configuration, its events and its trials."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gatesweep.core.gate import Gate
from gatesweep.core.record import Event, read_events
from gatesweep.sweeps.config.recorded import read_config
from gatesweep.sweeps.config.schema import Config, make_gate
from gatesweep.sweeps.records.layout import CONFIG, trial_folders


@dataclass(frozen=True)
class TrialRecord:
    """What a trial's folder says of it."""

    name: str
    outcome: str
    reason: str  # or what it missed
    epochs: list[Event]
    values: dict[str, Any]

    @property
    def score(self) -> float | None:
        """That of its last epoch."""
        return self.epochs[-1]["score"] if self.epochs else None

    @property
    def best_score(self) -> float | None:
        return max((event["score"] for event in self.epochs if event["score"] is not None), default=None)

    @property
    def metrics(self) -> dict[str, float]:
        """Those of its last epoch."""
        return self.epochs[-1]["metrics"] if self.epochs else {}

    @property
    def seconds(self) -> float:
        return sum(event["metrics"].get("system/seconds", 0.0) for event in self.epochs)


@dataclass(frozen=True)
class SweepRecord:
    """What a sweep's folder says of it, while it runs as well."""

    folder: Path
    config: Config
    events: list[Event]  # its own, not its trials'
    trials: list[TrialRecord]  # the best first

    @property
    def gate(self) -> Gate:
        return make_gate(self.config.gate)

    @property
    def ended(self) -> bool:
        return bool(self.events) and self.events[-1]["event"] == "end"

    @property
    def interrupted(self) -> bool:
        return bool(self.events) and self.events[-1]["event"] == "interrupted"

    @property
    def seconds(self) -> float:
        """Of sweeping, those before an interruption included, as far as they are recorded."""
        epochs = [event for trial in self.trials for event in trial.epochs]
        return max((event.get("elapsed", 0.0) for event in [*self.events, *epochs]), default=0.0)

    def heard(self) -> list[tuple[str, Event]]:
        """Every trial's epochs with its name, in the order in which the sweep heard of them."""
        epochs = [(trial.name, event) for trial in self.trials for event in trial.epochs]
        return sorted(epochs, key=lambda one: (one[1]["elapsed"], one[0]))

    @property
    def facts(self) -> dict[str, Any]:
        """Versions and commit, of its newest start."""
        return next((event for event in reversed(self.events) if event["event"] == "start"), {})


def read_sweep(sweep: Path) -> SweepRecord:
    config = read_config(sweep / CONFIG)
    return SweepRecord(sweep, config, read_events(sweep / "events.jsonl"), rank_trials(read_trials(sweep)))


def read_trials(sweep: Path) -> list[TrialRecord]:
    return [read_trial(folder) for folder in trial_folders(sweep)]


def read_trial(folder: Path) -> TrialRecord:
    events, result = read_events(folder / "events.jsonl"), read_result(folder)
    epochs = [event for event in events if event["event"] == "epoch"]
    reason = result["reason"] or "; ".join(result["missed"])
    return TrialRecord(folder.name, result["outcome"], reason, epochs, searched_values(events))


def rank_trials(trials: list[TrialRecord]) -> list[TrialRecord]:
    """The best first: those that passed, by their score, then the others by theirs."""
    worst = -math.inf
    return sorted(
        trials, key=lambda one: (one.outcome == "passed", worst if one.score is None else one.score), reverse=True
    )


def read_result(folder: Path) -> dict[str, Any]:
    """A trial's `result.json`; of one that has not ended, what stands in for it."""
    path = folder / "result.json"
    return json.loads(path.read_text()) if path.exists() else {"outcome": "interrupted", "reason": None, "missed": []}


def searched_values(events: list[Event]) -> dict[str, Any]:
    """What a trial's searched values are; population-based training changes them on the way."""
    return next((event["values"] for event in reversed(events) if "values" in event), {})
