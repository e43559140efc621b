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

TRIAL_COSTS = ("epochs", "seconds")  # costs that every trial has; any other is a metric of its last epoch


def trial_cost(trial: TrialRecord, name: str) -> float:
    """What a trial cost, by its record; infinite where that is not known."""
    if name == "epochs":
        return float(trial.epochs[-1]["epoch"]) if trial.epochs else math.inf
    value = trial.seconds if name == "seconds" else trial.metrics.get(name)
    return math.inf if value is None or math.isnan(value) else value


def counted_trials(trials: Sequence[TrialRecord], gate: Gate) -> list[TrialRecord]:
    """Those that passed; with an empty gate, that finished."""
    return [trial for trial in trials if trial.outcome == ("passed" if gate.rules else "finished")]


def pareto_front(trials: Sequence[TrialRecord], gate: Gate, name: str) -> list[dict[str, Any]]:
    """The Pareto front of the trials that count, the cheapest first."""
    points = [
        (trial_cost(trial, name), -gate.objective_value(trial.metrics), trial.name)
        for trial in counted_trials(trials, gate)
    ]
    found: list[dict[str, Any]] = []
    best = math.inf
    for spent, loss, trial in sorted(points):
        if loss < best and math.isfinite(spent):
            best = loss
            found.append({"trial": trial, str(gate.objective): loss if gate.mode == "min" else -loss, name: spent})
    return found


def read_pareto(sweep: Path) -> list[dict[str, Any]]:
    """Where `search.cost` names one: the trials that passed and that no other beats in objective and cost."""
    from gatesweep.sweeps.records.pareto import pareto_front  # here, for it builds on this

    config = read_config(sweep / CONFIG)
    cost = config.search.cost
    return pareto_front(read_trials(sweep), make_gate(config.gate), cost) if cost else []


def pareto_lines(front: list[dict[str, Any]]) -> list[str]:
    """What `pareto` says, a line a trial."""
    facts = [[f"{name} {format_cell(value)}" for name, value in one.items() if name != "trial"] for one in front]
    return [f"front: {one['trial']}, {', '.join(said)}" for one, said in zip(front, facts, strict=True)]
