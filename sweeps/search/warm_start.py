"""What this sweep's sampler learns from earlier sweeps, `warm_start`: their trials, judged by this sweep's gate."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FixedTrial, FrozenTrial, TrialState, create_trial

from gatesweep.core.errors import InputError
from gatesweep.core.gate import Gate
from gatesweep.core.loop import CUT_SHORT
from gatesweep.core.record import Event
from gatesweep.sweeps.config.recorded import read_config
from gatesweep.sweeps.config.schema import Config, make_gate
from gatesweep.sweeps.config.values import flatten
from gatesweep.sweeps.records.layout import trial_folders
from gatesweep.sweeps.records.pareto import trial_cost
from gatesweep.sweeps.records.reader import TrialRecord, read_trial
from gatesweep.sweeps.search.composition import Composition
from gatesweep.sweeps.search.feedback import believed_from, make_feedback
from gatesweep.sweeps.search.space import Space, suggest_values

ORIGIN = "warm_start"  # of a trial in the study: the sweep and trial it was; of the study: the sweeps that are all in


def warm_start_folders(config: Config) -> list[str]:
    """The folders that `warm_start` names, whole: a resumed sweep may be elsewhere, `results/latest` another."""
    named = config.warm_start or []
    return [str(Path(one).resolve()) for one in ([named] if isinstance(named, str) else named)]


def check_warm_start(config: Config, space: Space, known: list[str]) -> None:
    """Raise InputError unless each folder, but those that are `known`, is that of a sweep with trials to learn from."""
    for folder in warm_start_folders(config):
        if folder == config.resume:
            raise InputError(f"warm_start: got {folder!r}, expected earlier sweeps: that is the one which goes on")
        if folder not in known and not warm_start_trials(config, space, Path(folder)):
            target = config.trainable["_target_"]
            expected = f"expected trials of {target} with values in search.space that report what the gate reads"
            raise InputError(f"warm_start: got {folder!r}, {expected}")


def add_warm_start(study: optuna.Study, config: Config, space: Space) -> None:
    """Add the trials of earlier sweeps to the study, each once, however often the sweep is interrupted."""
    done = study.user_attrs.get(ORIGIN, [])
    for folder in warm_start_folders(config):
        if folder in done:
            continue
        there = {one.user_attrs.get(ORIGIN) for one in study.get_trials(deepcopy=False)}
        study.add_trials(
            [one for one in warm_start_trials(config, space, Path(folder)) if one.user_attrs[ORIGIN] not in there]
        )
        done = [*done, folder]
        study.set_user_attr(ORIGIN, done)


def warm_start_numbers(study: optuna.Study) -> list[int]:
    """The numbers, in the study, of the trials that are other sweeps'."""
    return [one.number for one in study.get_trials(deepcopy=False) if ORIGIN in one.user_attrs]


def warm_start_trials(config: Config, space: Space, sweep: Path) -> list[FrozenTrial]:
    """The trials of an earlier sweep that are points of this space, as this study would hold them."""
    if not (sweep / "config.yaml").is_file() or not trial_folders(sweep):
        raise InputError(f"warm_start: got {str(sweep)!r}, expected the folder of a sweep that has trials")
    found = (_frozen_trial(config, make_gate(config.gate), space, folder) for folder in trial_folders(sweep))
    return [one for one in found if one]


def _frozen_trial(config: Config, gate: Gate, space: Space, folder: Path) -> FrozenTrial | None:
    then, trial = read_config(folder / "config.yaml"), read_trial(folder)
    if then.trainable["_target_"] != config.trainable["_target_"]:
        return None
    here, ours = flatten(config.to_dict()), {name for key, leaf in space.items() for name in leaf.extremes(key)[0]}
    if any(here.get(key) != value for key, value in trial.values.items() if key not in ours):
        return None  # something that is not varied here was another
    point, ended = (
        place_values(flatten(then.to_dict()), space),
        outcome_here(config, gate, trial, then.training.max_epochs),
    )
    if point is None or ended is None:
        return None
    outcome, last = ended
    key = config.search.cost
    until = replace(trial, epochs=[event for event in trial.epochs if event["epoch"] <= last["epoch"]])
    told = make_feedback(
        gate, believed_from(config), outcome, last["epoch"], last["metrics"], trial_cost(until, key) if key else None
    )
    pruned = told.state == TrialState.PRUNED
    return create_trial(
        state=told.state,
        values=None if pruned and key else told.values,
        params=point.params,
        distributions=point.distributions,
        user_attrs={**told.facts, ORIGIN: f"{folder.parent.resolve()}/{folder.name}"},
        constraints=told.constraints,
        intermediate_values={last["epoch"]: told.values[0]}
        if told.state == TrialState.PRUNED and told.values
        else None,
    )


def place_values(values: Mapping[str, Any], space: Space) -> FixedTrial | None:
    """The Optuna trial that `suggest` makes these values of, where the space has them."""
    drawn: dict[str, Any] = {}
    for key, leaf in space.items():
        with contextlib.suppress(KeyError, ValueError):  # it may be of another branch
            drawn |= leaf.draws(key, values) if isinstance(leaf, Composition) else {key: values[key]}
    point = FixedTrial(drawn)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # that is how it says that a value is out of its range
            chosen = suggest_values(point, space)  # type: ignore[arg-type]
    except (ValueError, UserWarning):
        return None
    return point if all(values[key] == value for key, value in chosen.items()) else None


def outcome_here(config: Config, gate: Gate, trial: TrialRecord, max_epochs: int) -> tuple[str, Event] | None:
    """How a trial of `max_epochs` would have ended in this sweep, and its last epoch there; None if nothing is known.

    It ends where it clears this gate, or with this sweep's last epoch. One that ended before, because it was stopped
    or cleared another gate, is a stopped one.
    """
    most, streak = config.training.max_epochs, 0
    epochs = [event for event in trial.epochs if event["epoch"] <= most]
    if not epochs or trial.outcome == "failed":
        return None
    for event in epochs:
        if event["outcome"] in CUT_SHORT:
            return "diverged", event
        if not all(metric in event["metrics"] for metric in gate.reads):
            return None
        streak = streak + 1 if gate.cleared(event["metrics"]) else 0
        if streak == gate.consecutive:
            return "passed", event
    over = epochs[-1]["epoch"] == most or (trial.outcome == "finished" and max_epochs >= most)
    return "finished" if over else "stopped", epochs[-1]
