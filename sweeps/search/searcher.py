"""What to try next: an Optuna study, told what really became of each trial."""

from __future__ import annotations

import json
import math
import warnings
from bisect import bisect
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import PartialFixedSampler, TPESampler
from optuna.trial import TrialState
from ray.tune.search import Searcher

from gatesweep.core.gate import Gate
from gatesweep.core.trainable import Metrics
from gatesweep.sweeps.config.schema import Config
from gatesweep.sweeps.config.targets import locate
from gatesweep.sweeps.records.layout import JOURNAL
from gatesweep.sweeps.records.pareto import trial_cost
from gatesweep.sweeps.records.reader import read_trial
from gatesweep.sweeps.search.feedback import believed_from, make_feedback, study_directions, tell_study
from gatesweep.sweeps.search.history_window import HistoryWindow, WindowedSampler
from gatesweep.sweeps.search.journal import StudyJournal
from gatesweep.sweeps.search.sampler import is_exhaustive, make_sampler
from gatesweep.sweeps.search.space import Space, suggest_values
from gatesweep.sweeps.search.study import open_study
from gatesweep.sweeps.search.warm_start import add_warm_start, warm_start_numbers

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)  # TPE's `group`, the journal

LIKE = "like"  # of a trial in the study: the number of the one whose shape it has


