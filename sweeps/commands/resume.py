"""The configuration of a sweep that starts or goes on, also from a copy in storage."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from hydra.core.override_parser.types import Override

from gatesweep.core.errors import InputError
from gatesweep.sweeps.config.compose import changed_config, compose_config
from gatesweep.sweeps.config.overrides import parse_override, refuse_several_values
from gatesweep.sweeps.config.recorded import read_config
from gatesweep.sweeps.config.schema import Config
from gatesweep.sweeps.records.layout import CONFIG, belongs_to_trial, require_sweep
from gatesweep.sweeps.search.space import check_typed_keys
from gatesweep.sweeps.search.study import open_study
from gatesweep.sweeps.search.warm_start import warm_start_numbers
from gatesweep.sweeps.storage.store import Store


def configure(overrides: Sequence[str]) -> Config:
    """The configuration that `overrides` ask for: a new one, or with `resume=` that of an earlier sweep.

    Raises InputError in one line.
    """
    parsed = [parse_override(item) for item in overrides]
    sweeps = [override for override in parsed if override.key_or_group == "resume" and not override.is_delete()]
    sweeps = [override for override in sweeps if override.value() is not None]
    for override in sweeps:
        refuse_several_values(override)
        if not isinstance(override.value(), str) or not override.value():
            raise InputError(f"resume: got {override.value()!r}, expected the folder of a sweep")
    if len(sweeps) > 1:
        raise InputError(f"resume: got {' and '.join(str(item.value()) for item in sweeps)}, expected one sweep")
    others = [override for override in parsed if override not in sweeps]
    config = _resumed(_local_folder(str(sweeps[0].value()), others), others) if sweeps else compose_config(overrides)
    check_typed_keys([override.key_or_group for override in others if not override.is_delete()], config)
    return config


def _local_folder(sweep: str, overrides: Sequence[Override]) -> Path:
    """The folder of a sweep, which is brought from storage first where `sweep` is the copy that is kept there."""
    if "://" not in sweep and not _is_copy(Path(sweep)):
        return Path(sweep)
    typed = [str(override.value()) for override in overrides if override.key_or_group == "results"]
    return restore_sweep(sweep, Path(typed[0] if typed else os.environ.get("GATESWEEP_RESULTS", "results")).resolve())


def _is_copy(folder: Path) -> bool:
    path = folder / CONFIG
    storage = read_config(path).storage if path.is_file() else None
    return storage is not None and Path(storage).expanduser().resolve() == folder.resolve().parent


def _resumed(folder: Path, overrides: Sequence[Override]) -> Config:
    """The configuration of an earlier sweep, with `overrides` of its existing keys."""
    config = changed_config(require_sweep(folder, "resume") / CONFIG, overrides)
    return config.replace(resume=str(folder.resolve()), results=str(folder.resolve().parent))


def restore_sweep(uri: str, results: Path) -> Path:
    """Bring the record of a sweep back from storage, into `results`; returns its folder. Raises InputError."""
    store = Store(uri)
    folder = results / store.root.name
    if folder.exists():
        raise InputError(f"resume: got {uri!r}, which is in {str(folder)!r} already: resume={folder}")
    names = store.listed()
    if CONFIG not in names:
        raise InputError(f"resume: got {uri!r}, expected the copy of a sweep (it has no {CONFIG})")
    aside = results / f".{folder.name}.part"
    shutil.rmtree(aside, ignore_errors=True)
    for name in names:
        if not belongs_to_trial(name):
            store.get(name, aside / name)
    aside.rename(folder)
    _forget_unknown(store, folder)
    return folder


def _forget_unknown(store: Store, folder: Path) -> None:
    """Remove trials that are younger than the copy of the study: the study will give their names to others."""
    study = open_study(folder)
    trials_of_study = len(study.get_trials(deepcopy=False)) - len(warm_start_numbers(study))
    for name in store.listed():
        trial = PurePosixPath(name).parts[0]
        if trial.startswith("trial_") and int(trial.removeprefix("trial_")) >= trials_of_study:
            store.delete(name)
            shutil.rmtree(folder / trial, ignore_errors=True)
