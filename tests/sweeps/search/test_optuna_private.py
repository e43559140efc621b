"""The private names of Optuna in `sweeps.search.optuna_private`: each is there, and does what the search needs."""

from __future__ import annotations

import inspect
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.samplers import RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from gatesweep.sweeps.search.optuna_private import StudyView, reopen_trial, set_trial_param

DISTRIBUTION = FloatDistribution(1e-3, 1.0, log=True)


def expected(name: str) -> str:
    """The message of a failure: the name, the version that has it, and the version that is installed."""
    return f"sweeps/search/optuna_private.py needs {name} of optuna 5.0.0; optuna {optuna.__version__} is installed"


@pytest.fixture
def study() -> optuna.Study:
    """A study of three trials, of which the last runs and has no value yet."""
    study = optuna.create_study(sampler=RandomSampler(seed=0))
    for value in (1.0, 2.0):
        trial = study.ask()
        trial.suggest_float("x", 0, 1)
        study.tell(trial, value)
    study.ask()
    return study


def test_the_state_of_a_study_is_in_its_dict(study: optuna.Study) -> None:
    """A view that shares `Study.__dict__` is the same study in every public property."""
    view = StudyView(study, [])
    for name in ("study_name", "directions", "user_attrs", "sampler", "pruner"):
        assert getattr(view, name) == getattr(study, name), expected("Study.__dict__")


def test_every_reader_of_a_study_calls_get_trials(study: optuna.Study) -> None:
    name = "Study._get_trials(deepcopy, states, use_cache)"
    parameters = list(inspect.signature(optuna.Study._get_trials).parameters)
    assert parameters == ["self", "deepcopy", "states", "use_cache"], expected(name)
    trials = study.get_trials(deepcopy=False)
    view = StudyView(study, trials[1:])
    assert [trial.number for trial in view.trials] == [1, 2], expected(name)
    assert view.get_trials(deepcopy=False)[0] is trials[1], expected(name)
    assert view.get_trials()[0] is not trials[1], expected(name)
    complete = view.get_trials(states=(TrialState.COMPLETE,))
    assert [trial.number for trial in complete] == [1], expected(name)


def test_tpe_reads_a_study_through_get_trials(study: optuna.Study, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[Any] = []
    read = StudyView._get_trials
    monkeypatch.setattr(StudyView, "_get_trials", lambda *args, **kwargs: reads.append(args) or read(*args, **kwargs))
    view, running = StudyView(study, study.get_trials()), study.trials[-1]
    TPESampler(seed=0, n_startup_trials=1).sample_independent(view, running, "x", FloatDistribution(0, 1))
    assert reads, expected("Study._get_trials, as TPESampler calls it,")


def test_a_storage_takes_a_value_of_a_running_trial(study: optuna.Study) -> None:
    running = study.trials[-1]
    set_trial_param(study, running, "y", 0.01, DISTRIBUTION)
    assert study.trials[-1].params == {"y": 0.01}, expected("Study._storage.set_trial_param")
    assert study.trials[-1].distributions == {"y": DISTRIBUTION}, expected("Study._storage.set_trial_param")
    assert reopen_trial(study, running).suggest_float("y", 1e-3, 1.0, log=True) == 0.01


def test_a_frozen_trial_has_the_number_that_the_storage_gave_it(study: optuna.Study) -> None:
    running: FrozenTrial = study.trials[-1]
    assert hasattr(running, "_trial_id"), expected("FrozenTrial._trial_id")
    assert study._storage.get_trial(running._trial_id) == running, expected("FrozenTrial._trial_id")


def test_a_trial_is_opened_again_by_its_number_in_the_storage(study: optuna.Study) -> None:
    assert list(inspect.signature(optuna.Trial).parameters) == ["study", "trial_id"], expected("Trial(study, trial_id)")
    trial = reopen_trial(study, study.trials[-1])
    assert trial.number == 2, expected("Trial(study, trial_id)")
    trial.suggest_float("x", 0, 1)
    study.tell(trial, 3.0)
    assert study.trials[-1].value == 3.0, expected("Trial(study, trial_id)")
