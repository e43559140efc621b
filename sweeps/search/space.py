"""The search space: YAML leaves that become Optuna's distributions, with conditions and compositions.

A space has the keys of the configuration that it varies. Its leaves are

    {type: float, low: 1e-4, high: 1e-2, log: true}
    {type: int, low: 1, high: 4, step: 1}
    {type: categorical, choices: [32, 64, 128]}
    {type: composition, total: 24, parts: {topology: 2, values: 2, response: 2}, step: 2}

A composition splits `total` into named parts, each a whole number of steps above its minimum. A leaf with
`when: {trainable.positions: rotary}` exists only if the other leaf has that value.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any

import optuna
import pydantic
from pydantic import Field

from gatesweep.core.errors import InputError
from gatesweep.sweeps.config.schema import Config, check_config
from gatesweep.sweeps.config.targets import accepted_arguments
from gatesweep.sweeps.config.values import flatten, set_values
from gatesweep.sweeps.search.composition import Composition
from gatesweep.sweeps.search.leaves import Categorical, Float, Int

Space = dict[str, Float | Int | Categorical | Composition]  # by dotted key
HYPERPARAMETERS = ("trainable.", "data.", "training.", "resources.workers")  # a key that may vary begins so
NO_HYPERPARAMETERS = (
    "training.keep_checkpoints",
    "training.checkpoint_every",
    "training.system_metrics",
    "training.log_grad_norm_every",
)
MOST_GRID_VALUES = 10_000  # of one leaf: Optuna lists them all for every trial
AnyLeaf = pydantic.TypeAdapter(Annotated[Float | Int | Categorical | Composition, Field(discriminator="type")])


def read_space(config: Config) -> Space:
    """Return the leaves of `search.space` by dotted key, each checked against the configuration that it varies.

    Raises InputError, which names the key, its value and what is expected.
    """
    space: Space = {}
    for key, node in _iterate_leaves(config.search.space):
        _check_hyperparameter(key, config)
        if key in space:
            raise InputError(f"search.space.{key}: got two leaves, expected one")
        try:
            space[key] = AnyLeaf.validate_python(node)
        except pydantic.ValidationError as error:
            raise InputError(_leaf_fault(error, key, node)) from error
    for key, leaf in space.items():
        for parent in leaf.when:
            _check_condition(space, key, parent)
        for values in leaf.extremes(key):
            try:
                check_config(set_values(config.to_dict(), values))
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(f"search.space.{key}: {error}") from error
    _ordered_keys(space)
    return space


def check_typed_keys(overrides: Iterable[str], config: Config) -> None:
    """Raise InputError for a key of `overrides` that has a value of its own, although `search.space` varies it.

    A leaf with a condition is no contradiction: where the condition does not hold, the key has the value that was
    typed.
    """
    leaves = {key: node for key, node in _iterate_leaves(config.search.space) if not node.get("when")}
    for typed in overrides:
        for key in leaves:
            if _is_hyperparameter(key) and f"{typed}.".startswith(f"{key}."):
                raise InputError(
                    f"{typed}: got a value, but search.space varies {key}: type '~search.space.{key}' too, "
                    f"or leave {typed} out"
                )


def check_grid(space: Space) -> None:
    """Raise InputError unless an exhaustive sampler can list the values of every leaf."""
    for key, leaf in space.items():
        count = leaf.count()
        if count is None:
            raise InputError(f"search.space.{key}.step: missing, expected one: search=grid needs a finite space")
        if count > MOST_GRID_VALUES:
            raise InputError(f"search.space.{key}: got {count} values, expected at most {MOST_GRID_VALUES} in a grid")


def suggest_values(trial: optuna.Trial, space: Space, exhaustive: bool = False) -> dict[str, Any]:
    """Draw one point of the space, as values by dotted key, from the trial's sampler.

    Leaves whose conditions do not hold are left out. `exhaustive` is for a sampler that visits every point.
    """
    values: dict[str, Any] = {}
    for key in _ordered_keys(space):
        if space[key].active(values):
            values |= space[key].suggest(trial, key, exhaustive)
    return values


def _is_hyperparameter(key: str) -> bool:
    """Return True for a key that may differ between the trials of a sweep."""
    return key.startswith(HYPERPARAMETERS) and key not in NO_HYPERPARAMETERS and not key.endswith("._target_")


def _check_hyperparameter(key: str, config: Config) -> None:
    """Raise InputError unless `key` may differ between the trials of a sweep."""
    if _is_hyperparameter(key):
        return
    known = [f"trainable.{name}" for name in accepted_arguments("trainable", config.trainable)]
    data = accepted_arguments("data", config.data) if config.data else {}  # a function has none
    known += [f"data.{name}" for name in data if name not in ("device", "seed")]
    known += [name for name in flatten(config.training.to_dict(), "training.") if name not in NO_HYPERPARAMETERS]
    nearest = next((name for name in known if name.rpartition(".")[2] == key.lower()), None)
    hint = f"did you mean {nearest}? " if nearest else ""
    reason = ": every trial has a seed of its own" if key == "seed" else ""
    raise InputError(
        f"search.space.{key}: no hyperparameter{reason}, {hint}expected a key of trainable, data or training, "
        "or resources.workers"
    )


def _check_condition(space: Space, key: str, parent: str) -> None:
    """Check that the condition of leaf `key` on leaf `parent` can hold. Raises InputError."""
    where, leaf = f"search.space.{key}.when", space.get(parent)
    if leaf is None or isinstance(leaf, Composition):
        expected = "expected another key of the search space that has a value of its own"
        raise InputError(f"{where}: got {parent!r}, {expected}")
    condition = space[key].when[parent]
    allowed = condition if isinstance(condition, list) else [condition]
    if not allowed:
        raise InputError(f"{where}.{parent}: got [], expected a value of {parent}, or some")
    impossible = [value for value in allowed if not leaf.admits(value)]
    if impossible:
        raise InputError(f"{where}.{parent}: got {impossible[0]!r}, which {parent} is never")


def _ordered_keys(space: Space) -> list[str]:
    """Return the keys, each after the keys of its conditions. Raises InputError for conditions in a circle."""
    ordered: list[str] = []
    waiting = list(space)
    while waiting:
        ready = [key for key in waiting if all(parent in ordered for parent in space[key].when)]
        if not ready:
            raise InputError(f"search.space: the conditions of {', '.join(waiting)} wait for one another")
        ordered += ready
        waiting = [key for key in waiting if key not in ready]
    return ordered


def _iterate_leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the nodes of the leaves with their dotted keys. Raises InputError for anything else than a leaf."""
    for name, value in node.items():
        key = f"{prefix}{name}"
        if not isinstance(value, Mapping):
            expected = "expected a leaf, e.g. {type: float, low: 0.1, high: 1}"
            raise InputError(f"search.space.{key}: got {value!r}, {expected}")
        if isinstance(value.get("type"), str):
            yield key, value
        else:
            yield from _iterate_leaves(value, f"{key}.")


def _leaf_fault(error: pydantic.ValidationError, key: str, node: Mapping[str, Any]) -> str:
    """Return the first fault of a leaf in one line."""
    fault = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in ("search.space", key, *fault["loc"][1:]))
    expected = fault["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if fault["type"] == "union_tag_invalid":
        return f"search.space.{key}.type: got {node['type']!r}, expected float, int, categorical or composition"
    if fault["type"] in ("missing", "extra_forbidden"):
        return f"{where}: {'missing' if fault['type'] == 'missing' else 'unknown key'}"
    if where.endswith(".choices") and fault["type"] == "value_error":
        return f"{where}: {expected}"
    got = "" if fault["type"] == "value_error" else f"got {fault['input']!r}, "
    return f"{where}: {got}expected {expected}"
