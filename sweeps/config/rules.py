"""Rules that a configuration must keep beyond the types and ranges of its keys."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from gatesweep.core.errors import InputError
from gatesweep.core.gate import Gate

NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")  # it becomes part of a folder's name, and of names in MLflow
SEED_LIMIT = 2**63  # torch's generators take 64 bits, and trials count upwards from the sweep's seed
MAX_THREADS = 1024  # more than any machine has cores; torch starts every one of them, and crashes at some 10,000
SHORTEST_BUDGET = 1e-3  # seconds
YAML_WORD = re.compile(r"~|[\w.+-]+")  # that YAML may read as null, a truth value or a number
SHORTEST_SILENCE = 5  # seconds
SMALLEST_SHARE = 1e-4  # of a CPU or a GPU: Ray's own resolution


def check_name(name: str) -> None:
    """Raise InputError for the name of a sweep that cannot be part of a folder's name everywhere."""
    if not NAME.fullmatch(name):
        raise InputError(f"name: got {name!r}, expected 1 to 100 of the characters A-Z a-z 0-9 . _ -")


def check_rules(gate: Gate, max_epochs: int, data: Mapping[str, Any]) -> None:
    """Raise InputError where a threshold or a seed in the section `data` can never be meant, or keys contradict."""
    for rule, text in zip(gate.rules, gate.thresholds.values(), strict=True):
        if not math.isfinite(rule.bound):
            raise InputError(f"gate.thresholds: {rule.metric!r} got {text!r}, expected a finite number as its bound")
    if unknown := [metric for metric in gate.scales if metric not in gate.thresholds]:
        expected = f"expected a metric of gate.thresholds ({', '.join(gate.thresholds) or 'it has none'})"
        raise InputError(f"gate.scales: got {unknown[0]!r}, {expected}; ~gate.scales for none")
    if gate.consecutive > max_epochs:
        expected = f"at most {max_epochs}, the epochs of training.max_epochs"
        raise InputError(f"gate.consecutive: got {gate.consecutive}, expected {expected}")
    if "device" in data:
        raise InputError("data.device: unknown key, did you mean device?")
    for key, value in data.items():
        if key == "seed" or key.endswith("_seed"):
            _check_seed(f"data.{key}", value)


def check_decisions(metrics: Mapping[str, Sequence[str | None]]) -> None:
    """Raise InputError for a metric of test among those that decide in a sweep, which are given by key."""
    for key, names in metrics.items():
        for name in names:
            if name and name.startswith("test/"):
                expected = f"val/{name.removeprefix('test/')}: no decision reads test, which has the last word"
                raise InputError(f"{key}: got {name!r}, expected {expected}")


def check_text(value: str) -> str:
    """Return the name of a metric or of an MLflow experiment. Raises ValueError, for the schema, for an empty one."""
    if not value.strip() or not value.isprintable():
        raise ValueError("a name, in printable characters, or null where it may be left out")
    return value


def check_silence(value: float) -> float:
    """Return the seconds of a silence. Raises ValueError, for the schema, for less than a process takes to start."""
    if value < SHORTEST_SILENCE:
        raise ValueError(f"at least {SHORTEST_SILENCE} seconds: imports and a first epoch take some")
    return value


def check_budget(value: float) -> float:
    """Return the seconds of a time budget. Raises ValueError, for the schema, for less than any epoch takes."""
    if value < SHORTEST_BUDGET:
        raise ValueError(f"at least {SHORTEST_BUDGET} seconds")
    return value


def check_place(value: str) -> str:
    """Return `value`. Raises ValueError, for the schema, unless a folder can have this name.

    Texts of environment variables are not parsed: `null` and `5` there are no folders, as they are none when typed.
    """
    if not value.strip() or not value.isprintable():
        raise ValueError("a folder, in printable characters")
    if not isinstance(yaml.safe_load(value) if YAML_WORD.fullmatch(value) else value, str):
        raise ValueError(f"a folder: ./{value} is one, and an environment variable that is not set is none")
    return value


def check_places(value: Any) -> Any:
    """Return `value`, one folder or a list. Raises ValueError, for the schema, for anything else."""
    for folder in value if isinstance(value, list) else [value]:
        if not isinstance(folder, str):
            raise ValueError("a folder, or a list of folders")
        check_place(folder)
    return value


def check_share(value: float) -> float:
    """Return the number of CPUs or GPUs of a worker. Raises ValueError, for the schema, for less than Ray counts."""
    if 0 < value < SMALLEST_SHARE:
        raise ValueError(f"at least {SMALLEST_SHARE}")
    return value


def check_gpus(value: float) -> float:
    """Return the number of GPUs of a worker. Raises ValueError, for the schema, for a number that Ray cannot give."""
    if value > 1 and value != int(value):
        raise ValueError("a whole number of GPUs, or a fraction of one up to 1")
    return check_share(value)


def _check_seed(key: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < SEED_LIMIT:
        raise InputError(f"{key}: got {value!r}, expected a whole number from 0 to 2**63 - 1")
