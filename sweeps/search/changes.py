"""Changes that a sweep may not have when it goes on: its trials would no longer be of one kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gatesweep.core.errors import InputError
from gatesweep.sweeps.config.recorded import read_config
from gatesweep.sweeps.config.schema import Config
from gatesweep.sweeps.config.values import flatten
from gatesweep.sweeps.records.layout import CONFIG, CONFIRM
from gatesweep.sweeps.records.reader import TrialRecord
from gatesweep.sweeps.search.confirmation import FRESH_SEEDS

KEPT_SECTIONS = ("trainable", "data", "gate", "training", "seed")
FREE_KEYS = (  # they change neither the data of a curve nor its meaning
    "training.keep_checkpoints",
    "training.system_metrics",
    "training.log_grad_norm_every",
    "training.compile",
    "training.activation_checkpointing",
)
MAX_EPOCHS = "training.max_epochs"


def check_changes(before: Config, after: Config, trials: list[TrialRecord], sweep: Path) -> None:
    """Raise InputError for a change that makes recorded epochs those of another sweep.

    A key may change where each trial with an epoch has its own value of it, for the space varied it. `max_epochs` may
    grow: trials that used it up train on.
    """
    trained = [trial for trial in trials if trial.epochs]
    old, new = _kept_values(before), _kept_values(after)
    for key in old | new:
        if old.get(key) == new.get(key) or all(key in trial.values for trial in trained):
            continue
        got, expected = new.get(key), repr(old.get(key))
        if key == MAX_EPOCHS and old[key] < new[key]:
            continue
        if key == MAX_EPOCHS:
            expected = f"at least {expected}"
        raise InputError(
            f"{key}: got {got!r}, expected {expected}, as its trials have it: type it so, "
            f"or begin a new sweep with warm_start={sweep}"
        )


def check_trial_configs(config: Config, trials: list[TrialRecord], sweep: Path) -> None:
    """Raise InputError where a trial's `config.yaml` is not that of the sweep with the trial's own values and seed.

    Else the file of the sweep, or of the trial, was changed by hand, or the trial's folder was renamed or copied.
    `config` is the sweep's as recorded.
    """
    kept = _kept_values(config)
    for trial in trials:
        path = sweep / trial.name / CONFIG
        if not (trial.epochs and path.exists()):  # it is written again before the trial begins
            continue
        own, expected = _kept_values(read_config(path)), {**kept, "seed": config.seed + seed_number(trial.name)}
        for key in own | expected:
            drawn = any(key == name or key.startswith(f"{name}.") for name in trial.values)
            grown = key == MAX_EPOCHS and own[key] < expected[key]
            if not (drawn or grown or own.get(key) == expected.get(key)):
                fault = f"by {sweep / CONFIG} and its name: restore the file that was changed, or the folder's name"
                raise InputError(f"{path}: {key}: got {own.get(key)!r}, expected {expected.get(key)!r}, {fault}")


def seed_number(name: str) -> int:
    """Return the number that a trial's seed has beside the sweep's; `name` may be that of a run on a fresh seed."""
    kind, *numbers = name.split("_")
    return int(numbers[-1]) + (FRESH_SEEDS if kind == CONFIRM else 0)


def _kept_values(config: Config) -> dict[str, Any]:
    """Return the values, by dotted key, on which recorded epochs depend."""
    kept = {section: value for section, value in config.to_dict().items() if section in KEPT_SECTIONS}
    return {key: value for key, value in flatten(kept).items() if key not in FREE_KEYS}
