"""The scheduler of a configuration, with metric, time and length filled in."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ray.tune.error import TuneError
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from gatesweep.core.errors import InputError
from gatesweep.sweeps.config.options import check_options
from gatesweep.sweeps.config.schema import Config
from gatesweep.sweeps.config.targets import locate
from gatesweep.sweeps.schedulers.history import EpochScore
from gatesweep.sweeps.search.space import Space

RAYS = (FIFOScheduler, AsyncHyperBandScheduler, MedianStoppingRule)  # the others pause, copy or resize Tune's trials


def make_scheduler(
    node: Mapping[str, Any],
    max_epochs: int,
    space: Space,
    seen: Iterable[Sequence[EpochScore]] = (),
    config: Config | None = None,
) -> TrialScheduler:
    """Make the scheduler that the section `scheduler` names in its `_target_`.

    The arguments `metric`, `mode`, `time_attr`, `max_t`, `space`, `seen` and `config` are filled in where its
    constructor takes them. `seen` is the history of a resumed sweep, as `recorded_scores` returns it.
    Raises InputError for a name that cannot be imported, and for a key or value that the constructor refuses.
    """
    target = locate("scheduler", node)
    if target.__module__.startswith("ray.") and target not in RAYS:
        expected = f"expected {', '.join(kind.__name__ for kind in RAYS)} of Ray, or scheduler=pbt for a population"
        raise InputError(f"scheduler._target_: got {node['_target_']!r}, {expected}")
    filled_in = {
        "metric": "score",
        "mode": "max",
        "time_attr": "epoch",
        "max_t": max_epochs,
        "space": space,
        "seen": seen,
        "config": config,
    }
    accepted = inspect.signature(target).parameters
    options = {name: value for name, value in node.items() if name != "_target_"}
    check_options("scheduler", target, options, filled_in)
    arguments = {name: value for name, value in filled_in.items() if name in accepted}
    try:
        return target(**arguments, **options)
    except InputError:
        raise
    except (TypeError, ValueError, ArithmeticError, AssertionError, TuneError) as error:
        raise InputError(f"scheduler: {str(error) or type(error).__name__}") from error
