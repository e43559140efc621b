"""The two names that a user's own training function calls: `report` and `last`.

Outside of a sweep `report` does nothing and `last` returns None, so the function runs by itself unchanged.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from gatesweep.core.record import STEP_LOSS
from gatesweep.core.saved import Saved
from gatesweep.core.trainable import Metrics

METRIC_NAME = re.compile(r"[\w ./:-]{1,250}")  # the names that MLflow takes
RESERVED = ("epoch", "score", STEP_LOSS)  # columns of a record
MOST_DIGITS = 6  # of a decimal that a rounded number is taken for


class Stop(BaseException):
    """Raised by `report` where the trial is over. It is no Exception, so that `except Exception` lets it through."""


@dataclass(frozen=True)
class Last:
    """The newest whole checkpoint of a trial, as its function saved it."""

    epoch: int
    """The number of reports until then."""
    state: dict[str, Any] | None
    """The dict of `report(..., checkpoint={...})`, with its tensors on the CPU; None where files were saved."""
    folder: Path | None
    """The folder with the files that were saved; None where there are none."""


@dataclass(frozen=True)
class Report:
    """One report of a function: its metrics as numbers, and the checkpoint that goes with them."""

    metrics: Metrics
    checkpoint: Saved = None


class Listener(Protocol):
    """The run that drives a function in this process."""

    def meet(self, report: Report) -> None:
        """Take a report, and return once the run goes on. Raises Stop where it is over."""

    def hand_over(self) -> Last | None:
        """Return the checkpoint that the run goes on from."""


_listener: Listener | None = None


def report(metrics: Mapping[str, Any], checkpoint: Saved = None) -> None:
    """Report the metrics of an epoch, and wait until the trial goes on.

    Does not return where the trial is over: the gate passed, the scheduler stopped it, or its epochs are used up.

    Args:
        metrics: numbers by name: Python's, numpy's, or tensors of one element.
        checkpoint: the means to go on from here after an interruption: a dict of tensors and plain values, or a file or
            folder to copy, or a function that writes into the folder that it is called with.

    Raises TypeError and ValueError for a metric that cannot be recorded.
    """
    if _listener is not None:
        _listener.meet(Report(checked_metrics(metrics), checkpoint))


def last() -> Last | None:
    """Return the newest whole checkpoint of this trial; None in a fresh one, and outside of a sweep.

    The global random generators are put back to where they were at that checkpoint. So call it behind whatever draws
    random numbers at the start, such as the initialisation of the model.
    """
    return _listener.hand_over() if _listener is not None else None


def in_trial() -> bool:
    """Return True while a trial's function runs in this process."""
    return _listener is not None


def listen(listener: Listener | None) -> None:
    """Make `report` and `last` speak to this run; None ends that."""
    global _listener
    _listener = listener


def checked_metrics(metrics: Mapping[str, Any]) -> Metrics:
    """Return the metrics of a report as Python floats. Raises TypeError and ValueError."""
    if not isinstance(metrics, Mapping):
        raise TypeError(f"report: got {metrics!r}, expected metrics by name: report({{'val/accuracy': 0.9}})")
    for name in metrics:
        if not isinstance(name, str) or not METRIC_NAME.fullmatch(name):
            raise ValueError(f"report: got the name {name!r}, expected letters, digits, spaces and _ - . / : only")
        if name in RESERVED:
            raise ValueError(f"report: got the name {name!r}, which the record uses itself, expected another name")
    return {name: _number(name, value) for name, value in metrics.items()}


def _number(name: str, value: Any) -> float:
    """Return a metric as a float. A number of lower precision becomes the short decimal that it stands for.

    0.985 in float32 is 0.98500001, which must not clear the threshold "> 0.985".
    """
    if isinstance(value, np.generic | np.ndarray):
        value = torch.as_tensor(np.asarray(value))
    if isinstance(value, Tensor):
        if value.numel() != 1 or value.is_complex():
            raise TypeError(f"report: {name!r} got a tensor of shape {tuple(value.shape)}, expected one number")
        number, dtype = float(value.item()), value.dtype
    elif isinstance(value, int | float):
        number, dtype = float(value), torch.float64
        if torch.tensor(number, dtype=torch.float32).item() == number:  # `tensor.item()` has forgotten its type
            dtype = torch.float32
    else:
        raise TypeError(f"report: {name!r} got {value!r}, expected a number")
    if not math.isfinite(number) or dtype == torch.float64 or not dtype.is_floating_point:
        return number
    decimals = (float(f"{number:.{digits}g}") for digits in range(1, MOST_DIGITS + 1))
    return next((short for short in decimals if torch.tensor(short, dtype=dtype).item() == number), number)
