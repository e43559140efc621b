"""The gate: when it passes, how far a run is from it, and what it says when it cannot tell."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gatesweep.core.errors import InputError
from gatesweep.core.gate import WORST_SCORE, Gate, proportion, squash
from gatesweep.core.shortfall import bounded

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


def test_below_the_gate_the_score_is_the_sum_of_the_bounded_shortfalls() -> None:
    assert TWO.score(metrics(0.76, 0.6)) == pytest.approx(-(0.19 / 0.95 + 0.2 / 0.8))
    assert TWO.score(metrics(0.99, 0.6)) == pytest.approx(-0.2 / 0.8)  # room in one does not pay for the other
    baseline = Gate(TWO.thresholds, baseline={"val/rules": 0.4})
    assert baseline.score(metrics(0.76, 0.6)) == pytest.approx(-(0.19 / 0.95 + 0.2 / 0.4))
    scaled = Gate(TWO.thresholds, baseline={"val/rules": 0.4}, scales={"val/rules": 0.1})
    assert scaled.score(metrics(0.76, 0.6)) == pytest.approx(-(0.19 / 0.95 + bounded(2.0)))


def test_a_linear_gate_scores_as_the_records_of_older_versions_were_scored() -> None:
    linear = Gate(TWO.thresholds, baseline={"val/rules": 0.4}, shortfall="linear")
    assert linear.score(metrics(0.76, 0.6)) == pytest.approx(-(0.19 / 0.95 + 0.2 / 0.8))
    scaled = Gate(TWO.thresholds, scales={"val/rules": 0.1}, shortfall="linear")
    assert scaled.score(metrics(0.76, 0.6)) == pytest.approx(-(0.19 / 0.95 + 0.2 / 0.1))
    assert Gate({"a": "< 0"}, shortfall="linear").score({"a": 7.0}) == -7.0


def test_a_threshold_of_zero_has_the_unit_one_unless_the_baseline_is_known() -> None:
    assert Gate({"a": "< 0"}).score({"a": 0.25}) == pytest.approx(-0.25)
    assert Gate({"a": "< 0"}, baseline={"a": 1e-6}).score({"a": 5e-7}) == pytest.approx(-0.5)


UNTRAINED = {"accuracy": 0.09, "ece": 0.052}
TRAINED = {"accuracy": 0.9694, "ece": 0.26}


@pytest.mark.parametrize(
    "baseline", [{}, {"accuracy": 0.1}, {"accuracy": 0.1, "ece": 0.0}, {"accuracy": 0.1, "ece": 0.03}]
)
@pytest.mark.parametrize("bound", [0.3, 0.05, 0.02, 1e-3, 1e-6])
def test_a_trained_model_ranks_before_an_untrained_one_however_small_a_threshold_is(
    baseline: dict[str, float], bound: float
) -> None:
    gate = Gate({"accuracy": "> 0.97", "ece": f"< {bound!r}"}, baseline=baseline)
    assert gate.score(TRAINED) > gate.score(UNTRAINED)


@pytest.mark.parametrize("baseline", [{}, {"accuracy": 0.1, "ece": 0.0}])
def test_metrics_that_show_no_learning_count_less_than_one_that_does_however_many(baseline: dict[str, float]) -> None:
    guards = {f"error_{index}": "< 1e-4" for index in range(9)}
    gate = Gate({"accuracy": "> 0.97", **guards}, baseline={**baseline, **dict.fromkeys(guards, 0.0)})
    assert gate.score({"accuracy": 0.96, **dict.fromkeys(guards, 1e3)}) > gate.score(
        {"accuracy": 0.1, **dict.fromkeys(guards, 0.0)}
    )


GATES = st.builds(
    lambda rules, known, wilson: Gate(
        {metric: rule(*parts[:2]) for metric, parts in rules.items()},
        baseline={metric: parts[2] for metric, parts in rules.items() if metric in known},
        bound=wilson,
    ),
    st.dictionaries(st.sampled_from("abcd"), st.tuples(COMPARISONS, FINITE, FINITE), min_size=1),
    st.sets(st.sampled_from("abcd")),
    st.sampled_from(["point", "wilson"]),
)
NUMBER = st.floats(allow_nan=False, allow_infinity=True)


@given(GATES, st.fixed_dictionaries(dict.fromkeys("abcd", NUMBER)), st.sampled_from("abcd"), NUMBER)
def test_better_in_one_metric_with_the_others_equal_is_never_worse(
    gate: Gate, reported: dict[str, float], metric: str, value: float
) -> None:
    """Neither in the score nor in a constraint, also at infinity; each metric counts at most 1."""
    other = {**reported, metric: value}
    better, worse = (reported, other) if reported[metric] > value else (other, reported)
    if gate.thresholds.get(metric, ">").startswith("<"):
        better, worse = worse, better
    assert gate.score(better) >= gate.score(worse) >= -len(gate.rules)
    assert all(one <= gate.constraints(worse)[name] for name, one in gate.constraints(better).items())


@given(st.floats(0, 1e300), st.floats(0, 1e300))
def test_a_larger_distance_counts_more_and_none_counts_more_than_one(one: float, other: float) -> None:
    low, high = sorted([one, other])
    assert 0 <= bounded(low) <= bounded(high) < bounded(math.inf) == 1
    if high > low * (1 + 1e-9) + 1e-300:
        assert bounded(low) < bounded(high)


DIGITS = st.integers(-10_000, 10_000)


@given(
    st.dictionaries(st.sampled_from("abc"), st.tuples(COMPARISONS, DIGITS.filter(bool), DIGITS), min_size=2),
    st.sets(st.sampled_from("abc")),
    st.lists(st.fixed_dictionaries(dict.fromkeys("abc", DIGITS)), min_size=2, max_size=6),
    st.fixed_dictionaries({metric: st.integers(-9, 9) for metric in "abc"}),
)
def test_the_order_of_runs_does_not_depend_on_the_units_in_which_metrics_are_measured(
    rules: dict[str, Any], known: set[str], runs: list[dict[str, int]], powers: dict[str, int]
) -> None:
    """The same gate and runs in thousandths, and in units of another power of ten for each metric."""

    def scores(exponents: dict[str, int]) -> list[float]:
        def number(metric: str, digits: int) -> float:
            return float(f"{digits}e{exponents[metric]}")

        gate = Gate(
            {metric: rule(comparison, number(metric, bound)) for metric, (comparison, bound, _) in rules.items()},
            baseline={metric: number(metric, rules[metric][2]) for metric in known if metric in rules},
        )
        return [gate.score({metric: number(metric, digits) for metric, digits in run.items()}) for run in runs]

    assert scores(powers) == pytest.approx(scores(dict.fromkeys("abc", -3)), rel=1e-9, abs=1e-12)


def test_a_gate_says_its_units_and_where_they_come_from() -> None:
    thresholds = {"a": "> 0.97", "b": "<= 0.02", "c": "< 3", "d": ">= 0"}
    gate = Gate(thresholds, baseline={"a": 0.1, "b": 0.0}, scales={"c": 5})
    assert gate.unit_lines == [
        "a > 0.97, unit 0.87 (from the baseline, 0.1)",
        "b <= 0.02, unit 0.2 (the baseline, 0, reaches it), counts 0.5",
        "c < 3, unit 5 (gate.scales)",
        "d >= 0, unit 1 (no baseline, and a bound of 0)",
    ]


def test_the_objective_ranks_those_that_pass() -> None:
    assert TWO.score(metrics(0.96, 0.8, loss=0.1)) > TWO.score(metrics(1.0, 1.0, loss=0.2)) > 1.0
    assert TWO.score(metrics(0.96, 0.8, loss=math.nan)) == 1.0
    assert Gate({"a": "> 0"}).score({"a": 1.0}) == 1.0  # no objective


@pytest.mark.parametrize("other", [0.0, 1.0])
def test_one_metric_that_is_not_a_number_is_hopeless(other: float) -> None:
    assert TWO.score(metrics(math.nan, other)) == WORST_SCORE
    assert TWO.score(metrics(other, math.nan)) == WORST_SCORE
    assert not TWO.cleared(metrics(math.nan, 1.0))


def test_infinitely_far_counts_one_and_is_better_than_no_number() -> None:
    assert TWO.score(metrics(-math.inf, 1.0)) == -1.0
    assert TWO.score(metrics(-math.inf, -math.inf)) == -2.0 > TWO.score(metrics(math.nan, 1.0))
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


@pytest.mark.parametrize(
    ("key", "expected"), [("mode", "min or max"), ("bound", "point or wilson"), ("shortfall", "bounded or linear")]
)
def test_a_mode_or_bound_that_does_not_exist_is_refused(key: str, expected: str) -> None:
    with pytest.raises(InputError, match=f"^gate.{key}: got 'maximum', expected {expected}$"):
        Gate({"a": "> 1"}, **{key: "maximum"})


def test_constraints_need_their_metrics() -> None:
    with pytest.raises(InputError, match="gate: 'a' is not reported; this trainable reports b"):
        Gate({"a": "> 1"}).constraints({"b": 1.0})
