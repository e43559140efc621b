"""The private names of Optuna 5.0 that the search needs; tests/sweeps/search/test_optuna_private.py tests each."""

from __future__ import annotations

import copy
from collections.abc import Container
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState


class StudyView(optuna.Study):
    """A study that shows a sampler only some of its trials. Optuna's pruners show a study to samplers the same way."""

    def __init__(self, study: optuna.Study, visible: list[FrozenTrial]) -> None:
        """Share the state of `study`, and show the trials `visible`, in order of their numbers."""
        self.__dict__.update(study.__dict__)
        self.visible = visible

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        """Return the visible trials in one of `states`; every reader of a study calls this."""
        trials = [trial for trial in self.visible if states is None or trial.state in states]
        return copy.deepcopy(trials) if deepcopy else trials


def reopen_trial(study: optuna.Study, trial: FrozenTrial) -> optuna.Trial:
    """Return a running trial of the study, which another process asked for, as `study.ask` returned it there."""
    return optuna.Trial(study, trial._trial_id)


def set_trial_param(
    study: optuna.Study, trial: FrozenTrial, name: str, value: Any, distribution: BaseDistribution
) -> None:
    """Store a value of a running trial in the study, without asking the study's sampler."""
    study._storage.set_trial_param(trial._trial_id, name, distribution.to_internal_repr(value), distribution)
