"""The Pareto front of the gate's objective and a cost, `search.cost`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gatesweep.core.gate import Gate
from gatesweep.sweeps.config.recorded import read_config
from gatesweep.sweeps.config.schema import make_gate
from gatesweep.sweeps.records.layout import CONFIG
from gatesweep.sweeps.records.reader import TrialRecord, read_trials
from gatesweep.sweeps.records.text import format_cell

TRIAL_COSTS = ("epochs", "seconds")  # costs that every trial has; any other cost is a metric of its last epoch


def read_pareto(sweep: Path) -> list[dict[str, Any]]:
    """Read a sweep's Pareto front, as `pareto_front` returns it. Without `search.cost` it is empty.

    Raises InputError where a file of the record is damaged, and OSError.
    """
    config = read_config(sweep / CONFIG)
    cost = config.search.cost
    return pareto_front(read_trials(sweep), make_gate(config.gate), cost) if cost else []


def pareto_front(trials: Sequence[TrialRecord], gate: Gate, cost: str) -> list[dict[str, Any]]:
    """Return the trials that count and that no other trial beats in both objective and cost, the cheapest first.

    Each row has the trial's name, its objective under the metric's name, and its cost under `cost`.
    """
    points = [
        (trial_cost(trial, cost), -gate.objective_value(trial.metrics), trial.name)
        for trial in counted_trials(trials, gate)
    ]
    front: list[dict[str, Any]] = []
    lowest = math.inf
    for spent, loss, name in sorted(points):
        if loss < lowest and math.isfinite(spent):
            lowest = loss
            front.append({"trial": name, str(gate.objective): loss if gate.mode == "min" else -loss, cost: spent})
    return front


def pareto_lines(front: Sequence[dict[str, Any]]) -> list[str]:
    """Return the rows of a Pareto front as text, one line a trial."""
    lines = []
    for row in front:
        cells = [f"{name} {format_cell(value)}" for name, value in row.items() if name != "trial"]
        lines.append(f"front: {row['trial']}, {', '.join(cells)}")
    return lines


def trial_cost(trial: TrialRecord, cost: str) -> float:
    """Return a trial's cost: epochs, seconds, or a metric of its last epoch; infinite where that is not recorded."""
    if cost == "epochs":
        return float(trial.epochs[-1]["epoch"]) if trial.epochs else math.inf
    value = trial.seconds if cost == "seconds" else trial.metrics.get(cost)
    return math.inf if value is None or math.isnan(value) else value


def counted_trials(trials: Sequence[TrialRecord], gate: Gate) -> list[TrialRecord]:
    """Return the trials that passed; with an empty gate, those that finished."""
    return [trial for trial in trials if trial.outcome == ("passed" if gate.rules else "finished")]