class Search(Searcher):
    """Asks an Optuna study for Tune, and tells it: the objective, the gate's constraints, PRUNED and FAIL.

    The study lives in the sweep's folder and its sampler is seeded by trial, so that a resumed sweep goes on as if it
    had never stopped. Trials that an interruption left running are handed out again, under their number.

    With `stack`, Tune gets up to so many at a time that differ in stackable values alone: the first is asked for as
    ever, the others with what it drew of the rest.
    """

    def __init__(self, config: Config, space: Space, gate: Gate, sweep: Path | None, stack: int | None = None) -> None:
        super().__init__()
        self.config, self.space, self.gate, self.stack = config, space, gate, stack
        fields = locate("trainable", config.trainable).stackable
        self.stackable = {"seed", *(f"trainable.{field}" for field in fields)} & set(space)
        self.alone: set[str] = set()  # shapes that do not stack
        self.exhaustive = is_exhaustive(config.search.sampler)
        self.sweep, self.window = sweep, HistoryWindow()
        self.journal = StudyJournal(sweep / JOURNAL) if sweep else None
        self.study = open_study(sweep, study_directions(config.search), self.journal)
        add_warm_start(self.study, config, space)
        self.warm = warm_start_numbers(self.study)
        self.asked = len(self.study.get_trials(deepcopy=False)) - len(self.warm)  # earlier sweeps' are in it too
        self.live: dict[str, optuna.Trial] = {}
        left = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        self.unfinished = [self._again(one) for one in left]
        self.exhausted = False
        if stack is not None and (self.exhaustive or not self.stackable):
            self.stack = 1  # no two trials of one shape

    def is_over(self) -> bool:
        """Whether there is no trial left to begin."""
        most = self.config.num_samples
        return not self.unfinished and (self.exhausted or (most is not None and self.asked >= most))

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict, **spec: Any) -> bool:
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if self.is_over():
            return None if self.live else Searcher.FINISHED  # one that runs may be handed back yet
        first = self.suggestion(self._next())
        if self.stack is None:
            self._sync()
            return first
        group, shape = [first], self._shape(first["values"])
        while len(group) < self.stack and shape not in self.alone:
            if (one := self._another(first)) is None:
                break
            group.append(self.suggestion(one))
        self._sync()
        return {"trial": first["trial"], "members": group}

    def hand_back(self, name: str, alone: bool = False) -> None:
        """Take a trial back that never began, to hand it out again; `alone`: those of its shape do not stack."""
        trial = self.live.pop(name)
        self.unfinished.append(trial)
        if alone:
            self.alone.add(self._shape(self._values(trial)))

    def suggestion(self, trial: optuna.Trial) -> dict[str, Any]:
        """The Tune configuration of an Optuna trial; the same each time it is asked for."""
        number = self._number(trial)
        name = f"trial_{number:04d}"
        self.live[name] = trial
        return {"trial": name, "number": number, "values": self._values(trial)}

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        """Nothing: `tell` is called with the trial's outcome, which Tune does not know."""

    def tell(self, name: str, outcome: str, epoch: int, metrics: Metrics) -> None:
        """Tell the study how trial `name` ended."""
        key = self.config.search.cost
        cost = trial_cost(read_trial(self.sweep / name), key) if key and self.sweep else None
        told = make_feedback(self.gate, believed_from(self.config), outcome, epoch, metrics, cost)
        try:
            tell_study(self.study, self.live.pop(name), told)
        except RuntimeError:
            if not self.exhaustive:
                raise
            self.exhausted = True  # the sampler's way to say so: it calls `Study.stop`, which is for `optimize` alone
        self._sync()

    def _sync(self) -> None:
        if self.journal:
            self.journal.sync()

    def _next(self) -> Any:
        return self.unfinished.pop(0) if self.unfinished else self._ask()

    def _another(self, first: dict[str, Any]) -> Any:
        """One more of the shape of `first`: of those that an interruption left, or a new one; None if there is none."""
        for one in self.unfinished:
            if self._shape(self._values(one)) == self._shape(first["values"]):
                self.unfinished.remove(one)
                return one
        if self.exhausted or self.asked >= (self.config.num_samples or math.inf):
            return None
        return self._ask(self.live[first["trial"]].number)

    def _ask(self, like: int | None = None) -> optuna.Trial:
        """A new trial; `like`: with what that one, by its number in the study, drew of what does not stack."""
        self.study.sampler = self.sampler(self.asked, like)
        trial = self.study.ask()
        self.asked += 1
        if like is not None:
            trial.set_user_attr(LIKE, like)
        return trial

    def sampler(self, number: int, like: int | None = None) -> optuna.samplers.BaseSampler:
        """What draws a trial, made anew for each.

        Until a trial has passed, TPE draws each value by itself, which looks further: all together, drawn around the
        one or two best, a third of searches for what one trial in twenty reaches never got away from those
        (`tests/benchmarks/replay.md`).
        """
        sampler = make_sampler(self.config.search.sampler, self.config.seed, number)
        if isinstance(sampler, TPESampler):
            apart = {**self.config.search.sampler, "multivariate": False, "group": False}
            sampler = WindowedSampler(sampler, self.window, make_sampler(apart, self.config.seed, number))
        if like is None:
            return sampler
        drawn = self.study.get_trials(deepcopy=False)[like].params
        return PartialFixedSampler({key: drawn[key] for key in drawn if key not in self.stackable}, sampler)

    def _values(self, trial: optuna.Trial) -> dict[str, Any]:
        return suggest_values(trial, self.space, self.exhaustive)

    def _shape(self, values: dict[str, Any]) -> str:
        """What trials have in common that may train as one."""
        return json.dumps({key: value for key, value in values.items() if key not in self.stackable}, sort_keys=True)

    def _number(self, trial: optuna.Trial | optuna.trial.FrozenTrial) -> int:
        """A trial's number among this sweep's own, which makes its name and its seeds."""
        return trial.number - bisect(self.warm, trial.number)

    def _again(self, trial: optuna.trial.FrozenTrial) -> optuna.Trial:
        """A trial that an interruption left; values that it came before are drawn as they would have been."""
        sampler = self.sampler(self._number(trial), trial.user_attrs.get(LIKE))
        draft = optuna.create_study(sampler=sampler, directions=study_directions(self.config.search))
        draft.add_trials(self.study.get_trials(deepcopy=False)[: trial.number])
        drawn = draft.ask()
        suggest_values(drawn, self.space, self.exhaustive)
        for name in drawn.params.keys() - trial.params.keys():
            shape = drawn.distributions[name]
            value = shape.to_internal_repr(drawn.params[name])
            self.study._storage.set_trial_param(trial._trial_id, name, value, shape)
        return optuna.Trial(self.study, trial._trial_id)
