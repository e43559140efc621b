"""The search space: YAML leaves that become Optuna's distributions, conditions and compositions included.

A space mirrors the configuration it varies. Its leaves are

    {type: float, low: 1e-4, high: 1e-2, log: true}
    {type: int, low: 1, high: 4, step: 1}
    {type: categorical, choices: [32, 64, 128]}
    {type: composition, total: 24, parts: {topology: 2, values: 2, response: 2}, step: 2}

A composition splits `total` into named parts, each at least its minimum and a whole number of steps above it. A leaf
with `when: {trainable.positions: rotary}` exists only under that choice of another leaf.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import combinations, pairwise
from typing import Annotated, Any, Literal

import optuna
import pydantic
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from gatesweep.sweeps.config import override
from gatesweep.sweeps.schema import check

Choice = bool | int | float | str | None


class Leaf(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    when: dict[str, Any] = Field(default_factory=dict)

    def active(self, chosen: Mapping[str, Any]) -> bool:
        return all(
            key in chosen and chosen[key] in (wanted if isinstance(wanted, list) else [wanted])
            for key, wanted in self.when.items()
        )


class Range(Leaf):
    low: float
    high: float
    log: bool = False

    @model_validator(mode="after")
    def ordered(self) -> Any:
        if self.low > self.high:
            raise ValueError(f"low <= high, with low={self.low:g} and high={self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"low above 0 for log: true, with low={self.low:g}")
        if self.log and getattr(self, "step", None) not in (None, 1):
            raise ValueError("either log: true or a step, not both")
        return self

    def extremes(self, key: str) -> list[dict[str, Any]]:
        return [{key: self.low}, {key: self.high}]

    def admits(self, value: Any) -> bool:
        return isinstance(value, int | float) and self.low <= value <= self.high


class Float(Range):
    type: Literal["float"]
    step: PositiveFloat | None = None

    def suggest(self, trial: optuna.Trial, key: str, exhaustive: bool) -> dict[str, Any]:
        return {key: trial.suggest_float(key, self.low, self.high, log=self.log, step=self.step)}


class Int(Range):
    type: Literal["int"]
    low: int
    high: int
    step: PositiveInt = 1

    def suggest(self, trial: optuna.Trial, key: str, exhaustive: bool) -> dict[str, Any]:
        return {key: trial.suggest_int(key, self.low, self.high, log=self.log, step=self.step)}


class Categorical(Leaf):
    type: Literal["categorical"]
    choices: list[Choice] = Field(min_length=1)

    def admits(self, value: Any) -> bool:
        return value in self.choices

    def suggest(self, trial: optuna.Trial, key: str, exhaustive: bool) -> dict[str, Any]:
        return {key: trial.suggest_categorical(key, self.choices)}

    def extremes(self, key: str) -> list[dict[str, Any]]:
        return [{key: choice} for choice in self.choices]


class Composition(Leaf):
    type: Literal["composition"]
    total: PositiveInt
    parts: dict[str, int] = Field(min_length=2)  # name: minimum
    step: PositiveInt = 1

    @model_validator(mode="after")
    def possible(self) -> Any:
        rest = self.total - sum(self.parts.values())
        if min(self.parts.values()) < 0 or rest < 0 or rest % self.step:
            raise ValueError(
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
            units.append(_quantile(fraction, left, len(names) - position))
            left -= units[-1]
        return dict(zip(self._keys(key), self._sizes([*units, left]), strict=True))

    def draws(self, key: str, values: Mapping[str, Any]) -> dict[str, float]:
        """The fractions that `suggest` reads as these values: the middle of what each part's quantile comes from."""
        left, names, found = self.units, list(self.parts), {}
        for position, name in enumerate(names[:-1]):
            units, parts = (values[f"{key}.{name}"] - self.parts[name]) // self.step, len(names) - position
            ends = [_below(edge, left, parts) for edge in (units, units + 1)]
            found[f"{key}.{name}"] = sum(ends) / (2 * _below(left + 1, left, parts))
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


