"""Checks of a sweep that goes on: its study knows the trials of the folders, and its space suits the study."""

from __future__ import annotations

import warnings
from pathlib import Path

from optuna.trial import FixedTrial, FrozenTrial

from gatesweep.core.errors import InputError
from gatesweep.core.record import Event, read_events
from gatesweep.sweeps.records.layout import EVENTS, JOURNAL, trial_folders
from gatesweep.sweeps.search.space import Space, suggest_values
from gatesweep.sweeps.search.study import read_study
from gatesweep.sweeps.search.warm_start import warm_start_numbers

FREE = {"low", "high", "step", "when"}  # fields of a leaf that may change: Optuna takes them as they come


def check_space_change(before: Space, after: Space, sweep: Path) -> None:
    """Raise InputError where a leaf has another type, other choices or another scale than when the sweep began.

    An Optuna study refuses such a leaf at the next trial, and at every trial after that.
    """
    for key in before.keys() & after.keys():
        old, new = (leaf.model_dump(exclude=FREE) for leaf in (before[key], after[key]))
        for field in sorted(old | new, key=lambda name: (name != "type", name)):
            if old.get(field) != new.get(field):
                got, expected = new.get(field), old.get(field)
                raise InputError(
                    f"search.space.{key}.{field}: got {got!r}, expected {expected!r}, as when the sweep began: "
                    f"type it so, or begin a new sweep with warm_start={sweep}"
                )


def check_study(sweep: Path, space: Space, exhaustive: bool) -> None:
    """Raise InputError where the study does not know the trials as their folders have them.

    The folders are the record: a study that was lost, cut or exchanged would give their names to other trials.
    `space` is the recorded one, `exhaustive` says whether its sampler was. Nothing is written.
    """
    folders = [folder for folder in trial_folders(sweep) if read_events(folder / EVENTS)]
    study = read_study(sweep)
    numbers = set(warm_start_numbers(study)) if study else set()
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.number not in numbers] if study else []
    for folder in folders:
        number = int(folder.name.rpartition("_")[2])
        if number >= len(trials):
            fault: str | None = "it has no such trial"
        else:
            fault = _difference(trials[number], read_events(folder / EVENTS), space, exhaustive)
        if fault:
            raise InputError(
                f"resume: {sweep / JOURNAL} does not know {folder.name} as its folder has it: {fault}; "
                f"bring the journal back from a copy, or begin a new sweep with warm_start={sweep}"
            )


def _difference(trial: FrozenTrial, events: list[Event], space: Space, exhaustive: bool) -> str | None:
    """Describe how a trial of the study differs from its record; None where it does not."""
    if trial.state.is_finished() and not any(event["event"] == "end" for event in events):
        return "there it has ended"
    recorded = next((event["values"] for event in events if "values" in event), None)
    if recorded is None or not trial.params:  # a crash came before its values were drawn
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a value from before the bounds were changed
            known = suggest_values(FixedTrial(trial.params), space, exhaustive)  # type: ignore[arg-type]
    except ValueError:
        return "its values are of another space"
    return None if known == recorded else f"there its values are {known}"
