"""The record of a run: a directory that people read, and from which all reports are derived.

events.jsonl   one JSON object a line: what happened. A line is on disk before anything else hears of it, and stays.
scalars.csv    one row an epoch
result.json    how the run ended, with every curve
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

from gatesweep.core.events import REOPENED as REOPENED
from gatesweep.core.events import DamagedRecord as DamagedRecord
from gatesweep.core.events import Event as Event
from gatesweep.core.events import check_order, parse_event
from gatesweep.core.files import write_atomically
from gatesweep.core.gate import Gate
from gatesweep.core.loop import CUT_SHORT
from gatesweep.core.trainable import Metrics

EVENTS, RESULT, SCALARS = "events.jsonl", "result.json", "scalars.csv"
STEP_LOSS = "train/step_loss"  # the only curve with a point a step; all others have one an epoch


class Record:
    """Writes the directory of one run, and continues that of an interrupted run.

    An epoch that is recorded already is not recorded again, so a resumed run may repeat its last epochs.
    """

    def __init__(self, directory: Path, **fields: Any) -> None:
        """Open or create `directory`, and append a `start` event with `fields`.

        Raises DamagedRecord where the record that is there cannot be read, and OSError.
        """
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.path = directory / EVENTS
        epochs = [event for event in read_events(self.path) if event["event"] == "epoch"]
        self.last: Event | None = epochs[-1] if epochs else None
        self.columns: list[str] = []
        self.append("start", **fields)

    @property
    def epochs(self) -> int:
        """The number of epochs recorded."""
        return self.last["epoch"] if self.last else 0

    def append(self, event: str, **fields: Any) -> Event:
        """Append an event, as `append_event` does."""
        return append_event(self.path, event, **fields)

    def epoch(self, index: int, metrics: Metrics, losses: list[float], **fields: Any) -> bool:
        """Record one epoch; returns False if it was recorded already."""
        if index <= self.epochs:
            return False
        self.last = self.append("epoch", epoch=index, metrics=metrics, losses=losses, **fields)
        self._append_scalars({"epoch": index, "score": fields.get("score"), **metrics})
        return True

    def end(self, outcome: str, reason: str | None, gate: Gate) -> dict[str, Any]:
        """Write `result.json` and append the `end` event; returns the result."""
        events = read_events(self.path)
        self._write_scalars([event for event in events if event["event"] == "epoch"])
        result = summarise_run(events, outcome, reason, gate)
        write_atomically(self.directory / RESULT, json.dumps(json_safe(result), indent=1) + "\n")
        self.append("end", outcome=outcome, reason=reason)
        return result

    def _append_scalars(self, row: Mapping[str, Any]) -> None:
        if not set(row) <= set(self.columns):  # the first row of this process, or a new metric
            self._write_scalars([event for event in read_events(self.path) if event["event"] == "epoch"])
            return
        with (self.directory / SCALARS).open("a", newline="") as stream:
            csv.DictWriter(stream, self.columns, lineterminator="\n").writerow(row)

    def _write_scalars(self, epochs: list[Event]) -> None:
        """Write all of `scalars.csv`, from the events."""
        rows = [{"epoch": event["epoch"], "score": event.get("score"), **event["metrics"]} for event in epochs]
        self.columns = list(dict.fromkeys(name for row in rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(self.directory / SCALARS, text.getvalue())


def append_event(path: Path, event: str, **fields: Any) -> Event:
    """Append one event to an `events.jsonl`; it is on disk when the call returns. Returns the event.

    A last line that a crash cut short is removed first. Raises OSError.
    """
    entry = {"event": event, "time": time.time(), **fields}
    with path.open("ab+") as stream:
        _remove_torn_line(stream)
        stream.write(json.dumps(json_safe(entry)).encode() + b"\n")
        stream.flush()
        os.fsync(stream.fileno())
    return entry


def read_events(path: Path) -> list[Event]:
    """Read the events of an `events.jsonl`, in order; without the file there are none.

    The nulls among metrics and losses become NaN. A last line that a crash cut short is left out, and so is what an
    event `reopened` takes back. Raises DamagedRecord, with file and line number, where another line is not an event or
    cannot follow the one before, and OSError.
    """
    if not path.exists():
        return []
    if path.is_dir():
        raise DamagedRecord(f"{path}: got a folder, expected a file of events")
    lines = path.read_bytes().split(b"\n")[:-1]  # the part after the last newline is empty, or cut short
    events = [parse_event(f"{path}, line {number}", line) for number, line in enumerate(lines, start=1)]
    check_order(path, events)
    return _without_ends_taken_back(events)


def was_reopened(events: list[Event]) -> bool:
    """Return True for the events of a run that was reopened, and has trained no epoch since."""
    kinds = [event["event"] for event in events if event["event"] in ("epoch", REOPENED)]
    return kinds[-1:] == [REOPENED]


def summarise_run(events: list[Event], outcome: str, reason: str | None, gate: Gate) -> dict[str, Any]:
    """Return the content of `result.json`: the outcome, what the gate missed, last and best epoch, and every curve."""
    epochs = [event for event in events if event["event"] == "epoch"]
    best = max(
        (event for event in epochs if event["score"] is not None), key=lambda event: event["score"], default=None
    )
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
    """Return the curve of every metric, one value an epoch, and `epoch`, the epochs' numbers.

    The value is None in an epoch that did not report the metric. `train/step_loss` has one value a step.
    """
    names = dict.fromkeys(name for event in epochs for name in event["metrics"])
    return {
        "epoch": [event["epoch"] for event in epochs],
        **{name: [event["metrics"].get(name) for event in epochs] for name in names},
        STEP_LOSS: [loss for event in epochs for loss in event["losses"]],
    }


def json_safe(value: Any) -> Any:
    """Return a copy of nested mappings, lists and tuples with None for NaN and infinities, which JSON cannot hold."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: json_safe(item) for key, item in value.items()}
    return [json_safe(item) for item in value] if isinstance(value, list | tuple) else value


def _without_ends_taken_back(events: list[Event]) -> list[Event]:
    """Return the events of a run without the ends before its last `reopened`.

    The run goes on then: its epochs before have no outcome, and an epoch that was cut short is trained again.
    """
    reopened = max((position for position, event in enumerate(events) if event["event"] == REOPENED), default=0)
    before = [
        {**event, "outcome": None, "reason": None} if event.get("outcome") else event
        for event in events[:reopened]
        if event["event"] != "end" and not (event["event"] == "epoch" and event.get("outcome") in CUT_SHORT)
    ]
    return before + events[reopened:]


def _remove_torn_line(stream: io.BufferedRandom) -> None:
    """Truncate a file, opened to append, after its last newline; leave it positioned at its end."""
    size = stream.seek(0, os.SEEK_END)
    if size == 0:
        return
    stream.seek(size - 1)
    if stream.read(1) != b"\n":
        stream.seek(0)
        stream.truncate(stream.read().rfind(b"\n") + 1)
    stream.seek(0, os.SEEK_END)
