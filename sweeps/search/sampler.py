"""The Optuna sampler that `search.sampler` names."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache
from typing import Any

import optuna

from gatesweep.core.errors import InputError
from gatesweep.sweeps.config.targets import locate


def make_sampler(node: Mapping[str, Any], seed: int, offset: int = 0) -> optuna.samplers.BaseSampler:
    """The sampler that `search.sampler` names, seeded by the sweep's seed and how many trials were asked for."""
    node = dict(node)
    target = locate("search.sampler", node)
    del node["_target_"]
    accepted = _parameters(target)
    for name in node:
        if name not in accepted:
            raise InputError(f"search.sampler.{name}: unknown key, expected one of {', '.join(accepted)}")
    try:
        return target(**node, seed=(seed * 100_003 + offset) % 2**32)
    except (TypeError, ValueError) as error:
        raise InputError(f"search.sampler: {error}") from error


@cache
def _parameters(target: Any) -> Mapping[str, Any]:
    return inspect.signature(target).parameters


def is_exhaustive(node: Mapping[str, Any]) -> bool:
    """Whether the sampler visits every point of a finite space."""
    return locate("search.sampler", node) is optuna.samplers.BruteForceSampler
