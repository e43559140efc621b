"""What the study hears of a trial that has ended: its state, its objective and its constraints."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import TrialState

from gatesweep.core.gate import WORST_SCORE, Gate
from gatesweep.core.trainable import Metrics
from gatesweep.sweeps.config.schema import Config, SearchConfig

EARLY = "early"  # the constraint of a trial that ended before `gate_after`
BEHIND = 1e6  # its value: samplers rank by the sum of violations, and this is more than a trial that was measured has


@dataclass(frozen=True)
class TrialFeedback:
    state: TrialState
    values: list[float] | None = None
    constraints: dict[str, float] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)  # user attributes


def make_feedback(
    gate: Gate, gate_after: int, outcome: str, epoch: int, metrics: Metrics, cost: float | None = None
) -> TrialFeedback:
    """The verdict on a trial that ended so after `epoch`.

    Those that passed or used their epochs up are COMPLETE. A stopped one is PRUNED and of low fidelity: what it says of
    the gate it says early. From `search.gate_after` on that counts as its distance; before, all that is known is that
    it was not worth going on, and it ranks behind every trial whose distance is known. (Without a constraint it would
    count as feasible, and rank before all that missed the gate.) A diverged one is as far as can be; a failed one says
    nothing.
    """
    facts = {"outcome": outcome, "epoch": epoch, **({"low_fidelity": True} if outcome == "stopped" else {})}
    if outcome == "failed":
        return TrialFeedback(TrialState.FAIL, facts=facts)
    if outcome == "diverged":
        return TrialFeedback(TrialState.PRUNED, [WORST_SCORE], dict.fromkeys(gate.thresholds, -WORST_SCORE), facts)
    constraints = gate.constraints(metrics)
    if outcome == "stopped" and epoch < gate_after:
        constraints = {EARLY: BEHIND}
    values = (
        [objective_or_score(gate, metrics)]
        if cost is None
        else [objective_or_score(gate, metrics), min(cost, -WORST_SCORE)]
    )
    state = TrialState.COMPLETE if outcome in ("passed", "finished") else TrialState.PRUNED
    return TrialFeedback(state, values, constraints, facts)


def study_directions(search: SearchConfig) -> list[StudyDirection]:
    """Of the study: the objective, and the cost where there is one."""
    return [StudyDirection.MAXIMIZE, *([StudyDirection.MINIMIZE] if search.cost else [])]


def objective_or_score(gate: Gate, metrics: Metrics) -> float:
    """What the study maximises; the score where the gate has no objective, and always a number."""
    value = gate.objective_value(metrics) if gate.objective else gate.score(metrics)
    return WORST_SCORE if math.isnan(value) else value


def believed_from(config: Config) -> int:
    """The first epoch whose distance to the gate the sampler believes: by default where the scheduler begins to."""
    given = config.search.gate_after
    return given or config.scheduler.get("grace_period") or config.grace_period


def tell_study(study: optuna.Study, trial: optuna.Trial, verdict: TrialFeedback) -> None:
    """Tell the study how a trial of its own ended.

    With two objectives Optuna takes no report, and so a PRUNED trial has no values; samplers need none, for they rank
    what misses the gate by its constraints alone, and a cost that was cut short would look cheap.
    """
    for name, value in verdict.facts.items():
        trial.set_user_attr(name, value)
    for name, value in verdict.constraints.items():
        trial.set_constraint(name, value)
    if verdict.state == TrialState.PRUNED and len(study.directions) == 1 and verdict.values:
        trial.report(verdict.values[0], verdict.facts["epoch"])
    study.tell(trial, verdict.values if verdict.state == TrialState.COMPLETE else None, state=verdict.state)
