"""Options of a sampler or a scheduler: their names, and the types and ranges of their values."""

from __future__ import annotations

import collections.abc
import inspect
import math
import sys
import typing
from collections.abc import Collection, Mapping
from functools import cache
from types import SimpleNamespace
from typing import Any

import pydantic
from pydantic import ConfigDict

from gatesweep.core.errors import InputError
from gatesweep.sweeps.config.faults import first_fault

LARGEST_OPTION = 2**53  # of a number: counts beyond it are never meant, and floats do not hold them
OPTION_TYPES = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)


def check_options(key: str, target: Any, options: Mapping[str, Any], filled_in: Collection[str] = ()) -> None:
    """Raise InputError for an option in the section `key` that the constructor `target` does not take as it is.

    Options `filled_in` have values of ours. Neither Optuna nor Tune checks types, and none of their numbers is negative
    or infinite.
    """
    accepted = {name: kind for name, kind in _parameters(target).items() if name not in filled_in}
    for name, value in options.items():
        if name not in accepted:
            raise InputError(f"{key}.{name}: unknown key, expected one of {', '.join(accepted)}")
        check = accepted[name]
        if check is None:
            raise InputError(f"{key}.{name}: got {value!r}, expected no such key: it takes a Python object, not a text")
        try:
            check.validate_python(value)
        except pydantic.ValidationError as error:
            raise InputError(first_fault(error, f"{key}.{name}")) from error
        if isinstance(value, int | float) and not (math.isfinite(value) and 0 <= value < LARGEST_OPTION):
            raise InputError(f"{key}.{name}: got {value!r}, expected a finite number from 0 to 2**53")


@cache
def _parameters(target: Any) -> dict[str, pydantic.TypeAdapter[Any] | None]:
    """Return the parameters of a constructor, each with the check of its type. Reading a signature is slow.

    The check is None for a type that no text stands for: a function, an object, a class that cannot be looked up.
    """
    parameters = inspect.signature(target).parameters
    names = {**vars(typing), **vars(collections.abc), **vars(sys.modules[target.__module__])}
    return {name: _type_check(item.annotation, names) for name, item in parameters.items()}


def _type_check(annotation: Any, names: dict[str, Any]) -> pydantic.TypeAdapter[Any] | None:
    if annotation is inspect.Parameter.empty:
        return pydantic.TypeAdapter(Any)
    try:
        hint = typing.get_type_hints(SimpleNamespace(__annotations__={"it": annotation}), names)["it"]
        return None if _holds_function(hint) else pydantic.TypeAdapter(hint, config=OPTION_TYPES)
    except (NameError, TypeError, AttributeError, pydantic.PydanticUserError):
        return None


def _holds_function(hint: Any) -> bool:
    """Return True for `Callable[...]`, also as a part of a union."""
    parts = (hint, *typing.get_args(hint))
    return any(
        typing.get_origin(part) is collections.abc.Callable or part is collections.abc.Callable for part in parts
    )
