"""The trials of a long study that its sampler sees: the best and the newest, so that an ask stays cheap."""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from gatesweep.sweeps.search.optuna_private import StudyView

BEST_TRIALS = 25  # TPE never takes more trials than these for good ones
NEWEST_TRIALS = 300  # TPE weighs the other trials less the older they are; a study of up to 300 is seen whole


class HistoryWindow:
    """The window on a study. It depends on the study alone, and is updated from ask to ask."""

    def __init__(self) -> None:
        self.study: optuna.Study | None = None

    def view(self, study: optuna.Study) -> optuna.Study:
        """Return the study with only the trials in the window. A study of several objectives is returned whole.

        The window holds the best `BEST_TRIALS`, the newest `NEWEST_TRIALS`, and every trial that still runs.
        """
        if len(study.directions) > 1:
            return study
        if study is not self.study:
            self.study, self.count = study, 0
            self.running: set[int] = set()
            self.best: list[tuple[float, ...]] = []  # ranks, each with the trial's number behind it
        trials = study.get_trials(deepcopy=False)
        self.running.update(range(self.count, len(trials)))
        self.count = len(trials)
        for trial in [trials[number] for number in self.running if trials[number].state != TrialState.RUNNING]:
            self.running.discard(trial.number)
            if trial.state not in (TrialState.FAIL, TrialState.WAITING):
                insort(self.best, (*tpe_rank(trial, study.direction), trial.number))
        del self.best[BEST_TRIALS:]
        first_new = max(0, len(trials) - NEWEST_TRIALS)
        numbers = {*self.running, *(int(rank[-1]) for rank in self.best)}
        older = sorted(number for number in numbers if number < first_new)
        return StudyView(study, [*(trials[number] for number in older), *trials[first_new:]])


class WindowedSampler(BaseSampler):
    """A sampler that sees a study through a window. One trial is drawn from one view.

    The sampler `before_pass`, if there is one, draws until a trial in the window has passed. The methods are those of
    Optuna's BaseSampler.
    """

    def __init__(self, sampler: BaseSampler, window: HistoryWindow, before_pass: BaseSampler | None = None) -> None:
        self.sampler, self.window, self.before_pass = sampler, window, before_pass
        self.study_view: optuna.Study | None = None

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Take the view for this trial, and let the sampler infer its search space from it."""
        self.study_view = self.window.view(study)
        trials = self.study_view.get_trials(deepcopy=False)
        if self.before_pass and not any(seen.user_attrs.get("outcome") == "passed" for seen in trials):
            self.sampler = self.before_pass
        return self.sampler.infer_relative_search_space(self.study_view, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Draw the values of `search_space` together."""
        return self.sampler.sample_relative(self.study_view or self.window.view(study), trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Draw one value by itself."""
        view = self.study_view or self.window.view(study)
        return self.sampler.sample_independent(view, trial, param_name, param_distribution)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Pass the call on to the sampler."""
        self.sampler.before_trial(study, trial)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Pass the call on to the sampler."""
        self.sampler.after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        """Pass the call on to the sampler."""
        self.sampler.reseed_rng()


def tpe_rank(trial: FrozenTrial, direction: StudyDirection) -> tuple[float, float, float]:
    """Return a trial's place in the order of Optuna's TPE sampler; the smallest is the best.

    Complete trials that clear the gate come first, by value; then stopped trials that clear it, by epoch and value;
    then the others, by the sum of their violated constraints.
    """
    violation = sum(value for value in trial.constraints.values() if value > 0)
    if violation > 0:
        return 2, violation, 0
    sign = 1 if direction == StudyDirection.MINIMIZE else -1
    if trial.state == TrialState.COMPLETE:
        assert trial.value is not None
        return 0, sign * trial.value, 0
    if not trial.intermediate_values:
        return 1, 1, 0
    step, value = max(trial.intermediate_values.items())
    return 1, -step, sign * value
