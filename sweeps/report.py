"""What came of a sweep: its summary and leaderboard, derived from the run directories alone."""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from core.gate import Gate
from core.record import Event, read_events, write_atomically

OUTCOMES = ("passed", "stopped", "finished", "diverged", "failed")


def write(sweep: Path, seconds: float, facts: dict[str, Any]) -> dict[str, Any]:
    """Write `summary.json` and `leaderboard.csv`; returns the summary."""
    rows = leaderboard(sweep)
    outcomes = Counter(row["outcome"] for row in rows)
    first_seconds, first_epochs = first_pass(sweep)
    summary = {
        "trials": len(rows),
        **{name: outcomes[name] for name in OUTCOMES},
        "interrupted": outcomes["interrupted"],
        "seconds": round(seconds, 3),
        "first_pass_seconds": first_seconds,
        "first_pass_epochs": first_epochs,
        "epochs": sum(row["epochs"] for row in rows),
        "best": best(sweep, rows),
        **facts,
    }
    write_atomically(sweep / "summary.json", json.dumps(summary, indent=1) + "\n")
    write_atomically(sweep / "leaderboard.csv", to_csv(rows))
    return summary


def leaderboard(sweep: Path) -> list[dict[str, Any]]:
    """One row a trial, best score first: outcome, epochs, seconds, score, gated metrics and what was varied."""
    gate = yaml.safe_load((sweep / "config.yaml").read_text())["gate"]
    shown = Gate(**gate).reads
    rows = []
    for folder in trial_folders(sweep):
        events = read_events(folder / "events.jsonl")
        result = read_result(folder)
        epochs = [event for event in events if event["event"] == "epoch"]
        last = epochs[-1] if epochs else {"score": None, "metrics": {}}
        top = max((event["score"] for event in epochs), default=None)
        metrics = {name: last["metrics"].get(name) for name in shown}
        row = {"trial": folder.name, "outcome": result["outcome"], "epochs": len(epochs)}
        row |= {"seconds": round(sum(event["metrics"].get("system/seconds", 0.0) for event in epochs), 1)}
        row |= {"score": last["score"], "best_score": top, **metrics}
        rows.append({**row, **varied(events), "reason": result["reason"] or "; ".join(result["missed"])})
    worst = -math.inf
    return sorted(rows, key=lambda row: (row["outcome"] == "passed", row["score"] or worst), reverse=True)


def trial_folders(sweep: Path) -> list[Path]:
    return sorted(path.parent for path in sweep.glob("trial_*/events.jsonl"))


def read_result(folder: Path) -> dict[str, Any]:
    """A trial's `result.json`; of one that has not ended, what stands in for it."""
    path = folder / "result.json"
    return json.loads(path.read_text()) if path.exists() else {"outcome": "interrupted", "reason": None, "missed": []}


def best(sweep: Path, rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    if not rows or rows[0]["score"] is None:
        return None
    folder = sweep / rows[0]["trial"]
    events = read_events(folder / "events.jsonl")
    last = [event for event in events if event["event"] == "epoch"][-1]
    metrics = {name: value if math.isfinite(value) else None for name, value in last["metrics"].items()}
    facts = {"trial": folder.name, "outcome": rows[0]["outcome"], "score": last["score"], "epochs": last["epoch"]}
    return {**facts, "params": varied(events), "metrics": metrics}


def varied(events: list[Event]) -> dict[str, Any]:
    """What a trial's searched values are; population-based training changes them on the way."""
    return next((event["values"] for event in reversed(events) if "values" in event), {})


def first_pass(sweep: Path) -> tuple[float | None, int | None]:
    """Seconds of the sweep until a trial passed, and the epochs that all trials together had trained by then."""
    folders = trial_folders(sweep)
    epochs = [
        event for folder in folders for event in read_events(folder / "events.jsonl") if event["event"] == "epoch"
    ]
    moments = [event["elapsed"] for event in epochs if event["outcome"] == "passed"]
    if not moments:
        return None, None
    return round(min(moments), 3), sum(event["elapsed"] <= min(moments) for event in epochs)


def to_csv(rows: list[dict[str, Any]]) -> str:
    columns = [*list(dict.fromkeys(name for row in rows for name in row if name != "reason")), "reason"]
    text = io.StringIO()
    writer = csv.DictWriter(text, ["rank", *columns], lineterminator="\n")
    writer.writeheader()
    writer.writerows({"rank": rank, **row} for rank, row in enumerate(rows, 1))
    return text.getvalue()


def to_text(rows: list[dict[str, Any]]) -> str:
    """The leaderboard as a table for a terminal."""
    columns = [
        name for name in dict.fromkeys(name for row in rows for name in row) if name not in ("reason", "best_score")
    ]
    table = [[_short(name) for name in columns]] + [[_cell(row.get(name)) for name in columns] for row in rows]
    widths = [max(len(line[column]) for line in table) for column in range(len(columns))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in table)


def _short(name: str) -> str:
    return name.removeprefix("val/").rpartition(".")[2]


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
