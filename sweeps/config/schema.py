"""The schema of a configuration: typed sections whose values are checked for type and range."""

from __future__ import annotations

import contextlib
import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self

import pydantic
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PlainValidator,
    PositiveFloat,
)

from gatesweep.core import schedule
from gatesweep.core.errors import InputError
from gatesweep.core.gate import Gate
from gatesweep.core.precision import Precision
from gatesweep.core.settings import EarlyStopping, Settings
from gatesweep.sweeps.config.faults import first_fault
from gatesweep.sweeps.config.functions import check_function, refuse_data, trains_function
from gatesweep.sweeps.config.rules import (
    MAX_THREADS,
    SEED_LIMIT,
    check_budget,
    check_decisions,
    check_gpus,
    check_place,
    check_places,
    check_rules,
    check_share,
    check_silence,
    check_text,
)
from gatesweep.sweeps.config.targets import accepted_arguments, check_arguments, check_data_type

PositiveInt = Annotated[int, Field(gt=0, lt=2**53)]  # what JSON and floats hold exactly
Folder = Annotated[str, AfterValidator(check_place)]
Name = Annotated[str, AfterValidator(check_text)]
CHECKPOINT_KEYS = ("keep_checkpoints", "checkpoint_every")  # of `training`; the core writes no checkpoints
RENAMED_KEYS = {  # "section.old": "new"; records of older versions have the old keys
    "resources.cpus": "cpus_per_worker",
    "resources.gpus": "gpus_per_worker",
    "training.watch": "log_grad_norm_every",
}


