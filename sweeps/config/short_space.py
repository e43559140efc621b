"""Short forms of a search space: keys of the trainable without their section, ranges and choices as lists.

    lr: [1.0e-5, 1.0e-1, log]      a range on a logarithmic scale
    dropout: [0.0, 0.5, linear]    a range
    width: [8, 32, 128]            choices; so is [8, 32]
    depth: {low: 1, high: 4}       a leaf; its type follows from its values

In Python a tuple is a range, (low, high) or (low, high, "log"), and a list is choices.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from gatesweep.core.errors import InputError

SECTIONS = ("trainable", "data", "training", "resources")  # whose keys may vary
SCALES = ("log", "linear")
FORMS = (
    "expected a range, [low, high, log] or [low, high, linear] (in Python a tuple), a list of choices, or a leaf, "
    "e.g. {low: 0.1, high: 1}"
)


def expand_space(space: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the leaves of a space in short forms as whole leaves, by dotted key. Raises InputError."""
    if not isinstance(space, Mapping):
        raise InputError(f"space: got {space!r}, expected keys, e.g. {{lr: [1.0e-4, 1.0e-1, log]}}")
    return {dotted_key(name): _expand_leaf(name, value) for name, value in _iterate_short(space)}


def dotted_key(name: str) -> str:
    """Return the key of the configuration: a name without a section is one of the trainable's."""
    return name if name.partition(".")[0] in SECTIONS and "." in name else f"trainable.{name}"


def _iterate_short(space: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in space.items():
        if isinstance(value, Mapping) and not _is_leaf(value):
            yield from _iterate_short(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _is_leaf(value: Mapping[str, Any]) -> bool:
    """Return True for a leaf; an argument of the trainable's may be called `low` or `type` itself."""
    return isinstance(value.get("type"), str) or _is_number(value.get("low")) or isinstance(value.get("choices"), list)


def _expand_leaf(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        leaf = {key: _plain(item) for key, item in value.items()}
        if "type" not in leaf:
            leaf = {"type": "categorical" if "choices" in leaf else _kind(leaf.get("low"), leaf.get("high")), **leaf}
        if isinstance(leaf.get("when"), Mapping):
            leaf["when"] = {dotted_key(key): item for key, item in leaf["when"].items()}
        return leaf
    if isinstance(value, tuple) or _is_range(value) or _is_misspelt_range(value):
        low, high, scale = (*value, "linear")[:3] if len(value) in (2, 3) else (None, None, None)
        if not _is_number(low) or not _is_number(high) or scale not in SCALES:
            raise InputError(f"space.{name}: got {value!r}, {FORMS}")
        return {"type": _kind(low, high), "low": _plain(low), "high": _plain(high), "log": scale == "log"}
    if isinstance(value, list):
        return {"type": "categorical", "choices": _plain(value)}
    raise InputError(f"space.{name}: got {value!r}, {FORMS}; a fixed value belongs into trainable")


def _is_range(value: Any) -> bool:
    """Return True for a list of two numbers and a scale, which are no choices that anybody means."""
    return isinstance(value, list) and len(value) == 3 and value[2] in SCALES and all(map(_is_number, value[:2]))


def _is_misspelt_range(value: Any) -> bool:
    """Return True for two numbers and nearly the name of a scale, as `lg`; `auto` may be a choice."""
    if not isinstance(value, list) or len(value) != 3 or not all(map(_is_number, value[:2])):
        return False
    word = value[2].lower() if isinstance(value[2], str) else ""
    return bool(difflib.get_close_matches(word, SCALES, n=1)) or (bool(word) and SCALES[1].startswith(word))


def _kind(low: Any, high: Any) -> str:
    return "int" if all(isinstance(bound, int | np.integer) for bound in (low, high)) else "float"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _plain(value: Any) -> Any:
    """Return a value in types of YAML: numpy's numbers as Python's, tuples as lists."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
