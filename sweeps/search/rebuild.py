"""The study of a sweep that goes on, made again from the folders of its trials where the two differ.

The folders are the record. The journal is derived from them: it may be lost, cut or exchanged, the space may have
changed, and trials that had ended may go on.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, check_distribution_compatibility
from optuna.samplers import RandomSampler
from optuna.trial import FixedTrial, FrozenTrial, TrialState, create_trial

from gatesweep.core.errors import InputError
from gatesweep.core.files import sync_to_disk
from gatesweep.core.record import Event, read_events
from gatesweep.sweeps.config.schema import Config, make_gate
from gatesweep.sweeps.config.values import flatten
from gatesweep.sweeps.records.layout import EVENTS, JOURNAL, trial_folders
from gatesweep.sweeps.records.pareto import trial_cost
from gatesweep.sweeps.records.reader import read_trial
from gatesweep.sweeps.search.feedback import first_trusted_epoch, freeze_trial, make_feedback, study_directions
from gatesweep.sweeps.search.journal import StudyJournal, StudyStorage
from gatesweep.sweeps.search.sampler import is_exhaustive
from gatesweep.sweeps.search.space import Space, suggest_values
from gatesweep.sweeps.search.study import OUTSIDE, has_ended, read_study
from gatesweep.sweeps.search.warm_start import (
    ORIGIN,
    has_fixed_values,
    place_values,
    warm_start_folders,
    warm_start_trials,
)

BEFORE = f"{JOURNAL}.before"  # the journal that the folders contradicted
ASIDE = f".{JOURNAL}.part"


def restore_study(sweep: Path, config: Config, space: Space) -> list[str]:
    """Make the study anew from the folders unless it holds each trial as its folder does; returns lines for the screen.

    The journal before is kept as BEFORE. Trials that are no points of the space keep their numbers, and no sampler sees
    them. Raises InputError for a damaged record or an earlier sweep of `warm_start` that cannot be read, and OSError.
    """
    rebuild = _Rebuild(sweep, config, space)
    fault = rebuild.fault()
    if fault is None:
        return []
    lines = list(rebuild.write())
    path, kept = sweep / JOURNAL, ""
    if path.exists():
        shutil.copyfile(path, sweep / BEFORE)
        kept = f"; the journal before is {BEFORE}"
    (sweep / ASIDE).replace(path)
    sync_to_disk(sweep)
    outside = sum(trial.point is None for trial in rebuild.trials.values())
    lines.append(f"study: rebuilt from the folders of {len(rebuild.trials)} trials ({fault}){kept}")
    if outside:
        lines.append(f"study: {outside} of them are outside of search.space, and the sampler does not see them")
    return lines


@dataclass
class _Recorded:
    """One trial as its folder has it."""

    folder: Path
    events: list[Event]
    config: dict[str, Any]  # of the sweep, by dotted key
    space: Space
    exhaustive: bool

    @property
    def values(self) -> dict[str, Any]:
        """The values that the study drew; population-based training may have changed them since."""
        return next((event["values"] for event in self.events if "values" in event), {})

    @property
    def end(self) -> Event | None:
        return next((event for event in self.events if event["event"] == "end"), None)

    @property
    def last(self) -> Event:
        """The last epoch."""
        epochs = [event for event in self.events if event["event"] == "epoch"]
        return epochs[-1] if epochs else {"epoch": 0, "metrics": {}}

    @cached_property
    def point(self) -> FixedTrial | None:
        """The trial as a point of the space; None where it is none."""
        if not has_fixed_values(self.values, self.config, self.space):
            return None
        return place_values(self.config | self.values, self.space, self.exhaustive)

    def difference(self, trial: FrozenTrial) -> str | None:
        """Return in words how a trial of the study differs from the folder; None where it does not."""
        name, attrs = self.folder.name, trial.user_attrs
        if has_ended(trial) and self.end is None:
            return f"{name} had ended there"
        end = {"outcome": self.end["outcome"], "epoch": self.last["epoch"]} if self.end else {}
        known_end = {**end, **{key: attrs[key] for key in end if key in attrs}}  # older studies lack the epoch
        if has_ended(trial) and known_end != end:
            return f"{name} {known_end['outcome']} there after epoch {known_end['epoch']}"
        if OUTSIDE in attrs:
            return f"{name} was outside of the space there" if self.point else None
        if not has_fixed_values(self.values, self.config, self.space):
            return f"{name} was in the space there"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a value from before the bounds were changed
                drawn = suggest_values(FixedTrial(trial.params), self.space, self.exhaustive)  # type: ignore[arg-type]
        except (ValueError, IndexError):
            return f"{name} had values of another space there"
        known = self.config | self.values
        same = all(known.get(key) == value for key, value in drawn.items())
        return None if same else f"{name} had other values there"


class _Rebuild:
    """Compares the study of a sweep with its folders, and makes it anew."""

    def __init__(self, sweep: Path, config: Config, space: Space) -> None:
        self.sweep, self.config, self.space = sweep, config, space
        self.exhaustive = is_exhaustive(config.search.sampler)
        fixed = flatten(config.to_dict())
        self.trials: dict[int, _Recorded] = {}  # those that have begun, by number
        for folder in trial_folders(sweep):
            if events := read_events(folder / EVENTS):
                number = int(folder.name.rpartition("_")[2])
                self.trials[number] = _Recorded(folder, events, fixed, space, self.exhaustive)

    def fault(self) -> str | None:
        """Return in words how the study differs from the folders and the space; None where it does not."""
        try:
            study = read_study(self.sweep)
        except InputError as damage:
            return str(damage).removeprefix(f"{self.sweep}/")
        if study is None:
            return f"{JOURNAL} had no study" if self.trials else None
        trials = study.get_trials(deepcopy=False)
        if study.directions != study_directions(self.config.search):
            return "the study had another number of objectives"
        if fault := self._space_fault(trials):
            return fault
        own = [trial for trial in trials if ORIGIN not in trial.user_attrs]
        for number, recorded in self.trials.items():
            if number >= len(own):
                return f"{recorded.folder.name} was not there"
            if fault := recorded.difference(own[number]):
                return fault
        lost = [number for number, trial in enumerate(own) if has_ended(trial) and number not in self.trials]
        return f"trial {lost[0]} had ended there, and has no folder" if lost else None

    def write(self) -> Iterator[str]:
        """Write the study beside the old one; yields lines for the screen."""
        path = self.sweep / ASIDE
        path.unlink(missing_ok=True)
        journal = StudyJournal(path)
        study = optuna.create_study(
            storage=StudyStorage(journal),
            study_name=self.sweep.name,
            directions=study_directions(self.config.search),
        )
        for folder in warm_start_folders(self.config.warm_start):
            try:
                study.add_trials(warm_start_trials(self.config, self.space, Path(folder)))
            except InputError:
                if Path(folder).exists():
                    raise
                yield f"warm start: {folder} is gone, and so are its trials in the study"
        study.set_user_attr(ORIGIN, warm_start_folders(self.config.warm_start))
        for number in range(max(self.trials, default=-1) + 1):
            recorded = self.trials.get(number)
            study.add_trial(self._frozen(recorded) if recorded else create_trial(state=TrialState.RUNNING))
        journal.sync()
        journal.file.close()

    def _frozen(self, trial: _Recorded) -> FrozenTrial:
        """Return a trial as the study holds it."""
        point, end, last = trial.point, trial.end, trial.last
        ended = {"outcome": end["outcome"], "epoch": last["epoch"]} if end else {}
        if point is None:
            return create_trial(state=TrialState.WAITING, user_attrs={OUTSIDE: True, **ended})
        if end is None:
            return create_trial(state=TrialState.RUNNING, params=point.params, distributions=point.distributions)
        cost_key = self.config.search.cost
        cost = trial_cost(read_trial(trial.folder), cost_key) if cost_key else None
        feedback = make_feedback(
            make_gate(self.config.gate),
            first_trusted_epoch(self.config),
            end["outcome"],
            last["epoch"],
            last["metrics"],
            cost,
        )
        return freeze_trial(self.config.search, feedback, point)

    def _space_fault(self, trials: list[FrozenTrial]) -> str | None:
        """Return in words which parameter of the study the space has otherwise; None where there is none."""
        expected = _distributions(self.space, self.exhaustive)
        for trial in trials:
            for name in trial.distributions.keys() & expected.keys():
                distribution = trial.distributions[name]
                try:
                    check_distribution_compatibility(distribution, expected[name])
                except ValueError:
                    return f"search.space.{name} had another type, scale or choices"
                if self.exhaustive and distribution != expected[name]:
                    return f"search.space.{name} had other bounds"
        return None


def _distributions(space: Space, exhaustive: bool) -> dict[str, BaseDistribution]:
    """Return every Optuna parameter of the space, conditions aside, with its distribution."""
    trial = optuna.create_study(sampler=RandomSampler(seed=0)).ask()
    for key, leaf in space.items():
        leaf.suggest(trial, key, exhaustive)
    return trial.distributions
