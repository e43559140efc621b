"""Learning-rate schedules: factors of the initial rate, pure functions of progress (0 to 1 over the run)."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Literal, get_args

from gatesweep.core.errors import InputError

Schedule = Callable[[float], float]
Shape = Literal["constant", "linear", "cosine", "step"]


def schedule(shape: Shape = "cosine", *, warmup: float = 0.0, floor: float = 0.1, steps: int = 3) -> Schedule:
    """Return the schedule that rises linearly over the first `warmup` of all updates, then follows `shape`.

    `warmup` is a fraction in [0, 1). `floor` is the factor at the end of the run, in [0, 1]; "constant" stays at 1.
    "step" has `steps` stairs of equal length, 2 or more, each the same factor below the one before; its `floor` is
    above 0.
    Raises InputError for other values.
    Source of the cosine: Loshchilov and Hutter, arXiv:1608.03983, eq. 5, one cycle without restarts.
    """
    if shape not in get_args(Shape):
        raise InputError(f"training.schedule.shape: got {shape!r}, expected constant, linear, cosine or step")
    if not 0 <= warmup < 1:
        raise InputError(f"training.schedule.warmup: got {warmup}, expected a fraction of all updates in [0, 1)")
    if not 0 <= floor <= 1:
        raise InputError(f"training.schedule.floor: got {floor}, expected a ratio in [0, 1]")
    if shape == "step" and not floor:
        raise InputError("training.schedule.floor: got 0, expected above 0: each stair is the same factor lower")
    if steps < 2:
        raise InputError(f"training.schedule.steps: got {steps}, expected 2 or more")
    return partial(_factor, shape=shape, warmup=warmup, floor=floor, steps=steps)


def _factor(progress: float, *, shape: Shape, warmup: float, floor: float, steps: int) -> float:
    if progress < warmup:
        return progress / warmup
    if shape == "constant":
        return 1.0
    after_warmup = (progress - warmup) / (1 - warmup)
    if shape == "step":
        return floor ** (min(int(after_warmup * steps), steps - 1) / (steps - 1))
    decay = 1 - after_warmup if shape == "linear" else 0.5 * (1 + math.cos(math.pi * after_warmup))
    return floor + (1 - floor) * decay