Space = dict[str, Float | Int | Categorical | Composition]
AnyLeaf = pydantic.TypeAdapter(Annotated[Float | Int | Categorical | Composition, Field(discriminator="type")])


def read(config: Mapping[str, Any]) -> Space:
    """The leaves of `search.space` by dotted key, each checked against the configuration that it varies.

    Raises ValueError naming the key, what it got and what it expects.
    """
    space: Space = {}
    for key, node in _leaves(config["search"]["space"]):
        try:
            space[key] = AnyLeaf.validate_python(node)
        except pydantic.ValidationError as error:
            raise ValueError(_fault(error, key, node)) from error
    for key, leaf in space.items():
        for other in leaf.when:
            _check_condition(space, key, other)
        for values in leaf.extremes(key):
            try:
                check(override(dict(config), values))
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"search.space.{key}: {error}") from error
    _ordered(space)
    return space


def _check_condition(space: Space, key: str, other: str) -> None:
    """A condition reads another leaf, and can hold."""
    where, leaf = f"search.space.{key}.when", space.get(other)
    if leaf is None or isinstance(leaf, Composition):
        raise ValueError(
            f"{where}: got {other!r}, expected another key of the search space that has a value of its own"
        )
    wanted = space[key].when[other]
    impossible = [one for one in (wanted if isinstance(wanted, list) else [wanted]) if not leaf.admits(one)]
    if impossible:
        raise ValueError(f"{where}.{other}: got {impossible[0]!r}, which {other} is never")


def suggest(trial: optuna.Trial, space: Space, exhaustive: bool = False) -> dict[str, Any]:
    """One point of the space, as values by dotted key; conditional leaves that are not active are left out."""
    chosen: dict[str, Any] = {}
    for key in _ordered(space):
        if space[key].active(chosen):
            chosen |= space[key].suggest(trial, key, exhaustive)
    return chosen


def _ordered(space: Space) -> list[str]:
    """The keys, each after those that its condition reads."""
    done: list[str] = []
    waiting = list(space)
    while waiting:
        ready = [key for key in waiting if all(other in done for other in space[key].when)]
        if not ready:
            raise ValueError(f"search.space: the conditions of {', '.join(waiting)} wait for one another")
        done += ready
        waiting = [key for key in waiting if key not in ready]
    return done


def _leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        key = f"{prefix}{name}"
        if not isinstance(value, Mapping):
            raise ValueError(
                f"search.space.{key}: got {value!r}, expected a leaf, e.g. {{type: float, low: 0.1, high: 1}}"
            )
        if isinstance(value.get("type"), str):
            yield key, value
        else:
            yield from _leaves(value, f"{key}.")


def _fault(error: pydantic.ValidationError, key: str, node: Mapping[str, Any]) -> str:
    fault = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in ("search.space", key, *fault["loc"][1:]))
    expected = fault["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if fault["type"] == "union_tag_invalid":
        return f"search.space.{key}.type: got {node['type']!r}, expected float, int, categorical or composition"
    if fault["type"] in ("missing", "extra_forbidden"):
        return f"{where}: {'missing' if fault['type'] == 'missing' else 'unknown key'}"
    got = "" if fault["type"] == "value_error" else f"got {fault['input']!r}, "
    return f"{where}: {got}expected {expected}"


def _quantile(fraction: float, units: int, parts: int) -> int:
    """The size of the first of `parts` parts at quantile `fraction`, over all splits of `units` counted alike."""
    total = _below(units + 1, units, parts)
    return next((size for size in range(units) if fraction * total < _below(size + 1, units, parts)), units)


def _below(edge: int, units: int, parts: int) -> int:
    """The splits of `units` over `parts` whose first part is smaller than `edge`: C(u+p-1, p-1) - C(u-e+p-1, p-1)."""
    return math.comb(units + parts - 1, parts - 1) - math.comb(units - edge + parts - 1, parts - 1)
