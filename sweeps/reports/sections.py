"""The sections of a sweep's page, as values for its template."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna

from gatesweep.core.gate import Gate, interval, is_interval_end
from gatesweep.core.shortfall import Threshold
from gatesweep.sweeps.records.last_word import last_word_lines, summarise_words
from gatesweep.sweeps.records.layout import CONFIRM, confirmed_name, trial_folders
from gatesweep.sweeps.records.pareto import read_pareto
from gatesweep.sweeps.records.reader import SweepRecord, TrialRecord, read_result
from gatesweep.sweeps.records.summary import confirmations, first_pass, ranked_words
from gatesweep.sweeps.records.text import format_interval
from gatesweep.sweeps.reports.parameters import (
    MAX_LEAVES,
    MAX_LINES,
    MIN_LEAVES,
    draw_coordinates,
    draw_history,
    draw_importances,
    parameter_importances,
    score_study,
)
from gatesweep.sweeps.reports.plots import OUTCOME_STYLES, plot_pareto
from gatesweep.sweeps.reports.render import format_choice, format_duration, format_score, format_share, format_value
from gatesweep.sweeps.reports.score_axis import ScoreAxis

FEW_TRIALS = 30  # below this number of trials, importances are only a hint


def best_section(sweep: SweepRecord) -> dict[str, Any] | None:
    """Return the first trial of the leaderboard: its metrics beside the gate, and its parameters."""
    top = sweep.trials[0] if sweep.trials else None
    if top is None or top.score is None:
        return None
    gated = [threshold_row(rule, sweep.gate, top.metrics) for rule in sweep.gate.rules]
    gated_names = {rule.metric for rule in sweep.gate.rules}
    if sweep.gate.objective and sweep.gate.objective not in gated_names:
        value = value_text(sweep.gate.objective, top.metrics)
        gated.append({"name": sweep.gate.objective, "value": value, "needs": "", "result": "ranks", "tone": "note"})
    missed = [row["result"] + " in " + row["name"] for row in gated if row["tone"] == "bad"]
    clears = f"It clears every threshold, but not {sweep.gate.consecutive} epochs in a row."
    shown = {*gated_names, sweep.gate.objective}
    others = [name for name in top.metrics if name not in shown and not is_interval_end(name, top.metrics)]
    verdict = sweep.gate.other_verdict(top.metrics)
    return {
        "trial": top.name,
        "outcome": top.outcome,
        "epochs": top.epochs[-1]["epoch"],
        "score": format_score(top.score),
        "gated": gated,
        "misses": f"It {', '.join(missed)}." if missed else clears,
        "params": [{"name": name, "value": format_choice(value)} for name, value in top.values.items()],
        "others": [{"name": name, "value": value_text(name, top.metrics)} for name in others],
        "luck": f"With gate.bound={sweep.gate.other_bound} it {verdict}." if verdict else "",
    }


def threshold_row(rule: Threshold, gate: Gate, metrics: Mapping[str, float]) -> dict[str, str]:
    """Return a row that compares a metric with its threshold; `result` says by how much it clears or misses."""
    value = gate.compared_value(rule, metrics)
    row = {"name": rule.metric, "value": value_text(rule.metric, metrics)}
    row["needs"] = f"{rule.comparison} {rule.bound:g}"
    if value is None or math.isnan(value):
        return {**row, "result": "has no number", "tone": "bad"}
    gap = f"{abs(value - rule.bound):.2g}"
    if rule.clears(value):
        return {**row, "result": f"clears by {gap}" if value != rule.bound else "just clears", "tone": "good"}
    return {**row, "result": f"misses by {gap}", "tone": "bad"}


def value_text(name: str, metrics: Mapping[str, float]) -> str:
    """Return a metric's value as text, and behind a proportion its 95 % interval."""
    return format_value(metrics.get(name)) + format_interval(interval(name, metrics))


def on_test_section(sweep: SweepRecord) -> list[str]:
    """Return a line for each trial that was evaluated on test, the best first; none where no trial was."""
    words = ranked_words(sweep.trials, sweep.folder)
    return last_word_lines(summarise_words(sweep.gate, words), sweep.gate.thresholds)


def confirmation_section(sweep: Path) -> list[dict[str, Any]]:
    """Return the trials that ran again on fresh seeds: the rate of each, and its runs."""
    rates = confirmations(sweep)
    runs_by_trial: dict[str, list[dict[str, str]]] = {}
    for folder in trial_folders(sweep, CONFIRM):
        outcome = read_result(folder)["outcome"]
        runs_by_trial.setdefault(confirmed_name(folder), []).append({"name": folder.name, "outcome": outcome})
    return [{"trial": name, "runs": runs, **rates.get(name, {"seeds": 0})} for name, runs in runs_by_trial.items()]


