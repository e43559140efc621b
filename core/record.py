"""The record of a run: a directory that a person reads, and everything else is derived from.

events.jsonl   what happened, one line each, appended and synced before anything else hears of it
scalars.csv    one row an epoch
result.json    how it ended, with every curve
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gatesweep.core.files import write_atomically
from gatesweep.core.gate import Gate
from gatesweep.core.loop import CUT_SHORT
from gatesweep.core.trainable import Metrics

Event = dict[str, Any]
EVENTS, RESULT, SCALARS = "events.jsonl", "result.json", "scalars.csv"
STEP_LOSS = "train/step_loss"  # the one curve with a point a step; all others have one an epoch


class Record:
    """Writes one run's directory, and picks an interrupted one up where it stopped.

    An epoch that is already there is not recorded again, so a resumed run may repeat its last one.
    """

    def __init__(self, directory: Path, **facts: Any) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.path = directory / EVENTS
        events = read_events(self.path, mend=True)
        epochs = [event for event in events if event["event"] == "epoch"]
        self.last: Event | None = epochs[-1] if epochs else None
        self.columns: list[str] = []
        self.append("start", **facts)

    @property
    def epochs(self) -> int:
        """How many epochs are recorded."""
        return self.last["epoch"] if self.last else 0

    def append(self, event: str, **facts: Any) -> Event:
        return append_event(self.path, event, **facts)

    def epoch(self, index: int, metrics: Metrics, losses: list[float], **facts: Any) -> bool:
        """Record one epoch; False if it already was."""
        if index <= self.epochs:
            return False
        self.last = self.append("epoch", epoch=index, metrics=metrics, losses=losses, **facts)
        self._scalars({"epoch": index, "score": facts.get("score"), **metrics})
        return True

    def end(self, outcome: str, reason: str | None, gate: Gate) -> Event:
        """Close the run: `result.json`, and the last event."""
        events = read_events(self.path)
        self._table([event for event in events if event["event"] == "epoch"])
        result = summarise_run(events, outcome, reason, gate)
        write_atomically(self.directory / RESULT, json.dumps(plain(result), indent=1) + "\n")
        self.append("end", outcome=outcome, reason=reason)
        return result

    def _scalars(self, row: Mapping[str, Any]) -> None:
        if not set(row) <= set(self.columns):  # the first row of this process, or a new metric
            self._table([event for event in read_events(self.path) if event["event"] == "epoch"])
            return
        with (self.directory / SCALARS).open("a", newline="") as stream:
            csv.DictWriter(stream, self.columns, lineterminator="\n").writerow(row)

    def _table(self, epochs: list[Event]) -> None:
        """Write `scalars.csv` again, from the events."""
        rows = [{"epoch": one["epoch"], "score": one.get("score"), **one["metrics"]} for one in epochs]
        self.columns = list(dict.fromkeys(name for row in rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(self.directory / SCALARS, text.getvalue())


def append_event(path: Path, event: str, **facts: Any) -> Event:
    """Append one event, on disk when this returns."""
    entry = {"event": event, "time": time.time(), **facts}
    with path.open("a") as stream:
        stream.write(json.dumps(plain(entry)) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    return entry


def read_events(path: Path, mend: bool = False) -> list[Event]:
    """The events of a run, in order, numbers that JSON cannot hold read as NaN.

    A last line that a crash cut short does not count; `mend` removes it from the file.
    """
    if not path.exists():
        return []
    whole, newline, torn = path.read_bytes().rpartition(b"\n")
    if torn and mend:
        os.truncate(path, len(whole) + len(newline))
    events = [json.loads(line) for line in whole.splitlines()]
    for event in events:
        if event["event"] == "epoch":
            event["metrics"] = {name: math.nan if v is None else v for name, v in event["metrics"].items()}
            event["losses"] = [math.nan if loss is None else loss for loss in event["losses"]]
    return events


def summarise_run(events: list[Event], outcome: str, reason: str | None, gate: Gate) -> dict[str, Any]:
    """How a run ended: its outcome, what it missed, its last and best epoch, and every curve."""
    epochs = [event for event in events if event["event"] == "epoch"]
    best = max(epochs, key=lambda event: event["score"], default=None)
    last = epochs[-1] if epochs else None
    complete = last is not None and outcome not in CUT_SHORT
    return {
        "outcome": outcome,
        "reason": reason,
        "gate_passed": outcome == "passed",
        "missed": gate.missed(last["metrics"]) if last and complete and outcome != "passed" else [],
        "epochs": len(epochs),
        "seconds": sum(event["metrics"].get("system/seconds", 0.0) for event in epochs),
        "score": last["score"] if last else None,
        "metrics": last["metrics"] if last else {},
        "best": {key: best[key] for key in ("epoch", "score", "metrics")} if best else None,
        "curves": curves(epochs),
    }


def curves(epochs: list[Event]) -> dict[str, list[Any]]:
    """`epoch` and, aligned with it, every metric; `train/step_loss` has one value a step."""
    names = dict.fromkeys(name for event in epochs for name in event["metrics"])
    return {
        "epoch": [event["epoch"] for event in epochs],
        **{name: [event["metrics"].get(name) for event in epochs] for name in names},
        STEP_LOSS: [loss for event in epochs for loss in event["losses"]],
    }


def plain(value: Any) -> Any:
    """`value` with null for the numbers that JSON cannot hold."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: plain(one) for key, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, list | tuple) else value
