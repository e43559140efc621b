"""The folder of configuration files: its groups, their choices, and the keys of a default sweep.

This module reads the YAML files without Hydra, because `--help` must not wait for the import of Hydra.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from gatesweep.core.errors import InputError

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
MAIN = "config"  # the name of the file that lists the defaults: the table of contents
NO_GROUPS = ("cluster",)  # folders that hold files of Ray's launcher and of batch systems
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
Default = tuple[str, str | None, bool]  # an entry of a list of defaults: group, choice, True where it overrides


@dataclass(frozen=True)
class Key:
    """A dotted key of the configuration, its default value, and the comment of the file that introduces it."""

    name: str
    value: Any
    comment: str = ""


@dataclass(frozen=True)
class ConfigFile:
    """One YAML file: its first comment, its list of defaults, and its keys under their dotted names.

    The entry ("_self_", None, False) of `defaults` is the place of the file's own keys.
    """

    heading: str
    defaults: list[Default]
    keys: list[Key]
    comments: dict[str, str] = field(default_factory=dict)  # the comments in the list of defaults, by group


_own_folders: list[Path] = []


def add_config_folder(folder: Path) -> None:
    """Take the groups in a folder of the user's beside those of `configs/`.

    Raises InputError where it is none, or where a file has the name of one that there is.
    """
    if not folder.is_dir():
        raise InputError(f"--config-dir: got {str(folder)!r}, expected a folder of groups: experiment, gate, ...")
    for path in sorted(folder.resolve().glob("*/**/*.yaml")):
        name = path.relative_to(folder.resolve())
        if (CONFIGS / name).exists():
            raise InputError(f"--config-dir: got {str(path)!r}, but gatesweep has {name} itself: give it another name")
    if folder.resolve() not in _own_folders:
        _own_folders.append(folder.resolve())
    group_choices.cache_clear()
    read_config_file.cache_clear()


def config_folders() -> list[Path]:
    """Return the folders of groups: `configs/`, and those of the user."""
    return [CONFIGS, *_own_folders]


def config_path(group: str, choice: str) -> Path:
    """Return the file of a choice; it may not exist."""
    paths = [folder / group / f"{choice}.yaml" for folder in config_folders()]
    return next((path for path in paths if path.exists()), paths[0])


@cache
def group_choices() -> dict[str, list[str]]:
    """Return the configuration groups, e.g. `search/space`, and the sorted names of the files in each."""
    choices: dict[str, list[str]] = {}
    for root in config_folders():
        for path in root.glob("*/**/*.yaml"):
            group = str(path.parent.relative_to(root))
            if group.partition("/")[0] not in NO_GROUPS:
                choices.setdefault(group, []).append(path.stem)
    return {group: sorted(choices[group]) for group in sorted(choices)}


def typed_choices(words: Sequence[str]) -> dict[str, str]:
    """Return the choices of groups among the words of a command, `experiment=mlp`; others are left to Hydra."""
    pairs = [word.partition("=")[::2] for word in words]
    return {group: choice for group, choice in pairs if choice in group_choices().get(group, [])}


def default_choices(typed: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the choice of each group in a default sweep, or in that of the `typed` choices.

    A group that a default sweep does not use has the choice of the first trainable that uses it.
    """
    choices = {group: choice for group, choice in _default_files(typed) if group}
    for path in sorted((CONFIGS / "trainable").glob("*.yaml")):
        for group, choice, _ in read_config_file("trainable", path.stem).defaults:
            if choice:
                choices.setdefault(group, choice)
    return choices


def default_keys(typed: Mapping[str, str] | None = None) -> list[Key]:
    """Return every key of a default sweep, or of one with `typed` choices, with the values that `--cfg` prints.

    They stand in the order of the files.
    """
    keys: dict[str, Key] = {}
    for group, choice in _default_files(typed):
        for key in read_config_file(group, choice).keys:
            earlier = keys.get(key.name)
            comment = earlier.comment if earlier and earlier.comment else key.comment
            keys[key.name] = Key(key.name, key.value, comment)
    choices = default_choices(typed)
    keys["name"] = Key("name", choices.get("experiment", choices["trainable"]), keys["name"].comment)
    keys["data.seed"] = Key("data.seed", keys["seed"].value, "of the data; by default `seed`")
    values = {name: key.value for name, key in keys.items()}
    return [Key(key.name, _resolve(key.value, values), key.comment) for key in keys.values()]


