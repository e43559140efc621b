"""New events of a trial, and the points of MLflow's curves that they hold."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gatesweep.core.events import Event, parse_event
from gatesweep.core.record import STEP_LOSS
from gatesweep.sweeps.tracking.names import OWN_METRICS, metric_key

BATCH_POINTS = 1000  # metrics a request: MLflow's limit
SCORE, EPOCH, _ = OWN_METRICS  # EPOCH says which epochs MLflow has


def new_events(path: Path, offset: int) -> Iterator[tuple[Event, int]]:
    """Yield the events of a file from `offset` (bytes) on, each with the offset after it.

    Ends before a line that is still being written.

    Raises DamagedRecord for a line that is no event, and OSError where the file cannot be read.
    """
    with path.open("rb") as stream:
        stream.seek(offset)
        for line in stream:
            if not line.endswith(b"\n"):
                return
            event = parse_event(f"{path}, byte {offset}", line)
            offset += len(line)
            yield event, offset


def curve_points(event: Event, steps: int) -> list[Any]:
    """Return the points of an epoch: its metrics by epoch, and the losses of its steps by step.

    `steps` is the number of steps before this epoch. The point that counts the epoch comes last: where MLflow has it,
    it has the others.
    """
    from mlflow.entities import Metric

    at, epoch = milliseconds(event), event["epoch"]
    metrics = {metric_key(name): value for name, value in event["metrics"].items()} | {SCORE: event["score"]}
    points = [Metric(key, mlflow_number(value), at, epoch) for key, value in metrics.items()]
    losses = enumerate(event["losses"], steps + 1)
    points += [Metric(STEP_LOSS, mlflow_number(loss), at, step) for step, loss in losses]
    return [*points, Metric(EPOCH, float(epoch), at, epoch)]


def milliseconds(event: Event) -> int:
    """Return the time of an event in milliseconds since 1970, as MLflow counts."""
    return int(event["time"] * 1000)


def mlflow_number(value: float | None) -> float:
    """Return a recorded value as MLflow can show it; null, which stands for an infinity or NaN, and both become NaN.

    MLflow would store an infinity as 1.8e308, which makes the axis of a chart useless.
    """
    return float(value) if value is not None and math.isfinite(value) else math.nan
