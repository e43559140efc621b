"""Leaves of a search space: float, int and categorical."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, Literal

import optuna
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from gatesweep.core.errors import InputError

Scalar = bool | int | float | str | None
LARGEST_INT = 2**53  # samplers compute with floats, which hold every whole number up to here


class Leaf(BaseModel):
    """The part that all leaves share: the condition `when`, values of other leaves by key."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
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
        if not math.isfinite(self.high - self.low):
            raise InputError(f"a finite high - low, with low={self.low:g} and high={self.high:g}")
        step = getattr(self, "step", None)
        if self.log and step not in (None, 1):
            raise InputError("either log: true or a step, not both")
        if step and (rest := (Decimal(str(self.high)) - Decimal(str(self.low))) % Decimal(str(step))):
            reached = Decimal(str(self.high)) - rest
            raise InputError(
                f"a step that divides high - low, with low={self.low:g}, high={self.high:g} and step={step:g}: "
                f"the last value is {reached.normalize():f}"
            )
        return self

    def extremes(self, key: str) -> list[dict[str, Any]]:
        """Return the ends of the leaf, each as values by dotted key."""
        return [{key: self.low}, {key: self.high}]

    def params(self, key: str, values: Mapping[str, Any], exhaustive: bool = False) -> dict[str, Any]:
        """Return the Optuna parameter that stands for `values[key]`. Raises KeyError."""
        return {key: values[key]}

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

    def count(self) -> int | None:
        """Return the number of values on the grid; None without a grid."""
        if self.step is None:
            return None if self.low < self.high else 1
        return 1 + round((self.high - self.low) / self.step)


class Int(Range):
    """A whole number between two bounds."""

    type: Literal["int"]
    low: int = Field(ge=-LARGEST_INT, le=LARGEST_INT)
    high: int = Field(ge=-LARGEST_INT, le=LARGEST_INT)
    step: PositiveInt = 1

    def suggest(self, trial: optuna.Trial, key: str, exhaustive: bool) -> dict[str, Any]:
        """Let the trial's sampler draw the value."""
        return {key: trial.suggest_int(key, self.low, self.high, log=self.log, step=self.step)}

    def count(self) -> int | None:
        """Return the number of values."""
        return 1 + (self.high - self.low) // self.step


class Categorical(Leaf):
    """One of a list of choices, each a scalar or a list of scalars. Optuna knows a list by its JSON."""

    type: Literal["categorical"]
    choices: Annotated[list[Any], Field(min_length=1), AfterValidator(lambda choices: _require_distinct(choices))]

    def suggest(self, trial: optuna.Trial, key: str, exhaustive: bool) -> dict[str, Any]:
        """Let the trial's sampler draw the choice."""
        labels = [_label(choice) for choice in self.choices]
        return {key: self.choices[labels.index(trial.suggest_categorical(key, labels))]}

    def params(self, key: str, values: Mapping[str, Any], exhaustive: bool = False) -> dict[str, Any]:
        """Return the Optuna parameter that stands for `values[key]`. Raises KeyError."""
        return {key: _label(values[key])}

    def count(self) -> int | None:
        """Return the number of choices."""
        return len(self.choices)

    def extremes(self, key: str) -> list[dict[str, Any]]:
        """Return every choice, as values by dotted key."""
        return [{key: choice} for choice in self.choices]

    def admits(self, value: Any) -> bool:
        """Return True if the leaf can have this value."""
        return value in self.choices


def _require_distinct(choices: list[Any]) -> list[Any]:
    """Return `choices`. Raises ValueError for one that is neither a scalar nor a list of scalars, and for a repetition.

    Equal numbers are a repetition, as 1, 1.0 and true: Optuna could not tell them apart.
    """
    for position, choice in enumerate(choices):
        for item in choice if isinstance(choice, list) else [choice]:
            if not isinstance(item, Scalar):
                raise ValueError(f"got {choice!r}, expected scalars, or lists of scalars")
            if isinstance(item, float) and not math.isfinite(item):
                raise ValueError(f"got {choice!r}, expected a finite number")
        labels = [_label(other) for other in choices[:position]]
        if _label(choice) in labels:
            raise ValueError(f"got {choice!r} twice, expected choices that differ (1, 1.0 and true are equal)")
    return choices


def _label(choice: Any) -> Scalar:
    """Return the choice as Optuna takes it: a list as its JSON."""
    return json.dumps(choice) if isinstance(choice, list) else choice
