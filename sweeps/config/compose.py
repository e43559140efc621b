"""Compose the YAML files and the overrides of a command line into one checked configuration, by Hydra's grammar."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gatesweep.core.errors import InputError
from gatesweep.sweeps.config.faults import hydra_message
from gatesweep.sweeps.config.groups import CONFIGS, MAIN, config_folders, config_path, group_choices, read_config_file
from gatesweep.sweeps.config.overrides import (
    check_choice,
    check_choices,
    is_group_choice,
    parse_override,
    refuse_several_values,
)
from gatesweep.sweeps.config.recorded import read_values
from gatesweep.sweeps.config.rules import check_name
from gatesweep.sweeps.config.schema import Config, check_config
from gatesweep.sweeps.config.trust import trust_typed
from gatesweep.sweeps.config.values import flatten


def compose_config(overrides: Sequence[str]) -> Config:
    """Compose the configuration that `overrides`, in Hydra's grammar, ask for, and check it.

    Raises InputError in one line.
    """
    parsed = [parse_override(item) for item in overrides]
    for override in parsed:
        if override.key_or_group == "resume" and override.value():  # `gatesweep run` has taken it out
            raise InputError(f"resume: got {override.value()!r}, expected gatesweep train --resume {override.value()}")
    groups = [override for override in parsed if is_group_choice(override)]
    check_choices(groups)
    config, choices = _compose([override for override in groups if override.value() is not None], parsed)
    values = changed_values(config, [override for override in parsed if not is_group_choice(override)])
    trust_typed(values)  # nothing here comes from a folder: it is typed, or of the files that the user has chosen
    if not any(override.key_or_group.startswith("gate.scales") for override in parsed):
        _drop_scales(values.get("gate"))
    return finished_config(values, choices["experiment"] or choices["trainable"])


def finished_config(values: dict[str, Any], name: str) -> Config:
    """Fill in what follows from other values, and check the whole; `name` is that of a sweep without one.

    Raises InputError in one line.
    """
    if values.get("name") is None:
        values["name"] = name
    if isinstance(values.get("data"), dict) and values["data"]:  # a function has none
        values["data"].setdefault("seed", values.get("seed"))  # trials have seeds of their own, and share the data
    if isinstance(values.get("gate"), dict):  # recorded in every sweep: a record without it is older, and scored so
        values["gate"] = {"baseline": {}, "shortfall": "bounded", **values["gate"]}
    checked = check_config(values)
    check_name(checked.name)
    return checked


def _drop_scales(gate: Any) -> None:
    """Remove the scales of a gate's file that belong to thresholds which were typed away."""
    if isinstance(gate, dict) and isinstance(gate.get("scales"), dict) and isinstance(gate.get("thresholds"), dict):
        gate["scales"] = {metric: scale for metric, scale in gate["scales"].items() if metric in gate["thresholds"]}


def load_file(path: Path, overrides: Sequence[str]) -> Config:
    """Read the configuration in a `config.yaml`, apply overrides of its keys, and check it.

    Raises InputError in one line, and OSError.
    """
    config = changed_config(path, [parse_override(item) for item in overrides])
    check_name(config.name)
    return config


def changed_config(path: Path, overrides: Sequence[Override]) -> Config:
    """Do what `load_file` does, with parsed overrides. Raises InputError in one line, and OSError."""
    for override in overrides:
        if is_group_choice(override):
            got = f"{override.key_or_group}: got {override.value()!r}"
            raise InputError(f"{got}, expected keys only: {path} is already composed")
    config = check_config(changed_values(OmegaConf.create(_escaped(read_values(path))), overrides))
    if any(override.key_or_group == "name" for override in overrides):  # older versions recorded any name
        check_name(config.name)
    return config


def config_variants(recorded: Config, overrides: Sequence[str]) -> list[tuple[str, Config]]:
    """Return variants of a recorded configuration, each with its name: other keys, another `scheduler=` or `search=`.

    An override with several values, `grace_period=2,4`, makes a variant of each value. Raises InputError in one line.
    """
    alternatives = [_split_sweep(parse_override(item)) for item in overrides]
    common = [item for item, items in zip(overrides, alternatives, strict=True) if len(items) == 1]
    variants = []
    for items in itertools.product(*alternatives):
        name = " ".join(item for item in items if item not in common) or " ".join(items)
        variants.append((name, _make_variant(recorded, [parse_override(item) for item in items])))
    return variants


def _compose(groups: Sequence[Override], overrides: Sequence[Override]) -> tuple[DictConfig, dict[str, str]]:
    """Compose the files that the choices `groups` ask for; returns them, and the choice of each group."""
    lines = [f"{override.key_or_group}={override.value()}" for override in groups]
    try:
        values, choices = composed_files((*lines, *_default_experiment(overrides)))
        return OmegaConf.create(values), choices
    except (HydraException, OmegaConfBaseException) as error:
        for override in groups:
            if repr(override.key_or_group) in str(error):
                got = f"{override.key_or_group}: got {override.value()!r}"
                raise InputError(f"{got}, but the trainable that is chosen has no such part") from error
        raise InputError(hydra_message(error)) from error


