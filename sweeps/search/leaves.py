"""Leaves of a search space: float, int and categorical."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import optuna
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from gatesweep.core.errors import InputError

Choice = bool | int | float | str | None


class Leaf(BaseModel):
    """The part that all leaves share: the condition `when`, values of other leaves by key."""

    model_config = ConfigDict(extra="forbid", strict=True)
    when: dict[str, Any] = Field(default_factory=dict)

    def active(self, values: Mapping[str, Any]) -> bool:
        """Return True if `values`, the point so far, satisfy every condition. A list in `when` allows each item."""
        return all(
            key in values and values[key] in (wanted if isinstance(wanted, list) else [wanted])
            for key, wanted in self.when.items()
        )


class Range(Leaf):
    """A leaf between two bounds, which both belong to it."""

    low: float
    high: float
    log: bool = False

    @model_validator(mode="after")
    def check_bounds(self) -> Any:
        """Raise InputError where the bounds, `log` and `step` do not go together."""
        if self.low > self.high:
            raise InputError(f"low <= high, with low={self.low:g} and high={self.high:g}")
        if self.log and self.low <= 0:
            raise InputError(f"low above 0 for log: true, with low={self.low:g}")
        if self.log and getattr(self, "step", None) not in (None, 1):
            raise InputError("either log: true or a step, not both")
        return self

    def extremes(self, key: str) -> list[dict[str, Any]]:
        """Return the ends of the leaf, each as values by dotted key."""
        return [{key: self.low}, {key: self.high}]

    def admits(self, value: Any) -> bool:
        """Return True if the leaf can have this value."""
        return isinstance(value, int | float) and self.low <= value <= self.high


class Float(Range):
    """A number between two bounds, on a grid if it has a `step`."""

    type: Literal["float"]
    step: PositiveFloat | None = None

    def suggest(self, trial: optuna.Trial, key: str, exhaustive: bool) -> dict[str, Any]:
        """Let the trial's sampler draw the value."""
        return {key: trial.suggest_float(key, self.low, self.high, log=self.log, step=self.step)}


class Int(Range):
    """A whole number between two bounds."""

    type: Literal["int"]
    low: int
    high: int
    step: PositiveInt = 1

    def suggest(self, trial: optuna.Trial, key: str, exhaustive: bool) -> dict[str, Any]:
        """Let the trial's sampler draw the value."""
        return {key: trial.suggest_int(key, self.low, self.high, log=self.log, step=self.step)}


class Categorical(Leaf):
    """One of a list of choices."""

    type: Literal["categorical"]
    choices: list[Choice] = Field(min_length=1)

    def suggest(self, trial: optuna.Trial, key: str, exhaustive: bool) -> dict[str, Any]:
        """Let the trial's sampler draw the choice."""
        return {key: trial.suggest_categorical(key, self.choices)}

    def extremes(self, key: str) -> list[dict[str, Any]]:
        """Return every choice, as values by dotted key."""
        return [{key: choice} for choice in self.choices]

    def admits(self, value: Any) -> bool:
        """Return True if the leaf can have this value."""
        return value in self.choices
