"""The classes that `_target_` names: import them, and check their arguments against their signatures."""

from __future__ import annotations

import inspect
import pkgutil
import typing
from collections.abc import Mapping
from typing import Any

import pydantic
from pydantic import ConfigDict

from gatesweep.core.errors import InputError
from gatesweep.sweeps.config.faults import first_fault


def check_data_type(trainable: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    """Raise InputError where the data are not of the class that the trainable's constructor asks for."""
    wanted = typing.get_type_hints(locate("trainable", trainable).__init__).get("data", Any)
    found = locate("data", data)
    vague = wanted is Any or getattr(wanted, "_is_protocol", False)  # Any is a class, for inspect
    if vague or not (inspect.isclass(wanted) and inspect.isclass(found)):
        return
    if not issubclass(found, wanted):
        expected = f"{wanted.__name__}: {trainable['_target_']} trains on it"
        raise InputError(f"data._target_: got {data['_target_']!r}, expected {expected}")


def check_arguments(key: str, node: Mapping[str, Any]) -> None:
    """Check a `_target_` node against the signature of what it names."""
    accepted = accepted_arguments(key, node)
    for name, value in node.items():
        if name == "_target_":
            continue
        if name not in accepted:
            raise InputError(f"{key}.{name}: unknown key, expected one of {', '.join(sorted(accepted))}")
        try:
            pydantic.TypeAdapter(accepted[name], config=ConfigDict(strict=True)).validate_python(value)
        except pydantic.ValidationError as error:
            raise InputError(first_fault(error, f"{key}.{name}")) from error


def accepted_arguments(key: str, node: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments, and their types, of what a `_target_` node names.

    A constructor that takes `**fields` hands them on, so those of the class above it are accepted too.
    """
    target = locate(key, node)
    classes = inspect.getmro(target) if inspect.isclass(target) else ()
    accepted: dict[str, Any] = {}
    for function in [vars(one)["__init__"] for one in classes if "__init__" in vars(one)] or [target]:
        hints = typing.get_type_hints(function)
        parameters = inspect.signature(function).parameters.values()
        named = {one.name: hints.get(one.name, Any) for one in parameters if one.kind is one.KEYWORD_ONLY}
        accepted = named | accepted
        if not any(one.kind is one.VAR_KEYWORD for one in parameters):
            break
    return accepted


def locate(key: str, node: Mapping[str, Any]) -> Any:
    if "_target_" not in node:
        raise InputError(
            f"{key}._target_: missing, expected the dotted name of a class, e.g. {key}=<file in configs/{key}/>"
        )
    try:
        return pkgutil.resolve_name(node["_target_"])
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"{key}._target_: cannot import {node['_target_']!r} ({error})") from error
