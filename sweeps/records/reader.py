"""Read a sweep's folder: its configuration, its events and its trials."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gatesweep.core.gate import Gate
from gatesweep.core.record import DamagedRecord, Event, read_events, summarise_run
from gatesweep.sweeps.config.recorded import read_config
from gatesweep.sweeps.config.schema import Config, make_gate
from gatesweep.sweeps.records.consistency import check_result, check_sweep_events, read_trial_events
from gatesweep.sweeps.records.layout import CONFIG, CONFIRM, EVENTS, RESULT, TRIAL, trial_folders


@dataclass(frozen=True)
class TrialRecord:
    """The content of a trial's folder. A trial that has not ended has the outcome "interrupted"."""

    name: str
    outcome: str
    reason: str  # or, without a reason, the thresholds that were missed
    epochs: list[Event]
    values: dict[str, Any]  # searched values, by dotted key

    @property
    def score(self) -> float | None:
        """The score of the last epoch; None without an epoch."""
        return self.epochs[-1]["score"] if self.epochs else None

    @property
    def best_score(self) -> float | None:
        """The largest score of any epoch; None without an epoch."""
        return max((event["score"] for event in self.epochs if event["score"] is not None), default=None)

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of the last epoch."""
        return self.epochs[-1]["metrics"] if self.epochs else {}

    @property
    def seconds(self) -> float:
        """The seconds that all recorded epochs took."""
        return sum(event["metrics"].get("system/seconds", 0.0) for event in self.epochs)


@dataclass(frozen=True)
class SweepRecord:
    """The content of a sweep's folder. It can be read while the sweep runs."""

    folder: Path
    config: Config
    events: list[Event]  # of the sweep; the trials have their own
    trials: list[TrialRecord]  # the best first

    @property
    def gate(self) -> Gate:
        """The gate of the sweep."""
        return make_gate(self.config.gate)

    @property
    def ended(self) -> bool:
        """True once the sweep has ended."""
        return bool(self.events) and self.events[-1]["event"] == "end"

    @property
    def interrupted(self) -> bool:
        """True if the sweep was interrupted, and has not been resumed since."""
        return bool(self.events) and self.events[-1]["event"] == "interrupted"

    @property
    def seconds(self) -> float:
        """The seconds that the sweep has run, without the time between an interruption and its resumption."""
        epochs = [event for trial in self.trials for event in trial.epochs]
        return max((event.get("elapsed", 0.0) for event in [*self.events, *epochs]), default=0.0)

    @property
    def provenance(self) -> dict[str, Any]:
        """The newest `start` event, which holds versions and commit; empty before the first start."""
        return next((event for event in reversed(self.events) if event["event"] == "start"), {})

    def epochs_by_arrival(self) -> list[tuple[str, Event]]:
        """Return the epochs of all trials, each with its trial's name, in the order in which they were reported."""
        epochs = [(trial.name, event) for trial in self.trials for event in trial.epochs]
        return sorted(epochs, key=lambda epoch: (epoch[1]["elapsed"], epoch[0]))


def read_sweep(sweep: Path) -> SweepRecord:
    """Read a sweep's folder. Raises InputError, with file and line, where a file is damaged, and OSError."""
    config, events = read_config(sweep / CONFIG), read_events(sweep / EVENTS)
    check_sweep_events(sweep / EVENTS, events)
    read_trials(sweep, CONFIRM)  # for their faults
    return SweepRecord(sweep, config, events, rank_trials(read_trials(sweep)))


def sweep_identity(sweep: Path) -> str | None:
    """Return the identifier that a sweep got when it began; None for one of an older version.

    A copy of the folder has the same identifier, for it is the same sweep. Raises DamagedRecord and OSError.
    """
    return next((str(event["sweep_id"]) for event in read_events(sweep / EVENTS) if "sweep_id" in event), None)


def read_trials(sweep: Path, kind: str = TRIAL) -> list[TrialRecord]:
    """Read the trials of a sweep that have begun, by name; `kind` is TRIAL or CONFIRM.

    Raises InputError and OSError as `read_sweep` does.
    """
    return [read_trial(folder) for folder in trial_folders(sweep, kind)]


def read_trial(folder: Path) -> TrialRecord:
    """Read one trial's folder. Raises InputError and OSError as `read_sweep` does."""
    events = read_trial_events(folder)
    result = read_result(folder, events)
    epochs = [event for event in events if event["event"] == "epoch"]
    reason = result["reason"] or "; ".join(result["missed"])
    return TrialRecord(folder.name, result["outcome"], reason, epochs, searched_values(events))


def read_result(folder: Path, events: list[Event] | None = None) -> dict[str, Any]:
    """Return a trial's result: by its events, which are the record. One that has not ended is "interrupted".

    `result.json` must say the same as `events`, by default those of the folder. Where it is not there, the result is
    made of the events again. Raises InputError, with file and line, where a file is damaged, and OSError.
    """
    path = folder / RESULT
    events = read_trial_events(folder) if events is None else events
    written = read_json(path) if path.exists() else None
    if written is not None:
        check_result(path, written, events)
    end = events[-1] if events else {}
    if end.get("event") != "end":  # a crash may have come before the end, and behind `result.json`
        return {"outcome": "interrupted", "reason": None, "missed": []}
    if written is None:
        gate = make_gate(read_config(folder.parent / CONFIG).gate)
        return summarise_run(events, end["outcome"], end["reason"], gate)
    return written


def read_json(path: Path) -> dict[str, Any]:
    """Read a file of a record that holds one JSON object, such as `summary.json`.

    Raises DamagedRecord, an InputError, with file and line where it holds anything else, and OSError.
    """
    if path.is_dir():
        raise DamagedRecord(f"{path}: got a folder, expected a file")
    content = path.read_bytes()
    try:
        values = json.loads(content)
    except RecursionError:
        line, fault = 1, "it is nested too deeply"
    except UnicodeDecodeError as error:
        line, fault = content[: error.start].count(b"\n") + 1, error.reason
    except json.JSONDecodeError as error:
        line, fault = error.lineno, error.msg
    else:
        if isinstance(values, dict):
            return values
        line, fault = 1, f"it is a {type(values).__name__}"
    start = content.split(b"\n")[line - 1][:40].decode(errors="replace")
    raise DamagedRecord(f"{path}, line {line}: got {start!r}, expected an object as JSON ({fault})")


def rank_trials(trials: list[TrialRecord]) -> list[TrialRecord]:
    """Sort trials, the best first: those that passed, by their score, then the others by theirs."""

    def rank(trial: TrialRecord) -> tuple[bool, float]:
        return trial.outcome == "passed", -math.inf if trial.score is None else trial.score

    return sorted(trials, key=rank, reverse=True)


def searched_values(events: list[Event]) -> dict[str, Any]:
    """Return the newest searched values among a trial's events: population-based training changes them on the way."""
    return next((event["values"] for event in reversed(events) if "values" in event), {})
