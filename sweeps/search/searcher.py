"""The searcher of a sweep: it asks an Optuna study for trials, and tells it their outcomes."""

from __future__ import annotations

import json
import math
import warnings
from bisect import bisect
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import PartialFixedSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState
from ray.tune.search import Searcher

from gatesweep.core.gate import Gate
from gatesweep.core.record import read_events
from gatesweep.core.trainable import Metrics
from gatesweep.sweeps.config.schema import Config
from gatesweep.sweeps.config.targets import locate
from gatesweep.sweeps.records.layout import EVENTS, JOURNAL, TRIAL
from gatesweep.sweeps.records.pareto import trial_cost
from gatesweep.sweeps.records.reader import read_trial, searched_values
from gatesweep.sweeps.search.feedback import first_trusted_epoch, make_feedback, study_directions, tell_study
from gatesweep.sweeps.search.history_window import HistoryWindow, WindowedSampler
from gatesweep.sweeps.search.journal import StudyJournal
from gatesweep.sweeps.search.optuna_private import reopen_trial, set_trial_param
from gatesweep.sweeps.search.sampler import is_exhaustive, make_sampler
from gatesweep.sweeps.search.space import Space, suggest_values
from gatesweep.sweeps.search.study import OUTSIDE, is_left, open_study, refuse_pickles
from gatesweep.sweeps.search.warm_start import add_warm_start, warm_start_numbers

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)  # TPE's `group`, the journal

LIKE = "like"  # a user attribute of a trial: the number of the trial whose shape it has


