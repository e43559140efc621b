"""Classes that `_target_` names: import them, and check their arguments against their signatures."""

from __future__ import annotations

import inspect
import pkgutil
import typing
from collections.abc import Mapping
from typing import Any

import pydantic
from pydantic import ConfigDict
from typing_extensions import is_protocol  # comes with pydantic; `typing` has it from Python 3.13 on

from gatesweep.core.errors import InputError
from gatesweep.sweeps.config.faults import first_fault, nearest_key

STRICT = ConfigDict(strict=True, allow_inf_nan=False)


def locate(key: str, node: Mapping[str, Any]) -> Any:
    """Import and return the object that the `_target_` of `node`, the section `key`, names.

    Raises InputError where there is no `_target_`, or it cannot be imported.
    """
    expected = "expected the dotted name of a class"
    if "_target_" not in node:
        raise InputError(f"{key}._target_: missing, {expected}, e.g. {key}=<file in configs/{key}/>")
    target = node["_target_"]
    if not isinstance(target, str):
        raise InputError(f"{key}._target_: got {target!r}, {expected}")
    try:
        return pkgutil.resolve_name(target)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"{key}._target_: cannot import {target!r} ({error})") from error


def check_arguments(key: str, node: Mapping[str, Any]) -> None:
    """Check the names and types of the values in `node` against the signature of its `_target_`. Raises InputError."""
    accepted = accepted_arguments(key, node)
    for name, value in node.items():
        if name == "_target_":
            continue
        if name not in accepted:
            nearest = nearest_key(name, accepted)
            hint = f"; did you mean {key}.{nearest}?" if nearest else ""
            raise InputError(f"{key}.{name}: unknown key, expected one of {', '.join(sorted(accepted))}{hint}")
        try:
            pydantic.TypeAdapter(accepted[name], config=STRICT).validate_python(value)
        except pydantic.ValidationError as error:
            raise InputError(first_fault(error, f"{key}.{name}")) from error


def check_data_type(trainable: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    """Check that the data are of the class which the trainable's constructor asks for. Raises InputError."""
    expected_class = typing.get_type_hints(locate("trainable", trainable).__init__).get("data", Any)
    data_class = locate("data", data)
    if not (inspect.isclass(expected_class) and inspect.isclass(data_class)):
        return
    if expected_class is Any or is_protocol(expected_class):  # `inspect.isclass(Any)` is true
        return
    if not issubclass(data_class, expected_class):
        expected = f"{expected_class.__name__}: {trainable['_target_']} trains on it"
        raise InputError(f"data._target_: got {data['_target_']!r}, expected {expected}")


def accepted_arguments(key: str, node: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments, and their types, of the `_target_` of `node`. Raises InputError.

    A constructor with `**fields` passes them on, so the arguments of its base class are accepted too.
    """
    target = locate(key, node)
    classes = inspect.getmro(target) if inspect.isclass(target) else ()
    constructors = [vars(cls)["__init__"] for cls in classes if "__init__" in vars(cls)]
    accepted: dict[str, Any] = {}
    for function in constructors or [target]:
        hints = typing.get_type_hints(function)
        parameters = inspect.signature(function).parameters.values()
        own = {item.name: hints.get(item.name, Any) for item in parameters if item.kind is item.KEYWORD_ONLY}
        accepted = own | accepted
        if not any(item.kind is item.VAR_KEYWORD for item in parameters):
            break
    return accepted