class Section(BaseModel):
    """A part of a configuration. It is immutable, and keeps values as they were typed: an int may stand for a float."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Make the section of plain `values` without a check of their types: `check_config` does that, once.

        Raises InputError for a key that is missing or unknown, and for a subsection that is not a mapping.
        """
        return cls._construct(values, "")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for YAML and JSON. Keys that were not set are left out."""
        return {
            name: value.to_dict() if isinstance(value, Section) else value
            for name, value in self
            if name in self.model_fields_set
        }

    def replace(self, **values: Any) -> Self:
        """Return a copy with other values of some keys. They are not checked."""
        return self.model_copy(update=values)

    @classmethod
    def _construct(cls, values: Mapping[str, Any], prefix: str) -> Self:
        """Make the section of `values`; `prefix` is its own key with a dot, for messages."""
        for name, field in cls.model_fields.items():
            if field.is_required() and name not in values:
                raise InputError(f"{prefix}{name}: missing")
        if unknown := [name for name in values if name not in cls.model_fields]:
            expected = f"expected one of {', '.join(cls.model_fields)}"
            raise InputError(f"{prefix}{unknown[0]}: unknown key, {expected}")
        fields = {name: cls._construct_field(name, value, prefix) for name, value in values.items()}
        return cls.model_construct(**fields)

    @classmethod
    def _construct_field(cls, name: str, value: Any, prefix: str) -> Any:
        """Return `value`, or the subsection that it holds."""
        annotation = cls.model_fields[name].annotation
        kinds = [annotation, *typing.get_args(annotation)]
        section = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)), None)
        is_null = value is None and annotation is not section
        if section is None or is_null or isinstance(value, section):
            return value
        if not isinstance(value, Mapping):
            raise InputError(f"{prefix}{name}: got {value!r}, expected keys: {', '.join(section.model_fields)}")
        return section._construct(value, f"{prefix}{name}.")


class GateConfig(Section):
    """The section `gate`: the fields of `core.gate.Gate`."""

    thresholds: dict[str, Any]
    objective: Name | None = None
    mode: Literal["min", "max"] = "max"
    bound: Literal["point", "wilson"] = "point"
    consecutive: PositiveInt = 1
    scales: dict[str, float] = {}
    baseline: dict[str, float] = {}
    shortfall: Literal["bounded", "linear"] = "bounded"


class ScheduleConfig(Section):
    """The section `training.schedule`: the learning rate over a run, as `core.schedule.schedule` takes it."""

    shape: schedule.Shape
    warmup: float
    floor: float
    steps: int = 3


class PatienceConfig(Section):
    """The section `training.patience`: the fields of `core.settings.EarlyStopping`."""

    metric: Name
    epochs: PositiveInt
    mode: Literal["min", "max"] = "min"
    min_delta: NonNegativeFloat = 0.0
    goal: float | None = None


class TrainingConfig(Section):
    """The section `training`: the fields of `core.settings.Settings`, and what becomes of checkpoints."""

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
    checkpoint_every: PositiveInt


class SearchConfig(Section):
    """The section `search`: the Optuna sampler, the search space and the sampler's objectives.

    `gate_after` counts epochs. `cost` is "epochs", "seconds" or a metric; the sampler minimises it beside the gate's
    objective.
    """

    sampler: dict[str, Any]
    space: dict[str, Any]
    gate_after: PositiveInt | None
    cost: Name | None


class ConfirmConfig(Section):
    """The section `confirm`: what is done once the search has ended, with the best trials that passed.

    The best `trials` run again on `seeds` fresh seeds each, on the same data or on fresh ones. The best `test` are
    evaluated on the test split.
    """

    seeds: int = Field(ge=0, le=1000)
    trials: PositiveInt
    data: Literal["same", "fresh"] = "same"
    test: int = Field(default=10, ge=0)


class ResourcesConfig(Section):
    """The section `resources`: processes, CPUs and GPUs of one trial, and its failures.

    CPUs may be fractions, GPUs only up to 1. `silence` counts seconds, `max_alike` trials.
    """

    workers: PositiveInt
    cpus_per_worker: Annotated[PositiveFloat, AfterValidator(check_share)]
    gpus_per_worker: Annotated[NonNegativeFloat, AfterValidator(check_gpus)]
    threads: int = Field(gt=0, le=MAX_THREADS)
    max_failures: int = Field(ge=0)
    silence: Annotated[PositiveFloat, AfterValidator(check_silence)] | Literal["auto"] | None
    max_alike: PositiveInt | None
    reuse_workers: bool
    stack: PositiveInt | Literal["auto"]


class TrackingConfig(Section):
    """The section `tracking`: the MLflow server, and the outcomes whose trials leave a logged model there."""

    uri: str | None
    experiment: Name
    models: list[Literal["passed", "finished", "stopped", "diverged", "failed"]]
    enabled: bool


class FiguresConfig(Section):
    """The section `figures`: kinds of figures (None: all), and the number of epochs between them (None: the end)."""

    kinds: list[str] | None
    every: PositiveInt | None


class Config(Section):
    """The whole configuration of a sweep, or of one run: the schema of `config.yaml`.

    `grace_period` counts epochs, `time_budget` seconds. `trainable`, `data` and `scheduler` have a `_target_`.
    """

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
    seed: int = Field(ge=0, lt=SEED_LIMIT - 2**53)
    num_samples: PositiveInt | None
    max_concurrent: PositiveInt | None
    stop_after_passes: PositiveInt | None
    grace_period: PositiveInt
    time_budget: Annotated[PositiveFloat, AfterValidator(check_budget)] | None
    confirm: ConfirmConfig
    results: Folder
    storage: Folder | None
    warm_start: Annotated[str | list[str], PlainValidator(check_places)] | None
    resume: str | None
    retry: Literal["failed"] | None = None
    logs: Literal["file", "screen"] = "file"


def check_config(values: Mapping[str, Any]) -> Config:
    """Check the plain values of a `config.yaml` and return them as a configuration.

    Raises InputError, in one line, for the first key that has not its type or range, or that does not suit the class
    which a `_target_` names.
    """
    try:
        Config.model_validate(values)
    except pydantic.ValidationError as error:
        raise InputError(first_fault(error, keys=_known_keys(values), renamed=RENAMED_KEYS)) from error
    config = Config.of(values)
    if trains_function(values):
        check_function(values)
    else:
        refuse_data(config.trainable, config.data)
        check_arguments("trainable", config.trainable)
        check_arguments("data", config.data)
        check_data_type(config.trainable, config.data)
    settings = make_settings(config)
    check_rules(settings.gate, config.training.max_epochs, config.data)
    patience = settings.patience.metric if settings.patience else None
    check_decisions(
        {"gate": settings.gate.reads, "training.patience.metric": [patience], "search.cost": [config.search.cost]}
    )
    return config


def make_gate(section: GateConfig) -> Gate:
    """Return the gate that a section describes. Raises InputError."""
    return Gate(**section.to_dict())


def make_settings(config: Config) -> Settings:
    """Return the settings of one run: the section `training`, and the gate. Raises InputError."""
    training = {name: value for name, value in config.training.to_dict().items() if name not in CHECKPOINT_KEYS}
    training["schedule"] = schedule.schedule(**training["schedule"])
    training["patience"] = EarlyStopping(**training["patience"]) if training["patience"] else None
    return Settings(gate=make_gate(config.gate), **training)


def _known_keys(values: Mapping[str, Any]) -> list[str]:
    """List the keys of the schema, and those that the classes of `trainable` and `data` in `values` take."""
    keys = list(_schema_keys(Config))
    for section in ("trainable", "data"):
        with contextlib.suppress(InputError, TypeError):  # no class, or none that can be imported
            keys += [f"{section}.{name}" for name in accepted_arguments(section, values[section])]
    return keys


def _schema_keys(section: type[Section], prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys of a section and of the sections within it."""
    for name, field in section.model_fields.items():
        yield f"{prefix}{name}"
        for kind in (field.annotation, *typing.get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, Section):
                yield from _schema_keys(kind, f"{prefix}{name}.")