@cache
def read_config_file(group: str, choice: str) -> ConfigFile:
    """Read one file of a group; the group "" holds `config.yaml`. Raises OSError and yaml.YAMLError."""
    text = config_path(group, choice).read_text()
    lines = text.splitlines()
    remarks = [line.removeprefix("#").strip() for line in lines if line.startswith("#")]
    headings = [remark for remark in remarks if not remark.startswith(("@package", "python ", "gatesweep "))]
    placed = next((remark.partition(" ")[2] for remark in remarks if remark.startswith("@package ")), None)
    package = (placed or group.replace("/", ".")).removeprefix("_global_")
    root = yaml.compose(text, Loader=LOADER)
    values = yaml.load(text, Loader=LOADER) or {}
    entries = [_parse_default(entry) for entry in values.pop("defaults", [])]
    comments, keys = {}, []
    if isinstance(root, yaml.MappingNode):
        entry_nodes: list[yaml.Node] = next((value.value for key, value in root.value if key.value == "defaults"), [])
        ends = [node.value[0][1] if isinstance(node, yaml.MappingNode) else node for node in entry_nodes]
        comments = {entry[0]: _end_comment(lines, end) for entry, end in zip(entries, ends, strict=True)}
        keys = list(_iterate_keys(values, root, lines, f"{package}." if package else ""))
    if not any(entry[0] == "_self_" for entry in entries):
        entries.append(("_self_", None, False))
    return ConfigFile(headings[0] if headings else "", entries, keys, comments)


def _default_files(typed: Mapping[str, str] | None = None) -> list[tuple[str, str]]:
    """List the files of a default sweep, or of one with `typed` choices, as Hydra merges them: (group, choice)."""
    typed, main = typed or {}, read_config_file("", MAIN).defaults
    choices = {group: choice for group, choice, _ in main if choice} | dict(typed)
    named = choices["trainable"] if (CONFIGS / "experiment" / f"{choices['trainable']}.yaml").exists() else None
    experiment = typed.get("experiment") or named
    replaced = {}
    if experiment:
        entries = read_config_file("experiment", experiment).defaults
        replaced = {group: choice for group, choice, is_override in entries if is_override}
    replaced |= typed
    files: list[tuple[str, str]] = []

    def add(group: str, choice: str) -> None:
        for inner, name, is_override in read_config_file(group, choice).defaults:
            if inner == "_self_":
                files.append((group, choice))
            elif not is_override:
                add(inner, replaced.get(inner) or name or "")

    for group, choice, _ in main:
        if group == "_self_":
            files.append(("", MAIN))
        elif group == "experiment" and (choice or experiment):
            add("experiment", choice or experiment or "")
        elif choice:
            add(group, replaced.get(group) or choice)
    return files


def _parse_default(entry: Any) -> Default:
    """Parse an entry of a list of defaults: `_self_`, `search: tpe`, `/data: events`, `override /gate: strict`."""
    if isinstance(entry, str):
        return entry, None, False
    [(group, choice)] = entry.items()
    return group.removeprefix("override ").strip().lstrip("/"), choice, group.startswith("override ")


def _iterate_keys(values: Mapping[str, Any], node: yaml.MappingNode, lines: list[str], prefix: str) -> Iterator[Key]:
    """Yield the keys of a mapping and of the mappings within it, each with the comment at the end of its line."""
    nodes = {key.value: value for key, value in node.value}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _iterate_keys(value, nodes[name], lines, f"{prefix}{name}.")
        else:
            yield Key(f"{prefix}{name}", value, _end_comment(lines, nodes[name]))


def _end_comment(lines: list[str], value: yaml.Node) -> str:
    """Return the comment behind a value, on the line where the value ends."""
    rest = lines[value.end_mark.line][value.end_mark.column :] if value.end_mark.line < len(lines) else ""
    match = re.fullmatch(r"[\s}\]]*#\s*(.*)", rest)
    return match[1].strip() if match else ""


def _resolve(value: Any, values: Mapping[str, Any]) -> Any:
    """Look up `${another.key}` and `${oc.env:NAME,default}`; return any other value as it is."""
    if not isinstance(value, str):
        return value
    if match := re.fullmatch(r"\$\{oc\.env:(\w+),(.*)\}", value):
        return yaml.load(os.environ.get(match[1], match[2]), Loader=LOADER)
    if match := re.fullmatch(r"\$\{([\w.]+)\}", value):
        return _resolve(values[match[1]], values)
    return value
