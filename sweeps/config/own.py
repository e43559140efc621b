"""A sweep in a file of one's own, or from Python: a few keys, merged over the defaults of `configs/`.

    function: train:train          # module:name; or trainable: {_target_: net.Net, ...} with data: {_target_: ...}
    space: {lr: [1.0e-4, 1.0e-1, log]}
    gate: {val/accuracy: "> 0.95"}
    max_epochs: 20
    num_samples: 12

Every other key is one of the configuration's. A text under the name of a group, as `scheduler: none`, chooses its file.
"""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gatesweep.core.errors import InputError
from gatesweep.core.gate import Gate
from gatesweep.sweeps.config.compose import changed_values, composed_files, finished_config
from gatesweep.sweeps.config.faults import hydra_message, nearest_key
from gatesweep.sweeps.config.groups import MAIN, group_choices
from gatesweep.sweeps.config.overrides import (
    check_choice,
    check_choices,
    is_group_choice,
    parse_override,
    refuse_several_values,
)
from gatesweep.sweeps.config.recorded import load_yaml
from gatesweep.sweeps.config.schema import Config, GateConfig
from gatesweep.sweeps.config.short_space import dotted_key, expand_space
from gatesweep.sweeps.config.trust import trust_typed
from gatesweep.sweeps.config.values import flatten, set_values

SHORT = ("function", "space", "max_epochs")  # keys of an own file alone
SUFFIXES = (".yaml", ".yml")
OF_TRAINABLE = ("data", "gate", "search/space")  # groups that a trainable of gatesweep's chooses
RECORD_KEYS = {"trainable", "gate", "training", "search"}  # of the config.yaml of a record


def split_own_file(words: Sequence[str]) -> tuple[Path | None, list[str]]:
    """Split the words of a command into an own file, which is the first of them without `=`, and overrides."""
    files = [word for word in words if "=" not in word and word.endswith(SUFFIXES)]
    if len(files) > 1:
        raise InputError(f"got {' and '.join(files)}, expected one file")
    return (Path(files[0]) if files else None), [word for word in words if word not in files]


def read_own_file(path: Path) -> dict[str, Any]:
    """Read an own file; its folder is then where its modules are found, and the names in it are trusted.

    A file within a record is no file of one's own: it is read, but gives no trust. Raises InputError.
    """
    if not path.is_file():
        raise InputError(f"got {str(path)!r}, expected a YAML file of a sweep; `gatesweep init` writes one")
    load_yaml(path)  # for its messages
    try:
        node = OmegaConf.to_container(OmegaConf.load(path), resolve=False)  # it reads 1e-4 as a number
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise InputError(f"{path}: {hydra_message(error)}") from error
    if not isinstance(node, dict) or not node:
        raise InputError(f"{path}: got {type(node).__name__}, expected keys: function, space, gate, ...")
    values = normal_node({str(key): value for key, value in node.items()})
    if not _is_of_record(path):
        trust_typed(values)
        folder = str(path.resolve().parent)
        if folder not in sys.path:
            sys.path.insert(0, folder)
    return values


def normal_node(node: Mapping[str, Any]) -> dict[str, Any]:
    """Return an own sweep with its short keys in their long forms, but for `space`, whose leaves are whole.

    Raises InputError for an unknown key, and for what none can mean.
    """
    known = [*Config.model_fields, *SHORT, *group_choices()]
    for key in node:
        if key.partition(".")[0] not in known:
            nearest = nearest_key(key, [*known, "training.max_epochs"])
            hint = f"did you mean {nearest}?" if nearest else f"expected one of {', '.join(known)}"
            raise InputError(f"{key}: unknown key, {hint}")
    _refuse_two_spellings(node)
    values = set_values({}, {key: value for key, value in node.items() if key not in ("space", "gate")})
    if "space" in node:
        values["space"] = expand_space(node["space"])
    if "gate" in node:
        values["gate"] = _expand_gate(node["gate"])
    if "max_epochs" in values:
        values.setdefault("training", {})["max_epochs"] = values.pop("max_epochs")
    for key in ("trainable", "data"):
        if isinstance(values.get(key), str) and ":" in values[key]:
            values[key] = {"_target_": dotted_target(key, values[key])}
    if "function" in values:
        return _with_function(values, values.pop("function"))
    if isinstance(values.get("trainable"), dict):
        return {"data": {}, **values}
    if "trainable" not in values and values.get("experiment") is None:
        raise InputError("function: missing, expected module:name, e.g. function: train:train; or a trainable")
    return values


