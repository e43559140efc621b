"""A sweep on one page, `report.html` in its folder: what passed, what it took, what the parameters did.

The page is derived from the run directories, holds all that it shows, and asks nobody for anything.
"""

from __future__ import annotations

import json
import math
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna

from gatesweep.core.files import write_atomically
from gatesweep.core.gate import COMPARE, Gate, Threshold
from gatesweep.core.record import Event
from gatesweep.sweeps.records.layout import CONFIRM, confirmed_name, trial_folders
from gatesweep.sweeps.records.pareto import read_pareto
from gatesweep.sweeps.records.reader import SweepRecord, TrialRecord, read_result, read_sweep
from gatesweep.sweeps.records.summary import confirmations, first_pass
from gatesweep.sweeps.reports.leaderboard_table import leaderboard_cells, mlflow_links
from gatesweep.sweeps.reports.parameters import (
    MAX_LEAVES,
    MAX_LINES,
    draw_coordinates,
    draw_history,
    draw_importances,
    parameter_importances,
    score_study,
)
from gatesweep.sweeps.reports.plots import (
    OUTCOME_STYLES,
    plot_metrics,
    plot_pareto,
    plot_progress,
    rung_cutoffs,
)
from gatesweep.sweeps.reports.render import (
    format_choice,
    format_duration,
    format_score,
    format_share,
    format_time,
    format_value,
    render_template,
    shown_path,
)
from gatesweep.sweeps.reports.score_axis import ScoreAxis, score_axis

FOLDED_FROM = 50  # rows of the leaderboard that are not folded away
MAX_ROWS = 1000  # a page of 10,000 takes a browser many seconds
FEW_TRIALS = 30  # trials up to which importances are a hint


def write_page(sweep: Path) -> Path:
    """Write the page of a sweep, which may still be running; returns where it is."""
    path = sweep / "report.html"
    write_atomically(path, render_template("report.html", page_context(read_sweep(sweep))))
    return path


def page_context(sweep: SweepRecord) -> dict[str, Any]:
    """All that the page says."""
    gate, trials, axis = sweep.gate, sweep.trials, score_axis(sweep)
    links = mlflow_links(sweep.folder)
    columns, rows = leaderboard_cells(sweep, links)
    epochs, cutoffs = any(trial.epochs for trial in trials), rung_cutoffs(sweep)
    return {
        "name": sweep.config.name or sweep.folder.name,
        "folder": sweep.folder.name,
        "family": family_name(sweep),
        "trials": len(trials),
        "passed": sum(trial.outcome == "passed" for trial in trials),
        "rules": [f"{metric} {rule}" for metric, rule in gate.thresholds.items()],
        "gate_note": gate_note(gate),
        "when": timing_note(sweep),
        "compare": links.get("compare"),
        "best": best_section(sweep),
        "confirmed": confirmation_section(sweep),
        "front": pareto_section(sweep),
        "facts": headline(sweep),
        "spent": spent_by_outcome(sweep),
        "commands": next_commands(sweep),
        "progress": plot_progress(sweep, axis, cutoffs) if epochs else None,
        "progress_note": progress_note(sweep, bool(cutoffs)),
        "metrics": plot_metrics(sweep) if epochs else [],
        "parameters": parameter_plots(sweep, axis),
        "columns": columns,
        "rows": rows[:MAX_ROWS],
        "unlisted": max(0, len(rows) - MAX_ROWS),
        "fold": FOLDED_FROM,
        "footer": page_footer(sweep),
    }


def family_name(sweep: SweepRecord) -> str:
    """The last part of the trainable's name."""
    return sweep.config.trainable["_target_"].rpartition(".")[2]


def gate_note(gate: Gate) -> str:
    sentences = [] if gate.rules else ["The gate has no thresholds, so nothing passes; trials are ranked only."]
    if gate.rules:
        often = f" in {gate.consecutive} epochs in a row" if gate.consecutive > 1 else " at the same epoch"
        sentences.append(f"Every threshold must clear{often}.")
    if gate.bound == "wilson":
        sentences.append("Of a proportion, the end of its 95 % interval that is nearer to failing is compared.")
    if gate.objective:
        better = "smaller" if gate.mode == "min" else "larger"
        sentences.append(f"Ranked by {gate.objective}, {better} is better.")
    return " ".join(sentences)


def timing_note(sweep: SweepRecord) -> str:
    starts = [event["time"] for event in sweep.events if event["event"] == "start"]
    began = f"Began {format_time(starts[0])}" if starts else "Not begun"
    again = f", resumed {len(starts) - 1} times" if len(starts) > 2 else ", resumed once" if len(starts) == 2 else ""
    if sweep.ended or sweep.interrupted:
        how, at = "ended" if sweep.ended else "interrupted", format_time(sweep.events[-1]["time"], starts[0])
        return f"{began}{again}, {how} {at}"
    return f"{began}{again}, not ended when this page was written, {format_time(time.time())}"


