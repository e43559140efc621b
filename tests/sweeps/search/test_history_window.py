"""The window that a sampler looks through: Optuna's own answers while all is in view, and what TPE needs after that."""

from __future__ import annotations

import random
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.samplers import TPESampler
from optuna.samplers._tpe.sampler import _split_trials
from optuna.trial import FrozenTrial, TrialState, create_trial

from gatesweep.sweeps.search.history_window import BEST_TRIALS, NEWEST_TRIALS, HistoryWindow, WindowedSampler

SHAPES = {"x": FloatDistribution(0, 1), "y": FloatDistribution(1e-4, 1, log=True)}


def ended(draw: random.Random) -> FrozenTrial:
    """One that passed, missed the gate, was stopped, or failed; with ties."""
    state = draw.choice([TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL])
    fields: dict[str, Any] = {"params": {"x": draw.random(), "y": 10 ** draw.uniform(-4, 0)}, "distributions": SHAPES}
    value = round(draw.random(), 2)
    if state != TrialState.FAIL:
        fields |= {"value": value, "constraints": {"gate": draw.choice([-1.0, -1.0, round(draw.random(), 1)])}}
    steps = {draw.randint(1, 3): value} if state == TrialState.PRUNED else None
    return create_trial(state=state, intermediate_values=steps, **fields)


def study_of(trials: int, direction: str = "maximize") -> optuna.Study:
    study = optuna.create_study(direction=direction, sampler=TPESampler(seed=0))
    draw = random.Random(3)
    study.add_trials([ended(draw) for _ in range(trials)])
    return study


def asked(study: optuna.Study, sampler: Any) -> list[float]:
    study.sampler = sampler
    trial = study.ask()
    return [trial.suggest_float("x", 0, 1), trial.suggest_float("y", 1e-4, 1, log=True)]


def test_a_study_that_is_all_in_view_is_asked_as_ever() -> None:
    plain, windowed, window = study_of(40), study_of(40), HistoryWindow()
    for seed in range(5):
        sampler = TPESampler(seed=seed, group=True)
        assert asked(plain, sampler) == asked(windowed, WindowedSampler(TPESampler(seed=seed, group=True), window))


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_what_tpe_takes_for_good_is_in_view_however_old(direction: str) -> None:
    study = study_of(3 * NEWEST_TRIALS, direction)
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    good, _ = _split_trials(study, trials, BEST_TRIALS)
    seen = HistoryWindow().view(study).get_trials(deepcopy=False)
    assert {trial.number for trial in good} <= {trial.number for trial in seen}
    assert NEWEST_TRIALS <= len(seen) <= NEWEST_TRIALS + BEST_TRIALS
    assert [trial.number for trial in seen] == sorted(trial.number for trial in seen)
    again, _ = _split_trials(study, [trial for trial in seen if trial.state != TrialState.FAIL], BEST_TRIALS)
    assert [trial.number for trial in again] == [trial.number for trial in good]


def test_a_view_does_not_depend_on_when_it_was_asked_for() -> None:
    """A resumed sweep sees all trials at once, the one it goes on from saw them end one by one, in another order."""
    draw, study, window = random.Random(5), study_of(0), HistoryWindow()
    waiting: list[optuna.Trial] = []
    for _ in range(NEWEST_TRIALS + 100):
        waiting.append(study.ask())
        waiting[-1].suggest_float("x", 0, 1)
        if len(waiting) > 8:
            trial = waiting.pop(draw.randrange(8))
            study.tell(trial, round(draw.random(), 1))
        seen = window.view(study).get_trials(deepcopy=False)
    assert [trial.number for trial in seen] == [
        trial.number for trial in HistoryWindow().view(study).get_trials(deepcopy=False)
    ]
    assert {trial.number for trial in waiting} <= {trial.number for trial in seen}  # however old


def test_until_a_trial_has_passed_another_sampler_draws() -> None:
    def drawn(windowed: bool, passed: bool, **options: bool) -> list[float]:
        study = study_of(40)
        if passed:
            study.add_trial(create_trial(state=TrialState.PRUNED, user_attrs={"outcome": "passed"}))
        sampler = TPESampler(seed=1, **options)
        before = TPESampler(seed=1, multivariate=False)
        return asked(study, WindowedSampler(sampler, HistoryWindow(), before) if windowed else sampler)

    for passed in (False, True):
        assert drawn(True, passed, multivariate=True) == drawn(False, passed, multivariate=passed)
    assert drawn(False, False, multivariate=False) != drawn(False, False, multivariate=True)
