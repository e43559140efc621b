"""Folders of sweeps that never ran, written as a sweep writes them, for results that no small sweep has."""

from __future__ import annotations

import math
import os
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gatesweep.core.gate import WORST_SCORE
from gatesweep.core.record import Record, append_event
from gatesweep.sweeps.config.compose import compose_config
from gatesweep.sweeps.config.schema import Config, make_gate
from gatesweep.sweeps.config.values import to_yaml
from gatesweep.sweeps.records.layout import CONFIG, ERROR, EVENTS
from tests.conftest import trivial

Epochs = list[tuple[float | None, dict[str, float]]]  # of a trial: score and metrics of each


@dataclass
class Pretended:
    """A trial: its values, its epochs, its outcome (None: not ended) and the reason."""

    values: dict[str, Any] = field(default_factory=dict)
    epochs: Epochs = field(default_factory=list)
    outcome: str | None = "finished"
    reason: str | None = None
    error: str = ""


def pretend(folder: Path, trials: list[Pretended], *overrides: str, end: str | None = "end", **config: Any) -> Path:
    """Write a sweep's folder and return it. Its trials take turns, one second per epoch.

    `config` replaces top-level keys of the configuration.
    """
    folder.mkdir(parents=True)
    longest = max((len(trial.epochs) for trial in trials), default=0) or 6
    composed = compose_config(trivial(folder.parent, None, f"training.max_epochs={longest}", *overrides))
    composed = Config.of({**composed.to_dict(), **config})
    (folder / CONFIG).write_text(to_yaml(composed))
    provenance = {"versions": {"python": "3.11", "torch": "2.13"}, "git_commit": "0123abc", "overrides": ["name=a b"]}
    append_event(folder / EVENTS, "start", **provenance)
    synced, os.fsync = os.fsync, lambda _: None  # these files need not survive a crash
    try:
        for index, trial in enumerate(trials):
            _write(folder / f"trial_{index:04d}", trial, index, len(trials), make_gate(composed.gate))
    finally:
        os.fsync = synced
    if end:
        append_event(folder / EVENTS, end, elapsed=float(sum(len(trial.epochs) for trial in trials)))
    return folder


def _write(folder: Path, trial: Pretended, index: int, count: int, gate: Any) -> None:
    record = Record(folder, values=trial.values, elapsed=0.0)
    for epoch, (score, metrics) in enumerate(trial.epochs, 1):
        outcome = trial.outcome if epoch == len(trial.epochs) and trial.outcome != "stopped" else None
        gated = {} if score == WORST_SCORE else {"val/loss": 0.1, "val/closeness": 0.5}  # a diverged epoch has none
        measured = {"system/seconds": 0.5, **gated, **metrics}
        elapsed = float((epoch - 1) * count + index + 1)
        record.epoch(epoch, measured, [0.5, 0.4], score=score, outcome=outcome, reason=trial.reason, elapsed=elapsed)
    if trial.error:
        (folder / ERROR).write_text(trial.error)
    if trial.outcome:
        record.end(trial.outcome, trial.reason, gate)


def many(count: int, epochs: int, seed: int = 0) -> list[Pretended]:
    """Return trials whose distance to the gate depends on `lr` alone; they pass, are stopped, finish or diverge."""
    draw = random.Random(seed)
    trials = []
    for index in range(count):
        lr, width = 10 ** draw.uniform(-4, 0), draw.choice([16, 32, 64])
        distance = abs(math.log10(lr) + 2)  # zero at lr = 0.01
        outcome = (
            "diverged" if index % 17 == 16 else "passed" if distance < 0.4 else draw.choice(["stopped", "finished"])
        )
        length = epochs if outcome == "finished" else max(1, int(epochs * draw.uniform(0.2, 1)))
        gaps = [distance / (1 + 5 * epoch / epochs) for epoch in range(length)]
        curve: Epochs = [(-gap, {"val/closeness": 0.9 - 0.9 * gap}) for gap in gaps]
        if outcome == "passed":
            curve[-1] = (1.3 + 0.4 * draw.random(), {"val/closeness": 0.95})
        if outcome == "diverged":
            curve[-1] = (WORST_SCORE, {})
        trials.append(Pretended({"trainable.lr": lr, "trainable.width": width}, curve, outcome))
    return trials
