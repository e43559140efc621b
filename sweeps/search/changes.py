"""Changes that a sweep may not have when it goes on: its trials would no longer be of one kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gatesweep.core.errors import InputError
from gatesweep.sweeps.config.schema import Config
from gatesweep.sweeps.config.values import flatten
from gatesweep.sweeps.records.reader import TrialRecord

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


def _kept_values(config: Config) -> dict[str, Any]:
    """Return the values, by dotted key, on which recorded epochs depend."""
    kept = {section: value for section, value in config.to_dict().items() if section in KEPT_SECTIONS}
    return {key: value for key, value in flatten(kept).items() if key not in FREE_KEYS}
