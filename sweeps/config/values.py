"""Configurations as values by dotted key, and as YAML."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import yaml

from gatesweep.core.errors import InputError
from gatesweep.sweeps.config.schema import Config
from gatesweep.sweeps.config.secrets import MARK, redact_values


def with_values(config: Config, values: Mapping[str, Any]) -> Config:
    """Return a copy of `config` with dotted keys set, e.g. {"trainable.lr": 0.001}. Values are not checked.

    Raises InputError for a key that the schema does not have.
    """
    return Config.of(set_values(config.to_dict(), values))


def set_values(nested: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of plain nested values with dotted keys set. A key that is not there is added."""
    changed: dict[str, Any] = json.loads(json.dumps(nested))
    for key, value in values.items():
        *path, last = key.split(".")
        node = changed
        for part in path:
            if not isinstance(node.get(part), dict):  # missing, or null as training.patience is by default
                node[part] = {}
            node = node[part]
        node[last] = value
    return changed


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested values by dotted key, each behind `prefix`. Empty mappings are left out."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def check_readable(config: Config) -> None:
    """Raise InputError where a value of the trainable or of its data is hidden, as secrets are in a record."""
    for key, value in flatten({"trainable": config.trainable, "data": config.data}).items():
        if MARK in str(value):
            raise InputError(
                f"{key}: hidden in the record, as secrets are; let the code read it from a variable of the environment"
            )


def to_yaml(config: Config) -> str:
    """Return the text of a `config.yaml`. Passwords and tokens in it are `***`.

    Sections that were written before come from a cache, because a sweep writes a file a trial.
    """
    values = redact_values(config.to_dict())
    return "".join(_section_yaml(key, json.dumps(value)) for key, value in values.items())


@lru_cache(maxsize=256)
def _section_yaml(key: str, value: str) -> str:
    """Return one top-level key as YAML; `value` is JSON."""
    return yaml.dump({key: json.loads(value)}, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper), sort_keys=False)
