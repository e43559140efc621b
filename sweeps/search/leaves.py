"""Leaves of a search space: float, int and categorical."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import optuna
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from gatesweep.core.errors import InputError

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
            raise InputError(f"low <= high, with low={self.low:g} and high={self.high:g}")
        if self.log and self.low <= 0:
            raise InputError(f"low above 0 for log: true, with low={self.low:g}")
        if self.log and getattr(self, "step", None) not in (None, 1):
            raise InputError("either log: true or a step, not both")
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
