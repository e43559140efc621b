"""Recorded curves: what a replay trains in place of models."""

from __future__ import annotations

import gzip
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from gatesweep.core.errors import InputError
from gatesweep.core.record import Event, json_safe, read_events
from gatesweep.core.trainable import Metrics
from gatesweep.sweeps.config.recorded import read_config
from gatesweep.sweeps.config.schema import Config, make_gate
from gatesweep.sweeps.config.values import to_yaml
from gatesweep.sweeps.records.reader import TrialRecord, read_trials
from gatesweep.sweeps.search.study import open_study
from gatesweep.sweeps.search.warm_start import ORIGIN

WHOLE_OUTCOMES = ("passed", "finished", "diverged", "failed")  # the outcomes of trials that ran to their end
CURVES_FILE = "curves.json.gz"  # what `save` writes beside config.yaml


@dataclass(frozen=True)
class LearningCurve:
    """One trial: an entry an epoch, and how it ended when nobody stopped it."""

    name: str
    outcome: str
    params: dict[str, Any]  # as Optuna names them
    scores: list[float]
    seconds: list[float]
    metrics: list[Metrics]  # what the gate reads

    @property
    def passes(self) -> bool:
        return self.outcome == "passed"


@dataclass(frozen=True)
class RecordedSweep:
    """The trials of one sweep, none of them stopped early."""

    name: str
    config: Config
    curves: list[LearningCurve]
    start: float  # seconds that a trial takes before its first epoch: the median
    concurrent: int  # trials that ran at once


def read_recorded(folder: Path) -> RecordedSweep:
    """The pool that the folder of a sweep holds, or one that `save` wrote. Raises InputError in one line."""
    if not (folder / "config.yaml").is_file():
        raise InputError(f"got {str(folder)!r}, expected the folder of a sweep (it has no config.yaml)")
    config = read_config(folder / "config.yaml")
    if (folder / CURVES_FILE).is_file():
        kept = json.loads(gzip.decompress((folder / CURVES_FILE).read_bytes()))
        for curve in kept["curves"]:  # JSON has no NaN
            curve["metrics"] = [
                {name: math.nan if v is None else v for name, v in one.items()} for one in curve["metrics"]
            ]
        return RecordedSweep(config=config, **{**kept, "curves": [LearningCurve(**curve) for curve in kept["curves"]]})
    trials = read_trials(folder)
    for trial in trials:
        if trial.outcome not in WHOLE_OUTCOMES:
            raise InputError(
                f"{folder}: {trial.name} was {trial.outcome} after {len(trial.epochs)} epochs, expected only trials "
                "that ran to their end: record them with scheduler=none, and resume a sweep that was interrupted"
            )
    if not trials:
        raise InputError(f"{folder}: got no trials, expected some that ran to their end")
    asked = [trial for trial in open_study(folder).get_trials(deepcopy=False) if ORIGIN not in trial.user_attrs]
    params = {f"trial_{number:04d}": trial.params for number, trial in enumerate(asked)}
    gate = make_gate(config.gate)
    ends = ("", "_low", "_high") if gate.bound == "wilson" else ("",)
    reads = {name + end for name in gate.reads for end in ends}
    curves = [_curve(trial, params[trial.name], reads) for trial in trials]
    starts = [start for trial in trials if (start := _start(folder / trial.name)) is not None]
    return RecordedSweep(config.name, config, curves, max(0.0, median(starts or [0.0])), _concurrent(trials))


def save_recorded(pool: RecordedSweep, folder: Path) -> None:
    """Write what a replay needs of a pool, numbers to seven digits, which is little beside a sweep's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    config = pool.config.replace(results="results", storage=None, resume=None)
    (folder / "config.yaml").write_text(to_yaml(config))
    kept = {key: value for key, value in asdict(pool).items() if key != "config"}
    for curve in kept["curves"]:
        curve["scores"] = [_seven_digits(score) for score in curve["scores"]]
        curve["metrics"] = [{name: _seven_digits(value) for name, value in one.items()} for one in curve["metrics"]]
    text = json.dumps(json_safe(kept), separators=(",", ":"))
    (folder / CURVES_FILE).write_bytes(gzip.compress(text.encode(), mtime=0))


def _seven_digits(value: float) -> float:
    return float(f"{value:.7g}")


def _curve(trial: TrialRecord, params: dict[str, Any], reads: set[str]) -> LearningCurve:
    return LearningCurve(
        trial.name,
        trial.outcome,
        params,
        [event["score"] for event in trial.epochs],
        [round(event["metrics"].get("system/seconds", 0.0), 4) for event in trial.epochs],
        [{name: value for name, value in event["metrics"].items() if name in reads} for event in trial.epochs],
    )


def _start(folder: Path) -> float | None:
    """Seconds from a trial's start to its first epoch; None where there is none, or it began again."""
    events = read_events(folder / "events.jsonl")
    if len(events) < 2 or [event["event"] for event in events[:2]] != ["start", "epoch"]:
        return None
    start, first = events[:2]
    return first["elapsed"] - first["metrics"].get("system/seconds", 0.0) - start["elapsed"]


def _concurrent(trials: list[TrialRecord]) -> int:
    """How many trials there were at once, at most."""
    spans = [_span(trial.epochs) for trial in trials if trial.epochs]
    return max((sum(begin <= at < end for begin, end in spans) for at, _ in spans), default=1)


def _span(epochs: list[Event]) -> tuple[float, float]:
    return epochs[0]["elapsed"] - epochs[0]["metrics"].get("system/seconds", 0.0), epochs[-1]["elapsed"]
