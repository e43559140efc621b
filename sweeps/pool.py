"""Recorded curves: what a replay trains in place of models."""

from __future__ import annotations

import gzip
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from gatesweep.core.record import Event, plain, read_events
from gatesweep.core.trainable import Metrics
from gatesweep.sweeps import report, warm
from gatesweep.sweeps.schema import make_gate, read_config
from gatesweep.sweeps.search import open_study

WHOLE = ("passed", "finished", "diverged", "failed")  # the outcomes of trials that ran to their end
CURVES = "curves.json.gz"  # what `save` writes beside config.yaml


@dataclass(frozen=True)
class Curve:
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
class Pool:
    """The trials of one sweep, none of them stopped early."""

    name: str
    config: dict[str, Any]
    curves: list[Curve]
    start: float  # seconds that a trial takes before its first epoch: the median
    concurrent: int  # trials that ran at once


def read(folder: Path) -> Pool:
    """The pool that the folder of a sweep holds, or one that `save` wrote. Raises ValueError in one line."""
    if not (folder / "config.yaml").is_file():
        raise ValueError(f"got {str(folder)!r}, expected the folder of a sweep (it has no config.yaml)")
    config = read_config(folder / "config.yaml")
    if (folder / CURVES).is_file():
        kept = json.loads(gzip.decompress((folder / CURVES).read_bytes()))
        for curve in kept["curves"]:  # JSON has no NaN
            curve["metrics"] = [
                {name: math.nan if v is None else v for name, v in one.items()} for one in curve["metrics"]
            ]
        return Pool(config=config, **{**kept, "curves": [Curve(**curve) for curve in kept["curves"]]})
    trials = report.read_trials(folder)
    for trial in trials:
        if trial.outcome not in WHOLE:
            raise ValueError(
                f"{folder}: {trial.name} was {trial.outcome} after {len(trial.epochs)} epochs, expected only trials "
                "that ran to their end: record them with scheduler=none, and resume a sweep that was interrupted"
            )
    if not trials:
        raise ValueError(f"{folder}: got no trials, expected some that ran to their end")
    asked = [trial for trial in open_study(folder).get_trials(deepcopy=False) if warm.ORIGIN not in trial.user_attrs]
    params = {f"trial_{number:04d}": trial.params for number, trial in enumerate(asked)}
    gate = make_gate(config)
    ends = ("", "_low", "_high") if gate.bound == "wilson" else ("",)
    reads = {name + end for name in gate.reads for end in ends}
    curves = [_curve(trial, params[trial.name], reads) for trial in trials]
    starts = [start for trial in trials if (start := _start(folder / trial.name)) is not None]
    return Pool(config["name"], config, curves, max(0.0, median(starts or [0.0])), _concurrent(trials))


def save(pool: Pool, folder: Path) -> None:
    """Write what a replay needs of a pool, numbers to seven digits, which is little beside a sweep's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {**pool.config, "results": "results", "storage": None, "resume": None}
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    kept = {key: value for key, value in asdict(pool).items() if key != "config"}
    for curve in kept["curves"]:
        curve["scores"] = [_short(score) for score in curve["scores"]]
        curve["metrics"] = [{name: _short(value) for name, value in one.items()} for one in curve["metrics"]]
    text = json.dumps(plain(kept), separators=(",", ":"))
    (folder / CURVES).write_bytes(gzip.compress(text.encode(), mtime=0))


def _short(value: float) -> float:
    return float(f"{value:.7g}")


def _curve(trial: report.Trial, params: dict[str, Any], reads: set[str]) -> Curve:
    return Curve(
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


def _concurrent(trials: list[report.Trial]) -> int:
    """How many trials there were at once, at most."""
    spans = [_span(trial.epochs) for trial in trials if trial.epochs]
    return max((sum(begin <= at < end for begin, end in spans) for at, _ in spans), default=1)


def _span(epochs: list[Event]) -> tuple[float, float]:
    return epochs[0]["elapsed"] - epochs[0]["metrics"].get("system/seconds", 0.0), epochs[-1]["elapsed"]