def best_section(sweep: SweepRecord) -> dict[str, Any] | None:
    """The first of the leaderboard: its metrics against the gate, and its parameters."""
    top = sweep.trials[0] if sweep.trials else None
    if top is None or top.score is None:
        return None
    gated = [threshold_row(rule, sweep.gate, top.metrics) for rule in sweep.gate.rules]
    shown = {rule.metric for rule in sweep.gate.rules}
    if sweep.gate.objective and sweep.gate.objective not in shown:
        value = format_value(top.metrics.get(sweep.gate.objective))
        gated.append({"name": sweep.gate.objective, "value": value, "needs": "", "verdict": "ranks", "tone": "note"})
    missed = [one["verdict"] + " in " + one["name"] for one in gated if one["tone"] == "bad"]
    clears = f"It clears every threshold, but not {sweep.gate.consecutive} epochs in a row."
    others = {name: value for name, value in top.metrics.items() if name not in {*shown, sweep.gate.objective}}
    return {
        "trial": top.name,
        "outcome": top.outcome,
        "epochs": top.epochs[-1]["epoch"],
        "score": format_score(top.score),
        "gated": gated,
        "misses": f"It {', '.join(missed)}." if missed else clears,
        "params": [{"name": name, "value": format_choice(value)} for name, value in top.values.items()],
        "others": [{"name": name, "value": format_value(value)} for name, value in others.items()],
    }


def confirmation_section(sweep: SweepRecord) -> list[dict[str, Any]]:
    """The trials that ran again on fresh seeds: what came of it, and each run."""
    rates = confirmations(sweep.folder)
    lines: dict[str, list[dict[str, str]]] = {}
    for folder in trial_folders(sweep.folder, CONFIRM):
        outcome = read_result(folder)["outcome"]
        lines.setdefault(confirmed_name(folder), []).append({"name": folder.name, "outcome": outcome})
    return [{"trial": name, "runs": runs, **rates.get(name, {"seeds": 0})} for name, runs in lines.items()]


def pareto_section(sweep: SweepRecord) -> dict[str, Any] | None:
    """The front of objective and cost: its plot, and its points."""
    found, name = read_pareto(sweep.folder), sweep.config.search.cost
    if not found or name is None:
        return None
    rows = [{"trial": one["trial"], "values": [format_value(one[key]) for key in list(one)[1:]]} for one in found]
    return {"figure": plot_pareto(sweep, found, name), "columns": list(found[0])[1:], "rows": rows}


def threshold_row(rule: Threshold, gate: Gate, metrics: Mapping[str, float]) -> dict[str, str]:
    """How a metric stands to its threshold."""
    value = gate.compared_value(rule, metrics)
    said = {"name": rule.metric, "value": format_value(value), "needs": f"{rule.comparison} {rule.bound:g}"}
    if value is None or math.isnan(value):
        return {**said, "verdict": "has no number", "tone": "bad"}
    gap = f"{abs(value - rule.bound):.2g}"
    if COMPARE[rule.comparison](value, rule.bound):
        return {**said, "verdict": f"clears by {gap}" if value != rule.bound else "just clears", "tone": "good"}
    return {**said, "verdict": f"misses by {gap}", "tone": "bad"}


def headline(sweep: SweepRecord) -> list[dict[str, Any]]:
    seconds, epochs = first_pass(sweep.trials)
    passed, count = sum(trial.outcome == "passed" for trial in sweep.trials), len(sweep.trials)
    total = sum(len(trial.epochs) for trial in sweep.trials)
    each = format_duration(_seconds(sweep.trials) / total) if total else "none"
    first = {"value": "none"} if seconds is None else {"value": format_duration(seconds), "more": f"{epochs} epochs"}
    return [
        {"name": "first pass after", "more": "", **first},
        {"name": "whole sweep", "value": format_duration(sweep.seconds), "more": f"{total} epochs"},
        {"name": "pass rate", "value": f"{passed / count:.0%}" if count else "none", "more": f"{passed} of {count}"},
        {"name": "an epoch, on average", "value": each, "more": ""},
    ]


def spent_by_outcome(sweep: SweepRecord) -> list[dict[str, Any]]:
    """Trials, epochs and seconds of training by outcome."""
    whole = sum(len(trial.epochs) for trial in sweep.trials), _seconds(sweep.trials)
    found: list[dict[str, Any]] = []
    for outcome in OUTCOME_STYLES:
        chosen = [trial for trial in sweep.trials if trial.outcome == outcome]
        epochs, seconds = sum(len(trial.epochs) for trial in chosen), _seconds(chosen)
        shares = {"epoch_share": format_share(epochs, whole[0]), "second_share": format_share(seconds, whole[1])}
        unended = outcome == "interrupted" and not sweep.interrupted
        label = "not ended" if unended else outcome
        if chosen:
            row = {"outcome": outcome, "label": label, "trials": len(chosen), "epochs": epochs, "seconds": seconds}
            found.append({**row, **shares})
    return found