def pareto_section(sweep: SweepRecord) -> dict[str, Any] | None:
    """Return the Pareto front of objective and cost, its plot and its rows; None where the sweep has no cost."""
    points, cost = read_pareto(sweep.folder), sweep.config.search.cost
    if not points or cost is None:
        return None
    columns = list(points[0])[1:]  # the first key is the trial
    rows = [{"trial": point["trial"], "values": [format_value(point[key]) for key in columns]} for point in points]
    return {"figure": plot_pareto(sweep, points, cost), "columns": columns, "rows": rows}


def headline(sweep: SweepRecord) -> list[dict[str, Any]]:
    """Return the key numbers of a sweep, each with a name and a second, smaller number."""
    seconds, epochs = first_pass(sweep.trials)
    passed, count = sum(trial.outcome == "passed" for trial in sweep.trials), len(sweep.trials)
    total = sum(len(trial.epochs) for trial in sweep.trials)
    per_epoch = format_duration(_total_seconds(sweep.trials) / total) if total else "none"
    first = {"value": "none"} if seconds is None else {"value": format_duration(seconds), "more": f"{epochs} epochs"}
    return [
        {"name": "first pass after", "more": "", **first},
        {"name": "whole sweep", "value": format_duration(sweep.seconds), "more": f"{total} epochs"},
        {"name": "pass rate", "value": f"{passed / count:.0%}" if count else "none", "more": f"{passed} of {count}"},
        {"name": "an epoch, on average", "value": per_epoch, "more": ""},
    ]


def spent_by_outcome(sweep: SweepRecord) -> list[dict[str, Any]]:
    """Return a row for each outcome: its trials, their epochs and seconds of training, and both as shares."""
    all_epochs, all_seconds = sum(len(trial.epochs) for trial in sweep.trials), _total_seconds(sweep.trials)
    rows: list[dict[str, Any]] = []
    for outcome in OUTCOME_STYLES:
        trials = [trial for trial in sweep.trials if trial.outcome == outcome]
        if not trials:
            continue
        epochs, seconds = sum(len(trial.epochs) for trial in trials), _total_seconds(trials)
        running = outcome == "interrupted" and not sweep.interrupted
        rows.append(
            {
                "outcome": outcome,
                "label": "not ended" if running else outcome,
                "trials": len(trials),
                "epochs": epochs,
                "seconds": seconds,
                "epoch_share": format_share(epochs, all_epochs),
                "second_share": format_share(seconds, all_seconds),
            }
        )
    return rows


def parameter_section(sweep: SweepRecord, axis: ScoreAxis) -> list[dict[str, Any]]:
    """Return history, parallel coordinates and importances; a note alone where there is nothing to draw."""
    study = score_study(sweep, axis)
    scored = [trial for trial in study.get_trials(deepcopy=False) if trial.value is not None]
    names = {name for trial in scored for name in trial.params}
    history: dict[str, Any] = {"title": "History", "note": "No trial has a score.", "figure": None, "min_width": 0}
    coordinates = {**history, "title": "Parallel coordinates"}
    importance = {**history, "title": "Importances"}
    if scored:
        history |= {"note": "The last score of each trial, in the order in which the sampler proposed them."}
        history |= {"figure": draw_history(study, sweep, axis)}
        coordinates["note"] = importance["note"] = "No parameter took more than one value."
    if scored and names:
        looks = "Trials that passed are solid and green. The others are dotted, fainter further from the gate."
        looks = looks if sweep.gate.rules else "A fainter line has a lower score."
        lines = (
            f"One line for each of the best {MAX_LINES} trials." if len(scored) > MAX_LINES else "One line per trial."
        )
        coordinates |= {"note": f"{lines} {looks}", "min_width": 104 * (1 + len(names))}
        coordinates |= {"figure": draw_coordinates(study, axis)}
        importance["note"] = "All trials have the same score, so there is nothing to explain."
        if len(scored) < MIN_LEAVES:
            importance["note"] = f"Fewer than {MIN_LEAVES} trials have a score, which is too few to tell."
    if shares := parameter_importances(study):
        used = min(len(scored), MAX_LEAVES)
        hint = " With so few trials this is only a hint." if len(scored) < FEW_TRIALS else ""
        importance["note"] = (
            f"The share of the differences between the scores of {used} trials that each parameter explains "
            f"(fANOVA).{left_out(study, shares)}{hint}"
        )
        importance["figure"] = draw_importances(shares)
    return [history, coordinates, importance]


def left_out(study: optuna.Study, importances: Mapping[str, float]) -> str:
    """Return a sentence about the parameters that have no importance because only some trials have them."""
    names = sorted({name for trial in study.get_trials(deepcopy=False) for name in trial.params} - set(importances))
    return f" It leaves out {', '.join(names)}, which only some trials have." if names else ""


def _total_seconds(trials: Sequence[TrialRecord]) -> float:
    return sum(seconds for trial in trials if math.isfinite(seconds := trial.seconds))
