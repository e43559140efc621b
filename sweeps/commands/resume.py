"""The configuration of a sweep that starts or goes on, also from a copy in storage."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from hydra.core.override_parser.types import Override

from gatesweep.core.errors import InputError
from gatesweep.core.files import full_path
from gatesweep.core.record import read_events
from gatesweep.sweeps.config.compose import changed_config, compose_config
from gatesweep.sweeps.config.effects import check_effects
from gatesweep.sweeps.config.overrides import parse_override, refuse_several_values
from gatesweep.sweeps.config.own import compose_own, read_own_file, split_own_file, typed_keys
from gatesweep.sweeps.config.recorded import read_config
from gatesweep.sweeps.config.schema import Config
from gatesweep.sweeps.config.secrets import (
    STORAGE_VARIABLE,
    TRACKING_VARIABLE,
    bare_address,
    is_redacted,
    redact_address,
    with_secrets,
)
from gatesweep.sweeps.records.layout import CONFIG, EVENTS, belongs_to_trial, require_sweep
from gatesweep.sweeps.search.space import check_typed_keys
from gatesweep.sweeps.search.study import read_study
from gatesweep.sweeps.search.warm_start import warm_start_numbers
from gatesweep.sweeps.storage.store import Store


def configure(words: Sequence[str]) -> Config:
    """The configuration that the words of a command ask for: a new one, or with `resume=` that of an earlier sweep.

    The words are overrides, and one may be the name of a user's own file. With `resume=` such a file only says where
    the code is, and that it is trusted. Raises InputError in one line.
    """
    file, overrides = split_own_file(words)
    node = read_own_file(file) if file else None
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
    if sweeps:
        sweep = str(sweeps[0].value())
        config = _resumed(_local_folder(sweep, others), others, sweep)
        own = node["trainable"]["_target_"] if node and isinstance(node.get("trainable"), dict) else None
        if own and own != config.trainable["_target_"]:
            target = config.trainable["_target_"]
            raise InputError(f"resume: got {sweep!r}, a sweep of {target}, expected one of {own}, as in {file}")
    else:
        config = compose_config(overrides) if node is None else compose_own(node, overrides)
        if config.retry:
            raise InputError(f"retry: got {config.retry!r}, expected null without resume=<the folder of a sweep>")
    typed = [override.key_or_group for override in others if not override.is_delete()]
    if node is not None and not sweeps:
        typed += typed_keys(node)
    check_typed_keys(typed, config)
    check_effects(typed, config)
    return config


def _local_folder(sweep: str, overrides: Sequence[Override]) -> Path:
    """The folder of a sweep, which is brought from storage first where `sweep` is the copy that is kept there."""
    typed = [str(override.value()) for override in overrides if override.key_or_group == "results"]
    if "://" not in sweep:
        full_path("resume", sweep)
        if not _is_copy(folder := Path(sweep).expanduser()):
            if typed and full_path("results", typed[0]) != folder.resolve().parent:
                raise InputError(f"results: got {typed[0]!r}, expected none: the sweep goes on in {str(folder)!r}")
            return folder
    results = full_path("results", typed[0] if typed else os.environ.get("GATESWEEP_RESULTS", "results"))
    return restore_sweep(sweep, results, lambda path: changed_config(path, overrides))


def _is_copy(folder: Path) -> bool:
    path = folder / CONFIG
    storage = read_config(path).storage if path.is_file() else None
    return storage is not None and full_path("storage", storage) == folder.resolve().parent


def _resumed(folder: Path, overrides: Sequence[Override], typed: str) -> Config:
    """The configuration of an earlier sweep, with `overrides` of its existing keys, and with its secrets again.

    `typed` is the place of the sweep as the user gave it: a copy's may hold the storage's secrets.
    """
    config = changed_config(require_sweep(folder, "resume") / CONFIG, overrides)
    storage, tracking = config.storage, config.tracking
    if storage and is_redacted(storage) and bare_address(_parent(typed)) == bare_address(storage):
        storage = _parent(typed)
    storage = with_secrets("storage", storage, STORAGE_VARIABLE)
    if tracking.enabled:
        tracking = tracking.replace(uri=with_secrets("tracking.uri", tracking.uri, TRACKING_VARIABLE))
    place = {"resume": str(folder.resolve()), "results": str(folder.resolve().parent)}
    return config.replace(storage=storage, tracking=tracking, **place)


def _parent(address: str) -> str:
    """The address of the folder above, with the same query."""
    path, question, query = address.partition("?")
    return f"{path.rstrip('/').rpartition('/')[0]}{question}{query}"


def restore_sweep(uri: str, results: Path, check: Callable[[Path], object] = lambda path: None) -> Path:
    """Bring the record of a sweep back from storage, into `results`; returns its folder.

    Raises InputError; where `check`, of its config.yaml, does, nothing is left in `results`.
    """
    store, shown = Store(uri), redact_address(uri)
    folder = results / store.root.name
    if folder.exists():
        raise InputError(f"resume: got {shown!r}, which is in {str(folder)!r} already: resume={folder}")
    names = store.listed()
    if CONFIG not in names:
        raise InputError(f"resume: got {shown!r}, expected the copy of a sweep (it has no {CONFIG})")
    aside = results / f".{folder.name}.part"
    shutil.rmtree(aside, ignore_errors=True)
    for name in names:
        if not belongs_to_trial(name):
            store.get(name, aside / name)
    try:
        check(aside / CONFIG)
    except InputError:
        shutil.rmtree(aside)
        with contextlib.suppress(OSError):  # it is not empty
            results.rmdir()
        raise
    aside.rename(folder)
    _forget_unknown(store, folder)
    return folder


def _forget_unknown(store: Store, folder: Path) -> None:
    """Remove trials that neither have an event nor are in the copy of the study: it gives their names to others."""
    try:
        study = read_study(folder)
    except InputError:  # it will be rebuilt from the folders
        study = None
    trials_of_study = len(study.get_trials(deepcopy=False)) - len(warm_start_numbers(study)) if study else 0
    for name in store.listed():
        trial = PurePosixPath(name).parts[0]
        number = trial.removeprefix("trial_")
        if not trial.startswith("trial_") or not number.isdecimal() or read_events(folder / trial / EVENTS):
            continue
        if int(number) >= trials_of_study:
            store.delete(name)
            shutil.rmtree(folder / trial, ignore_errors=True)
