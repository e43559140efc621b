"""Functions as trainables: the configurations that they can have, and the call that a configuration asks for.

A configuration whose `data` are empty is that of a function, which loads its own. So a reader of a record knows it
without importing anything.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

from gatesweep.core.errors import InputError
from gatesweep.sweeps.config.targets import check_arguments, is_plain_function, locate, takes_all_values

# Settings of the core's own loop, as they are where they change nothing.
NEUTRAL_TRAINING: dict[str, Any] = {
    "precision": "fp32",
    "clip_norm": None,
    "accumulate": 1,
    "schedule.shape": "constant",
    "schedule.warmup": 0.0,
    "log_grad_norm_every": None,
    "compile": False,
    "activation_checkpointing": False,
}
ONE_PROCESS = {"workers": 1, "stack": 1}


def trains_function(values: Mapping[str, Any]) -> bool:
    """Return True if the plain values of a configuration are those of a function."""
    return values["data"] == {}


def check_function(values: Mapping[str, Any]) -> None:
    """Raise InputError for arguments that the function does not take, and for settings that it would not obey.

    `values` are the plain values of a whole configuration.
    """
    node = values["trainable"]
    if not is_plain_function(locate("trainable", node, is_function=True)):
        raise InputError(f"data._target_: missing, expected the class of the data of {node['_target_']}")
    check_arguments("trainable", node)
    for section, neutral in (("resources", ONE_PROCESS), ("training", NEUTRAL_TRAINING)):
        reason = "which is one process" if section == "resources" else "whose steps are its own (training=function)"
        for key, value in neutral.items():
            name, _, inner = key.partition(".")
            got = values[section].get(name, value)
            got = got[inner] if inner else got
            if got != value:
                expected = "null" if value is None else value
                raise InputError(f"{section}.{key}: got {got!r}, expected {expected} for a function, {reason}")


def refuse_data(trainable: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    """Raise InputError where a function has data in its configuration."""
    if is_plain_function(locate("trainable", trainable)):
        expected = f"expected data={{}}: {trainable['_target_']} is a function, which loads its own"
        raise InputError(f"data: got {data.get('_target_', data)!r}, {expected}")


def missing_arguments(node: Mapping[str, Any], given: Collection[str]) -> list[str]:
    """Return the arguments without default that a function would be called without.

    `node` is the section `trainable`; `given` holds the names that trials add to it.
    """
    function = locate("trainable", node)
    names = {*node, *given} - {"_target_"}
    if takes_all_values(function, names):
        return []
    parameters = inspect.signature(function).parameters.values()
    named = [item for item in parameters if item.kind in (item.KEYWORD_ONLY, item.POSITIONAL_OR_KEYWORD)]
    return [item.name for item in named if item.default is item.empty and item.name not in names]


def bind_function(node: Mapping[str, Any]) -> Callable[[], Any]:
    """Return the function of the section `trainable` with its values filled in. Raises InputError."""
    function = locate("trainable", node)
    values = copy.deepcopy({name: value for name, value in node.items() if name != "_target_"})
    return partial(function, values) if takes_all_values(function, values) else partial(function, **values)
