"""Configuration: compose the YAML, apply what was typed, and build what a run needs."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gatesweep.core import device, rng, shared
from gatesweep.core.trainable import Data, Trainable
from gatesweep.sweeps.schema import check, locate, read_config
from gatesweep.sweeps.storage import restore

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def load(overrides: Sequence[str]) -> dict[str, Any]:
    """The configuration that `overrides` (Hydra's grammar) ask for, checked. Raises ValueError in one line."""
    parsed = [_parse(item) for item in overrides]
    for one in parsed:
        if one.key_or_group == "resume" and one.value():
            others = [other for other in parsed if other is not one]
            return _resumed(_here(str(one.value()), others), others)
    groups = [one for one in parsed if _chooses(one) and one.value() is not None]
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            lines = [str(one.input_line) for one in groups] + _own_experiment(parsed)
            composed = compose("config", lines, return_hydra_config=True)
        choices = composed.hydra.runtime.choices
        config = OmegaConf.create({key: composed._get_node(key) for key in composed if key != "hydra"})
        _apply(config, [one for one in parsed if not _chooses(one)])
        config.name = config.name or choices.experiment or choices.trainable
        config.data.setdefault("seed", config.seed)  # the trials' own seeds differ, and their data do not
        return check(OmegaConf.to_container(config, resolve=True))
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(_one_line(error)) from error


def _parse(item: str) -> Override:
    try:
        return OverridesParser.create().parse_override(item)
    except HydraException as error:
        raise ValueError(f"got {item!r}, expected KEY=VALUE in Hydra's grammar") from error


def _chooses(one: Override) -> bool:
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
            raise ValueError(f"{one.key_or_group}: got a Hydra sweep; what a sweep varies is search.space")
        if one.is_delete():
            parent, _, name = one.key_or_group.rpartition(".")
            node = OmegaConf.select(config, parent) if parent else config
            if node is None or name not in node:
                raise ValueError(f"~{one.key_or_group}: there is no such key to delete")
            del node[name]
        else:
            OmegaConf.update(config, one.key_or_group, one.value(), merge=False, force_add=True)


def load_file(path: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """The configuration in a `config.yaml`, with `overrides` of its keys. Raises ValueError in one line."""
    return _changed(path, [_parse(item) for item in overrides])


def _changed(path: Path, overrides: Sequence[Override]) -> dict[str, Any]:
    config = OmegaConf.create(read_config(path))
    assert isinstance(config, DictConfig)
    for one in overrides:
        if _chooses(one):
            raise ValueError(f"{one.key_or_group}: got {one.value()!r}, expected keys only: {path} is already composed")
    try:
        _apply(config, overrides)
        return check(OmegaConf.to_container(config))
    except OmegaConfBaseException as error:
        raise ValueError(_one_line(error)) from error


def variants(recorded: Mapping[str, Any], overrides: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
    """A recorded configuration with other keys and another `scheduler=` or `search=`, and the name of each variant.

    A choice of several, `grace_period=2,4`, makes a variant of each. Raises ValueError in one line.
    """
    choices = [_alternatives(_parse(item)) for item in overrides]
    named = [one for one, of in zip(overrides, choices, strict=True) if len(of) == 1]
    found = []
    for chosen in itertools.product(*choices):
        name = " ".join(item for item in chosen if item not in named) or " ".join(chosen)
        found.append((name, _variant(recorded, [_parse(item) for item in chosen])))
    return found


def _alternatives(one: Override) -> list[str]:
    if not one.is_sweep_override():
        return [str(one.input_line)]
    try:
        return [f"{one.key_or_group}={value}" for value in one.sweep_string_iterator()]
    except (HydraException, TypeError) as error:
        raise ValueError(f"{one.key_or_group}: got {one.input_line!r}, expected values with commas between") from error


def _variant(recorded: Mapping[str, Any], overrides: Sequence[Override]) -> dict[str, Any]:
    config = OmegaConf.create(dict(recorded))
    try:
        for one in overrides:
            if _chooses(one):
                path = CONFIGS / one.key_or_group / f"{one.value()}.yaml"
                if not path.is_file():
                    files = ", ".join(sorted(other.stem for other in path.parent.glob("*.yaml")))
                    raise ValueError(f"{one.key_or_group}: got {one.value()!r}, expected one of {files}")
                _replace(config, one.key_or_group, OmegaConf.load(path))
        _apply(config, [one for one in overrides if not _chooses(one)])
        return check(OmegaConf.to_container(config, resolve=True))
    except OmegaConfBaseException as error:
        raise ValueError(_one_line(error)) from error


def _replace(config: DictConfig, group: str, chosen: Any) -> None:
    """Put a file of a config group where another was; what the group holds beside it (`search.space`) stays."""
    if "_target_" in chosen:
        return OmegaConf.update(config, group, chosen, merge=False)
    for key, value in chosen.items():
        OmegaConf.update(config, f"{group}.{key}", value, merge=False)


def _here(sweep: str, overrides: Sequence[Override]) -> Path:
    """The folder of a sweep, which is brought from storage first where `sweep` is the copy that is kept there."""
    if "://" not in sweep and not _is_copy(Path(sweep)):
        return Path(sweep)
    given = next((str(one.value()) for one in overrides if one.key_or_group == "results"), None)
    return restore(sweep, Path(given or os.environ.get("GATESWEEP_RESULTS", "results")).resolve())


def _is_copy(folder: Path) -> bool:
    path = folder / "config.yaml"
    storage = read_config(path)["storage"] if path.is_file() else None
    return storage is not None and Path(storage).expanduser().resolve() == folder.resolve().parent


def _resumed(folder: Path, overrides: Sequence[Override]) -> dict[str, Any]:
    """The configuration of an earlier sweep, with `overrides` of its existing keys."""
    if not (folder / "config.yaml").is_file():
        raise ValueError(f"resume: got {str(folder)!r}, expected the folder of a sweep (it has no config.yaml)")
    config = _changed(folder / "config.yaml", overrides)
    return {**config, "resume": str(folder.resolve()), "results": str(folder.resolve().parent)}


def build(config: Mapping[str, Any]) -> tuple[Trainable, Data]:
    """The trainable, on its device and initialised from `seed`, and its data, shared by the runs of a process."""
    place = device.choose(config["device"])
    if "shared" in config:  # a trial of a sweep
        shared.use(config["shared"])
    data = _data(json.dumps(config["data"], sort_keys=True), str(place))
    rng.seed_everything(config["seed"])
    fields = {name: value for name, value in config["trainable"].items() if name != "_target_"}
    return locate("trainable", config["trainable"])(data, **fields).to(place), data


@cache
def _data(node: str, place: str) -> Data:
    fields = json.loads(node)
    return locate("data", fields)(device=place, **{name: value for name, value in fields.items() if name != "_target_"})


def override(config: dict[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of `config` with dotted keys set, e.g. {"trainable.lr": 0.001}."""
    changed = json.loads(json.dumps(config))
    for key, value in values.items():
        *path, last = key.split(".")
        node = changed
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    return changed


def flatten(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values by dotted key."""
    flat: dict[str, Any] = {}
    for key, value in node.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def to_yaml(config: Mapping[str, Any]) -> str:
    """What `yaml.safe_dump` makes of plain values; sections that were seen before cost next to nothing."""
    return "".join(_section(key, json.dumps(value)) for key, value in config.items())


@lru_cache(maxsize=256)
def _section(key: str, value: str) -> str:
    return yaml.dump({key: json.loads(value)}, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper), sort_keys=False)


def _one_line(error: BaseException) -> str:
    """What a person needs of an error of Hydra's or OmegaConf's."""
    message = str(error).partition("Config search path")[0].removeprefix("In 'config': ")
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return " ".join(line for line in lines if not line.startswith(("full_key", "object_type")))