class Search(Searcher):
    """Proposes the trials of an Optuna study to Tune, and tells the study objective, constraints and state.

    The study lives in the sweep's folder and its sampler is seeded by trial, so a resumed sweep goes on as if it had
    never been interrupted. Trials that ran at an interruption are proposed again, under their numbers.

    With `stack`, Tune gets groups of up to `stack` trials of one shape: they differ in stackable values alone. The
    first trial of a group is drawn as without `stack`; the others take its remaining values.
    """

    def __init__(self, config: Config, space: Space, gate: Gate, sweep: Path | None, stack: int | None = None) -> None:
        """Open the study in the folder `sweep`, or in memory for None, and add the trials of a warm start.

        Raises InputError for a damaged journal or record, and OSError.
        """
        super().__init__()
        self.config, self.space, self.gate, self.stack = config, space, gate, stack
        fields = getattr(locate("trainable", config.trainable), "stackable", ())  # a function has none
        self.stackable = {f"trainable.{field}" for field in fields} & set(space)
        self.unstackable_shapes: set[str] = set()
        self.exhaustive = is_exhaustive(config.search.sampler)
        self.sweep, self.window = sweep, HistoryWindow()
        self.journal = StudyJournal(sweep / JOURNAL) if sweep else None
        self.study = open_study(sweep, study_directions(config.search), self.journal)
        refuse_pickles(self.study)
        add_warm_start(self.study, config, space)
        self.warm_start = warm_start_numbers(self.study)
        self.asked = len(self.study.get_trials(deepcopy=False)) - len(self.warm_start)  # trials of this sweep
        self.live: dict[str, optuna.Trial] = {}
        self.recorded: dict[int, dict[str, Any]] = {}  # values of trials that began before, by number in the study
        left = [trial for trial in self.study.get_trials(deepcopy=False) if is_left(trial)]
        self.unfinished = [self._restore(trial) for trial in left]
        self.exhausted = False
        if stack is not None and (self.exhaustive or not self.stackable):
            self.stack = 1  # no two trials have one shape

    def is_over(self) -> bool:
        """Return True if no trial is left to begin."""
        num_samples = self.config.num_samples
        return not self.unfinished and (self.exhausted or (num_samples is not None and self.asked >= num_samples))

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict, **spec: Any) -> bool:
        """Accept whatever Tune sets: the configuration decides."""
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the Tune configuration of the next trial, or of the next group as `trial` and `members`.

        The result is None while no trial is left but a live one may be handed back, and FINISHED after that.
        """
        if self.is_over():
            return None if self.live else Searcher.FINISHED
        first = self.suggestion(self._next())
        if self.stack is None:
            self._sync()
            return first
        group, shape = [first], self._shape(first["values"])
        while len(group) < self.stack and shape not in self.unstackable_shapes:
            if (trial := self._next_of_shape(first)) is None:
                break
            group.append(self.suggestion(trial))
        self._sync()
        return {"trial": first["trial"], "members": group}

    def suggestion(self, trial: optuna.Trial) -> dict[str, Any]:
        """Return the Tune configuration of an Optuna trial, and count it as live. Every call returns the same."""
        number = self._number(trial)
        name = f"{TRIAL}_{number:04d}"
        self.live[name] = trial
        return {"trial": name, "number": number, "values": self._values(trial)}

    def hand_back(self, name: str, alone: bool = False) -> None:
        """Take back a trial that never began, to propose it again; `alone`: trials of its shape cannot be stacked."""
        trial = self.live.pop(name)
        self.unfinished.append(trial)
        if alone:
            self.unstackable_shapes.add(self._shape(self._values(trial)))

    def tell(self, name: str, outcome: str, epoch: int, metrics: Metrics) -> None:
        """Tell the study that trial `name` ended with `outcome` after `epoch` epochs.

        Raises InputError where a metric that the gate reads is missing, and OSError.
        """
        cost_key = self.config.search.cost
        cost = trial_cost(read_trial(self.sweep / name), cost_key) if cost_key and self.sweep else None
        feedback = make_feedback(self.gate, first_trusted_epoch(self.config), outcome, epoch, metrics, cost)
        trial = self.live.pop(name)
        try:
            tell_study(self.study, trial, feedback)
        except RuntimeError:
            if not self.exhaustive:
                raise
            self.exhausted = True  # without a point left the sampler calls `Study.stop`, which only `optimize` allows
        self._sync()

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        """Do nothing: the recorder calls `tell` with the outcome, which Tune does not know."""

    def sampler(self, number: int, like: int | None = None) -> optuna.samplers.BaseSampler:
        """Make the sampler that draws one trial, the `number`th; `like` is the trial whose fixed values it takes.

        Until a trial has passed, TPE draws each value by itself, which explores more. With all values drawn together
        around the one or two best trials, a third of the searches for a region that one trial in twenty reaches never
        left those trials (`tests/benchmarks/replay.md`).
        """
        node, seed = self.config.search.sampler, self.config.seed
        sampler = make_sampler(node, seed, number)
        if isinstance(sampler, TPESampler):
            independent = make_sampler({**node, "multivariate": False, "group": False}, seed, number)
            sampler = WindowedSampler(sampler, self.window, before_pass=independent)
        if like is None:
            return sampler
        params = self.study.get_trials(deepcopy=False)[like].params
        return PartialFixedSampler({key: params[key] for key in params if key not in self.stackable}, sampler)

    def _sync(self) -> None:
        """Put the study on the disk, before anyone acts on it."""
        if self.journal:
            self.journal.sync()

    def _next(self) -> optuna.Trial:
        """Return a trial that an interruption left or that was handed back, else a new one."""
        return self.unfinished.pop(0) if self.unfinished else self._ask()

    def _next_of_shape(self, first: dict[str, Any]) -> optuna.Trial | None:
        """Return the next trial of the shape of `first`: an unfinished one, else a new one; None if none is left."""
        for trial in self.unfinished:
            if self._shape(self._values(trial)) == self._shape(first["values"]):
                self.unfinished.remove(trial)
                return trial
        like = self.live[first["trial"]]
        if self.exhausted or self.asked >= (self.config.num_samples or math.inf) or OUTSIDE in like.user_attrs:
            return None
        return self._ask(like.number)

    def _ask(self, like: int | None = None) -> optuna.Trial:
        """Ask the study for a new trial; `like` is the number, in the study, of the trial whose shape it takes."""
        self.study.sampler = self.sampler(self.asked, like)
        trial = self.study.ask()
        self.asked += 1
        if like is not None:
            trial.set_user_attr(LIKE, like)
        return trial

    def _values(self, trial: optuna.Trial) -> dict[str, Any]:
        """Return a trial's values; they are drawn at the first call. One that has begun has those of its folder."""
        return self.recorded.get(trial.number) or suggest_values(trial, self.space, self.exhaustive)

    def _shape(self, values: dict[str, Any]) -> str:
        """Return the values that are equal in all trials of a stack, as JSON."""
        return json.dumps({key: value for key, value in values.items() if key not in self.stackable}, sort_keys=True)

    def _number(self, trial: optuna.Trial | FrozenTrial) -> int:
        """Return a trial's number among this sweep's own trials: its name and its seeds come from it."""
        return trial.number - bisect(self.warm_start, trial.number)

    def _restore(self, trial: FrozenTrial) -> optuna.Trial:
        """Return a trial that ran at an interruption, with the values in its folder.

        Values of a trial that had not begun are drawn, where they are missing, from the history that it had then.
        """
        if self.sweep:
            events = read_events(self.sweep / f"{TRIAL}_{self._number(trial):04d}" / EVENTS)
            self.recorded[trial.number] = searched_values(events)
        if self.recorded.get(trial.number):
            return reopen_trial(self.study, trial)
        sampler = self.sampler(self._number(trial), trial.user_attrs.get(LIKE))
        draft = optuna.create_study(sampler=sampler, directions=study_directions(self.config.search))
        before = self.study.get_trials(deepcopy=False)[: trial.number]
        draft.add_trials([earlier for earlier in before if earlier.state != TrialState.WAITING])
        drawn = draft.ask()
        suggest_values(drawn, self.space, self.exhaustive)
        for name in drawn.params.keys() - trial.params.keys():
            set_trial_param(self.study, trial, name, drawn.params[name], drawn.distributions[name])
        return reopen_trial(self.study, trial)
