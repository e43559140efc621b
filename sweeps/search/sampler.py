"""The Optuna sampler that `search.sampler` names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import optuna

from gatesweep.core.errors import InputError
from gatesweep.sweeps.config.options import check_options
from gatesweep.sweeps.config.targets import locate


def make_sampler(node: Mapping[str, Any], seed: int, offset: int = 0) -> optuna.samplers.BaseSampler:
    """Make the sampler that `node`, the section `search.sampler`, describes.

    It is seeded with the sweep's `seed` and `offset`, the number of trials asked for so far. Raises InputError for
    an argument that the sampler does not take.
    """
    target = locate("search.sampler", node)
    fields = {name: value for name, value in node.items() if name != "_target_"}
    check_options("search.sampler", target, fields, filled_in=("seed",))
    try:
        return target(**fields, seed=(seed * 100_003 + offset) % 2**32)
    except (TypeError, ValueError) as error:
        raise InputError(f"search.sampler: {error}") from error


def is_exhaustive(node: Mapping[str, Any]) -> bool:
    """Return True if the sampler visits every point of a finite space. Raises InputError for a bad `_target_`."""
    return locate("search.sampler", node) is optuna.samplers.BruteForceSampler
