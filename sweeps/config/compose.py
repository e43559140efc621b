"""Compose the YAML files and the overrides of a command line into one checked configuration, by Hydra's grammar."""

from __future__ import annotations

import itertools
import re
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
from gatesweep.sweeps.config.groups import CONFIGS, MAIN
from gatesweep.sweeps.config.recorded import read_values
from gatesweep.sweeps.config.schema import Config, check_config
from gatesweep.sweeps.config.trust import trust_typed


def compose_config(overrides: Sequence[str]) -> Config:
    """Compose the configuration that `overrides`, in Hydra's grammar, ask for, and check it.

    Raises InputError in one line.
    """
    parsed = [parse_override(item) for item in overrides]
    if any(override.key_or_group == "resume" and override.value() for override in parsed):
        raise ValueError("resume: an earlier sweep is composed already: commands.resume.configure reads it")
    groups = [override for override in parsed if is_group_choice(override) and override.value() is not None]
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            lines = [str(override.input_line) for override in groups] + _default_experiment(parsed)
            composed = compose(MAIN, lines, return_hydra_config=True)
        choices = composed.hydra.runtime.choices
        config = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
        _apply(config, [override for override in parsed if not is_group_choice(override)])
        config.name = config.name or choices.experiment or choices.trainable
        config.data.setdefault("seed", config.seed)  # trials have seeds of their own, and share the data
        values = _plain_values(config)
        trust_typed(values)  # nothing here comes from a folder: it is typed, or of gatesweep's own files
        return check_config(values)
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(hydra_message(error)) from error


def load_file(path: Path, overrides: Sequence[str]) -> Config:
    """Read the configuration in a `config.yaml`, apply overrides of its keys, and check it.

    Raises InputError in one line, and OSError.
    """
    return changed_config(path, [parse_override(item) for item in overrides])


def changed_config(path: Path, overrides: Sequence[Override]) -> Config:
    """Do what `load_file` does, with parsed overrides. Raises InputError in one line, and OSError."""
    for override in overrides:
        if is_group_choice(override):
            got = f"{override.key_or_group}: got {override.value()!r}"
            raise InputError(f"{got}, expected keys only: {path} is already composed")
    values = read_values(path)
    try:
        config = OmegaConf.create(_escaped(values))
        _apply(config, overrides)
        return check_config(_plain_values(config))
    except OmegaConfBaseException as error:
        raise InputError(hydra_message(error)) from error


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


def parse_override(item: str) -> Override:
    """Parse one override of a command line. Raises InputError."""
    try:
        return OverridesParser.create().parse_override(item)
    except HydraException as error:
        raise InputError(f"got {item!r}, expected KEY=VALUE in Hydra's grammar") from error


def is_group_choice(override: Override) -> bool:
    """Return True if an override names a file of a config group. A dict as its value replaces the node instead."""
    return (CONFIGS / override.key_or_group).is_dir() and not isinstance(override.value(), dict)


def _default_experiment(overrides: Sequence[Override]) -> list[str]:
    """Return the choice of the experiment with the trainable's name, if there is one and no experiment is asked for."""
    values = {override.key_or_group: override.value() for override in overrides}
    defaults = OmegaConf.load(CONFIGS / f"{MAIN}.yaml").defaults
    trainable = values.get("trainable", next(entry["trainable"] for entry in defaults if "trainable" in entry))
    if "experiment" in values or not (CONFIGS / "experiment" / f"{trainable}.yaml").exists():
        return []
    return [f"experiment={trainable}"]


def _apply(config: DictConfig, overrides: Sequence[Override]) -> None:
    """Set and delete keys. A dict replaces the node before it. `check_config` refuses unknown keys later."""
    for override in overrides:
        key = override.key_or_group
        if override.is_sweep_override():
            raise InputError(f"{key}: got a Hydra sweep; what a sweep varies is search.space")
        if override.is_delete():
            parent, _, name = key.rpartition(".")
            node = OmegaConf.select(config, parent) if parent else config
            if node is None or name not in node:
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
    try:
        config = OmegaConf.create(_escaped(recorded.to_dict()))
        for override in overrides:
            if is_group_choice(override):
                path = CONFIGS / override.key_or_group / f"{override.value()}.yaml"
                if not path.is_file():
                    names = ", ".join(sorted(file.stem for file in path.parent.glob("*.yaml")))
                    got = f"{override.key_or_group}: got {override.value()!r}"
                    raise InputError(f"{got}, expected one of {names}")
                _replace_group(config, override.key_or_group, OmegaConf.load(path))
        _apply(config, [override for override in overrides if not is_group_choice(override)])
        return check_config(_plain_values(config))
    except OmegaConfBaseException as error:
        raise InputError(hydra_message(error)) from error


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


def _plain_values(config: DictConfig) -> dict[str, Any]:
    """Return plain nested values, with interpolations resolved."""
    values = OmegaConf.to_container(config, resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}