def typed_keys(node: Mapping[str, Any]) -> list[str]:
    """List the dotted keys of an own sweep that have one value: all but the leaves of its space."""
    return list(flatten({key: value for key, value in node.items() if key not in ("space", "function")}))


def _refuse_two_spellings(node: Mapping[str, Any]) -> None:
    """Raise InputError for a value that has two spellings, as `max_epochs` and `training: {max_epochs: 9}`."""
    spellings: dict[str, str] = {}
    for key, value in node.items():
        typed = list(flatten({key: value})) if isinstance(value, Mapping) and value else [key]
        for spelling in typed:
            long = _long_key(spelling)
            if other := spellings.get(long):
                raise InputError(f"{spelling}: got a value, and {other} is the same key: expected one of both")
            spellings[long] = spelling


def _long_key(spelling: str) -> str:
    """Return the key of the configuration that a key of an own sweep stands for."""
    root, _, rest = spelling.partition(".")
    if root == "max_epochs":
        return "training.max_epochs"
    if root == "gate" and rest and rest.partition(".")[0] not in GateConfig.model_fields:
        return f"gate.thresholds.{rest}"
    return f"space.{dotted_key(rest)}" if root == "space" and rest else spelling


def compose_own(node: Mapping[str, Any], overrides: Sequence[str] = ()) -> Config:
    """Compose the configuration of an own sweep, as `normal_node` returns it, and check it. Raises InputError."""
    values, parsed = dict(node), [parse_override(item) for item in overrides]
    short = [override for override in parsed if override.key_or_group.partition(".")[0] in SHORT]
    if {"max_epochs", "training.max_epochs"} <= {override.key_or_group for override in parsed}:
        raise InputError("training.max_epochs: got a value, and max_epochs is the same key: expected one of both")
    groups = [override for override in parsed if override not in short and is_group_choice(override)]
    check_choices(groups)
    for override in short:
        values = _with_short(values, override)
    choices = _take_choices(values) | {override.key_or_group: override.value() for override in groups}
    is_own = isinstance(values.get("trainable"), dict) and "trainable" not in choices
    defaults = {"training": "function"} if is_own and not values["data"] else {}
    base = _base({**defaults, **choices}, is_own)
    trust_typed(base)  # it is of files that the user has chosen
    search = {"space": values.pop("space")} if "space" in values else {}
    for key in ("trainable", "data", "gate"):
        base[key] = values.pop(key, base.get(key, {}))
    if isinstance(base["gate"], dict):
        base["gate"].setdefault("thresholds", {})  # an empty gate only ranks trials
    base = merge_values(base, values)
    base["search"] = {"space": {}, **base["search"]} | {name: set_values({}, leaves) for name, leaves in search.items()}
    rest = [override for override in parsed if override not in short and override not in groups]
    name = base["trainable"].get("_target_", "sweep").rpartition(".")[2]
    return finished_config(changed_values(OmegaConf.create(base), rest), re.sub(r"[^\w.-]", "-", name))


def _expand_gate(gate: Any) -> Any:
    """Return a gate in which every key that is no field of a gate is a metric with its threshold."""
    if isinstance(gate, Gate):
        return dataclasses.asdict(gate)
    if not isinstance(gate, Mapping):
        return gate  # the name of a file, or nothing that a check would let through
    fields = {key: value for key, value in gate.items() if key in GateConfig.model_fields}
    thresholds = {str(key): value for key, value in gate.items() if key not in fields}
    return {**fields, "thresholds": {**(fields.get("thresholds") or {}), **thresholds}}


