"""The composition leaf: a total split into named parts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import combinations, pairwise
from typing import Any, Literal

import optuna
from pydantic import Field, PositiveInt, model_validator

from gatesweep.core.errors import InputError
from gatesweep.sweeps.search.leaves import Leaf


class Composition(Leaf):
    type: Literal["composition"]
    total: PositiveInt
    parts: dict[str, int] = Field(min_length=2)  # name: minimum
    step: PositiveInt = 1

    @model_validator(mode="after")
    def possible(self) -> Any:
        rest = self.total - sum(self.parts.values())
        if min(self.parts.values()) < 0 or rest < 0 or rest % self.step:
            raise InputError(
                f"a possible composition: total={self.total} less the minima ({sum(self.parts.values())}) "
                f"leaves {rest}, which must be a multiple of step={self.step}, at least 0"
            )
        return self

    @property
    def units(self) -> int:
        return (self.total - sum(self.parts.values())) // self.step

    def suggest(self, trial: optuna.Trial, key: str, exhaustive: bool) -> dict[str, Any]:
        """Uniform over all compositions: one fraction for each part but the last, read through its exact quantiles.

        So a sampler sees smooth dimensions that grow with their part. An exhaustive one gets the list instead.
        """
        if exhaustive:
            listed = [" + ".join(str(size) for size in self._sizes(units)) for units in self._all()]
            chosen = [int(size) for size in trial.suggest_categorical(key, listed).split(" + ")]
            return dict(zip(self._keys(key), chosen, strict=True))
        left, units = self.units, []
        names = list(self.parts)
        for position, name in enumerate(names[:-1]):
            fraction = trial.suggest_float(f"{key}.{name}", 0.0, 1.0)
            units.append(split_at_quantile(fraction, left, len(names) - position))
            left -= units[-1]
        return dict(zip(self._keys(key), self._sizes([*units, left]), strict=True))

    def draws(self, key: str, values: Mapping[str, Any]) -> dict[str, float]:
        """The fractions that `suggest` reads as these values: the middle of what each part's quantile comes from."""
        left, names, found = self.units, list(self.parts), {}
        for position, name in enumerate(names[:-1]):
            units, parts = (values[f"{key}.{name}"] - self.parts[name]) // self.step, len(names) - position
            ends = [count_splits_below(edge, left, parts) for edge in (units, units + 1)]
            found[f"{key}.{name}"] = sum(ends) / (2 * count_splits_below(left + 1, left, parts))
            left -= units
        return found

    def extremes(self, key: str) -> list[dict[str, Any]]:
        corners = [
            [self.units * (part == corner) for part in range(len(self.parts))] for corner in range(len(self.parts))
        ]
        return [dict(zip(self._keys(key), self._sizes(units), strict=True)) for units in corners]

    def _keys(self, key: str) -> list[str]:
        return [f"{key}.{name}" for name in self.parts]

    def _sizes(self, units: list[int]) -> list[int]:
        return [minimum + self.step * unit for minimum, unit in zip(self.parts.values(), units, strict=True)]

    def _all(self) -> Iterator[list[int]]:
        """Every split of the units over the parts (stars and bars)."""
        slots = self.units + len(self.parts) - 1
        for bars in combinations(range(slots), len(self.parts) - 1):
            edges = [-1, *bars, slots]
            yield [right - left - 1 for left, right in pairwise(edges)]


def split_at_quantile(fraction: float, units: int, parts: int) -> int:
    """The size of the first of `parts` parts at quantile `fraction`, over all splits of `units` counted alike."""
    total = count_splits_below(units + 1, units, parts)
    return next((size for size in range(units) if fraction * total < count_splits_below(size + 1, units, parts)), units)


def count_splits_below(edge: int, units: int, parts: int) -> int:
    """The splits of `units` over `parts` whose first part is smaller than `edge`: C(u+p-1, p-1) - C(u-e+p-1, p-1)."""
    return math.comb(units + parts - 1, parts - 1) - math.comb(units - edge + parts - 1, parts - 1)
