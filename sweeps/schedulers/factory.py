"""The scheduler that `scheduler` names, with metric, time and length filled in."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ray.tune.schedulers import TrialScheduler

from gatesweep.core.errors import InputError
from gatesweep.sweeps.config.targets import locate
from gatesweep.sweeps.schedulers.history import EpochScore
from gatesweep.sweeps.search.space import Space


def make_scheduler(
    node: Mapping[str, Any], max_epochs: int, space: Space, seen: Iterable[Sequence[EpochScore]] = ()
) -> TrialScheduler:
    """The scheduler that `scheduler` names; what it takes of metric, time and length is filled in."""
    target = locate("scheduler", node)
    node = dict(node)
    known = {
        "metric": "score",
        "mode": "max",
        "time_attr": "epoch",
        "max_t": max_epochs,
        "space": space,
        "seen": seen,
    }
    accepted = inspect.signature(target).parameters
    del node["_target_"]
    for name in node:
        if name not in accepted:
            raise InputError(f"scheduler.{name}: unknown key, expected one of {', '.join(set(accepted) - set(known))}")
    arguments = {name: value for name, value in known.items() if name in accepted}
    try:
        return target(**arguments, **node)
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        raise InputError(f"scheduler: {error}") from error