def _with_function(values: dict[str, Any], function: Any) -> dict[str, Any]:
    """Return an own sweep whose trainable is a function. Raises InputError."""
    if values.get("data"):
        raise InputError(f"data: got {values['data']!r}, expected none: a function loads its own")
    fixed = values.get("trainable") or {}
    if not isinstance(fixed, dict) or "_target_" in fixed:
        expected = "expected the values that do not vary, or one of both"
        raise InputError(f"trainable: got {fixed!r} beside function, {expected}")
    return {**values, "trainable": {"_target_": dotted_target("function", function), **fixed}, "data": {}}


def dotted_target(key: str, target: Any) -> str:
    """Return `module:name` as module.name. Raises InputError."""
    if not isinstance(target, str) or not re.fullmatch(r"[\w.]+[:.]\w+", target):
        raise InputError(f"{key}: got {target!r}, expected module:name, e.g. train:train")
    return target.replace(":", ".")


def _with_short(values: dict[str, Any], override: Override) -> dict[str, Any]:
    """Apply an override of a short key. Raises InputError."""
    refuse_several_values(override)
    root, _, rest = override.key_or_group.partition(".")
    value = None if override.is_delete() else override.value()
    if root == "max_epochs":
        return merge_values(values, {"training": {"max_epochs": value}})
    if root == "function":
        kept = {key: item for key, item in values.items() if key not in ("trainable", "data")}
        fixed = {key: item for key, item in values.get("trainable", {}).items() if key != "_target_"}
        changed = _with_function({**kept, "trainable": fixed}, value)
        trust_typed(changed["trainable"])
        return changed
    leaves = dict(values.get("space", {}))
    if not rest:
        return {**values, "space": expand_space(value or {})}  # type: ignore[arg-type]
    if not override.is_delete():
        return {**values, "space": {**leaves, **expand_space({rest: value})}}
    if leaves.pop(dotted_key(rest), None) is None:
        raise InputError(f"~{override.key_or_group}: there is no such key to delete")
    return {**values, "space": leaves}


def _take_choices(values: dict[str, Any]) -> dict[str, Any]:
    """Take the choices of groups out of an own sweep. Raises InputError for a choice that there is not."""
    chosen = [key for key in values if key in group_choices() and isinstance(values[key], str | None)]
    for key in chosen:
        check_choice(parse_override(f"{key}={'null' if values[key] is None else values[key]}"))
    return {key: values.pop(key) for key in chosen}


def _base(choices: Mapping[str, Any], is_own: bool) -> dict[str, Any]:
    """Compose the files below an own sweep: the defaults, and the choices of groups."""
    lines = ["~trainable"] if is_own else []
    for key, value in choices.items():
        if value is not None:
            lines.append(f"{'+' if is_own and key in OF_TRAINABLE else ''}{key}={value}")
    try:
        return json.loads(json.dumps(composed_files(tuple(lines))[0]))
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(hydra_message(error)) from error


def merge_values(base: dict[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with `values` merged in; a node with a `_target_` replaces the one before it."""
    merged = dict(base)
    for key, value in values.items():
        before = merged.get(key)
        if isinstance(value, Mapping) and isinstance(before, dict) and "_target_" not in value:
            value = merge_values(before, value)
        merged[key] = value
    return merged


def _is_of_record(path: Path) -> bool:
    """Return True for a file in the folder of a record, or below it, which may have come from somebody else."""
    for folder in path.resolve().parents:
        if (file := folder / f"{MAIN}.yaml").is_file():
            content = load_yaml(file)
            if isinstance(content, dict) and content.keys() >= RECORD_KEYS:
                return True
    return False
