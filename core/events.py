"""Events of a run: what each holds, and the order in which they come. All readers of a record use this one check."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from gatesweep.core.errors import InputError
from gatesweep.core.judging import CUT_SHORT

Event = dict[str, Any]
REOPENED = "reopened"  # an event: the run ended before, and goes on
OUTCOMES = ("passed", "stopped", "finished", "diverged", "failed")


class DamagedRecord(InputError):
    """A file of a record that differs from what was written. The message names the file and the line."""


def is_finite(value: Any) -> bool:
    """Return True for a number that is neither NaN, infinite nor a truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def is_text(value: Any) -> bool:
    """Return True for text."""
    return isinstance(value, str)


def is_text_or_null(value: Any) -> bool:
    """Return True for text and None."""
    return value is None or isinstance(value, str)


def _is_duration(value: Any) -> bool:
    return is_finite(value) and value >= 0


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**12


def _is_reading(value: Any) -> bool:
    """Return True for a measured number; null stands for NaN and for infinities."""
    return value is None or isinstance(value, float) or (isinstance(value, int) and abs(value) < 1e300)


def _is_outcome(value: Any) -> bool:
    return value is None or value in OUTCOMES


def _is_code(value: Any) -> bool:
    return value is None or (isinstance(value, dict) and is_text(value.get("module")))


Check = tuple[Callable[[Any], bool], str]  # and in words what it expects
FIELDS: dict[str, Check] = {
    "time": (_is_duration, "seconds since 1970"),
    "elapsed": (_is_duration, "seconds, at least 0"),
    "epoch": (lambda value: _is_count(value) and value > 0, "a whole number from 1"),
    "metrics": (lambda value: isinstance(value, dict) and all(map(_is_reading, value.values())), "numbers by name"),
    "losses": (lambda value: isinstance(value, list) and all(map(_is_reading, value)), "a list of numbers"),
    "score": (lambda value: value is None or is_finite(value), "a finite number or null"),
    "outcome": (_is_outcome, f"null or one of {', '.join(OUTCOMES)}"),
    "after": (_is_outcome, f"one of {', '.join(OUTCOMES)}"),
    "reason": (is_text_or_null, "text or null"),
    "detail": (is_text_or_null, "text or null"),
    "values": (lambda value: isinstance(value, dict), "values by key"),
    "donor": (lambda value: isinstance(value, dict), "a trial and its epoch"),
    "epochs": (_is_count, "a whole number from 0"),
    "trial": (is_text, "the name of a trial"),
    "sweep_id": (is_text, "text"),
    "overrides": (lambda value: isinstance(value, list) and all(map(is_text, value)), "a list of words"),
    "versions": (lambda value: isinstance(value, dict), "versions by name"),
    "git_commit": (is_text_or_null, "text or null"),
    "code": (_is_code, "a module and its commit"),
}
NEEDED: dict[str, tuple[str, ...]] = {  # the fields that an event of each kind has in any run, beside its time
    "start": (),
    "epoch": ("epoch", "metrics", "losses", "score"),
    "values": ("values",),
    "process_died": ("reason",),
    "interrupted": (),
    "end": (),
    REOPENED: ("after",),
}
FOLLOWERS = {"end": ("start", REOPENED), "interrupted": ("start",), REOPENED: ("start",), None: ("start",)}


def parse_event(where: str, line: bytes) -> Event:
    """Parse one line of events; the nulls among metrics and losses become NaN.

    Raises DamagedRecord, which begins with `where`, for a line that is no event.
    """
    try:
        event = json.loads(line)
        fault = _fault(event) if isinstance(event, dict) else ""
    except (ValueError, RecursionError):
        fault = ""
    if fault is not None:
        start, more = line[:40].decode(errors="replace"), f" ({fault})" if fault else ""
        raise DamagedRecord(f"{where}: got {start!r}, expected an event as JSON{more}")
    if event["event"] == "epoch":
        event["metrics"] = {name: math.nan if value is None else value for name, value in event["metrics"].items()}
        event["losses"] = [math.nan if loss is None else loss for loss in event["losses"]]
    return event


def check_order(path: Path, events: Iterable[Event]) -> None:
    """Raise DamagedRecord, with the line in `path`, unless the events of a run come as a run writes them.

    Epochs are counted from 1. A number may be left out where another trial was copied, which older versions did.
    """
    kind, epochs, copied = None, [], False  # type: str | None, list[Event], bool
    for number, event in enumerate(events, start=1):
        before, kind = kind, event["event"]
        fault = None
        if before in FOLLOWERS and kind not in FOLLOWERS[before]:
            fault = f"event: got {kind!r} {f'after {before!r}' if before else 'first'}, expected "
            fault += " or ".join(map(repr, FOLLOWERS[before]))
        elif kind == REOPENED and before != "end":
            fault = f"event: got {kind!r} after {before!r}, expected 'end' before it"
        elif kind == "epoch":
            expected = epochs[-1]["epoch"] + 1 if epochs else 1
            if event["epoch"] < expected or (event["epoch"] > expected and not copied):
                fault = f"epoch: got {event['epoch']}, expected {expected}"
            epochs.append(event)
            copied = False
        elif kind == REOPENED:
            epochs = [epoch for epoch in epochs if epoch.get("outcome") not in CUT_SHORT]
        elif kind == "values":
            copied = True
        if fault:
            raise DamagedRecord(f"{path}, line {number}: {fault}")


def _fault(event: dict[str, Any]) -> str | None:
    """Return in words what is wrong with the fields of an event; None where nothing is."""
    kind = event.get("event")
    if not isinstance(kind, str) or kind not in NEEDED:
        return f"event: got {kind!r}, expected one of {', '.join(NEEDED)}"
    for name in ("time", *NEEDED[kind]):
        if name not in event:
            return f"{name}: missing in {kind!r}"
    for name, value in event.items():
        is_right, expected = FIELDS.get(name, (None, ""))
        if is_right and not is_right(value):
            return f"{name}: got {repr(value)[:60]}, expected {expected}"
    return None
