"""The composition leaf: a total that is split into named parts."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, pairwise
from typing import Any, Literal

import optuna
from pydantic import Field, PositiveInt, model_validator

from gatesweep.core.errors import InputError
from gatesweep.sweeps.search.leaves import Leaf

MOST_SPLITS = 2**1000  # a float, which a sampler's quantile is multiplied with, holds no more


class Composition(Leaf):
    """A split of `total` into named parts, each a whole number of steps above its minimum.

    The total minus the minima is `units` steps. Each part gets some of these units.
    """

    type: Literal["composition"]
    total: PositiveInt
    parts: dict[str, int] = Field(min_length=2)  # name: minimum
    step: PositiveInt = 1

    @model_validator(mode="after")
    def check_total(self) -> Any:
        """Raise InputError where no split exists."""
        rest = self.total - sum(self.parts.values())
        if min(self.parts.values()) < 0 or rest < 0 or rest % self.step:
            raise InputError(
                f"a possible composition: total={self.total} less the minima ({sum(self.parts.values())}) "
                f"leaves {rest}, which must be a multiple of step={self.step}, at least 0"
            )
        if self.count() >= MOST_SPLITS:
            raise InputError(f"fewer parts or a larger step: {len(self.parts)} parts share {self.units} steps")
        return self

    def count(self) -> int:
        """Return the number of splits."""
        return math.comb(self.units + len(self.parts) - 1, len(self.parts) - 1)

    @property
    def units(self) -> int:
        """The number of steps above the minima."""
        return (self.total - sum(self.parts.values())) // self.step

    def suggest(self, trial: optuna.Trial, key: str, exhaustive: bool) -> dict[str, Any]:
        """Let the trial's sampler draw a split; under a uniform sampler all splits are equally likely.

        Each part but the last is drawn as a fraction, the quantile of its size, so that a sampler sees smooth
        dimensions that grow with their part. An exhaustive sampler draws from the list of all splits instead.
        """
        if exhaustive:
            splits = [_label(self._sizes(units)) for units in self._iterate_splits()]
            sizes = [int(size) for size in trial.suggest_categorical(key, splits).split(" + ")]
            return dict(zip(self._keys(key), sizes, strict=True))
        units_left, units = self.units, []
        names = list(self.parts)
        for position, name in enumerate(names[:-1]):
            fraction = trial.suggest_float(f"{key}.{name}", 0.0, 1.0)
            units.append(split_at_quantile(fraction, units_left, len(names) - position))
            units_left -= units[-1]
        return dict(zip(self._keys(key), self._sizes([*units, units_left]), strict=True))

    def params(self, key: str, values: Mapping[str, Any], exhaustive: bool = False) -> dict[str, Any]:
        """Return the Optuna parameters that `suggest` turns into the sizes in `values`.

        They are the middles of the quantile ranges of the parts; for an exhaustive sampler, the split. Raises KeyError
        where a part is missing, and ValueError for sizes that no split has.
        """
        if exhaustive:
            return {key: _label([values[name] for name in self._keys(key)])}
        units_left, names, fractions = self.units, list(self.parts), {}
        for position, name in enumerate(names[:-1]):
            units, parts = (values[f"{key}.{name}"] - self.parts[name]) // self.step, len(names) - position
            ends = [count_splits_below(edge, units_left, parts) for edge in (units, units + 1)]
            fractions[f"{key}.{name}"] = sum(ends) / (2 * count_splits_below(units_left + 1, units_left, parts))
            units_left -= units
        return fractions

    def extremes(self, key: str) -> list[dict[str, Any]]:
        """Return the splits that give all units to one part, each as values by dotted key."""
        count = len(self.parts)
        corners = [[self.units * (part == corner) for part in range(count)] for corner in range(count)]
        return [dict(zip(self._keys(key), self._sizes(units), strict=True)) for units in corners]

    def _keys(self, key: str) -> list[str]:
        """Return the dotted keys of the parts."""
        return [f"{key}.{name}" for name in self.parts]

    def _sizes(self, units: list[int]) -> list[int]:
        """Return the sizes of the parts, from their units."""
        return [minimum + self.step * unit for minimum, unit in zip(self.parts.values(), units, strict=True)]

    def _iterate_splits(self) -> Iterator[list[int]]:
        """Yield every split of the units over the parts (stars and bars)."""
        slots = self.units + len(self.parts) - 1
        for bars in combinations(range(slots), len(self.parts) - 1):
            edges = [-1, *bars, slots]
            yield [right - left - 1 for left, right in pairwise(edges)]


def split_at_quantile(fraction: float, units: int, parts: int) -> int:
    """Return the size of the first part at quantile `fraction`, over all splits of `units` units into `parts` parts."""
    below = fraction * count_splits_below(units + 1, units, parts)
    return bisect_right(range(units), below, key=lambda size: count_splits_below(size + 1, units, parts))


def count_splits_below(edge: int, units: int, parts: int) -> int:
    """Count the splits of `units` units into `parts` parts whose first part is smaller than `edge`.

    The number is C(units + parts - 1, parts - 1) - C(units - edge + parts - 1, parts - 1). Raises ValueError for an
    `edge` above `units + parts - 1`.
    """
    return math.comb(units + parts - 1, parts - 1) - math.comb(units - edge + parts - 1, parts - 1)


def _label(sizes: Sequence[int]) -> str:
    """Return a split as Optuna takes it."""
    return " + ".join(str(size) for size in sizes)
