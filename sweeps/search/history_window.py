"""What the sampler of a long study looks at: the best of its trials and the newest, so that asking costs no more."""

from __future__ import annotations

import copy
from bisect import insort
from collections.abc import Container, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

BEST_TRIALS = 25  # as many as TPE ever takes for good ones
NEWEST_TRIALS = 300  # what it takes for the others; the older one is, the less it weighs, so up to here TPE is as ever


class HistoryWindow:
    """The trials of a study that are in view: a function of the study alone, kept up to date from ask to ask."""

    def __init__(self) -> None:
        self.study: optuna.Study | None = None

    def of(self, study: optuna.Study) -> optuna.Study:
        """The study with the trials in view; with several objectives there is no best, and all are."""
        if len(study.directions) > 1:
            return study
        if study is not self.study:
            self.study, self.known = study, 0
            self.open: set[int] = set()
            self.best: list[tuple[float, ...]] = []
        trials = study.get_trials(deepcopy=False)
        self.open.update(range(self.known, len(trials)))
        self.known = len(trials)
        for trial in [trials[number] for number in self.open if trials[number].state.is_finished()]:
            self.open.discard(trial.number)
            if trial.state != TrialState.FAIL:
                insort(self.best, (*tpe_rank(trial, study.direction), trial.number))
        del self.best[BEST_TRIALS:]
        first = max(0, len(trials) - NEWEST_TRIALS)
        older = sorted(number for number in {*self.open, *(int(one[-1]) for one in self.best)} if number < first)
        return StudyView(study, [*(trials[number] for number in older), *trials[first:]])


def tpe_rank(trial: FrozenTrial, direction: optuna.study.StudyDirection) -> tuple[float, float, float]:
    """How TPE orders trials: what clears the gate, what was stopped so far, then the others by what they lack."""
    lacking = sum(value for value in trial.constraints.values() if value > 0)
    if lacking > 0:
        return 2, lacking, 0
    sign = 1 if direction == optuna.study.StudyDirection.MINIMIZE else -1
    if trial.state == TrialState.COMPLETE:
        assert trial.value is not None
        return 0, sign * trial.value, 0
    if not trial.intermediate_values:
        return 1, 1, 0
    step, value = max(trial.intermediate_values.items())
    return 1, -step, sign * value


class StudyView(optuna.Study):
    """A study of which only some trials are seen, as Optuna's own pruners show one to a sampler."""

    def __init__(self, study: optuna.Study, seen: list[FrozenTrial]) -> None:
        self.__dict__.update(study.__dict__)
        self.seen = seen

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        found = [trial for trial in self.seen if states is None or trial.state in states]
        return copy.deepcopy(found) if deepcopy else found


class WindowedSampler(BaseSampler):
    """A sampler that looks through a window, as it was when a trial began to be asked for.

    `before`, if given, takes its place until a trial in view has passed.
    """

    def __init__(self, sampler: BaseSampler, window: HistoryWindow, before: BaseSampler | None = None) -> None:
        self.sampler, self.window, self.before = sampler, window, before
        self.view: optuna.Study | None = None

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        self.view = self.window.of(study)
        seen = self.view.get_trials(deepcopy=False)
        if self.before and not any(one.user_attrs.get("outcome") == "passed" for one in seen):
            self.sampler = self.before
        return self.sampler.infer_relative_search_space(self.view, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self.sampler.sample_relative(self.view or self.window.of(study), trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        view = self.view or self.window.of(study)
        return self.sampler.sample_independent(view, trial, param_name, param_distribution)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self.sampler.before_trial(study, trial)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        self.sampler.after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        self.sampler.reseed_rng()
