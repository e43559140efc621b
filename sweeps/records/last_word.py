"""The last word: metrics on the test split of trials that have passed, read once the search has ended.

Each is a file of its own in a trial's folder. What decides in a sweep (scheduler, sampler, gate) reads events, which
never hold these metrics; tests/sweeps/records/test_last_word.py keeps it so.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gatesweep.core.files import write_atomically
from gatesweep.core.gate import Gate
from gatesweep.core.record import DamagedRecord, json_safe
from gatesweep.core.trainable import Metrics, Split
from gatesweep.sweeps.records.layout import TEST, trial_folders
from gatesweep.sweeps.records.reader import read_json


@dataclass(frozen=True)
class LastWord:
    """The metrics on test, `test/...`, of the weights after `epoch` epochs; or the reason why there are none."""

    epoch: int
    metrics: Metrics
    reason: str = ""


def write_last_word(trial: Path, word: LastWord) -> None:
    """Write the last word on a trial into its folder. Raises OSError."""
    write_atomically(trial / TEST, json.dumps(json_safe(dataclasses.asdict(word)), indent=1) + "\n")


def read_last_word(trial: Path) -> LastWord | None:
    """Read the last word on a trial; None where it was not evaluated. Raises DamagedRecord and OSError."""
    path = trial / TEST
    if not path.exists():
        return None
    values = read_json(path)
    for key, kind in {"epoch": int, "metrics": dict, "reason": str}.items():
        if not isinstance(values.get(key), kind):
            raise DamagedRecord(f"{path}: {key}: got {values.get(key)!r}, expected the metrics of a trial on test")
    metrics = values["metrics"]
    if not all(value is None or isinstance(value, int | float) for value in metrics.values()):
        raise DamagedRecord(f"{path}: metrics: got {metrics!r}, expected numbers")
    numbers = {name: math.nan if value is None else float(value) for name, value in metrics.items()}
    return LastWord(values["epoch"], numbers, values["reason"])


def last_words(sweep: Path, kind: str) -> dict[str, LastWord]:
    """Read all last words of a sweep, by the names of its folders of `kind`, TRIAL or CONFIRM. Raises as above."""
    words = ((folder.name, read_last_word(folder)) for folder in trial_folders(sweep, kind))
    return {name: word for name, word in words if word}


def split_gate(gate: Gate, split: Split) -> Gate:
    """Return the gate with its thresholds on `val/...` as thresholds on another split, and without the others."""
    thresholds = {
        f"{split}/{metric.removeprefix('val/')}": rule
        for metric, rule in gate.thresholds.items()
        if metric.startswith("val/")
    }
    return dataclasses.replace(gate, thresholds=thresholds, objective=None, scales={}, baseline={})


def judge_split(gate: Gate, split: Split, metrics: Metrics) -> tuple[bool | None, list[str]]:
    """Return True if the metrics of a split clear the gate's thresholds on it, and one line for each that is missed.

    None stands for no verdict: the gate has no threshold on val, or one of its metrics is not there.
    """
    judged = split_gate(gate, split)
    absent = [metric for metric in judged.thresholds if metric not in metrics]
    if absent or not judged.rules:
        return None, [f"{metric} is not reported" for metric in absent]
    missed = judged.missed(metrics)
    return not missed, missed


def verdict_word(gate: Gate, word: LastWord | None) -> str | None:
    """Return how a trial did on test, in a word or two; None where it was not evaluated."""
    if word is None:
        return None
    if word.reason:
        return "not evaluated"
    cleared = judge_split(gate, "test", word.metrics)[0]
    return "no verdict" if cleared is None else "clears" if cleared else "misses"


def summarise_words(gate: Gate, words: dict[str, LastWord]) -> dict[str, dict[str, Any]]:
    """Return, by trial, the metrics on test, whether they clear the gate, and what is missed, as the summary has it."""
    summary = {}
    for name, word in words.items():
        cleared, missed = judge_split(gate, "test", word.metrics) if not word.reason else (None, [])
        summary[name] = {
            "cleared": cleared,
            "missed": missed,
            "reason": word.reason,
            "metrics": json_safe(word.metrics),
        }
    return summary


def last_word_lines(summary: dict[str, dict[str, Any]], gated: Iterable[str]) -> list[str]:
    """Return the result of `summarise_words` as text, one line a trial; trials of one reason share a line.

    `gated` names the metrics of the gate.
    """
    shown = [f"test/{metric.removeprefix('val/')}" for metric in gated if metric.startswith("val/")]
    lines, reasons = [], dict.fromkeys(entry["reason"] for entry in summary.values() if entry["reason"])
    for name, entry in summary.items():
        if entry["reason"]:
            continue
        if entry["missed"]:
            how = "passed, but misses" if entry["cleared"] is False else "has no verdict"
            lines.append(f"{name} {how} on test: {'; '.join(entry['missed'])}")
            continue
        values = [
            f"{metric} {entry['metrics'][metric]:.4g}" for metric in shown if entry["metrics"].get(metric) is not None
        ]
        lines.append(f"{name} passed, and clears the gate on test{': ' if values else ''}{', '.join(values)}")
    for reason in reasons:
        names = ", ".join(name for name, entry in summary.items() if entry["reason"] == reason)
        lines.append(f"{names} not evaluated on test: {reason}")
    return lines
