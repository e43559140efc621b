"""Configurations that older versions recorded, read under today's keys and names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from yaml.reader import ReaderError

from gatesweep.core.errors import InputError
from gatesweep.sweeps.config.schema import RENAMED_KEYS, Config
from gatesweep.sweeps.config.trust import recall_record

MOVED_TARGETS = {
    "gatesweep.sweeps.scheduler.GateASHA": "gatesweep.sweeps.schedulers.asha.GateASHA",
    "gatesweep.sweeps.scheduler.Population": "gatesweep.sweeps.schedulers.pbt.Population",
}
OLDER_DEFAULTS: dict[str, dict[str, Any]] = {  # by section, the behaviour of versions that did not have the key
    "resources": {"workers": 1, "reuse_workers": True, "stack": 1, "silence": None, "max_alike": None},
    "search": {"gate_after": 1, "cost": None},
    "confirm": {"seeds": 0, "trials": 1, "data": "same", "test": 10},
    "training": {"log_grad_norm_every": None, "system_metrics": False, "checkpoint_every": 1},
    "tracking": {"models": ["passed"]},
}


def read_config(path: Path) -> Config:
    """Read the configuration in a `config.yaml` of any version. Its targets are neither imported nor checked.

    Raises InputError, which names the file, where it is not a configuration, and OSError.
    """
    values = read_values(path)
    try:
        return Config.of(values)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def read_values(path: Path) -> dict[str, Any]:
    """Read the values in a `config.yaml` under today's keys and names.

    A key that is younger than the file has the value that was in force then. The names in the record are trusted where
    this machine has made it. Raises InputError, which names file and line, where the file is not YAML or not a mapping,
    and OSError.
    """
    values = load_yaml(path)
    if not isinstance(values, dict):
        raise InputError(f"{path}: got {type(values).__name__}, expected a configuration")
    values = {"storage": None, "warm_start": None, **values}
    for section, defaults in OLDER_DEFAULTS.items():
        recorded = values.get(section) or {}
        if not isinstance(recorded, dict):
            raise InputError(f"{path}: {section}: got {recorded!r}, expected keys")
        values[section] = {**defaults, **{RENAMED_KEYS.get(f"{section}.{key}", key): recorded[key] for key in recorded}}
    if isinstance(gate := values.get("gate"), dict):
        values["gate"] = {"shortfall": "linear", **gate}
    values = _rename_targets(values)
    for folder in (path.parent, path.parent.parent):  # a run's own folder, or that of the trial's sweep
        recall_record(folder, values)
    return values


def load_yaml(path: Path) -> Any:
    """Load a YAML file. Raises InputError with the line of the damage."""
    content = path.read_bytes()
    try:
        return yaml.load(content.decode(), Loader=_Loader)
    except UnicodeDecodeError as error:
        line, fault = content[: error.start].count(b"\n") + 1, str(error.reason)
    except ReaderError as error:  # a character that YAML does not allow; `position` counts characters
        line, fault = content.decode()[: error.position].count("\n") + 1, str(error.reason)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, fault = mark.line + 1 if mark else 1, str(error.problem or error.context)
    except RecursionError as error:
        raise InputError(f"{path}: expected YAML (it is nested too deeply)") from error
    except ValueError as error:  # a date that does not exist
        raise InputError(f"{path}: expected YAML ({error})") from error
    lines = content.split(b"\n")
    start = lines[min(line, len(lines)) - 1][:40].decode(errors="replace")
    raise InputError(f"{path}, line {line}: got {start!r}, expected YAML ({fault})")


class _Loader(yaml.SafeLoader):
    """A loader that refuses a key which a mapping has twice: YAML itself lets the last one win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(None, None, f"the key {key.value!r} twice", key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else "")
        return super().construct_mapping(node, deep)


def _rename_targets(node: Any) -> Any:
    """Return a copy of nested mappings with each `_target_` under today's name."""
    if not isinstance(node, dict):
        return node
    renamed = {key: _rename_targets(value) for key, value in node.items()}
    if isinstance(target := renamed.get("_target_"), str):
        module, _, name = target.rpartition(".")
        module = f"gatesweep.{module}" if module.startswith(("trainables.", "sweeps.")) else module
        renamed["_target_"] = MOVED_TARGETS.get(f"{module}.{name}", f"{module}.{name}")
    return renamed
