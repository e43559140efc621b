"""The gate: when it passes, how far a run is from it, and what it says when it cannot tell."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gatesweep.core.errors import InputError
from gatesweep.core.gate import WORST_SCORE, Gate, proportion, squash

NUMBERS = st.floats(allow_nan=True, allow_infinity=True)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
COMPARISONS = st.sampled_from([">", ">=", "<", "<="])
TINY, HUGE = math.ulp(0.0), 1.7976931348623157e308

TWO = Gate({"val/edges": "> 0.95", "val/rules": ">= 0.8"}, objective="val/loss", mode="min")


def metrics(edges: float, rules: float, loss: float = 1.0) -> dict[str, float]:
    return {"val/edges": edges, "val/rules": rules, "val/loss": loss}


def rule(comparison: str, bound: float) -> str:
    return f"{comparison} {bound!r}"


@given(NUMBERS, NUMBERS, NUMBERS, COMPARISONS, FINITE, st.sampled_from(["min", "max"]))
@example(math.nan, math.nan, math.nan, ">", 0.0, "max")
@example(math.inf, -math.inf, math.inf, "<", 0.0, "max")
def test_the_score_is_a_number_whatever_is_reported(
    one: float, other: float, objective: float, comparison: str, bound: float, mode: Any
) -> None:
    gate = Gate({"a": rule(comparison, bound), "b": "> 0.5"}, objective="c", mode=mode)
    assert WORST_SCORE <= gate.score({"a": one, "b": other, "c": objective}) <= 2.0
    assert -1.0 <= Gate(objective="c", mode=mode).score({"c": objective}) < 0.0


@given(st.builds(metrics, NUMBERS, NUMBERS, NUMBERS), st.builds(metrics, st.floats(0.95), st.floats(0.8), NUMBERS))
def test_whatever_passes_beats_whatever_fails(one: dict[str, float], other: dict[str, float]) -> None:
    for reported in (one, other):
        assert 1.0 <= TWO.score(reported) <= 2.0 if TWO.cleared(reported) else TWO.score(reported) <= 0.0


def test_below_the_gate_the_score_is_the_sum_of_the_scaled_shortfalls() -> None:
    assert TWO.score(metrics(0.76, 0.6)) == pytest.approx(-(0.19 / 0.95 + 0.2 / 0.8))
    assert TWO.score(metrics(0.99, 0.6)) == pytest.approx(-0.2 / 0.8)  # room in one does not pay for the other
    scaled = Gate(TWO.thresholds, scales={"val/rules": 0.1})
    assert scaled.score(metrics(0.76, 0.6)) == pytest.approx(-(0.19 / 0.95 + 0.2 / 0.1))


def test_a_threshold_of_zero_has_the_unit_one() -> None:
    assert Gate({"a": "< 0"}).score({"a": 0.25}) == pytest.approx(-0.25)


def test_the_objective_ranks_those_that_pass() -> None:
    assert TWO.score(metrics(0.96, 0.8, loss=0.1)) > TWO.score(metrics(1.0, 1.0, loss=0.2)) > 1.0
    assert TWO.score(metrics(0.96, 0.8, loss=math.nan)) == 1.0
    assert Gate({"a": "> 0"}).score({"a": 1.0}) == 1.0  # no objective


@pytest.mark.parametrize("other", [0.0, 1.0])
def test_one_metric_that_is_not_a_number_is_hopeless(other: float) -> None:
    assert TWO.score(metrics(math.nan, other)) == WORST_SCORE
    assert TWO.score(metrics(other, math.nan)) == WORST_SCORE
    assert not TWO.cleared(metrics(math.nan, 1.0))


def test_infinitely_far_is_hopeless() -> None:
    assert TWO.score(metrics(-math.inf, 1.0)) == WORST_SCORE
    assert TWO.score(metrics(math.inf, math.inf)) >= 1.0


@pytest.mark.parametrize("ask", ["score", "missed", "cleared", "require"])
@pytest.mark.parametrize("absent", ["val/edges", "val/rules", "val/loss"])
def test_a_metric_that_is_not_reported_is_an_error_that_says_what_is(ask: str, absent: str) -> None:
    reported = metrics(1.0, 1.0)
    del reported[absent]
    rest = ", ".join(sorted(reported))
    with pytest.raises(InputError, match=f"gate: '{absent}' is not reported; this trainable reports {rest}"):
        getattr(TWO, ask)(reported)


def test_an_empty_gate_never_passes_and_ranks_by_its_objective() -> None:
    gate = Gate(objective="loss", mode="min")
    assert not gate.cleared({"loss": 0.0}) and gate.missed({"loss": 0.0}) == []
    assert 0.0 > gate.score({"loss": 0.1}) > gate.score({"loss": 0.2}) >= gate.score({"loss": math.nan}) == -1.0
    assert not Gate().cleared({})


@pytest.mark.parametrize(("comparison", "at_the_bound"), [(">", False), (">=", True), ("<", False), ("<=", True)])
def test_a_tie_clears_only_where_the_comparison_says_so(comparison: str, at_the_bound: bool) -> None:
    gate = Gate({"a": f"{comparison} 0.5"})
    assert gate.cleared({"a": 0.5}) is at_the_bound
    assert (gate.score({"a": 0.5}) >= 1.0) is at_the_bound
    assert (gate.constraints({"a": 0.5})["a"] <= 0) is at_the_bound
    assert bool(gate.missed({"a": 0.5})) is not at_the_bound


@given(NUMBERS, COMPARISONS, FINITE, st.floats(min_value=TINY, max_value=HUGE))
@example(math.nan, ">", 0.5, 1.0)
@example(0.5, ">", 0.5, 1.0)
@example(TINY, "<=", 0.0, HUGE)  # a shortfall that underflows
@example(-HUGE, ">", HUGE, TINY)  # and one that overflows
def test_a_constraint_is_at_most_zero_exactly_when_its_threshold_clears(
    value: float, comparison: str, bound: float, scale: float
) -> None:
    gate = Gate({"a": rule(comparison, bound)}, scales={"a": scale})
    constraint = gate.constraints({"a": value})["a"]
    assert math.isfinite(constraint)
    assert (constraint <= 0) == gate.cleared({"a": value})


def test_missed_says_what_is_and_what_is_needed() -> None:
    assert TWO.missed(metrics(0.9, 0.8)) == ["val/edges = 0.9, needs > 0.95"]
    assert TWO.missed(metrics(math.nan, 0.5)) == ["val/edges = nan, needs > 0.95", "val/rules = 0.5, needs >= 0.8"]
    assert TWO.missed(metrics(1.0, 1.0)) == []


def test_the_wilson_bound_reads_the_end_that_is_nearer_to_failing() -> None:
    high = {"a": 0.9, "a_low": 0.7, "a_high": 0.95}
    assert Gate({"a": "> 0.8"}).cleared(high) and not Gate({"a": "> 0.8"}, bound="wilson").cleared(high)
    assert Gate({"a": "> 0.6"}, bound="wilson").cleared(high)
    assert Gate({"a": "< 0.92"}).cleared(high) and not Gate({"a": "< 0.92"}, bound="wilson").cleared(high)
    assert Gate({"a": "<= 0.95"}, bound="wilson").cleared(high)
    assert Gate({"a": "> 0.8"}, bound="wilson").missed(high) == ["a = 0.7, needs > 0.8"]
    assert Gate({"a": "> 0.8"}, bound="wilson").score(high) == pytest.approx(-0.1 / 0.8)


def test_the_wilson_bound_takes_a_metric_without_ends_as_it_is() -> None:
    assert Gate({"loss": "< 0.5"}, bound="wilson").cleared({"loss": 0.4})


def test_the_compared_value_is_none_where_the_metric_is_absent() -> None:
    (above,), (below,) = Gate({"a": "> 0.5"}).rules, Gate({"a": "< 0.5"}).rules
    metrics = {"a": 0.9, "a_low": 0.7, "a_high": 0.95}
    wilson = Gate(bound="wilson")
    assert (Gate().compared_value(above, metrics), Gate().compared_value(above, {})) == (0.9, None)
    assert (wilson.compared_value(above, metrics), wilson.compared_value(below, metrics)) == (0.7, 0.95)
    assert (wilson.compared_value(above, {"a": 0.9}), wilson.compared_value(above, {})) == (0.9, None)


def test_a_gate_says_what_it_reads() -> None:
    assert TWO.reads == ["val/edges", "val/rules", "val/loss"] and Gate().reads == []


@pytest.mark.parametrize("bad", ["0.95", "> ", "=> 0.9", "== 1", "> high", "> nan", "> 0.9 0.8", "", 0.95])
def test_a_bad_rule_is_refused_with_an_example(bad: Any) -> None:
    with pytest.raises(InputError, match=r"gate.thresholds: 'val/a' got .*, expected e.g. '> 0.95' or '<= 0.1'"):
        Gate({"val/a": bad})


@pytest.mark.parametrize("good", [">0.95", " >= -.5 ", "< 1e-3", "<=+2."])
def test_a_rule_is_written_as_one_likes(good: str) -> None:
    (found,) = Gate({"a": good}).rules
    assert found.bound == float(good.strip(" <>="))


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan])
def test_a_scale_that_is_not_positive_is_refused(scale: float) -> None:
    with pytest.raises(InputError, match=rf"gate.scales: 'a' got {scale!r}, expected a positive number"):
        Gate({"a": "> 1"}, scales={"a": scale})


def test_fewer_than_one_epoch_in_a_row_is_refused() -> None:
    with pytest.raises(InputError, match=r"gate.consecutive: got 0, expected at least 1"):
        Gate({"a": "> 1"}, consecutive=0)


@given(NUMBERS, NUMBERS)
@example(math.inf, -math.inf)
@example(math.nan, -math.inf)
def test_squash_keeps_the_order_and_stays_below_one(one: float, other: float) -> None:
    assert 0.0 <= squash(one) < 1.0
    if one < other:
        assert squash(one) <= squash(other)


def test_squash_tells_ordinary_objectives_apart() -> None:
    values = [-1e6, -10.0, -0.1, 0.0, 1e-3, 0.1, 10.0, 1e6]
    assert sorted({squash(value) for value in values}) == [squash(value) for value in values]


@given(st.integers(1, 10**6).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_the_ends_of_a_proportion_solve_wilsons_equation(counts: tuple[int, int]) -> None:
    """The interval is where |share - p| <= z sqrt(p (1 - p) / n), as every textbook defines it."""
    hits, total = counts
    found = proportion("a", hits, total)
    share, low, high = found["a"], found["a_low"], found["a_high"]
    assert share == hits / total and 0.0 <= low <= share + 1e-12 and share - 1e-12 <= high <= 1.0
    for end in (low, high):
        assert (share - end) ** 2 == pytest.approx(1.96**2 * end * (1 - end) / total, rel=1e-6, abs=1e-14)
    if 0 < hits < total:
        assert low < share < high


@pytest.mark.parametrize(
    ("hits", "total", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (5, 10, 0.2366, 0.7634), (81, 263, 0.2553, 0.3662)],
)
def test_a_proportion_agrees_with_published_intervals(hits: int, total: int, low: float, high: float) -> None:
    """81 of 263: Newcombe, Stat. Med. 17 (1998) 857, table I."""
    found = proportion("a", hits, total)
    assert (found["a_low"], found["a_high"]) == pytest.approx((low, high), abs=5e-5)


def test_nothing_checked_is_nothing_shown() -> None:
    nothing = proportion("a", 0, 0)
    assert nothing == {"a": 0.0, "a_low": 0.0, "a_high": 1.0}
    for threshold in ("> 0.5", "< 0.5"):
        assert not Gate({"a": threshold}, bound="wilson").cleared(nothing)


@pytest.mark.parametrize(("key", "expected"), [("mode", "min or max"), ("bound", "point or wilson")])
def test_a_mode_or_bound_that_does_not_exist_is_refused(key: str, expected: str) -> None:
    with pytest.raises(InputError, match=f"^gate.{key}: got 'maximum', expected {expected}$"):
        Gate({"a": "> 1"}, **{key: "maximum"})


def test_constraints_need_their_metrics() -> None:
    with pytest.raises(InputError, match="gate: 'a' is not reported; this trainable reports b"):
        Gate({"a": "> 1"}).constraints({"b": 1.0})
