"""Successive halving on the gate's score: the trials it stops, and that a rebuilt scheduler decides as the first."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler

from gatesweep.core.gate import WORST_SCORE
from gatesweep.sweeps.schedulers.asha import GateASHA
from gatesweep.sweeps.schedulers.history import EpochScore

STOP, CONTINUE = TrialScheduler.STOP, TrialScheduler.CONTINUE


def trial(name: str) -> Any:
    """A Tune trial as the scheduler reads it. Its own identity is new after a restart."""
    return SimpleNamespace(trial_id=object(), config={"trial": name})


def report(scheduler: GateASHA, name: str, epoch: int, score: float) -> str:
    """One result of one trial, as Tune hands it over."""
    return scheduler.on_trial_result(None, trial(name), {"epoch": epoch, "score": score})


def each(seen: list[EpochScore]) -> list[list[EpochScore]]:
    """Epochs that arrive one by one, none of them in a stack."""
    return [[score] for score in seen]


def decisions(scheduler: GateASHA, seen: list[EpochScore]) -> list[str]:
    return [report(scheduler, *score) for score in seen]


def at_the_first_rung(*scores: float, **options: Any) -> list[str]:
    """The decisions about trials that report at epoch 1, one after the other."""
    return decisions(GateASHA(max_t=20, **options), [(f"trial_{i}", 1, score) for i, score in enumerate(scores)])


def test_the_worst_at_a_rung_are_stopped_and_the_best_go_on() -> None:
    assert at_the_first_rung(-0.3, -0.2, -0.1, -0.4, -0.25, -0.05) == [
        CONTINUE, CONTINUE, CONTINUE, STOP, STOP, CONTINUE
    ]  # fmt: skip


def test_a_third_goes_on_with_a_reduction_factor_of_three_and_half_with_two() -> None:
    before = [-0.9, -0.8, -0.7, -0.6, -0.5, -0.4, -0.3]  # the upper third begins at -0.5, the upper half at -0.6
    assert at_the_first_rung(*before, -0.51, reduction_factor=3)[-1] == STOP
    assert at_the_first_rung(*before, -0.49, reduction_factor=3)[-1] == CONTINUE
    assert at_the_first_rung(*before, -0.51, reduction_factor=2)[-1] == CONTINUE
    assert at_the_first_rung(*before, -0.61, reduction_factor=2)[-1] == STOP


@given(st.floats(-1e6, 2.0), st.integers(1, 12), st.sampled_from([2, 3, 4]))
@settings(deadline=None)
def test_ties_go_on(score: float, count: int, factor: int) -> None:
    assert at_the_first_rung(*[score] * count, reduction_factor=factor) == [CONTINUE] * count


def test_a_trial_without_numbers_is_stopped_be_it_the_first_or_between_rungs() -> None:
    assert at_the_first_rung(WORST_SCORE, WORST_SCORE, -0.2, WORST_SCORE) == [STOP, STOP, CONTINUE, STOP]
    scheduler = GateASHA(max_t=20, grace_period=2, reduction_factor=3)
    decided = [
        report(scheduler, "late", epoch, score) for epoch, score in enumerate([WORST_SCORE, 0.5, 0.5, WORST_SCORE], 1)
    ]
    assert decided == [CONTINUE, CONTINUE, CONTINUE, STOP]
    seen = [("late", epoch, score) for epoch, score in enumerate([WORST_SCORE, 0.5, 0.5, WORST_SCORE], 1)]
    assert GateASHA(max_t=20, grace_period=2, seen=each(seen)).stopped == {"late"}


def test_nobody_is_stopped_before_the_grace_period_or_between_rungs() -> None:
    scheduler = GateASHA(max_t=20, grace_period=2, reduction_factor=3)
    for epoch in range(1, 19):
        assert report(scheduler, "good", epoch, -0.1) == CONTINUE
    decided = [report(scheduler, "bad", epoch, -0.9) for epoch in range(1, 19)]
    assert [epoch for epoch, decision in enumerate(decided, 1) if decision == STOP] == [2, 6, 18]  # absolute epochs


@pytest.mark.parametrize("max_t", [9, 10])  # the last rung is at 9
def test_the_last_epoch_is_left_to_the_trial(max_t: int) -> None:
    scheduler = GateASHA(max_t=max_t, reduction_factor=3)
    for epoch in range(1, max_t + 1):
        report(scheduler, "good", epoch, -0.1)
    scores = [-0.1] * (max_t - 1) + [WORST_SCORE]
    assert [report(scheduler, "late", epoch, score) for epoch, score in enumerate(scores, 1)] == [CONTINUE] * max_t


@pytest.mark.parametrize("max_t", [9, 10])
def test_a_trial_at_its_last_epoch_does_not_count_as_stopped_after_a_restart(max_t: int) -> None:
    seen = [("good", epoch, -0.1) for epoch in range(1, max_t + 1)]
    seen += [("late", epoch, -0.1 if epoch < max_t else -0.5) for epoch in range(1, max_t + 1)]
    assert GateASHA(max_t=max_t, reduction_factor=3, seen=each(seen)).stopped == set()


NAMES = [f"trial_{number:04d}" for number in range(8)]
SCORES = st.one_of(st.sampled_from([WORST_SCORE, -0.5, -0.25, 0.0, 1.5]), st.floats(-3.0, 2.0))


@st.composite
def interrupted(draw: st.DrawFn) -> tuple[dict[str, Any], list[tuple[str, float]], int]:
    """Options, the trial and score of each report in turn, and the number of reports before an interruption."""
    options = draw(
        st.sampled_from(
            [
                {"max_t": 7},
                {"max_t": 7, "reduction_factor": 2},
                {"max_t": 8, "grace_period": 2, "reduction_factor": 2},
                {"max_t": 12, "brackets": 3},
                {"max_t": 10, "brackets": 2, "reduction_factor": 2},
            ]
        )
    )
    turns = draw(st.lists(st.tuples(st.sampled_from(NAMES), SCORES), max_size=60))
    return options, turns, draw(st.integers(0, len(turns)))


@given(interrupted())
@settings(deadline=None)
def test_a_scheduler_rebuilt_from_what_was_seen_decides_as_if_never_interrupted(
    case: tuple[dict[str, Any], list[tuple[str, float]], int],
) -> None:
    options, turns, cut = case
    whole = GateASHA(**options)
    seen: list[EpochScore] = []
    stopped: set[str] = set()
    rebuilt: GateASHA | None = None
    for turn, (name, score) in enumerate(turns):
        if turn == cut:
            rebuilt = GateASHA(**options, seen=each(list(seen)))
            early = {name for name in stopped if last(seen, name) < options["max_t"]}
            assert {name for name in rebuilt.stopped if last(seen, name) < options["max_t"]} == early
        epoch = last(seen, name) + 1
        if name in stopped or epoch > options["max_t"]:
            continue  # a trial that is over reports no more
        decision = report(whole, name, epoch, score)
        if rebuilt:
            assert report(rebuilt, name, epoch, score) == decision
        seen.append((name, epoch, score))
        if decision == STOP:
            stopped.add(name)


def last(seen: list[EpochScore], name: str) -> int:
    return max((epoch for trial_name, epoch, _ in seen if trial_name == name), default=0)


def test_an_epoch_that_is_trained_again_after_a_restart_changes_nothing() -> None:
    seen = [("a", 1, -0.1), ("b", 1, -0.1), ("a", 2, -0.1), ("a", 3, -0.1)]
    scheduler = GateASHA(max_t=10, seen=each(seen))
    assert decisions(scheduler, [("a", 3, -0.1), ("a", 2, -0.1), ("b", 1, -0.1)]) == [CONTINUE] * 3
    assert decisions(scheduler, [("b", 2, -0.1), ("b", 3, -0.2)]) == [CONTINUE, STOP]


def test_a_trial_that_completes_stays_on_its_rungs() -> None:
    scheduler = GateASHA(max_t=10)
    report(scheduler, "before", 1, -0.5)
    scheduler.on_trial_add(None, trial("passed"))
    scheduler.on_trial_complete(None, trial("passed"), {"epoch": 1, "score": 1.5})
    assert report(scheduler, "after", 1, -0.4) == STOP
    assert GateASHA(max_t=10, seen=each([("before", 1, -0.5), ("passed", 1, 1.5), ("after", 1, -0.4)])).stopped == {
        "after"
    }


def test_a_trial_that_is_removed_or_failed_without_a_score_leaves_no_trace() -> None:
    scheduler = GateASHA(max_t=10)
    scheduler.on_trial_add(None, trial("a"))
    scheduler.on_trial_complete(None, trial("a"), {})
    scheduler.on_trial_remove(None, trial("a"))
    assert not any(rung for bracket in scheduler.brackets for _, rung in bracket.rungs)


def test_a_trial_as_near_as_one_that_passed_goes_on() -> None:
    scheduler = GateASHA(max_t=20, grace_period=2)
    for name, score in [("passes", -0.5), ("a", -0.2), ("b", -0.1)]:
        assert report(scheduler, name, 2, score) == CONTINUE
    assert report(scheduler, "before", 2, -0.4) == STOP
    scheduler.on_trial_complete(None, trial("passes"), {"epoch": 4, "score": 1.2})
    assert report(scheduler, "as near", 2, -0.5) == CONTINUE
    assert report(scheduler, "farther", 2, -0.6) == STOP
    assert report(scheduler, "as near", 6, -0.3) == CONTINUE  # the first there
    assert report(scheduler, "a", 6, -0.35) == STOP  # the one that passed ended before this rung


def test_a_bracket_is_drawn_by_the_name_of_the_trial() -> None:
    def drawn(scheduler: GateASHA) -> dict[str, int]:
        return {name: scheduler.brackets.index(scheduler.bracket_of(name)) for name in names}

    names = [f"trial_{number:04d}" for number in range(300)]
    first = drawn(GateASHA(max_t=20, brackets=3))
    names.reverse()
    assert drawn(GateASHA(max_t=20, brackets=3)) == first  # whatever the order
    counts = [list(first.values()).count(bracket) for bracket in range(3)]
    assert counts[0] > counts[1] > counts[2] > 0  # the one with the most rungs is drawn most


def test_a_later_bracket_spares_a_trial_the_first_rungs() -> None:
    scheduler = GateASHA(max_t=20, brackets=3)
    names = [f"trial_{number:04d}" for number in range(100)]
    stopped = {
        name for name in names for score in [-0.1 - names.index(name)] if report(scheduler, name, 1, score) == STOP
    }
    spared = {name for name in names if scheduler.bracket_of(name) is not scheduler.brackets[0]}
    assert stopped and spared and not stopped & spared


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grace_period": 0}, "scheduler.grace_period: got 0, expected at least 1 epoch"),
        ({"reduction_factor": 1}, "scheduler.reduction_factor: got 1, expected at least 2"),
        ({"brackets": 0}, "scheduler.brackets: got 0, expected at least 1"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GateASHA(max_t=20, **options)


@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from([2, 2.5, 3, 4, 5]), st.integers(1, 12))
@settings(deadline=None)
@example(243, 1, 3, 12)  # five powers of three, of which a logarithm finds 4.999...
def test_each_bracket_has_a_rung_however_many_are_asked_for(
    max_t: int, grace_period: int, reduction_factor: float, brackets: int
) -> None:
    scheduler = GateASHA(
        max_t=max_t, grace_period=min(grace_period, max_t), reduction_factor=reduction_factor, brackets=brackets
    )
    assert 1 <= len(scheduler.brackets) <= brackets
    assert all(bracket.rungs for bracket in scheduler.brackets)


def test_a_grace_period_longer_than_the_run_stops_nobody() -> None:
    seen = [(name, epoch, score) for name, score in (("good", -0.1), ("bad", -0.9)) for epoch in range(1, 6)]
    assert GateASHA(max_t=5, grace_period=8, seen=each(seen)).stopped == set()
    assert GateASHA(max_t=5, grace_period=4, seen=each(seen[:-1])).stopped == {"bad"}


PROGRESSIONS = {
    "max_t": st.integers(20, 300),
    "grace_period": st.integers(1, 20),
    "reduction_factor": st.sampled_from([2, 2.5, 3, 4.0, 5]),
}


@given(
    st.fixed_dictionaries(PROGRESSIONS),
    st.integers(1, 4),
    st.lists(st.floats(-1e6, 2.0) | st.sampled_from([-0.5, 0.0]), min_size=1, max_size=40),
)
@settings(deadline=None)
@example({"max_t": 243, "grace_period": 1, "reduction_factor": 3}, 5, [-0.5, -0.25])
def test_milestones_and_cut_offs_are_those_of_ray(options: dict[str, Any], brackets: int, scores: list[float]) -> None:
    ours = GateASHA(**options, brackets=brackets).brackets
    rays = AsyncHyperBandScheduler(**options, brackets=len(ours), metric="score", mode="max")._brackets
    recorded = {f"trial_{number:04d}": score for number, score in enumerate(scores)}
    assert len(ours) == len(rays)
    for bracket, ray_bracket in zip(ours, rays, strict=True):
        assert [milestone for milestone, _ in bracket.rungs] == [milestone for milestone, _ in ray_bracket._rungs]
        assert bracket.cutoff(recorded) == ray_bracket.cutoff(recorded)
        assert bracket.cutoff({}) is None and ray_bracket.cutoff({}) is None


@given(
    st.fixed_dictionaries(PROGRESSIONS),
    st.lists(st.lists(st.floats(-3.0, 0.9), min_size=1, max_size=19), min_size=1, max_size=12),
)
@settings(deadline=None)
def test_without_a_trial_that_clears_the_gate_decisions_are_those_of_ray(
    options: dict[str, Any], curves: list[list[float]]
) -> None:
    ours = GateASHA(**options)
    rays = AsyncHyperBandScheduler(**options, time_attr="epoch", metric="score", mode="max")
    for number, curve in enumerate(curves):
        tune_trial = SimpleNamespace(trial_id=f"trial_{number:04d}", config={"trial": f"trial_{number:04d}"})
        rays.on_trial_add(None, tune_trial)
        for epoch, score in enumerate(curve, 1):
            result = {"epoch": epoch, "score": score}
            decision = ours.on_trial_result(None, tune_trial, result)
            assert decision == rays.on_trial_result(None, tune_trial, result)
            if decision == STOP:
                break
