"""Classes that `_target_` names: import them, and check their arguments against their signatures."""

from __future__ import annotations

import importlib
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
from gatesweep.sweeps.config.secrets import is_redacted
from gatesweep.sweeps.config.trust import how_to_trust, is_trusted, is_trusted_source

# The kinds of class that the places of a configuration take. Optuna and Ray Tune are imported only where one is named.
TARGET_KINDS = {
    "trainable": "gatesweep.core.trainable:Trainable",
    "data": "gatesweep.core.trainable:Data",
    "search.sampler": "optuna.samplers:BaseSampler",
    "scheduler": "ray.tune.schedulers:TrialScheduler",
}

LIMIT = 2**63  # of whole numbers
STRICT = ConfigDict(strict=True, allow_inf_nan=False)


def locate(key: str, node: Mapping[str, Any]) -> Any:
    """Import and return the class that the `_target_` of `node`, the section `key`, names.

    Its name is checked before the import, which runs code, and its kind before anybody can call it. Raises InputError
    where there is no `_target_`, the name is not trusted, it cannot be imported, or it is not what `key` takes.
    """
    expected = "expected the dotted name of a class"
    if "_target_" not in node:
        raise InputError(f"{key}._target_: missing, {expected}, e.g. {key}=<file in configs/{key}/>")
    target = node["_target_"]
    got = f"{key}._target_: got {target!r}"
    if not isinstance(target, str) or len(parts := target.split(".")) < 2 or not all(map(str.isidentifier, parts)):
        raise InputError(f"{got}, {expected}")
    if not is_trusted(target):
        raise InputError(f"{got}, expected a class of gatesweep or of a module that you trust; {how_to_trust(target)}")
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"{key}._target_: cannot import {target!r} ({error})") from error
    if not _is_kind(found, key):
        raise InputError(f"{got}, expected {_describe_kind(key)}")
    if not is_trusted_source(target, found.__module__):
        raise InputError(f"{got}, which is {found.__module__}.{name}; {how_to_trust(found.__module__)}")
    return found


def _is_kind(found: Any, key: str) -> bool:
    """Return True for a class of the kind that `key` takes. A class of data has the methods of `Data`, not its base."""
    if not inspect.isclass(found) or inspect.isabstract(found) or is_protocol(found):
        return False
    if key == "data":
        return all(inspect.isfunction(inspect.getattr_static(found, name, None)) for name in ("train", "val"))
    return pkgutil.resolve_name(TARGET_KINDS[key]) in inspect.getmro(found)


def _describe_kind(key: str) -> str:
    module, name = TARGET_KINDS[key].split(":")
    kind = "a class" if key == "data" else "a subclass"
    return f"{kind} with the methods of {module}.{name}"


def check_arguments(key: str, node: Mapping[str, Any]) -> None:
    """Check the names and types of the values in `node` against the signature of its `_target_`. Raises InputError."""
    accepted = accepted_arguments(key, node)
    for name, value in node.items():
        if name == "_target_":
            continue
        if is_redacted(value):
            raise InputError(f"{key}.{name}: got {value!r}, whose secret is not recorded: type {key}.{name}=... again")
        if name not in accepted:
            nearest = nearest_key(name, accepted)
            hint = f"; did you mean {key}.{nearest}?" if nearest else ""
            raise InputError(f"{key}.{name}: unknown key, expected one of {', '.join(sorted(accepted))}{hint}")
        try:
            pydantic.TypeAdapter(accepted[name], config=STRICT).validate_python(value)
        except pydantic.ValidationError as error:
            raise InputError(first_fault(error, f"{key}.{name}")) from error
        if isinstance(value, int) and abs(value) >= LIMIT:
            raise InputError(f"{key}.{name}: got {value}, expected a whole number from -2**63 to 2**63 - 1")


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
