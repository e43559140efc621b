"""Consistency of a sweep's record: of its own events, of a trial's events, and of `result.json` with them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from gatesweep.core.events import DamagedRecord, Event, is_text, is_text_or_null
from gatesweep.core.function import RETURNED
from gatesweep.core.gate import Gate
from gatesweep.core.loop import CUT_SHORT
from gatesweep.core.record import json_safe, read_events, summarise_run
from gatesweep.sweeps.records.layout import CONFIRM, EVENTS, OUTCOMES, TRIAL

FOLDER_NAME = re.compile(rf"{TRIAL}_\d{{4,}}|{CONFIRM}_\d{{4,}}_\d+")
SWEEP_EVENTS = ("start", "interrupted", "end")
SHOWN_VALUE = 60  # characters of a value in a message


def read_trial_events(folder: Path) -> list[Event]:
    """Read the events of a trial, as `core.record.read_events` does.

    Raises DamagedRecord where they are not those of a trial of this name, or contradict each other.
    """
    path, events = folder / EVENTS, read_events(folder / EVENTS)
    if not FOLDER_NAME.fullmatch(folder.name):
        raise DamagedRecord(f"{folder}: got {folder.name!r}, expected the name of a trial, as {TRIAL}_0003")
    ended: str | None = None
    for event in events:
        kind = event["event"]
        here = f"{path}, epoch {event['epoch']}" if kind == "epoch" else f"{path}, {kind!r}"
        for name in {"start": ("values", "elapsed"), "epoch": ("outcome", "reason", "elapsed")}.get(kind, ()):
            if name not in event:
                raise DamagedRecord(f"{here}: {name}: missing, expected an event of a trial")
        if (name := event.get("trial", folder.name)) != folder.name:
            raise DamagedRecord(
                f"{here}: trial: got {name!r}, expected {folder.name!r}: its folder was renamed or copied"
            )
        if ended and kind in ("epoch", "values"):
            raise DamagedRecord(f"{here}: got an event after an epoch that {ended}, expected none")
        if kind == "epoch":
            ended = event["outcome"]
    ends = [number for number, event in enumerate(events) if event["event"] == "end"]
    if ends and ends != [len(events) - 1]:
        raise DamagedRecord(f"{path}: got {events[ends[0] + 1]['event']!r} after 'end', expected nothing after it")
    if ends:
        _check_end(path, events[-1], ended, any(event["event"] == "epoch" for event in events))
    return events


def check_sweep_events(path: Path, events: list[Event]) -> None:
    """Raise DamagedRecord for an event in a sweep's own file that belongs to a trial."""
    for number, event in enumerate(events, start=1):
        if event["event"] not in SWEEP_EVENTS or event.get("outcome"):
            raise DamagedRecord(
                f"{path}, line {number}: got {event['event']!r} of a trial, expected events of the sweep"
            )


def check_result(path: Path, result: dict[str, Any], events: list[Event]) -> None:
    """Raise DamagedRecord unless a trial's `result.json` is one, and says what its events say."""
    checks = {"outcome": lambda value: value in OUTCOMES, "reason": is_text_or_null}
    checks["missed"] = lambda value: isinstance(value, list) and all(map(is_text, value))
    for key, is_right in checks.items():
        if key not in result:
            raise DamagedRecord(f"{path}: {key}: missing, expected the result of a trial")
        if not is_right(result[key]):
            expected = f"one of {', '.join(OUTCOMES)}" if key == "outcome" else "the result of a trial"
            raise _contradiction(path, key, result, expected)
    end = events[-1] if events else {}
    if end.get("event") != "end":
        return
    expected = json_safe(summarise_run(events, end["outcome"], end["reason"], Gate({})))
    del expected["missed"]  # the gate tells
    for key in expected.keys() & result.keys():
        if result[key] != expected[key]:
            raise _contradiction(path, key, result, f"{repr(expected[key])[:SHOWN_VALUE]}, as in {EVENTS}")
    if result["missed"] and (end["outcome"] in ("passed", *CUT_SHORT) or not expected["epochs"]):
        raise _contradiction(path, "missed", result, f"[] for a trial that {end['outcome']}")


def _check_end(path: Path, end: Event, last: str | None, trained: bool) -> None:
    """Raise DamagedRecord for an end that the last epoch, with the outcome `last`, contradicts."""
    for name in ("outcome", "reason"):
        if name not in end:
            raise DamagedRecord(f"{path}, 'end': {name}: missing, expected an event of a trial")
    outcome = end["outcome"]
    returned = outcome == "finished" and last is None and end["reason"] == RETURNED
    if outcome == "failed" or returned or (trained and outcome == (last or "stopped")):
        return
    expected = f"{last or 'stopped'!r} or 'failed', by its last epoch" if trained else "'failed', for it has no epoch"
    raise DamagedRecord(f"{path}, 'end': outcome: got {outcome!r}, expected {expected}")


def _contradiction(path: Path, key: str, result: dict[str, Any], expected: str) -> DamagedRecord:
    """Return the error for a key of `result.json`, with its line in the file."""
    lines = path.read_text().split("\n")
    number = next((number for number, line in enumerate(lines, start=1) if f'"{key}":' in line), 1)
    return DamagedRecord(f"{path}, line {number}: {key}: got {repr(result[key])[:SHOWN_VALUE]}, expected {expected}")
