"""Compose the YAML files and what was typed into one checked configuration, by Hydra's grammar."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gatesweep.core.errors import InputError
from gatesweep.sweeps.config.faults import hydra_message
from gatesweep.sweeps.config.groups import CONFIGS
from gatesweep.sweeps.config.recorded import read_values
from gatesweep.sweeps.config.schema import Config, check_config


def compose_config(overrides: Sequence[str]) -> Config:
    """The configuration that `overrides` (Hydra's grammar) ask for, checked. Raises InputError in one line."""
    parsed = [parse_override(item) for item in overrides]
    if any(override.key_or_group == "resume" and override.value() for override in parsed):
        raise ValueError("resume: an earlier sweep is composed already: commands.resume.configure reads it")
    groups = [one for one in parsed if is_group_choice(one) and one.value() is not None]
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            lines = [str(one.input_line) for one in groups] + _own_experiment(parsed)
            composed = compose("config", lines, return_hydra_config=True)
        choices = composed.hydra.runtime.choices
        config = OmegaConf.create({key: composed._get_node(key) for key in composed if key != "hydra"})
        _apply(config, [one for one in parsed if not is_group_choice(one)])
        config.name = config.name or choices.experiment or choices.trainable
        config.data.setdefault("seed", config.seed)  # the trials' own seeds differ, and their data do not
        return check_config(_plain(config))
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(hydra_message(error)) from error


def parse_override(item: str) -> Override:
    try:
        return OverridesParser.create().parse_override(item)
    except HydraException as error:
        raise InputError(f"got {item!r}, expected KEY=VALUE in Hydra's grammar") from error


def is_group_choice(one: Override) -> bool:
    """Whether an override names a file of a config group; with a dict as its value it replaces the node."""
    return (CONFIGS / one.key_or_group).is_dir() and not isinstance(one.value(), dict)


def _own_experiment(overrides: Sequence[Override]) -> list[str]:
    """The experiment of the trainable's name, where neither an experiment nor a trainable of one's own is asked for."""
    values = {one.key_or_group: one.value() for one in overrides}
    defaults = OmegaConf.load(CONFIGS / "config.yaml").defaults
    trainable = values.get("trainable", next(entry["trainable"] for entry in defaults if "trainable" in entry))
    if "experiment" in values or not (CONFIGS / "experiment" / f"{trainable}.yaml").exists():
        return []
    return [f"experiment={trainable}"]


def _apply(config: DictConfig, overrides: Sequence[Override]) -> None:
    """Set values; a dict takes the place of the one before it. Whether a key may be there is for `check` to say."""
    for one in overrides:
        if one.is_sweep_override():
            raise InputError(f"{one.key_or_group}: got a Hydra sweep; what a sweep varies is search.space")
        if one.is_delete():
            parent, _, name = one.key_or_group.rpartition(".")
            node = OmegaConf.select(config, parent) if parent else config
            if node is None or name not in node:
                raise InputError(f"~{one.key_or_group}: there is no such key to delete")
            del node[name]
        else:
            OmegaConf.update(config, one.key_or_group, one.value(), merge=False, force_add=True)


def load_file(path: Path, overrides: Sequence[str]) -> Config:
    """The configuration in a `config.yaml`, with `overrides` of its keys. Raises InputError in one line."""
    return changed_config(path, [parse_override(item) for item in overrides])


def changed_config(path: Path, overrides: Sequence[Override]) -> Config:
    config = OmegaConf.create(read_values(path))
    assert isinstance(config, DictConfig)
    for one in overrides:
        if is_group_choice(one):
            raise InputError(f"{one.key_or_group}: got {one.value()!r}, expected keys only: {path} is already composed")
    try:
        _apply(config, overrides)
        return check_config(_plain(config))
    except OmegaConfBaseException as error:
        raise InputError(hydra_message(error)) from error


def config_variants(recorded: Config, overrides: Sequence[str]) -> list[tuple[str, Config]]:
    """A recorded configuration with other keys and another `scheduler=` or `search=`, and the name of each variant.

    A choice of several, `grace_period=2,4`, makes a variant of each. Raises InputError in one line.
    """
    choices = [_alternatives(parse_override(item)) for item in overrides]
    named = [one for one, of in zip(overrides, choices, strict=True) if len(of) == 1]
    found = []
    for chosen in itertools.product(*choices):
        name = " ".join(item for item in chosen if item not in named) or " ".join(chosen)
        found.append((name, _variant(recorded, [parse_override(item) for item in chosen])))
    return found


def _alternatives(one: Override) -> list[str]:
    if not one.is_sweep_override():
        return [str(one.input_line)]
    try:
        return [f"{one.key_or_group}={value}" for value in one.sweep_string_iterator()]
    except (HydraException, TypeError) as error:
        raise InputError(f"{one.key_or_group}: got {one.input_line!r}, expected values with commas between") from error


def _variant(recorded: Config, overrides: Sequence[Override]) -> Config:
    config = OmegaConf.create(recorded.to_dict())
    try:
        for one in overrides:
            if is_group_choice(one):
                path = CONFIGS / one.key_or_group / f"{one.value()}.yaml"
                if not path.is_file():
                    files = ", ".join(sorted(other.stem for other in path.parent.glob("*.yaml")))
                    raise InputError(f"{one.key_or_group}: got {one.value()!r}, expected one of {files}")
                _replace(config, one.key_or_group, OmegaConf.load(path))
        _apply(config, [one for one in overrides if not is_group_choice(one)])
        return check_config(_plain(config))
    except OmegaConfBaseException as error:
        raise InputError(hydra_message(error)) from error


def _plain(config: DictConfig) -> dict[str, Any]:
    values = OmegaConf.to_container(config, resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _replace(config: DictConfig, group: str, chosen: Any) -> None:
    """Put a file of a config group where another was; what the group holds beside it (`search.space`) stays."""
    if "_target_" in chosen:
        return OmegaConf.update(config, group, chosen, merge=False)
    for key, value in chosen.items():
        OmegaConf.update(config, f"{group}.{key}", value, merge=False)
