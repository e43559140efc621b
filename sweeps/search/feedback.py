"""The feedback of an ended trial to the study: its state, its objective and its constraints."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FixedTrial, FrozenTrial, TrialState, create_trial

from gatesweep.core.gate import WORST_SCORE, Gate
from gatesweep.core.trainable import Metrics
from gatesweep.sweeps.config.schema import Config, SearchConfig
from gatesweep.sweeps.search.study import OUTSIDE

EARLY = "early"  # the constraint of a trial that was stopped before `gate_after`
BEHIND = 1e6  # its value: samplers rank by the sum of violations, and no measured trial has so large a sum


@dataclass(frozen=True)
class TrialFeedback:
    """The state of a trial in the study, with the values that Optuna's samplers read."""

    state: TrialState
    values: list[float] | None = None  # the objective, and the cost where there is one
    constraints: dict[str, float] = field(default_factory=dict)  # by metric; above 0: violated
    user_attrs: dict[str, Any] = field(default_factory=dict)


def make_feedback(
    gate: Gate, gate_after: int, outcome: str, epoch: int, metrics: Metrics, cost: float | None = None
) -> TrialFeedback:
    """Return the feedback of a trial that ended after `epoch` epochs; `cost` is for studies of two objectives.

    passed, finished: COMPLETE, with the trial's distance to the gate as constraints.
    stopped: PRUNED, with the user attribute `low_fidelity`. From `gate_after` epochs on its distance counts. Before
        that it has the constraint EARLY, and ranks behind every trial whose distance counts. Without a constraint it
        would count as feasible, and rank before the trials that missed the gate.
    diverged: PRUNED, at the largest distance.
    failed: FAIL, which samplers ignore.

    Raises InputError where a metric that the gate reads is missing.
    """
    user_attrs = {"outcome": outcome, "epoch": epoch, **({"low_fidelity": True} if outcome == "stopped" else {})}
    if outcome == "failed":
        return TrialFeedback(TrialState.FAIL, user_attrs=user_attrs)
    if outcome == "diverged":
        constraints = dict.fromkeys(gate.thresholds, -WORST_SCORE)
        return TrialFeedback(TrialState.PRUNED, [WORST_SCORE], constraints, user_attrs)
    constraints = gate.constraints(metrics)
    if outcome == "stopped" and epoch < gate_after:
        constraints = {EARLY: BEHIND}
    values = [objective_or_score(gate, metrics)]
    if cost is not None:
        values.append(min(cost, -WORST_SCORE))
    state = TrialState.COMPLETE if outcome in ("passed", "finished") else TrialState.PRUNED
    return TrialFeedback(state, values, constraints, user_attrs)


def tell_study(study: optuna.Study, trial: optuna.Trial, feedback: TrialFeedback) -> None:
    """Tell the study how one of its own trials ended.

    In a study of two objectives Optuna accepts no intermediate report, so a PRUNED trial has no values there. Samplers
    need none: they rank a trial that misses the gate by its constraints alone. The cost of a stopped trial would also
    look too low. Of a trial that is no point of the space only the user attributes are told.
    """
    for name, value in feedback.user_attrs.items():
        trial.set_user_attr(name, value)
    if OUTSIDE in trial.user_attrs:
        return
    for name, value in feedback.constraints.items():
        trial.set_constraint(name, value)
    if feedback.state == TrialState.PRUNED and len(study.directions) == 1 and feedback.values:
        trial.report(feedback.values[0], feedback.user_attrs["epoch"])
    study.tell(trial, feedback.values if feedback.state == TrialState.COMPLETE else None, state=feedback.state)


def freeze_trial(search: SearchConfig, feedback: TrialFeedback, point: FixedTrial, **user_attrs: Any) -> FrozenTrial:
    """Return an ended trial as a study holds it after `tell_study`; `point` has its values, `user_attrs` are added."""
    is_pruned, values = feedback.state == TrialState.PRUNED, feedback.values
    if is_pruned and search.cost:
        values = None
    return create_trial(
        state=feedback.state,
        values=values,
        params=point.params,
        distributions=point.distributions,
        user_attrs={**feedback.user_attrs, **user_attrs},
        constraints=feedback.constraints,
        intermediate_values={feedback.user_attrs["epoch"]: values[0]} if is_pruned and values else None,
    )


def study_directions(search: SearchConfig) -> list[StudyDirection]:
    """Return the directions of the study: the objective is maximised, the cost, where there is one, minimised."""
    return [StudyDirection.MAXIMIZE, *([StudyDirection.MINIMIZE] if search.cost else [])]


def objective_or_score(gate: Gate, metrics: Metrics) -> float:
    """Return the value that the study maximises: the gate's objective, else its score; WORST_SCORE for NaN."""
    value = gate.objective_value(metrics) if gate.objective else gate.score(metrics)
    return WORST_SCORE if math.isnan(value) else value


def first_trusted_epoch(config: Config) -> int:
    """Return the first epoch whose distance to the gate the sampler takes from a stopped trial.

    It is `search.gate_after`, else the scheduler's `grace_period`, else that of the sweep.
    """
    return config.search.gate_after or config.scheduler.get("grace_period") or config.grace_period
