"""Evaluation of a trained model on a split of its data, outside of a run."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch

from gatesweep.core import rng
from gatesweep.core.precision import Precision, autocast
from gatesweep.core.trainable import Data, Metrics, MissingSplit, Split, Trainable, split_batches


def evaluate_split(trainable: Trainable, data: Data, split: Split, precision: Precision = "fp32") -> Metrics:
    """Return the metrics of a trainable on a split, all of them, named "split/name", as a run reports those of val.

    The random generators stay as they were. Raises MissingSplit where there is no such split, and what the trainable
    raises.
    """
    split_batches(data, split)
    require_split(trainable.evaluate, split)
    generators = rng.state()
    trainable.eval()
    try:
        with torch.no_grad(), autocast(precision, trainable.progress.device):
            metrics = trainable.evaluate(data) if split == "val" else trainable.evaluate(data, split)
    finally:
        rng.restore(generators)
    return {f"{split}/{name}": float(value) for name, value in metrics.items()}


def require_split(method: Callable[..., Any], split: Split) -> None:
    """Raise MissingSplit unless `method`, `evaluate` or `figures` of a trainable, can be asked for `split`."""
    kinds = {parameter.kind for parameter in inspect.signature(method).parameters.values()}
    if split == "val" or "split" in inspect.signature(method).parameters or inspect.Parameter.VAR_POSITIONAL in kinds:
        return
    raise MissingSplit(
        f"{method.__qualname__} reads val alone: give it an argument split='val', and read split_batches(data, split)"
    )
