"""The summary and the leaderboard of a sweep, derived from its trials' folders alone."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gatesweep.core.files import write_atomically
from gatesweep.core.gate import Gate, interval, is_interval_end, proportion
from gatesweep.core.record import json_safe
from gatesweep.sweeps.config.recorded import read_config
from gatesweep.sweeps.config.schema import make_gate
from gatesweep.sweeps.records.fitting import fit_table
from gatesweep.sweeps.records.last_word import (
    LastWord,
    judge_split,
    last_word_lines,
    last_words,
    read_last_word,
    split_gate,
    summarise_words,
    verdict_word,
)
from gatesweep.sweeps.records.layout import (
    CONFIG,
    CONFIRM,
    LEADERBOARD,
    OUTCOMES,
    SUMMARY,
    TRIAL,
    confirmed_name,
    trial_folders,
)
from gatesweep.sweeps.records.pareto import TRIAL_COSTS, read_pareto
from gatesweep.sweeps.records.reader import TrialRecord, rank_trials, read_trial, read_trials
from gatesweep.sweeps.records.text import format_cell, format_interval, short_name, text_table

HEAD_ROWS = 50  # rows of a long leaderboard that a terminal shows


def write_summary(sweep: Path, seconds: float, provenance: dict[str, Any]) -> dict[str, Any]:
    """Write `summary.json` and `leaderboard.csv`; returns the summary.

    `seconds` is the duration of the sweep. Raises InputError where a file of the record is damaged, and OSError.
    """
    trials = rank_trials(read_trials(sweep))
    outcomes = Counter(trial.outcome for trial in trials)
    first_seconds, first_epochs = first_pass(trials)
    confirmed, front = confirmations(sweep), read_pareto(sweep)
    test = summarise_words(make_gate(read_config(sweep / CONFIG).gate), ranked_words(trials, sweep))
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
        **({"test": test} if test else {}),
        **({"front": front} if front else {}),
        **provenance,
    }
    write_atomically(sweep / SUMMARY, json.dumps(summary, indent=1) + "\n")
    write_atomically(sweep / LEADERBOARD, leaderboard_csv(leaderboard(sweep)))
    return summary


def leaderboard(sweep: Path) -> list[dict[str, Any]]:
    """Return one row a trial, the best first: outcome, epochs, seconds, scores, gated metrics and searched values.

    Beside a proportion are the ends of its 95 % interval. Where the other `gate.bound` would change a verdict, a column
    of that name says so.

    Raises InputError where a file of the record is damaged, and OSError.
    """
    config = read_config(sweep / CONFIG)
    cost = config.search.cost or TRIAL_COSTS[0]
    gate, costs = make_gate(config.gate), [] if cost in TRIAL_COSTS else [cost]
    confirmed, words = confirmations(sweep), last_words(sweep, TRIAL)
    return [_leaderboard_row(trial, gate, costs, confirmed, words) for trial in rank_trials(read_trials(sweep))]


def leaderboard_csv(rows: list[dict[str, Any]]) -> str:
    """Return the leaderboard as the text of a CSV file, with a column for the rank."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _ranked_columns(rows), lineterminator="\n")
    writer.writeheader()
    writer.writerows({"rank": rank, **row} for rank, row in enumerate(rows, 1))
    return text.getvalue()


def leaderboard_columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Return the leaderboard as MLflow's UI shows a table: `columns`, and `data` by rows with floats to four digits."""
    columns = _ranked_columns(rows)
    table = [[{"rank": rank, **row}.get(name) for name in columns] for rank, row in enumerate(rows, 1)]
    rounded = [[float(f"{value:.4g}") if isinstance(value, float) else value for value in line] for line in table]
    return {"columns": columns, "data": json_safe(rounded)}


def leaderboard_text(rows: list[dict[str, Any]], width: int | None = None, gated: Sequence[str] = ()) -> str:
    """Return the leaderboard as a table for a terminal. A table of more than 100 rows is cut after the first 50.

    With a `width`, in characters, the metrics `gated` come first, then the score, the values that differ, and the rest
    as far as there is room.
    """
    if len(rows) > 2 * HEAD_ROWS:
        head = leaderboard_text(rows[:HEAD_ROWS], width, gated)
        return f"{head}\n... and {len(rows) - HEAD_ROWS} more, in {LEADERBOARD}"
    columns = _column_names(rows)
    names = [name for name in columns if name not in ("reason", "best_score") and not is_interval_end(name, columns)]
    plain = [[format_cell(row.get(name)) for name in names] for row in rows]
    table = [
        [cell + format_interval(interval(name, row)) for name, cell in zip(names, line, strict=True)]
        for line, row in zip(plain, rows, strict=True)
    ]
    heads = [short_name(name) for name in names]
    text = text_table(heads, table, align="right")
    if width is None or len(text.partition("\n")[0]) <= width:
        return text

    def importance(position: int) -> tuple[int, int]:
        name = names[position]
        differs = len({line[position] for line in plain}) > 1
        ranks = {"trial": 0, "outcome": 1, "test": 2, "score": 3, "epochs": 5, "seconds": 6}
        return (2 if name in gated else ranks.get(name, 4 if differs else 7)), position

    return fit_table(heads, plain, width, sorted(range(len(names)), key=importance))