def next_commands(sweep: SweepRecord) -> list[dict[str, str]]:
    folder = shown_path(sweep.folder)
    found = []
    if not sweep.ended:
        found.append({"name": "Go on with the sweep", "text": f"python sweeps/run.py resume={shlex.quote(folder)}"})
    else:
        more = f"num_samples={2 * len(sweep.trials)}"
        found.append({"name": "Search on", "text": f"python sweeps/run.py resume={shlex.quote(folder)} {more}"})
    if sweep.trials and sweep.trials[0].outcome == "passed" and not confirmations(sweep.folder):
        again = f"python sweeps/run.py resume={shlex.quote(folder)} confirm.seeds=5"
        found.append({"name": "How often does the best pass?", "text": again})
    if sweep.trials and sweep.trials[0].score is not None:
        trial = f"{folder}/{sweep.trials[0].name}"
        again = f"python sweeps/train.py --config {shlex.quote(trial + '/config.yaml')}"
        found.append({"name": "Train the best trial again", "text": again})
        code = f"from sweeps.load import load\n\ntrainable, data = load({json.dumps(trial)})"
        found.append({"name": "Load its model, in Python", "text": code})
    return found


def progress_note(sweep: SweepRecord, halving: bool) -> str:
    if not sweep.gate.rules:
        return "The score of every trial, from its objective alone."
    text = (
        "A line a trial. Below the gate, its distance: the shortfalls of all thresholds added up, each in units of "
        "its scale. Above it, the trials that passed, by their objective."
    )
    if halving:
        text += " Dotted lines are the rungs of successive halving, bars the scores below which it last stopped trials."
    return text


def parameter_plots(sweep: SweepRecord, axis: ScoreAxis) -> list[dict[str, Any]]:
    """History, parallel coordinates and importances, or a sentence where there is nothing to draw."""
    study = score_study(sweep, axis)
    scored = [trial for trial in study.get_trials(deepcopy=False) if trial.value is not None]
    names = {name for trial in scored for name in trial.params}
    history: dict[str, Any] = {"title": "History", "note": "No trial has a score.", "figure": None, "least": 0}
    coordinates = {**history, "title": "Parallel coordinates"}
    importance = {**history, "title": "Importances"}
    if scored:
        history |= {"note": "The last score of each trial, in the order in which they were asked for."}
        history |= {"figure": draw_history(study, sweep, axis)}
        coordinates["note"] = importance["note"] = "No parameter took more than one value."
    if scored and names:
        told = "Those that passed are solid and green, the others dotted, the fainter the further from the gate."
        told = told if sweep.gate.rules else "The fainter, the lower its score."
        most = MAX_LINES
        whose = f"A line for each of the best {most} trials." if len(scored) > most else "A line a trial."
        coordinates |= {"note": f"{whose} {told}", "least": 104 * (1 + len(names))}
        coordinates |= {"figure": draw_coordinates(study, axis)}
        importance["note"] = "All trials have the same score, which says nothing about parameters."
    if found := parameter_importances(study):
        rested = min(len(scored), MAX_LEAVES)
        hint = " So few are a hint, no more." if len(scored) < FEW_TRIALS else ""
        importance["note"] = (
            f"They rest on {rested} trials: how much of what sets their scores apart goes with each parameter "
            f"(fANOVA).{left_out(study, found)}{hint}"
        )
        importance["figure"] = draw_importances(found)
    return [history, coordinates, importance]


def left_out(study: optuna.Study, found: Mapping[str, float]) -> str:
    """The parameters that only some trials have."""
    names = sorted({name for trial in study.get_trials(deepcopy=False) for name in trial.params} - set(found))
    return f" Only some trials have {', '.join(names)}, so it says nothing of that." if names else ""


def page_footer(sweep: SweepRecord) -> list[str]:
    start: Event = sweep.facts
    versions = ", ".join(f"{name} {version}" for name, version in start.get("versions", {}).items())
    commit = start.get("git_commit")
    return [
        f"{shown_path(sweep.folder)}, seed {sweep.config.seed}",
        versions,
        f"commit {commit}" if commit else "commit not known",
        *([f"overrides: {shlex.join(start['overrides'])}"] if start.get("overrides") else []),
    ]


def _seconds(trials: Sequence[TrialRecord]) -> float:
    return sum(seconds for trial in trials if math.isfinite(seconds := trial.seconds))
