"""The search space: YAML leaves that become Optuna's distributions, conditions and compositions included.

A space mirrors the configuration it varies. Its leaves are

    {type: float, low: 1e-4, high: 1e-2, log: true}
    {type: int, low: 1, high: 4, step: 1}
    {type: categorical, choices: [32, 64, 128]}
    {type: composition, total: 24, parts: {topology: 2, values: 2, response: 2}, step: 2}

A composition splits `total` into named parts, each at least its minimum and a whole number of steps above it. A leaf
with `when: {trainable.positions: rotary}` exists only under that choice of another leaf.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import optuna
import pydantic
from pydantic import Field

from gatesweep.core.errors import InputError
from gatesweep.sweeps.config.schema import Config, check_config
from gatesweep.sweeps.config.values import set_values
from gatesweep.sweeps.search.composition import Composition
from gatesweep.sweeps.search.leaves import Categorical, Float, Int

Space = dict[str, Float | Int | Categorical | Composition]
AnyLeaf = pydantic.TypeAdapter(Annotated[Float | Int | Categorical | Composition, Field(discriminator="type")])


def read_space(config: Config) -> Space:
    """The leaves of `search.space` by dotted key, each checked against the configuration that it varies.

    Raises InputError naming the key, what it got and what it expects.
    """
    space: Space = {}
    for key, node in _iterate_leaves(config.search.space):
        try:
            space[key] = AnyLeaf.validate_python(node)
        except pydantic.ValidationError as error:
            raise InputError(_leaf_fault(error, key, node)) from error
    for key, leaf in space.items():
        for other in leaf.when:
            _check_condition(space, key, other)
        for values in leaf.extremes(key):
            try:
                check_config(set_values(config.to_dict(), values))
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(f"search.space.{key}: {error}") from error
    _ordered_keys(space)
    return space


def _check_condition(space: Space, key: str, other: str) -> None:
    """A condition reads another leaf, and can hold."""
    where, leaf = f"search.space.{key}.when", space.get(other)
    if leaf is None or isinstance(leaf, Composition):
        raise InputError(
            f"{where}: got {other!r}, expected another key of the search space that has a value of its own"
        )
    wanted = space[key].when[other]
    impossible = [one for one in (wanted if isinstance(wanted, list) else [wanted]) if not leaf.admits(one)]
    if impossible:
        raise InputError(f"{where}.{other}: got {impossible[0]!r}, which {other} is never")


def suggest_values(trial: optuna.Trial, space: Space, exhaustive: bool = False) -> dict[str, Any]:
    """One point of the space, as values by dotted key; conditional leaves that are not active are left out."""
    chosen: dict[str, Any] = {}
    for key in _ordered_keys(space):
        if space[key].active(chosen):
            chosen |= space[key].suggest(trial, key, exhaustive)
    return chosen


def _ordered_keys(space: Space) -> list[str]:
    """The keys, each after those that its condition reads."""
    done: list[str] = []
    waiting = list(space)
    while waiting:
        ready = [key for key in waiting if all(other in done for other in space[key].when)]
        if not ready:
            raise InputError(f"search.space: the conditions of {', '.join(waiting)} wait for one another")
        done += ready
        waiting = [key for key in waiting if key not in ready]
    return done


def _iterate_leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        key = f"{prefix}{name}"
        if not isinstance(value, Mapping):
            raise InputError(
                f"search.space.{key}: got {value!r}, expected a leaf, e.g. {{type: float, low: 0.1, high: 1}}"
            )
        if isinstance(value.get("type"), str):
            yield key, value
        else:
            yield from _iterate_leaves(value, f"{key}.")


def _leaf_fault(error: pydantic.ValidationError, key: str, node: Mapping[str, Any]) -> str:
    fault = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in ("search.space", key, *fault["loc"][1:]))
    expected = fault["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if fault["type"] == "union_tag_invalid":
        return f"search.space.{key}.type: got {node['type']!r}, expected float, int, categorical or composition"
    if fault["type"] in ("missing", "extra_forbidden"):
        return f"{where}: {'missing' if fault['type'] == 'missing' else 'unknown key'}"
    got = "" if fault["type"] == "value_error" else f"got {fault['input']!r}, "
    return f"{where}: {got}expected {expected}"
