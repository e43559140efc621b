"""Warm start: this sweep's sampler learns from the trials of earlier sweeps, as this sweep's gate judges them."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FixedTrial, FrozenTrial

from gatesweep.core.errors import InputError
from gatesweep.core.files import full_path
from gatesweep.core.gate import Gate
from gatesweep.core.loop import CUT_SHORT
from gatesweep.core.record import Event
from gatesweep.sweeps.config.recorded import read_config
from gatesweep.sweeps.config.schema import Config, make_gate
from gatesweep.sweeps.config.values import flatten
from gatesweep.sweeps.records.layout import CONFIG, check_entries, is_sweep, trial_folders
from gatesweep.sweeps.records.pareto import trial_cost
from gatesweep.sweeps.records.reader import TrialRecord, read_trial
from gatesweep.sweeps.search.feedback import first_trusted_epoch, freeze_trial, make_feedback
from gatesweep.sweeps.search.space import Space, suggest_values

ORIGIN = "warm_start"  # a user attribute: of a trial, its earlier sweep and name; of the study, the sweeps added


def warm_start_folders(warm_start: str | list[str] | None) -> list[str]:
    """Return the folders that `warm_start` names as absolute paths, without links.

    A resumed sweep may have another working directory, and `results/latest` may point elsewhere by then.
    """
    folders = warm_start or []
    return [str(full_path("warm_start", item)) for item in ([folders] if isinstance(folders, str) else folders)]


def check_warm_start(config: Config, space: Space, added: Collection[str]) -> None:
    """Raise InputError unless each folder of `warm_start` holds a sweep with trials to learn from.

    Folders in `added` are not read: the study of the resumed sweep has their trials already.
    """
    for folder in warm_start_folders(config.warm_start):
        if folder == config.resume:
            raise InputError(f"warm_start: got {folder!r}, expected earlier sweeps: that is the one which goes on")
        if Path(folder).is_dir():
            check_entries(Path(folder), "warm_start")
        if folder not in added and not warm_start_trials(config, space, Path(folder)):
            target = config.trainable["_target_"]
            expected = f"expected trials of {target} with values in search.space that report what the gate reads"
            raise InputError(f"warm_start: got {folder!r}, {expected}")


def add_warm_start(study: optuna.Study, config: Config, space: Space) -> None:
    """Add the trials of earlier sweeps to the study, each once even if this is interrupted and repeated.

    Raises InputError for a folder that is not a sweep with trials, or a damaged record.
    """
    added = study.user_attrs.get(ORIGIN, [])
    for folder in warm_start_folders(config.warm_start):
        if folder in added:
            continue
        origins = {trial.user_attrs.get(ORIGIN) for trial in study.get_trials(deepcopy=False)}
        trials = warm_start_trials(config, space, Path(folder))
        study.add_trials([trial for trial in trials if trial.user_attrs[ORIGIN] not in origins])
        added = [*added, folder]
        study.set_user_attr(ORIGIN, added)


def warm_start_numbers(study: optuna.Study) -> list[int]:
    """Return the numbers, in the study, of the trials of earlier sweeps, in ascending order."""
    return [trial.number for trial in study.get_trials(deepcopy=False) if ORIGIN in trial.user_attrs]


def warm_start_trials(config: Config, space: Space, sweep: Path) -> list[FrozenTrial]:
    """Return the trials of an earlier sweep that are points of this space, as this sweep's study would hold them.

    Raises InputError where `sweep` is not a sweep with trials, or its record is damaged.
    """
    folders = trial_folders(sweep)
    if not is_sweep(sweep) or not folders:
        raise InputError(f"warm_start: got {str(sweep)!r}, expected the folder of a sweep that has trials")
    gate = make_gate(config.gate)
    trials = (_frozen_trial(config, gate, space, folder) for folder in folders)
    return [trial for trial in trials if trial]


def place_values(values: Mapping[str, Any], space: Space, exhaustive: bool = False) -> FixedTrial | None:
    """Return the Optuna trial from which `suggest_values` draws these values; None where the space has no such point.

    `values` may have more keys than the space. `exhaustive` is for a sampler that visits every point.
    """
    params: dict[str, Any] = {}
    for key, leaf in space.items():
        with contextlib.suppress(KeyError, ValueError):  # the leaf may belong to a branch that is not active
            params |= leaf.params(key, values, exhaustive)
    point = FixedTrial(params)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # FixedTrial warns of a value out of its range
            warnings.filterwarnings("ignore", message=".*not divisible by `step`")  # Optuna cuts the range
            drawn = suggest_values(point, space, exhaustive)  # type: ignore[arg-type]
    except (ValueError, UserWarning):
        return None
    return point if all(values.get(key) == value for key, value in drawn.items()) else None


def has_fixed_values(values: Mapping[str, Any], fixed: Mapping[str, Any], space: Space) -> bool:
    """Return True if each of `values` that the space does not vary is as in the configuration `fixed`."""
    varied = {name for key, leaf in space.items() for name in leaf.extremes(key)[0]}
    return all(fixed.get(key) == value for key, value in values.items() if key not in varied)


def outcome_here(gate: Gate, trial: TrialRecord, own_epochs: int, max_epochs: int) -> tuple[str, Event] | None:
    """Return the outcome that an earlier trial would have had in this sweep, and its last epoch here.

    `own_epochs` is the `max_epochs` of the earlier trial, `max_epochs` that of this sweep. The trial ends where it
    clears this gate, or at this sweep's last epoch. A trial that ended before, since it was stopped or had passed
    another gate, counts as stopped. The result is None where that cannot be known: no epoch, a failure, or a metric
    that this gate reads is missing.
    """
    streak = 0
    epochs = [event for event in trial.epochs if event["epoch"] <= max_epochs]
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
    last = epochs[-1]
    is_finished = last["epoch"] == max_epochs or (trial.outcome == "finished" and own_epochs >= max_epochs)
    return "finished" if is_finished else "stopped", last


def _frozen_trial(config: Config, gate: Gate, space: Space, folder: Path) -> FrozenTrial | None:
    """Return one trial of an earlier sweep; None where it is not a point of this space, or has no outcome here."""
    recorded, trial = read_config(folder / CONFIG), read_trial(folder)
    if recorded.trainable.get("_target_") != config.trainable["_target_"]:
        return None
    if not has_fixed_values(trial.values, flatten(config.to_dict()), space):
        return None
    point = place_values(flatten(recorded.to_dict()), space)
    end = outcome_here(gate, trial, recorded.training.max_epochs, config.training.max_epochs)
    if point is None or end is None:
        return None
    outcome, last = end
    cost = None
    if config.search.cost:
        until_end = replace(trial, epochs=[event for event in trial.epochs if event["epoch"] <= last["epoch"]])
        cost = trial_cost(until_end, config.search.cost)
    feedback = make_feedback(gate, first_trusted_epoch(config), outcome, last["epoch"], last["metrics"], cost)
    return freeze_trial(config.search, feedback, point, **{ORIGIN: f"{folder.parent.resolve()}/{folder.name}"})