@cache
def composed_files(lines: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, str]]:
    """Compose files, without resolving interpolations. Hydra takes a tenth of a second. Raises its exceptions.

    They are composed once: folders of the user's must be added before.
    """
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        composed = compose(MAIN, [*lines, *_search_path()], return_hydra_config=True)
    values = OmegaConf.to_container(composed, resolve=False)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items() if key != "hydra"}, dict(composed.hydra.runtime.choices)


def _search_path() -> list[str]:
    """Return the override by which Hydra finds the folders of the user."""
    escaped = [re.sub(r"(['\\\\])", r"\\\1", str(folder)) for folder in config_folders()[1:]]
    places = ",".join(f"'file://{folder}'" for folder in escaped)
    return [f"hydra.searchpath=[{places}]"] if places else []


def _default_experiment(overrides: Sequence[Override]) -> list[str]:
    """Return the choice of the experiment with the trainable's name, if there is one and no experiment is asked for."""
    values = {override.key_or_group: override.value() for override in overrides}
    defaults = read_config_file("", MAIN).defaults
    trainable = values.get("trainable", next(choice for group, choice, _ in defaults if group == "trainable"))
    if "experiment" in values or trainable not in group_choices()["experiment"]:
        return []
    return [f"experiment={trainable}"]


def _apply(config: DictConfig, overrides: Sequence[Override]) -> None:
    """Set and delete keys. A dict replaces the node before it. `check_config` refuses unknown keys later."""
    for override in overrides:
        key = override.key_or_group
        refuse_several_values(override)
        if override.is_delete():
            parent, _, name = key.rpartition(".")
            node = OmegaConf.select(config, parent) if parent else config
            if not isinstance(node, DictConfig) or name not in node:
                raise InputError(f"~{key}: there is no such key to delete")
            del node[name]
        else:
            trust_typed({key: override.value()})
            OmegaConf.update(config, key, override.value(), merge=False, force_add=True)


def _split_sweep(override: Override) -> list[str]:
    """Return one override for each value of `key=a,b`."""
    if not override.is_sweep_override():
        return [str(override.input_line)]
    try:
        return [f"{override.key_or_group}={value}" for value in override.sweep_string_iterator()]
    except (HydraException, TypeError) as error:
        got = f"{override.key_or_group}: got {override.input_line!r}"
        raise InputError(f"{got}, expected values with commas between") from error


def _make_variant(recorded: Config, overrides: Sequence[Override]) -> Config:
    """Apply choices of groups, then keys, to a recorded configuration, and check the result."""
    config = OmegaConf.create(_escaped(recorded.to_dict()))
    for override in overrides:
        if is_group_choice(override):
            check_choice(override)
            path = config_path(override.key_or_group, str(override.value()))
            _replace_group(config, override.key_or_group, OmegaConf.load(path))
    keys = [override for override in overrides if not is_group_choice(override)]
    return check_config(changed_values(config, keys))


def _replace_group(config: DictConfig, group: str, content: Any) -> None:
    """Put the content of a group's file in the place of another's. Other keys of the node, as `search.space`, stay."""
    if "_target_" in content:
        return OmegaConf.update(config, group, content, merge=False)
    for key, value in content.items():
        OmegaConf.update(config, f"{group}.{key}", value, merge=False)


def _escaped(value: Any) -> Any:
    """Return recorded values in which OmegaConf finds no interpolation: a record must not read the environment."""
    if isinstance(value, dict):
        return {key: _escaped(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_escaped(item) for item in value]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value


def changed_values(config: DictConfig, overrides: Sequence[Override]) -> dict[str, Any]:
    """Set and delete keys, then return plain nested values with interpolations resolved. Raises InputError."""
    try:
        _apply(config, overrides)
        values = OmegaConf.to_container(config, resolve=True)
    except (OmegaConfBaseException, RecursionError) as error:
        raise InputError(_interpolation_fault(config, error)) from error
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _interpolation_fault(config: DictConfig, error: BaseException) -> str:
    """Return the line about a value as `${another.key}` that cannot be looked up."""
    raw = flatten(OmegaConf.to_container(config, resolve=False))  # type: ignore[arg-type]
    key = str(getattr(error, "full_key", ""))
    if key not in raw:
        key = next((name for name, value in raw.items() if isinstance(value, str) and "${" in value), key)
    reason = "it refers to itself" if isinstance(error, RecursionError) else hydra_message(error)
    return f"{key}: got {raw.get(key)!r}, expected a value that can be looked up ({reason})"