def confirmations(sweep: Path) -> dict[str, dict[str, Any]]:
    """Count, by trial, the runs on fresh seeds that have ended (`seeds`) and those that passed.

    `rate` is their ratio, `rate_low` and `rate_high` are its 95 % Wilson interval. Where all that passed have
    a verdict on test, `test_cleared` counts those that clear the gate there, too, and `test_rate` is their share.
    Raises InputError where a file of the record is damaged, and OSError.
    """
    passes: dict[str, list[bool]] = {}
    clears: dict[str, list[bool | None]] = {}  # of the runs that passed: on test, too
    gate = make_gate(read_config(sweep / CONFIG).gate)
    for folder in trial_folders(sweep, CONFIRM):
        if (outcome := read_trial(folder).outcome) in OUTCOMES:
            passes.setdefault(confirmed_name(folder), []).append(outcome == "passed")
            if outcome == "passed":
                word = read_last_word(folder)
                cleared = judge_split(gate, "test", word.metrics)[0] if word else None
                clears.setdefault(confirmed_name(folder), []).append(cleared)
    return {
        name: {
            "passed": sum(runs),
            "seeds": len(runs),
            **proportion("rate", sum(runs), len(runs)),
            **_confirmed_on_test(clears.get(name, []), len(runs)),
        }
        for name, runs in passes.items()
    }


def confirmation_lines(confirmed: dict[str, dict[str, Any]]) -> list[str]:
    """Return the result of `confirmations` as text, one line a trial."""
    return [
        f"{name} passed on {counts['passed']} of {counts['seeds']} fresh seeds: {counts['rate']:.0%}, "
        f"95 % interval {counts['rate_low']:.0%} to {counts['rate_high']:.0%}"
        + (f"; on test, too, on {counts['test_cleared']} of {counts['seeds']}" if "test_cleared" in counts else "")
        for name, counts in confirmed.items()
    ]


def result_lines(summary: Mapping[str, Any], gated: Iterable[str]) -> list[str]:
    """Return what a summary says of winners on test and on fresh seeds as text; `gated` names the gate's metrics."""
    return [*last_word_lines(summary.get("test", {}), gated), *confirmation_lines(summary.get("confirmed", {}))]


def ranked_words(trials: list[TrialRecord], sweep: Path) -> dict[str, LastWord]:
    """Return the last words on trials in the order of `trials`. Raises InputError and OSError."""
    words = last_words(sweep, TRIAL)
    return {trial.name: words[trial.name] for trial in trials if trial.name in words}


def columns_on_test(gate: Gate, words: Mapping[str, LastWord], name: str) -> dict[str, Any]:
    """Return the columns of a trial about the test split; none where no trial of the sweep was evaluated on it."""
    if not words:
        return {}
    word = words.get(name)
    metrics = word.metrics if word else {}
    return {"test": verdict_word(gate, word), **{key: metrics.get(key) for key in split_gate(gate, "test").thresholds}}


def best_trial(trials: list[TrialRecord]) -> dict[str, Any] | None:
    """Return the first of the ranked `trials` as the summary shows it; None where it has no score."""
    if not trials or trials[0].score is None:
        return None
    best = trials[0]
    return {
        "trial": best.name,
        "outcome": best.outcome,
        "score": best.score,
        "epochs": best.epochs[-1]["epoch"],
        "params": best.values,
        "metrics": json_safe(best.metrics),
    }


def first_pass(trials: list[TrialRecord]) -> tuple[float | None, int | None]:
    """Return the seconds of the sweep until the first trial passed, and the epochs of all trials until then."""
    epochs = [event for trial in trials for event in trial.epochs]
    moments = [event["elapsed"] for event in epochs if event["outcome"] == "passed"]
    if not moments:
        return None, None
    return round(min(moments), 3), sum(event["elapsed"] <= min(moments) for event in epochs)


def _confirmed_on_test(cleared: list[bool | None], seeds: int) -> dict[str, Any]:
    """Return the count and rate of `seeds` runs that clear the gate on test, too; none without all verdicts."""
    if not cleared or None in cleared:
        return {}
    count = sum(map(bool, cleared))
    return {"test_cleared": count, **proportion("test_rate", count, seeds)}


def _leaderboard_row(
    trial: TrialRecord,
    gate: Gate,
    costs: list[str],
    confirmed: dict[str, dict[str, Any]],
    words: dict[str, LastWord],
) -> dict[str, Any]:
    """Return a trial's row; the metrics that `gate` reads and those of `costs` get columns."""
    row: dict[str, Any] = {"trial": trial.name, "outcome": trial.outcome, "epochs": len(trial.epochs)}
    row |= {"seconds": round(trial.seconds, 1), "score": trial.score, "best_score": trial.best_score}
    if confirmed:
        counts = confirmed.get(trial.name)
        row["confirmed"] = f"{counts['passed']} of {counts['seeds']}" if counts else None
    for name in [*gate.reads, *costs]:
        row[name] = trial.metrics.get(name)
        if ends := interval(name, trial.metrics):
            row[f"{name}_low"], row[f"{name}_high"] = ends
    row |= columns_on_test(gate, words, trial.name)
    if verdict := gate.other_verdict(trial.metrics):
        row[f"gate.bound={gate.other_bound}"] = verdict
    return {**row, **trial.values, "reason": trial.reason}


def _column_names(rows: list[dict[str, Any]]) -> list[str]:
    """List the columns of all rows, each once, in the order of their first appearance."""
    return list(dict.fromkeys(name for row in rows for name in row))


def _ranked_columns(rows: list[dict[str, Any]]) -> list[str]:
    """List the columns with the rank first and the reason last."""
    return ["rank", *(name for name in _column_names(rows) if name != "reason"), "reason"]
