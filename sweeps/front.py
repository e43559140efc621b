"""The gate's objective against a cost, `search.cost`: what a trial cost, and which no other trial beats in both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from gatesweep.core.gate import Gate
from gatesweep.sweeps.report import Trial

OF_TRIALS = ("epochs", "seconds")  # costs that every trial has; any other is a metric of its last epoch


def cost(trial: Trial, name: str) -> float:
    """What a trial cost, by its record; infinite where that is not known."""
    if name == "epochs":
        return float(trial.epochs[-1]["epoch"]) if trial.epochs else math.inf
    value = trial.seconds if name == "seconds" else trial.metrics.get(name)
    return math.inf if value is None or math.isnan(value) else value


def counted(trials: Sequence[Trial], gate: Gate) -> list[Trial]:
    """Those that passed; with an empty gate, that finished."""
    return [trial for trial in trials if trial.outcome == ("passed" if gate.rules else "finished")]


def front(trials: Sequence[Trial], gate: Gate, name: str) -> list[dict[str, Any]]:
    """The Pareto front of the trials that count, the cheapest first."""
    points = [(cost(trial, name), -gate.objective_value(trial.metrics), trial.name) for trial in counted(trials, gate)]
    found: list[dict[str, Any]] = []
    best = math.inf
    for spent, loss, trial in sorted(points):
        if loss < best and math.isfinite(spent):
            best = loss
            found.append({"trial": trial, str(gate.objective): loss if gate.mode == "min" else -loss, name: spent})
    return found
