"""Learning-rate schedules: multipliers of the initial rate, pure functions of progress (0 to 1 over the run)."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

from gatesweep.core.errors import InputError

Schedule = Callable[[float], float]
Shape = Literal["constant", "linear", "cosine"]


def schedule(shape: Shape = "cosine", *, warmup: float = 0.0, floor: float = 0.1) -> Schedule:
    """Linear warm-up over the first `warmup` of all updates, then `shape` down to `floor` times the initial rate.

    Source of the cosine: Loshchilov and Hutter, arXiv:1608.03983, one cycle without restarts.
    """
    if not 0 <= warmup < 1:
        raise InputError(f"training.schedule.warmup: got {warmup}, expected a fraction of all updates in [0, 1)")
    if not 0 <= floor <= 1:
        raise InputError(f"training.schedule.floor: got {floor}, expected a ratio in [0, 1]")
    return partial(_multiplier, shape=shape, warmup=warmup, floor=floor)


def _multiplier(progress: float, *, shape: Shape, warmup: float, floor: float) -> float:
    if progress < warmup:
        return progress / warmup
    if shape == "constant":
        return 1.0
    after = (progress - warmup) / (1 - warmup)
    fall = 1 - after if shape == "linear" else 0.5 * (1 + math.cos(math.pi * after))
    return floor + (1 - floor) * fall
