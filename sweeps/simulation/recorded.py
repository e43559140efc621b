"""Recorded learning curves, which a replay uses in place of training."""

from __future__ import annotations

import gzip
import json
import math
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from gatesweep.core.errors import InputError
from gatesweep.core.record import DamagedRecord, Event, json_safe, read_events
from gatesweep.core.trainable import Metrics
from gatesweep.sweeps.config.recorded import read_config
from gatesweep.sweeps.config.schema import Config, make_gate
from gatesweep.sweeps.config.values import to_yaml
from gatesweep.sweeps.records.layout import CONFIG, EVENTS, require_sweep
from gatesweep.sweeps.records.reader import TrialRecord, read_trials
from gatesweep.sweeps.search.study import open_study
from gatesweep.sweeps.search.warm_start import ORIGIN

WHOLE_OUTCOMES = ("passed", "finished", "diverged", "failed")  # of trials that ran to their end
CURVES_FILE = "curves.json.gz"  # `save_recorded` writes it beside config.yaml


@dataclass(frozen=True)
class LearningCurve:
    """The whole curve of one trial, one entry per epoch, and its outcome when no scheduler stops it."""

    name: str
    outcome: str
    params: dict[str, Any]  # with the names that Optuna uses
    scores: list[float]
    seconds: list[float]  # the time of each epoch
    metrics: list[Metrics]  # only the metrics that the gate reads

    @property
    def passes(self) -> bool:
        """True if the trial passes when it runs to its end."""
        return self.outcome == "passed"


@dataclass(frozen=True)
class RecordedSweep:
    """The trials of one sweep in which none was stopped early."""

    name: str
    config: Config
    curves: list[LearningCurve]
    start: float  # seconds from the start of a trial to its first epoch: the median
    concurrent: int  # the number of trials that ran at the same time


def read_recorded(folder: Path) -> RecordedSweep:
    """Read the recorded sweep from a sweep's folder, or from a folder that `save_recorded` wrote.

    Raises InputError where the folder holds no sweep, no trials, or a trial that was stopped early.
    """
    config = read_config(require_sweep(folder) / CONFIG)
    if (folder / CURVES_FILE).is_file():
        return _read_saved(folder / CURVES_FILE, config)
    trials = read_trials(folder)
    for trial in trials:
        if trial.outcome not in WHOLE_OUTCOMES:
            raise InputError(
                f"{folder}: {trial.name} was {trial.outcome} after {len(trial.epochs)} epochs, expected only trials "
                "that ran to their end: record them with scheduler=none, and resume a sweep that was interrupted"
            )
    if not trials:
        raise InputError(f"{folder}: got no trials, expected some that ran to their end")
    own_trials = [trial for trial in open_study(folder).get_trials(deepcopy=False) if ORIGIN not in trial.user_attrs]
    params = {f"trial_{number:04d}": trial.params for number, trial in enumerate(own_trials)}
    gate = make_gate(config.gate)
    suffixes = ("", "_low", "_high") if gate.bound == "wilson" else ("",)
    gated_names = {name + suffix for name in gate.reads for suffix in suffixes}
    curves = [_learning_curve(trial, params[trial.name], gated_names) for trial in trials]
    starts = [start for trial in trials if (start := _start_seconds(folder / trial.name)) is not None]
    return RecordedSweep(config.name, config, curves, max(0.0, median(starts or [0.0])), _most_concurrent(trials))


def save_recorded(recorded: RecordedSweep, folder: Path) -> None:
    """Write the data that a replay needs, with numbers to seven digits: far smaller than the sweep's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    config = recorded.config.replace(results="results", storage=None, resume=None)
    (folder / CONFIG).write_text(to_yaml(config))
    saved = {key: value for key, value in asdict(recorded).items() if key != "config"}
    for curve in saved["curves"]:
        curve["scores"] = [_seven_digits(score) for score in curve["scores"]]
        curve["metrics"] = [
            {name: _seven_digits(value) for name, value in metrics.items()} for metrics in curve["metrics"]
        ]
    text = json.dumps(json_safe(saved), separators=(",", ":"))
    (folder / CURVES_FILE).write_bytes(gzip.compress(text.encode(), mtime=0))


def _read_saved(path: Path, config: Config) -> RecordedSweep:
    content = path.read_bytes()
    try:
        saved = json.loads(gzip.decompress(content))
        for curve in saved["curves"]:  # JSON has no NaN
            curve["metrics"] = [
                {name: math.nan if value is None else value for name, value in metrics.items()}
                for metrics in curve["metrics"]
            ]
        curves = [LearningCurve(**curve) for curve in saved["curves"]]
        return RecordedSweep(config=config, **{**saved, "curves": curves})
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedRecord(f"{path}: expected the curves that replay --save writes ({error})") from error


def _seven_digits(value: float) -> float:
    return float(f"{value:.7g}")


def _learning_curve(trial: TrialRecord, params: dict[str, Any], gated_names: set[str]) -> LearningCurve:
    return LearningCurve(
        trial.name,
        trial.outcome,
        params,
        [event["score"] for event in trial.epochs],
        [round(event["metrics"].get("system/seconds", 0.0), 4) for event in trial.epochs],
        [{name: value for name, value in event["metrics"].items() if name in gated_names} for event in trial.epochs],
    )


def _start_seconds(folder: Path) -> float | None:
    """Seconds from a trial's start to its first epoch; None for a trial without epochs or with a second start."""
    events = read_events(folder / EVENTS)
    if len(events) < 2 or [event["event"] for event in events[:2]] != ["start", "epoch"]:
        return None
    start, first = events[:2]
    return first["elapsed"] - first["metrics"].get("system/seconds", 0.0) - start["elapsed"]


def _most_concurrent(trials: list[TrialRecord]) -> int:
    """The largest number of trials that ran at the same time."""
    spans = [_span(trial.epochs) for trial in trials if trial.epochs]
    return max((sum(begin <= at < end for begin, end in spans) for at, _ in spans), default=1)


def _span(epochs: list[Event]) -> tuple[float, float]:
    """The seconds of the sweep at which a trial's first epoch began and its last epoch ended."""
    return epochs[0]["elapsed"] - epochs[0]["metrics"].get("system/seconds", 0.0), epochs[-1]["elapsed"]
