"""Options of a sampler or a scheduler: their names, and the types and signs of their values."""

from __future__ import annotations

import inspect
import math
from collections.abc import Collection, Mapping
from functools import cache
from typing import Any

from gatesweep.core.errors import InputError

ANNOTATIONS: dict[str, tuple[Any, str]] = {  # by the name of an annotation: its types, and their name in messages
    "bool": (bool, "true or false"),
    "int": (int, "a whole number"),
    "float": ((int, float), "a number"),
}


def check_options(key: str, target: Any, options: Mapping[str, Any], filled_in: Collection[str] = ()) -> None:
    """Raise InputError for an option in the section `key` that the constructor `target` does not take as it is.

    Options `filled_in` have values of ours. Neither Optuna nor Tune checks types, and none of their numbers is negative
    or infinite.
    """
    accepted = {name: kind for name, kind in _parameters(target).items() if name not in filled_in}
    for name, value in options.items():
        if name not in accepted:
            raise InputError(f"{key}.{name}: unknown key, expected one of {', '.join(accepted)}")
        kinds, expected = ANNOTATIONS.get(accepted[name], (object, ""))
        is_kind = isinstance(value, kinds) and isinstance(value, bool) == (kinds is bool) if expected else True
        if not is_kind:
            raise InputError(f"{key}.{name}: got {value!r}, expected {expected}")
        if isinstance(value, int | float) and not (math.isfinite(value) and value >= 0):
            raise InputError(f"{key}.{name}: got {value!r}, expected a finite number of at least 0")


@cache
def _parameters(target: Any) -> dict[str, str]:
    """Return the parameters of a constructor, each with the name of its type. Reading a signature is slow."""
    parameters = inspect.signature(target).parameters
    return {
        name: item.annotation if isinstance(item.annotation, str) else getattr(item.annotation, "__name__", "")
        for name, item in parameters.items()
    }
