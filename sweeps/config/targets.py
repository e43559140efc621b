"""Classes and functions that `_target_` names: import them, and check their arguments against their signatures."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import pkgutil
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import pydantic
from pydantic import ConfigDict
from typing_extensions import is_protocol  # comes with pydantic; `typing` has it from Python 3.13 on

from gatesweep.core.errors import InputError
from gatesweep.sweeps.config.faults import first_fault, nearest_key
from gatesweep.sweeps.config.secrets import is_redacted
from gatesweep.sweeps.config.trust import (
    OWN,
    how_to_trust,
    is_trusted,
    is_trusted_function,
    is_trusted_source,
    trusted_object,
)

# The kinds of class that the places of a configuration take. Optuna and Ray Tune are imported only where one is named.
TARGET_KINDS = {
    "trainable": "gatesweep.core.trainable:Trainable",
    "data": "gatesweep.core.trainable:Data",
    "search.sampler": "optuna.samplers:BaseSampler",
    "scheduler": "ray.tune.schedulers:TrialScheduler",
}

LARGEST_INTEGER = 2**63  # of whole numbers
ARGUMENT_TYPES = ConfigDict(strict=True, allow_inf_nan=False)


def locate(key: str, node: Mapping[str, Any], is_function: bool = False) -> Any:
    """Import and return the class, or for `trainable` also the function, that the `_target_` of `node` names.

    `key` is the section; `is_function` says that it must be a function, for the message of one that is not trusted.
    The name is checked before the import, which runs code, and the kind before anybody can call it. Raises InputError
    where there is no `_target_`, the name is not trusted, it cannot be imported, or it is not what `key` takes.
    """
    expected = "expected the dotted name of a class" + (", or of a function" if key == "trainable" else "")
    if "_target_" not in node:
        raise InputError(f"{key}._target_: missing, {expected}, e.g. {key}=<file in configs/{key}/>")
    target = node["_target_"]
    got = f"{key}._target_: got {target!r}"
    if not isinstance(target, str) or len(parts := target.split(".")) < 2 or not all(map(str.isidentifier, parts)):
        raise InputError(f"{got}, {expected}")
    if handed_over := trusted_object(target):
        return handed_over
    if not is_trusted(target):
        hint = how_to_trust(target, is_function)
        raise InputError(f"{got}, expected a class of gatesweep or of a module that you trust; {hint}")
    module, _, name = target.rpartition(".")
    if module == "__main__":
        raise InputError(f"{got}, of a script or notebook: go on from there, by sweep(..., resume=...)")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        is_unknown = isinstance(error, ModuleNotFoundError) and error.name == target.partition(".")[0]
        hint = "; is the folder of that module in PYTHONPATH?" if is_unknown else ""
        raise InputError(f"{key}._target_: cannot import {target!r} ({error}){hint}") from error
    if key == "trainable" and is_plain_function(found):
        return _checked_function(target, found)
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
    function = ", or a function" if key == "trainable" else ""
    return f"{kind} with the methods of {module}.{name}{function}"


def is_plain_function(target: Any) -> bool:
    """Return True for a function of Python's, also one with some arguments filled in by `functools.partial`."""
    return inspect.isfunction(target) or (isinstance(target, partial) and inspect.isfunction(target.func))


def _checked_function(target: str, function: Any) -> Any:
    """Return a function. Raises InputError where its own name is not trusted, and for a coroutine.

    Those of gatesweep, Optuna and Ray are no trainables: a folder must not choose what of theirs is called.
    """
    got = f"trainable._target_: got {target!r}"
    if any(f"{target}.".startswith(f"{module}.") for module in OWN):
        raise InputError(f"{got}, expected {_describe_kind('trainable')} of your own")
    if not is_trusted_function(target):
        raise InputError(f"{got}, a function, which must be named itself; {how_to_trust(target, is_function=True)}")
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise InputError(f"{got}, an async function, expected one with def alone")
    return function


def takes_all_values(function: Any, names: Iterable[str]) -> bool:
    """Return True for a function that takes all values as one dict, as `train(config)` does.

    Its one parameter has no default, no annotation but a mapping, and not the name of a value; `names` are theirs.
    """
    parameters = list(inspect.signature(function).parameters.values())
    if len(parameters) != 1 or parameters[0].default is not inspect.Parameter.empty:
        return False
    parameter = parameters[0]
    if parameter.kind not in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
        return False
    annotation = _type_hints(function).get(parameter.name, dict)
    kind = typing.get_origin(annotation) or annotation
    is_mapping = kind is Any or (inspect.isclass(kind) and issubclass(kind, Mapping))
    return is_mapping and parameter.name not in names


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
            expected = f"one of {', '.join(sorted(accepted))}" if accepted else f"no key: {node['_target_']} takes none"
            raise InputError(f"{key}.{name}: unknown key, expected {expected}{hint}")
        try:
            pydantic.TypeAdapter(accepted[name], config=ARGUMENT_TYPES).validate_python(value)
        except pydantic.ValidationError as error:
            raise InputError(first_fault(error, f"{key}.{name}")) from error
        except pydantic.errors.PydanticUserError:  # an annotation that is no type of YAML values
            continue
        if isinstance(value, int) and abs(value) >= LARGEST_INTEGER:
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
    """Return the arguments, and their types, that the `_target_` of `node` takes by name. Raises InputError.

    A constructor with `**fields` passes them on, so the arguments of its base class are accepted too. A function that
    takes all values as one dict, or any by `**fields`, accepts those that `node` has.
    """
    target = locate(key, node)
    names = [name for name in node if name != "_target_"]
    if not inspect.isclass(target):
        open_ended = takes_all_values(target, names)
        own = {} if open_ended else dict(_named_arguments(target, skip=0))
        open_ended |= any(item.kind is item.VAR_KEYWORD for item in inspect.signature(target).parameters.values())
        return own | ({name: Any for name in names if name not in own} if open_ended else {})
    accepted: dict[str, Any] = {}
    constructors = [vars(cls)["__init__"] for cls in inspect.getmro(target) if "__init__" in vars(cls)]
    lent = list(inspect.signature(constructors[0]).parameters)[: 2 if key == "trainable" else 1]  # `self`, and the data
    for constructor in constructors:
        named = dict(_named_arguments(constructor, skip=1))
        accepted = {name: kind for name, kind in named.items() if name not in lent} | accepted
        if not any(item.kind is item.VAR_KEYWORD for item in inspect.signature(constructor).parameters.values()):
            break
    return accepted


def _named_arguments(function: Any, skip: int) -> Iterator[tuple[str, Any]]:
    """Yield name and type of each parameter that can be given by its name, behind the first `skip` positional ones."""
    hints = _type_hints(function)
    for position, item in enumerate(inspect.signature(function).parameters.values()):
        is_named = item.kind in (item.KEYWORD_ONLY, item.POSITIONAL_OR_KEYWORD)
        if is_named and (position >= skip or item.kind is item.KEYWORD_ONLY):
            yield item.name, hints.get(item.name, Any)


def _type_hints(function: Any) -> dict[str, Any]:
    """Return the annotations of a function, but for those that name what is imported for type checkers alone."""
    function = getattr(function, "func", function)
    hints: dict[str, Any] = {}
    for name, annotation in getattr(function, "__annotations__", {}).items():
        holder = types.SimpleNamespace(__annotations__={name: annotation})
        with contextlib.suppress(Exception):  # whatever the evaluation of the user's annotation raises
            hints |= typing.get_type_hints(holder, globalns=getattr(function, "__globals__", {}))
    return hints
