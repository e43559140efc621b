"""Compositions: every split that keeps total, minima and steps, and nothing else."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, cast

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatesweep.sweeps.search.composition import Composition
from gatesweep.sweeps.search.space import AnyLeaf, suggest_values
from tests.sweeps.search.test_space import KEY, Fixed


@st.composite
def compositions(draw: st.DrawFn, most_units: int = 30) -> Composition:
    minima = draw(st.lists(st.integers(0, 5), min_size=2, max_size=5))
    step, units = draw(st.integers(1, 4)), draw(st.integers(0, most_units))
    total = sum(minima) + step * units
    if total == 0:
        minima[0] = total = 1
    parts = {f"part{position}": minimum for position, minimum in enumerate(minima)}
    return Composition(type="composition", total=total, parts=parts, step=step)


def sizes(leaf: Composition, values: Mapping[str, Any]) -> list[int]:
    return [values[f"{KEY}.{name}"] for name in leaf.parts]


def check_sizes(leaf: Composition, parts: list[int]) -> None:
    assert sum(parts) == leaf.total
    for size, minimum in zip(parts, leaf.parts.values(), strict=True):
        assert size >= minimum and (size - minimum) % leaf.step == 0


@given(compositions(), st.lists(st.floats(0, 1), min_size=4, max_size=4))
def test_a_composition_keeps_its_total_its_minima_and_its_steps(leaf: Composition, fractions: list[float]) -> None:
    trial = Fixed({f"{KEY}.part{position}": fraction for position, fraction in enumerate(fractions)})
    values = leaf.suggest(cast(optuna.Trial, trial), KEY, exhaustive=False)
    assert set(values) == {f"{KEY}.{name}" for name in leaf.parts}
    check_sizes(leaf, sizes(leaf, values))


@given(compositions(), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_a_sampler_of_optuna_finds_only_compositions(leaf: Composition, seed: int) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    check_sizes(leaf, sizes(leaf, suggest_values(study.ask(), {KEY: leaf})))


@given(compositions(), st.lists(st.floats(0, 1), min_size=4, max_size=4), st.floats(0, 1))
def test_a_part_grows_with_its_fraction(leaf: Composition, fractions: list[float], second: float) -> None:
    low, high = sorted((fractions[0], second))
    drawn = []
    for first in (low, high):
        trial = Fixed({f"{KEY}.part{position}": fraction for position, fraction in enumerate([first, *fractions[1:]])})
        drawn.append(leaf.suggest(cast(optuna.Trial, trial), KEY, exhaustive=False)[f"{KEY}.part0"])
    assert drawn[0] <= drawn[1]


@pytest.mark.parametrize(
    ("total", "minima", "step"), [(9, [0, 0], 1), (12, [1, 2, 3], 2), (7, [0, 0, 0], 1), (8, [0, 1, 0, 1], 1)]
)
def test_even_fractions_give_every_composition_alike(total: int, minima: list[int], step: int) -> None:
    """Exact: a fraction is cut into as many equal cells as there are splits of what is left, and each cell counts."""
    leaf = Composition(
        type="composition", total=total, parts={f"part{i}": least for i, least in enumerate(minima)}, step=step
    )
    chances: Counter[tuple[int, ...]] = Counter()

    def walk(fixed: list[Fraction], chance: Fraction) -> None:
        """Split on the fraction of the next part, given the cells of those before it."""
        trial = Fixed({f"{KEY}.part{position}": float(fraction) for position, fraction in enumerate(fixed)})
        drawn = tuple(sizes(leaf, leaf.suggest(cast(optuna.Trial, trial), KEY, exhaustive=False)))
        if len(fixed) == len(minima) - 1:
            chances[drawn] += chance
            return
        left = sum(
            (size - least) // step for size, least in zip(drawn[len(fixed) :], minima[len(fixed) :], strict=True)
        )
        parts = len(minima) - len(fixed)
        cells = math.comb(left + parts - 1, parts - 1)
        for cell in range(cells):
            walk([*fixed, Fraction(2 * cell + 1, 2 * cells)], chance / cells)

    walk([], Fraction(1))
    assert chances == dict.fromkeys(splits(leaf), Fraction(1, len(splits(leaf))))


def splits(leaf: Composition) -> set[tuple[int, ...]]:
    """Every composition, by trying all sizes."""
    room = leaf.total - sum(leaf.parts.values())
    ranges = [range(minimum, minimum + room + 1, leaf.step) for minimum in leaf.parts.values()]
    return {drawn for drawn in itertools.product(*ranges) if sum(drawn) == leaf.total}


@given(compositions(most_units=4))
@settings(max_examples=40, deadline=None)
def test_the_exhaustive_list_is_complete_and_without_repetition(leaf: Composition) -> None:
    class Lister(Fixed):
        def suggest_categorical(self, name: str, choices: list[Any]) -> Any:
            self["choices"] = choices
            return choices[0]

    trial = Lister()
    leaf.suggest(cast(optuna.Trial, trial), KEY, exhaustive=True)
    splits_drawn = [
        tuple(sizes(leaf, leaf.suggest(cast(optuna.Trial, Fixed({KEY: choice})), KEY, exhaustive=True)))
        for choice in trial["choices"]
    ]
    assert len(splits_drawn) == len(set(splits_drawn)) and set(splits_drawn) == splits(leaf)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_grid_visits_every_composition_once() -> None:
    node = {"type": "composition", "total": 8, "parts": {"a": 2, "b": 0, "c": 1}, "step": 1}
    leaf = AnyLeaf.validate_python(node)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.BruteForceSampler(seed=0))
    drawn: list[tuple[int, ...]] = []

    def objective(trial: optuna.Trial) -> float:
        drawn.append(tuple(sizes(leaf, suggest_values(trial, {KEY: leaf}, exhaustive=True))))
        return 0.0

    study.optimize(objective, n_trials=100)
    assert sorted(drawn) == sorted(splits(leaf)) and len(drawn) == 21
