"""The schema of a configuration: typed sections, each value checked for type and range."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import Any, Literal, Self

import pydantic
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt

from gatesweep.core import schedule
from gatesweep.core.errors import InputError
from gatesweep.core.gate import Gate
from gatesweep.core.precision import Precision
from gatesweep.core.settings import EarlyStopping, Settings
from gatesweep.sweeps.config.faults import first_fault
from gatesweep.sweeps.config.targets import check_arguments, check_data_type

RENAMED_KEYS = {  # "section.old": "new", as older records spell them
    "resources.cpus": "cpus_per_worker",
    "resources.gpus": "gpus_per_worker",
    "training.watch": "log_grad_norm_every",
}


class Section(BaseModel):
    """A part of a configuration: immutable, with the values as they were typed (an integer may stand for a float)."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Take `values` as they are: `check_config` has checked them, or a record holds them.

        Raises InputError for a key that is missing or unknown.
        """
        for name, field in cls.model_fields.items():
            if field.is_required() and name not in values:
                raise InputError(f"{name}: missing in {cls.__name__}")
        if unknown := [name for name in values if name not in cls.model_fields]:
            raise InputError(f"{unknown[0]}: unknown key of {cls.__name__}")
        return cls.model_construct(**{name: cls._section(name, value) for name, value in values.items()})

    def to_dict(self) -> dict[str, Any]:
        """Plain values for YAML and JSON; what was left to its default stays left out."""
        return {
            name: value.to_dict() if isinstance(value, Section) else value
            for name, value in self
            if name in self.model_fields_set
        }

    def replace(self, **values: Any) -> Self:
        """A copy with other values of some keys."""
        return self.model_copy(update=values)

    @classmethod
    def _section(cls, name: str, value: Any) -> Any:
        kinds = [cls.model_fields[name].annotation, *typing.get_args(cls.model_fields[name].annotation)]
        section = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)), None)
        return section.of(value) if section and isinstance(value, Mapping) else value


class GateConfig(Section):
    thresholds: dict[str, str]
    objective: str | None = None
    mode: Literal["min", "max"] = "max"
    bound: Literal["point", "wilson"] = "point"
    consecutive: PositiveInt = 1
    scales: dict[str, float] = {}


class ScheduleConfig(Section):
    shape: schedule.Shape
    warmup: float
    floor: float


class PatienceConfig(Section):
    metric: str
    epochs: PositiveInt
    mode: Literal["min", "max"] = "min"
    min_delta: NonNegativeFloat = 0.0
    goal: float | None = None


class TrainingConfig(Section):
    max_epochs: PositiveInt
    precision: Precision
    clip_norm: PositiveFloat | None
    accumulate: PositiveInt
    schedule: ScheduleConfig
    patience: PatienceConfig | None
    log_grad_norm_every: PositiveInt | None
    compile: bool
    activation_checkpointing: bool
    system_metrics: bool
    keep_checkpoints: PositiveInt


class SearchConfig(Section):
    sampler: dict[str, Any]
    space: dict[str, Any]
    gate_after: PositiveInt | None
    cost: str | None


class ConfirmConfig(Section):
    seeds: int = Field(ge=0)
    trials: PositiveInt


class ResourcesConfig(Section):
    workers: PositiveInt
    cpus_per_worker: PositiveFloat
    gpus_per_worker: NonNegativeFloat
    threads: PositiveInt
    max_failures: int = Field(ge=0)
    reuse_workers: bool
    stack: PositiveInt | Literal["auto"]


class TrackingConfig(Section):
    uri: str | None
    experiment: str
    models: list[Literal["passed", "finished", "stopped", "diverged", "failed"]]
    enabled: bool


class FiguresConfig(Section):
    kinds: list[str] | None
    every: PositiveInt | None


class Config(Section):
    """A sweep, or one run of it, whole: the schema of `config.yaml`."""

    name: str
    trainable: dict[str, Any]
    data: dict[str, Any]
    gate: GateConfig
    training: TrainingConfig
    search: SearchConfig
    scheduler: dict[str, Any]
    resources: ResourcesConfig
    tracking: TrackingConfig
    figures: FiguresConfig
    device: str
    seed: int = Field(ge=0)
    num_samples: PositiveInt | None
    max_concurrent: PositiveInt | None
    stop_after_passes: PositiveInt | None
    grace_period: PositiveInt
    time_budget: PositiveFloat | None
    confirm: ConfirmConfig
    results: str
    storage: str | None
    warm_start: str | list[str] | None
    resume: str | None


SECTIONS: dict[str, type[Section]] = {
    name: section
    for name, field in Config.model_fields.items()
    for section in (field.annotation,)
    if isinstance(section, type) and issubclass(section, Section)
}


def check_config(values: Mapping[str, Any]) -> Config:
    """The configuration that `values` hold, as `config.yaml` nests them.

    Raises InputError, in one line, that names the first key whose value has not its type or range, or does not suit the
    class that a `_target_` names.
    """
    try:
        Config.model_validate(values)
    except pydantic.ValidationError as error:
        raise InputError(first_fault(error, keys=_known_keys(), renamed=RENAMED_KEYS)) from error
    for key in ("trainable", "data"):
        check_arguments(key, values[key])
    check_data_type(values["trainable"], values["data"])
    config = Config.of(values)
    make_settings(config)
    return config


def make_gate(section: GateConfig) -> Gate:
    """The gate that a configuration's section describes. Raises InputError."""
    return Gate(**section.to_dict())


def make_settings(config: Config) -> Settings:
    """The settings of one run: the section `training`, and the gate. Raises InputError."""
    training = {name: value for name, value in config.training.to_dict().items() if name != "keep_checkpoints"}
    training["schedule"] = schedule.schedule(**training["schedule"])
    training["patience"] = EarlyStopping(**training["patience"]) if training["patience"] else None
    return Settings(gate=make_gate(config.gate), **training)


def _known_keys() -> list[str]:
    sections = (f"{name}.{key}" for name, section in SECTIONS.items() for key in section.model_fields)
    return [*Config.model_fields, *sections]
