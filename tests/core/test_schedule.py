"""Learning-rate schedules, as the functions of progress that they are."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatesweep.core.errors import InputError
from gatesweep.core.schedule import schedule

SHAPES = st.sampled_from(["constant", "linear", "cosine", "step"])
WARMUPS = st.floats(0.0, 0.999)
UNIT = st.floats(0.0, 1.0)
FLOORS = st.floats(1e-6, 1.0)  # shape=step takes no floor of 0


@given(SHAPES, WARMUPS, FLOORS, UNIT)
def test_the_rate_never_exceeds_the_initial_one(shape: Any, warmup: float, floor: float, progress: float) -> None:
    assert 0.0 <= schedule(shape, warmup=warmup, floor=floor)(progress) <= 1.0


@given(SHAPES, WARMUPS, FLOORS)
def test_the_rate_is_whole_at_the_end_of_the_warmup(shape: Any, warmup: float, floor: float) -> None:
    assert schedule(shape, warmup=warmup, floor=floor)(warmup) == 1.0


@given(SHAPES, WARMUPS, FLOORS)
def test_the_rate_ends_at_its_floor(shape: Any, warmup: float, floor: float) -> None:
    assert schedule(shape, warmup=warmup, floor=floor)(1.0) == (1.0 if shape == "constant" else pytest.approx(floor))


@given(SHAPES, st.floats(0.01, 0.999), FLOORS, UNIT)
def test_the_rate_rises_in_proportion_during_the_warmup(shape: Any, warmup: float, floor: float, part: float) -> None:
    assert schedule(shape, warmup=warmup, floor=floor)(part * warmup) == pytest.approx(part)


@given(SHAPES, WARMUPS, FLOORS, UNIT, UNIT)
def test_the_rate_only_falls_after_the_warmup(
    shape: Any, warmup: float, floor: float, one: float, other: float
) -> None:
    multiplier = schedule(shape, warmup=warmup, floor=floor)
    early, late = sorted(warmup + (1 - warmup) * part for part in (one, other))
    assert multiplier(min(late, 1.0)) <= multiplier(min(early, 1.0)) + 1e-12


def test_stairs_are_equally_long_and_each_the_same_factor_lower() -> None:
    stairs = schedule("step", warmup=0.1, floor=0.01, steps=3)
    assert [stairs(at) for at in (0.1, 0.39, 0.41, 0.69, 0.71, 1.0)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_half_way_down_is_the_mean_of_top_and_floor() -> None:
    for shape in ("linear", "cosine"):
        assert schedule(shape, warmup=0.2, floor=0.1)(0.6) == pytest.approx(0.55)
    assert schedule("cosine", floor=0.0)(0.25) == pytest.approx((1 + 2**-0.5) / 2)
    assert schedule("linear", floor=0.0)(0.25) == pytest.approx(0.75)


@pytest.mark.parametrize("warmup", [-0.1, 1.0, 5.0, float("nan")])
def test_a_warmup_that_is_no_fraction_is_refused(warmup: float) -> None:
    expected = rf"training.schedule.warmup: got {warmup}, expected a fraction of all updates in \[0, 1\)"
    with pytest.raises(InputError, match=expected):
        schedule("cosine", warmup=warmup)


@pytest.mark.parametrize("floor", [-0.1, 1.1, float("nan")])
def test_a_floor_that_is_no_ratio_is_refused(floor: float) -> None:
    with pytest.raises(InputError, match=rf"training.schedule.floor: got {floor}, expected a ratio in \[0, 1\]"):
        schedule("cosine", floor=floor)


def test_a_shape_that_does_not_exist_is_refused() -> None:
    shape: Any = "cosin"
    with pytest.raises(InputError, match=r"training.schedule.shape: got 'cosin', expected constant, linear"):
        schedule(shape)
