"""The folder of configuration files: its groups, their choices, and what a default sweep consists of.

Everything here reads the YAML files as they are, without Hydra: `--help` must not wait for an import of it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
NO_GROUPS = ("cluster",)  # files of Ray's launcher and of batch systems
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Key:
    """A dotted key of the configuration, its default value, and the comment of the file that introduces it."""

    name: str
    value: Any
    comment: str = ""


@dataclass(frozen=True)
class ConfigFile:
    """One YAML file: its first comment, its list of defaults, and its keys under their dotted names.

    `defaults` holds (group, choice or None, True where it overrides); the file's own place is ("_self_", None, False).
    """

    heading: str
    defaults: list[tuple[str, str | None, bool]]
    keys: list[Key]
    comments: dict[str, str] = field(default_factory=dict)  # of the entries of `defaults`, by group


def group_choices() -> dict[str, list[str]]:
    """The configuration groups, e.g. `search/space`, and the names of the files in each, sorted."""
    folders = sorted(path for path in CONFIGS.glob("*/**/") if path.relative_to(CONFIGS).parts[0] not in NO_GROUPS)
    choices = {
        str(folder.relative_to(CONFIGS)): sorted(path.stem for path in folder.glob("*.yaml")) for folder in folders
    }
    return {group: names for group, names in choices.items() if names}


def default_choices() -> dict[str, str]:
    """The choice of each group that a default sweep makes; for other groups that of a trainable which asks for them."""
    chosen = {group: choice for group, choice in _default_files() if group}
    for path in sorted((CONFIGS / "trainable").glob("*.yaml")):
        for group, choice, _ in read_config_file("trainable", path.stem).defaults:
            if choice:
                chosen.setdefault(group, choice)
    return chosen


def default_keys() -> list[Key]:
    """Every key of a default sweep with its value, as `--cfg` prints them, in the order of the files."""
    keys: dict[str, Key] = {}
    for group, choice in _default_files():
        for key in read_config_file(group, choice).keys:
            earlier = keys.get(key.name)
            comment = earlier.comment if earlier and earlier.comment else key.comment
            keys[key.name] = Key(key.name, key.value, comment)
    choices = default_choices()
    keys["name"] = Key("name", choices.get("experiment", choices["trainable"]), keys["name"].comment)
    keys["data.seed"] = Key("data.seed", keys["seed"].value, "of the data; by default `seed`")
    values = {name: key.value for name, key in keys.items()}
    return [Key(key.name, _resolved(key.value, values), key.comment) for key in keys.values()]


@cache
def read_config_file(group: str, choice: str) -> ConfigFile:
    """Read one file of a group; the group "" holds `config.yaml`. Raises OSError and yaml.YAMLError."""
    text = (CONFIGS / group / f"{choice}.yaml").read_text()
    lines = text.splitlines()
    remarks = [line.removeprefix("#").strip() for line in lines if line.startswith("#")]
    heading = next((one for one in remarks if not one.startswith(("@package", "python ", "gatesweep "))), "")
    package = "" if not group or "@package _global_" in remarks else group.replace("/", ".")
    root = yaml.compose(text, Loader=LOADER)
    values = yaml.load(text, Loader=LOADER) or {}
    entries = [_default(entry) for entry in values.pop("defaults", [])]
    comments, keys = {}, []
    if isinstance(root, yaml.MappingNode):
        listed: list[yaml.Node] = next((value.value for key, value in root.value if key.value == "defaults"), [])
        marks = [node.value[0][1] if isinstance(node, yaml.MappingNode) else node for node in listed]
        comments = {entry[0]: _remark(lines, mark) for entry, mark in zip(entries, marks, strict=True)}
        keys = list(_keys(values, root, lines, f"{package}." if package else ""))
    if not any(entry[0] == "_self_" for entry in entries):
        entries.append(("_self_", None, False))
    return ConfigFile(heading, entries, keys, comments)


def _default_files() -> list[tuple[str, str]]:
    """The files of a default sweep, as Hydra merges them: (group, choice)."""
    main = read_config_file("", "config").defaults
    choices = {group: choice for group, choice, _ in main if choice}
    experiment = choices["trainable"] if (CONFIGS / "experiment" / f"{choices['trainable']}.yaml").exists() else None
    replaced = {}
    if experiment:
        replaced = {group: choice for group, choice, is_override in _defaults("experiment", experiment) if is_override}
    files: list[tuple[str, str]] = []

    def add(group: str, choice: str) -> None:
        for inner, name, is_override in _defaults(group, choice):
            if inner == "_self_":
                files.append((group, choice))
            elif not is_override:
                add(inner, replaced.get(inner) or name or "")

    for group, choice, _ in main:
        if group == "_self_":
            files.append(("", "config"))
        elif group == "experiment" and (choice or experiment):
            add("experiment", choice or experiment or "")
        elif choice:
            add(group, replaced.get(group) or choice)
    return files


def _defaults(group: str, choice: str) -> list[tuple[str, str | None, bool]]:
    return read_config_file(group, choice).defaults


def _default(entry: Any) -> tuple[str, str | None, bool]:
    """An entry of a list of defaults: `_self_`, `search: tpe`, `/data: events` or `override /gate: walks_strict`."""
    if isinstance(entry, str):
        return entry, None, False
    [(group, choice)] = entry.items()
    return group.removeprefix("override ").strip().lstrip("/"), choice, group.startswith("override ")


def _keys(values: Mapping[str, Any], node: yaml.MappingNode, lines: list[str], prefix: str) -> Iterator[Key]:
    """The keys of a mapping and of those within it, each with the comment that ends its line."""
    nodes = {key.value: value for key, value in node.value}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _keys(value, nodes[name], lines, f"{prefix}{name}.")
        else:
            yield Key(f"{prefix}{name}", value, _remark(lines, nodes[name]))


def _remark(lines: list[str], value: yaml.Node) -> str:
    """The comment behind a value, on the line where it ends."""
    rest = lines[value.end_mark.line][value.end_mark.column :] if value.end_mark.line < len(lines) else ""
    match = re.fullmatch(r"[\s}\]]*#\s*(.*)", rest)
    return match[1].strip() if match else ""


def _resolved(value: Any, values: Mapping[str, Any]) -> Any:
    """A value with `${another.key}` and `${oc.env:NAME,default}` looked up."""
    if not isinstance(value, str):
        return value
    if match := re.fullmatch(r"\$\{oc\.env:(\w+),(.*)\}", value):
        return yaml.load(os.environ.get(match[1], match[2]), Loader=LOADER)
    if match := re.fullmatch(r"\$\{([\w.]+)\}", value):
        return _resolved(values[match[1]], values)
    return value
