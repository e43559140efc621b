"""The summary and the leaderboard of a sweep, derived from its trials' folders alone."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

from gatesweep.core.files import write_atomically
from gatesweep.core.gate import proportion
from gatesweep.core.record import json_safe
from gatesweep.sweeps.config.recorded import read_config
from gatesweep.sweeps.config.schema import make_gate
from gatesweep.sweeps.records.layout import CONFIG, CONFIRM, OUTCOMES, confirmed_name, trial_folders
from gatesweep.sweeps.records.pareto import TRIAL_COSTS, read_pareto
from gatesweep.sweeps.records.reader import TrialRecord, rank_trials, read_result, read_trials
from gatesweep.sweeps.records.text import format_cell

HEAD_ROWS = 50  # rows of a long leaderboard that a terminal shows


def write_summary(sweep: Path, seconds: float, facts: dict[str, Any]) -> dict[str, Any]:
    """Write `summary.json` and `leaderboard.csv`; returns the summary."""
    trials = rank_trials(read_trials(sweep))
    outcomes = Counter(trial.outcome for trial in trials)
    first_seconds, first_epochs = first_pass(trials)
    confirmed, front = confirmations(sweep), read_pareto(sweep)
    summary = {
        "trials": len(trials),
        **{name: outcomes[name] for name in OUTCOMES},
        "interrupted": outcomes["interrupted"],
        "seconds": round(seconds, 3),
        "first_pass_seconds": first_seconds,
        "first_pass_epochs": first_epochs,
        "epochs": sum(len(trial.epochs) for trial in trials),
        "best": best_trial(trials),
        **({"confirmed": confirmed} if confirmed else {}),
        **({"front": front} if front else {}),
        **facts,
    }
    write_atomically(sweep / "summary.json", json.dumps(summary, indent=1) + "\n")
    write_atomically(sweep / "leaderboard.csv", leaderboard_csv(leaderboard(sweep)))
    return summary


def leaderboard(sweep: Path) -> list[dict[str, Any]]:
    """One row a trial, best score first: outcome, epochs, seconds, score, gated metrics and what was varied."""
    config = read_config(sweep / CONFIG)
    cost = config.search.cost or TRIAL_COSTS[0]
    shown = [*make_gate(config.gate).reads, *([] if cost in TRIAL_COSTS else [cost])]
    confirmed = confirmations(sweep)
    return [_leaderboard_row(trial, shown, confirmed) for trial in rank_trials(read_trials(sweep))]


def _leaderboard_row(trial: TrialRecord, shown: list[str], confirmed: dict[str, dict[str, Any]]) -> dict[str, Any]:
    facts = {"trial": trial.name, "outcome": trial.outcome, "epochs": len(trial.epochs)}
    facts |= {"seconds": round(trial.seconds, 1), "score": trial.score, "best_score": trial.best_score}
    if confirmed:
        again = confirmed.get(trial.name)
        facts["confirmed"] = f"{again['passed']} of {again['seeds']}" if again else None
    metrics = {name: trial.metrics.get(name) for name in shown}
    return {**facts, **metrics, **trial.values, "reason": trial.reason}


def confirmations(sweep: Path) -> dict[str, dict[str, Any]]:
    """By trial: of its runs on fresh seeds that have ended, how many passed, and the rate with its Wilson interval."""
    found: dict[str, list[bool]] = {}
    for folder in trial_folders(sweep, CONFIRM):
        if (outcome := read_result(folder)["outcome"]) in OUTCOMES:
            found.setdefault(confirmed_name(folder), []).append(outcome == "passed")
    return {
        name: {"passed": sum(runs), "seeds": len(runs), **proportion("rate", sum(runs), len(runs))}
        for name, runs in found.items()
    }


def confirmation_lines(confirmed: dict[str, dict[str, Any]]) -> list[str]:
    """What `confirmations` says, a line a trial."""
    return [
        f"{name} passed on {one['passed']} of {one['seeds']} fresh seeds: {one['rate']:.0%}, "
        f"95 % interval {one['rate_low']:.0%} to {one['rate_high']:.0%}"
        for name, one in confirmed.items()
    ]


def best_trial(trials: list[TrialRecord]) -> dict[str, Any] | None:
    """The first of `trials`, if it has a score."""
    if not trials or trials[0].score is None:
        return None
    top = trials[0]
    facts = {"trial": top.name, "outcome": top.outcome, "score": top.score, "epochs": top.epochs[-1]["epoch"]}
    return {**facts, "params": top.values, "metrics": json_safe(top.metrics)}


def first_pass(trials: list[TrialRecord]) -> tuple[float | None, int | None]:
    """Seconds of the sweep until a trial passed, and the epochs that all trials together had trained by then."""
    epochs = [event for trial in trials for event in trial.epochs]
    moments = [event["elapsed"] for event in epochs if event["outcome"] == "passed"]
    if not moments:
        return None, None
    return round(min(moments), 3), sum(event["elapsed"] <= min(moments) for event in epochs)


def leaderboard_csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, _columns(rows), lineterminator="\n")
    writer.writeheader()
    writer.writerows({"rank": rank, **row} for rank, row in enumerate(rows, 1))
    return text.getvalue()


def leaderboard_columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """The leaderboard as MLflow's UI shows a table: columns, and data by rows, floats to four digits."""
    columns = _columns(rows)
    values = [[{"rank": rank, **row}.get(name) for name in columns] for rank, row in enumerate(rows, 1)]
    short = [[float(f"{value:.4g}") if isinstance(value, float) else value for value in line] for line in values]
    return {"columns": columns, "data": json_safe(short)}


def _columns(rows: list[dict[str, Any]]) -> list[str]:
    return ["rank", *dict.fromkeys(name for row in rows for name in row if name != "reason"), "reason"]


def leaderboard_text(rows: list[dict[str, Any]]) -> str:
    """The leaderboard as a table for a terminal; of a long one, its head."""
    if len(rows) > 2 * HEAD_ROWS:
        return f"{leaderboard_text(rows[:HEAD_ROWS])}\n... and {len(rows) - HEAD_ROWS} more, in leaderboard.csv"
    columns = [
        name for name in dict.fromkeys(name for row in rows for name in row) if name not in ("reason", "best_score")
    ]
    table = [[_short(name) for name in columns]] + [[format_cell(row.get(name)) for name in columns] for row in rows]
    widths = [max(len(line[column]) for line in table) for column in range(len(columns))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in table)


def _short(name: str) -> str:
    return name.removeprefix("val/").rpartition(".")[2]
