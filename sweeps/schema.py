"""The schema of a configuration: every value is checked, and a fault names key, value and remedy in one line."""

from __future__ import annotations

import difflib
import inspect
import pkgutil
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pydantic
import yaml
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt

from gatesweep.core import schedule
from gatesweep.core.gate import Gate
from gatesweep.core.loop import Patience, Settings
from gatesweep.core.precision import Precision


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class GateConfig(Strict):
    thresholds: dict[str, str]
    objective: str | None
    mode: Literal["min", "max"]
    bound: Literal["point", "wilson"]
    consecutive: PositiveInt
    scales: dict[str, float]


class ScheduleConfig(Strict):
    shape: schedule.Shape
    warmup: float
    floor: float


class PatienceConfig(Strict):
    metric: str
    epochs: PositiveInt
    mode: Literal["min", "max"] = "min"
    min_delta: NonNegativeFloat = 0.0
    goal: float | None = None


class TrainingConfig(Strict):
    max_epochs: PositiveInt
    precision: Precision
    clip_norm: PositiveFloat | None
    accumulate: PositiveInt
    schedule: ScheduleConfig
    patience: PatienceConfig | None
    watch: PositiveInt | None
    compile: bool
    activation_checkpointing: bool
    system_metrics: bool
    keep_checkpoints: PositiveInt


class SearchConfig(Strict):
    sampler: dict[str, Any]
    space: dict[str, Any]
    gate_after: PositiveInt | None
    cost: str | None


class ConfirmConfig(Strict):
    seeds: int = Field(ge=0)
    trials: PositiveInt


class ResourcesConfig(Strict):
    workers: PositiveInt
    cpus_per_worker: PositiveFloat
    gpus_per_worker: NonNegativeFloat
    threads: PositiveInt
    max_failures: int = Field(ge=0)
    reuse_workers: bool
    stack: PositiveInt | Literal["auto"]


class TrackingConfig(Strict):
    uri: str | None
    experiment: str
    models: list[Literal["passed", "finished", "stopped", "diverged", "failed"]]
    enabled: bool


class FiguresConfig(Strict):
    kinds: list[str] | None
    every: PositiveInt | None


class Config(Strict):
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


# Records are older than some keys.
RENAMED = {"resources.cpus": "cpus_per_worker", "resources.gpus": "gpus_per_worker"}
OLDER: dict[str, dict[str, Any]] = {
    "resources": {"workers": 1, "reuse_workers": True, "stack": 1},
    "search": {"gate_after": 1, "cost": None},
    "confirm": {"seeds": 0, "trials": 1},
    "training": {"watch": None, "system_metrics": False},
    "tracking": {"models": ["passed"]},
}


def read_config(path: Path) -> dict[str, Any]:
    """What a `config.yaml` holds, in today's keys, with what was so before there was one."""
    config = {"storage": None, "warm_start": None, **(yaml.safe_load(path.read_text()) or {})}
    for part, then in OLDER.items():
        now = {RENAMED.get(f"{part}.{key}", key): value for key, value in config.get(part, {}).items()}
        config[part] = {**then, **now}
    return _renamed_targets(config)


def _renamed_targets(node: Any) -> Any:
    """`node` with each `_target_` under today's name."""
    if not isinstance(node, dict):
        return node
    renamed = {key: _renamed_targets(value) for key, value in node.items()}
    target = renamed.get("_target_")
    if isinstance(target, str) and target.startswith(("trainables.", "sweeps.")):
        renamed["_target_"] = f"gatesweep.{target}"
    return renamed


def check(config: Any) -> dict[str, Any]:
    """`config` itself, if every value has its type and range; else ValueError names the key, value and remedy."""
    try:
        Config.model_validate(config)
    except pydantic.ValidationError as error:
        raise ValueError(first_fault(error)) from error
    for key in ("trainable", "data"):
        check_arguments(key, config[key])
    check_pair(config["trainable"], config["data"])
    make_settings(config)
    return config


def check_pair(trainable: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    """Raise ValueError where the data are not of the class that the trainable's constructor asks for."""
    wanted = typing.get_type_hints(locate("trainable", trainable).__init__).get("data", Any)
    found = locate("data", data)
    vague = wanted is Any or getattr(wanted, "_is_protocol", False)  # Any is a class, for inspect
    if vague or not (inspect.isclass(wanted) and inspect.isclass(found)):
        return
    if not issubclass(found, wanted):
        expected = f"{wanted.__name__}: {trainable['_target_']} trains on it"
        raise ValueError(f"data._target_: got {data['_target_']!r}, expected {expected}")


def check_arguments(key: str, node: Mapping[str, Any]) -> None:
    """Check a `_target_` node against the signature of what it names."""
    accepted = arguments(key, node)
    for name, value in node.items():
        if name == "_target_":
            continue
        if name not in accepted:
            raise ValueError(f"{key}.{name}: unknown key, expected one of {', '.join(sorted(accepted))}")
        try:
            pydantic.TypeAdapter(accepted[name], config=ConfigDict(strict=True)).validate_python(value)
        except pydantic.ValidationError as error:
            raise ValueError(first_fault(error, f"{key}.{name}")) from error


def arguments(key: str, node: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments, and their types, of what a `_target_` node names.

    A constructor that takes `**fields` hands them on, so those of the class above it are accepted too.
    """
    target = locate(key, node)
    classes = inspect.getmro(target) if inspect.isclass(target) else ()
    accepted: dict[str, Any] = {}
    for function in [vars(one)["__init__"] for one in classes if "__init__" in vars(one)] or [target]:
        hints = typing.get_type_hints(function)
        parameters = inspect.signature(function).parameters.values()
        named = {one.name: hints.get(one.name, Any) for one in parameters if one.kind is one.KEYWORD_ONLY}
        accepted = named | accepted
        if not any(one.kind is one.VAR_KEYWORD for one in parameters):
            break
    return accepted


def locate(key: str, node: Mapping[str, Any]) -> Any:
    if "_target_" not in node:
        raise ValueError(
            f"{key}._target_: missing, expected the dotted name of a class, e.g. {key}=<file in configs/{key}/>"
        )
    try:
        return pkgutil.resolve_name(node["_target_"])
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{key}._target_: cannot import {node['_target_']!r} ({error})") from error


def make_gate(config: Mapping[str, Any]) -> Gate:
    return Gate(**config["gate"])


def make_settings(config: Mapping[str, Any]) -> Settings:
    training = {name: value for name, value in config["training"].items() if name != "keep_checkpoints"}
    training["schedule"] = schedule.schedule(**training["schedule"])
    training["patience"] = Patience(**training["patience"]) if training["patience"] else None
    return Settings(gate=make_gate(config), **training)


def first_fault(error: pydantic.ValidationError, prefix: str = "") -> str:
    fault = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in fault["loc"] if not str(part).startswith(("constrained-", "function-")))
    key = ".".join(part for part in (prefix, where) if part)
    if fault["type"] == "extra_forbidden":
        return f"{key}: unknown key{_nearest(key)}"
    if fault["type"] == "missing":
        return f"{key}: missing"
    expected = fault["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    return f"{key}: got {fault['input']!r}, expected {expected}"


def _nearest(key: str) -> str:
    """The known key that looks most like an unknown one."""
    known = [*Config.model_fields, *(f"training.{name}" for name in TrainingConfig.model_fields)]
    found = difflib.get_close_matches(key, known, n=1)
    return f", did you mean {found[0]}?" if found else ", expected one of those that --cfg prints"
