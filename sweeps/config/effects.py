"""Keys that were typed, and could never act: a limit beyond the sweep's own epochs or trials, a value for nothing.

Only typed keys are checked: the defaults suit sweeps of any length, and do no harm in a short one.
"""

from __future__ import annotations

from collections.abc import Iterable

from gatesweep.core.errors import InputError
from gatesweep.sweeps.config.schema import Config

OF_EPOCHS, OF_TRIALS = "the epochs of training.max_epochs", "the trials of num_samples"


def check_effects(typed: Iterable[str], config: Config) -> None:
    """Raise InputError for the first of the dotted keys `typed` that could never act in this sweep."""
    keys = list(typed)
    for key, value, most, unit in _limits(config):
        if isinstance(value, int) and most is not None and value > most and _is_typed(key, keys):
            raise InputError(f"{key}: got {value}, expected at most {most}, {unit}: else it never acts")
    if _is_typed("gate.baseline", keys):
        unknown = [metric for metric in config.gate.baseline if metric not in config.gate.thresholds]
        if unknown:
            expected = f"expected a metric of gate.thresholds ({', '.join(config.gate.thresholds) or 'it has none'})"
            raise InputError(f"gate.baseline: got {unknown[0]!r}, {expected}")


def _limits(config: Config) -> list[tuple[str, object, int | None, str]]:
    """List the keys that count epochs or trials: key, value, the largest value that acts, and what that is."""
    epochs, trials, patience = config.training.max_epochs, config.num_samples, config.training.patience
    return [
        ("stop_after_passes", config.stop_after_passes, trials, OF_TRIALS),
        ("grace_period", config.grace_period, epochs, OF_EPOCHS),
        ("search.gate_after", config.search.gate_after, epochs, OF_EPOCHS),
        ("training.checkpoint_every", config.training.checkpoint_every, epochs, OF_EPOCHS),
        ("training.patience.epochs", patience.epochs if patience else None, epochs, OF_EPOCHS),
        *(
            (f"scheduler.{name}", config.scheduler.get(name), epochs, OF_EPOCHS)
            for name in ("grace_period", "perturbation_interval")
        ),
    ]


def _is_typed(key: str, typed: Iterable[str]) -> bool:
    """Return True if `key`, a section that holds it, or a key below it was typed."""
    return any(f"{key}.".startswith(f"{item}.") or item.startswith(f"{key}.") for item in typed)
