"""Configurations that older versions recorded, read under today's keys and names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from gatesweep.core.errors import InputError
from gatesweep.sweeps.config.schema import RENAMED_KEYS, Config

MOVED_TARGETS = {
    "gatesweep.sweeps.scheduler.GateASHA": "gatesweep.sweeps.schedulers.asha.GateASHA",
    "gatesweep.sweeps.scheduler.Population": "gatesweep.sweeps.schedulers.pbt.Population",
}
OLDER_DEFAULTS: dict[str, dict[str, Any]] = {
    "resources": {"workers": 1, "reuse_workers": True, "stack": 1},
    "search": {"gate_after": 1, "cost": None},
    "confirm": {"seeds": 0, "trials": 1},
    "training": {"log_grad_norm_every": None, "system_metrics": False},
    "tracking": {"models": ["passed"]},
}


def read_config(path: Path) -> Config:
    """The configuration in a `config.yaml`, of whatever age. Its targets are neither imported nor checked.

    Raises InputError for a file that is no configuration.
    """
    return Config.of(read_values(path))


def read_values(path: Path) -> dict[str, Any]:
    """The values in a `config.yaml` under today's keys and names; a key that is younger than the file has the value
    that was then in force.

    Raises InputError where the file is not YAML, or not a mapping.
    """
    try:
        values = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: got {type(values).__name__}, expected a configuration")
    values = {"storage": None, "warm_start": None, **values}
    for section, defaults in OLDER_DEFAULTS.items():
        recorded = values.get(section) or {}
        values[section] = {**defaults, **{RENAMED_KEYS.get(f"{section}.{key}", key): recorded[key] for key in recorded}}
    return _renamed_targets(values)


def _renamed_targets(node: Any) -> Any:
    """`node` with each `_target_` under today's name."""
    if not isinstance(node, dict):
        return node
    renamed = {key: _renamed_targets(value) for key, value in node.items()}
    if isinstance(target := renamed.get("_target_"), str):
        module, _, name = target.rpartition(".")
        module = f"gatesweep.{module}" if module.startswith(("trainables.", "sweeps.")) else module
        renamed["_target_"] = MOVED_TARGETS.get(f"{module}.{name}", f"{module}.{name}")
    return renamed
