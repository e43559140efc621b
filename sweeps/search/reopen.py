"""Trials that had ended and go on: with more epochs than before, or once more after a failure."""

from __future__ import annotations

from pathlib import Path

from gatesweep.core.record import REOPENED, Event, append_event, read_events
from gatesweep.core.resume import ran_out_of_epochs
from gatesweep.sweeps.config.schema import Config
from gatesweep.sweeps.records.layout import CHECKPOINTS, CONFIRM, ERROR, EVENTS, RESULT, TRIAL, trial_folders
from gatesweep.sweeps.records.reader import searched_values
from gatesweep.sweeps.search.changes import MAX_EPOCHS


def reopen_trials(sweep: Path, config: Config) -> list[str]:
    """Reopen the trials that used up fewer epochs than they now may, and with `retry` the failed ones.

    The event `reopened` says in the record how the trial had ended; `result.json` and `error.txt` go. Returns lines for
    the screen. Raises DamagedRecord, and OSError.
    """
    finished, failed, lines = 0, 0, []
    for folder in [folder for kind in (TRIAL, CONFIRM) for folder in trial_folders(sweep, kind)]:
        events = read_events(folder / EVENTS)
        end = next((event for event in events if event["event"] == "end"), None)
        if end is None:
            (folder / RESULT).unlink(missing_ok=True)  # a crash came between its two files
        elif end["outcome"] == "failed" and config.retry == "failed":
            _reopen(folder, end)
            failed += 1
        elif _may_train_on(events, end, config):
            epochs = _epochs(events)
            if config.storage is None and not (folder / CHECKPOINTS / f"epoch_{epochs:04d}").is_dir():
                lines.append(f"{folder.name} stays finished: its checkpoint of epoch {epochs} is gone")
                continue
            _reopen(folder, end)
            finished += 1
    if finished:
        lines.append(f"{finished} finished trials train on, to {config.training.max_epochs} epochs")
    if failed:
        lines.append(f"{failed} failed trials are tried again")
    return lines


def left_line(sweep: Path, num_samples: int | None) -> str:
    """Return what is left to do of a sweep that goes on. Raises DamagedRecord."""
    events = [read_events(folder / EVENTS) for folder in trial_folders(sweep)]
    ended = sum(any(event["event"] == "end" for event in trial) for trial in events)
    going_on = sum(not any(event["event"] == "end" for event in trial) for trial in events)
    new = "the rest of the grid" if num_samples is None else max(0, num_samples - len(events))
    return f"resume: trials that have ended: {ended}; that go on: {going_on}; to begin: {new}"


def _may_train_on(events: list[Event], end: Event, config: Config) -> bool:
    """Return True for a trial that had no epoch left, and has some now."""
    max_epochs = searched_values(events).get(MAX_EPOCHS, config.training.max_epochs)
    return end["outcome"] == "finished" and ran_out_of_epochs(end["reason"]) and 0 < _epochs(events) < max_epochs


def _epochs(events: list[Event]) -> int:
    return max((event["epoch"] for event in events if event["event"] == "epoch"), default=0)


def _reopen(folder: Path, end: Event) -> None:
    error = folder / ERROR
    detail = error.read_text() if error.exists() else None
    append_event(folder / EVENTS, REOPENED, after=end["outcome"], reason=end["reason"], detail=detail)
    error.unlink(missing_ok=True)
    (folder / RESULT).unlink(missing_ok=True)
