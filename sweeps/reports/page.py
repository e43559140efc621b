"""The page of a sweep, `report.html` in its folder: what passed, what it cost, and the effect of the parameters.

The page is derived from the run directories. It contains all that it shows, so a browser loads nothing else.
"""

from __future__ import annotations

import json
import shlex
import time
from pathlib import Path
from typing import Any

from gatesweep.core.files import write_atomically
from gatesweep.core.gate import Gate
from gatesweep.sweeps.config.secrets import redact
from gatesweep.sweeps.config.trust import trust_option
from gatesweep.sweeps.records.layout import CONFIG, REPORT
from gatesweep.sweeps.records.provenance import code_line
from gatesweep.sweeps.records.reader import SweepRecord, read_sweep
from gatesweep.sweeps.records.summary import confirmations
from gatesweep.sweeps.reports.leaderboard_table import leaderboard_cells, mlflow_links
from gatesweep.sweeps.reports.plots import plot_metrics, plot_progress, rung_cutoffs
from gatesweep.sweeps.reports.render import format_time, render_template, shown_path
from gatesweep.sweeps.reports.score_axis import score_axis
from gatesweep.sweeps.reports.sections import (
    best_section,
    confirmation_section,
    headline,
    on_test_section,
    parameter_section,
    pareto_section,
    spent_by_outcome,
)

FOLDED_FROM = 50  # rows of the leaderboard that are always visible
MAX_ROWS = 1000  # rows on the page: a browser takes many seconds for 10,000


def write_page(sweep: Path) -> Path:
    """Write the page of the sweep in the folder `sweep`, which may still be running; return the path of the page."""
    path = sweep / REPORT
    write_atomically(path, render_template("report.html", page_context(read_sweep(sweep))))
    return path


def page_context(sweep: SweepRecord) -> dict[str, Any]:
    """Return the values that the template `report.html` shows."""
    gate, trials, axis = sweep.gate, sweep.trials, score_axis(sweep)
    links = mlflow_links(sweep.folder)
    columns, rows = leaderboard_cells(sweep, links)
    has_epochs, cutoffs = any(trial.epochs for trial in trials), rung_cutoffs(sweep)
    return {
        "name": sweep.config.name or sweep.folder.name,
        "folder": sweep.folder.name,
        "family": family_name(sweep.config.trainable),
        "trials": len(trials),
        "passed": sum(trial.outcome == "passed" for trial in trials),
        "rules": [f"{metric} {rule}" for metric, rule in gate.thresholds.items()],
        "gate_note": gate_note(gate),
        "units": [(str(rule), rule.unit_text) for rule in gate.rules],
        "when": timing_note(sweep),
        "compare": links.get("compare"),
        "best": best_section(sweep),
        "on_test": on_test_section(sweep),
        "confirmed": confirmation_section(sweep.folder),
        "pareto": pareto_section(sweep),
        "headline": headline(sweep),
        "spent": spent_by_outcome(sweep),
        "commands": next_commands(sweep),
        "progress": plot_progress(sweep, axis, cutoffs) if has_epochs else None,
        "progress_note": progress_note(gate, bool(cutoffs)),
        "metrics": plot_metrics(sweep) if has_epochs else [],
        "parameters": parameter_section(sweep, axis),
        "columns": columns,
        "rows": rows[:MAX_ROWS],
        "unlisted": max(0, len(rows) - MAX_ROWS),
        "fold": FOLDED_FROM,
        "footer": page_footer(sweep),
    }


def family_name(trainable: dict[str, Any]) -> str:
    """Return the class name of a trainable, from its section of a configuration."""
    return trainable["_target_"].rpartition(".")[2]


def gate_note(gate: Gate) -> str:
    """Return sentences that say when a gate passes and how it ranks trials."""
    sentences = [] if gate.rules else ["The gate has no thresholds, so no trial passes; trials are only ranked."]
    if gate.rules:
        when = f" in {gate.consecutive} epochs in a row" if gate.consecutive > 1 else " at the same epoch"
        sentences.append(f"Every threshold must clear{when}.")
    if gate.bound == "wilson":
        sentences.append("For a proportion, the gate compares the end of its 95 % interval that is nearer to failing.")
    if gate.objective:
        better = "smaller" if gate.mode == "min" else "larger"
        sentences.append(f"Ranked by {gate.objective}, {better} is better.")
    if gate.rules and gate.shortfall == "linear":
        sentences.append("Scores are as an older version recorded them: a shortfall has no limit.")
    return " ".join(sentences)


def timing_note(sweep: SweepRecord) -> str:
    """Return a sentence that says when the sweep began, was resumed, and ended."""
    starts = [event["time"] for event in sweep.events if event["event"] == "start"]
    began = f"Began {format_time(starts[0])}" if starts else "Not begun"
    again = f", resumed {len(starts) - 1} times" if len(starts) > 2 else ", resumed once" if len(starts) == 2 else ""
    if sweep.ended or sweep.interrupted:
        how, at = "ended" if sweep.ended else "interrupted", format_time(sweep.events[-1]["time"], starts[0])
        return f"{began}{again}, {how} {at}"
    return f"{began}{again}, not ended when this page was written, {format_time(time.time())}"


def next_commands(sweep: SweepRecord) -> list[dict[str, str]]:
    """Return commands for the next steps with this sweep, each with a name."""
    folder, trust = shown_path(sweep.folder), trust_option(sweep.config.to_dict())
    resume = f"gatesweep run {shlex.quote(f'resume={folder}')}{trust}"
    if sweep.ended:
        commands = {"Search on with more trials": f"{resume} num_samples={2 * len(sweep.trials)}"}
    else:
        commands = {"Go on with the sweep": resume}
    if sweep.trials and sweep.trials[0].outcome == "passed" and not confirmations(sweep.folder):
        commands["Measure how often the best trial passes"] = f"{resume} confirm.seeds=5"
    if sweep.trials and sweep.trials[0].score is not None:
        trial = f"{folder}/{sweep.trials[0].name}"
        train = f"gatesweep train --config {shlex.quote(f'{trial}/{CONFIG}')}{trust}"
        modules = f", trust={json.dumps(trust.split()[1::2])}" if trust else ""
        code = f"from gatesweep import load\n\ntrainable, data = load({json.dumps(trial)}{modules})"
        commands |= {"Train the best trial again": train, "Load its model, in Python": code}
    return [{"name": name, "text": text} for name, text in commands.items()]


def progress_note(gate: Gate, has_rungs: bool) -> str:
    """Return sentences that explain the plot of scores over epochs."""
    if not gate.rules:
        return "The score of every trial, from its objective alone."
    text = (
        "One line per trial. Below the gate, the height shows the distance to it: the sum of the shortfalls of all "
        "thresholds, each in its unit. Above the gate are the trials that passed, ordered by their objective."
    )
    if has_rungs:
        text += (
            " Dotted lines are the rungs of successive halving. A bar shows the score below which a rung last "
            "stopped trials."
        )
    return text


def page_footer(sweep: SweepRecord) -> list[str]:
    """Return the lines of the footer: folder and seed, versions, commit, overrides."""
    start = sweep.provenance
    versions = ", ".join(f"{name} {version}" for name, version in start.get("versions", {}).items())
    commit = start.get("git_commit")
    return [
        f"{shown_path(sweep.folder)}, seed {sweep.config.seed}",
        versions,
        f"gatesweep's commit {commit}" if commit else "gatesweep's commit not known",
        *([line] if (line := code_line(start.get("code"))) else []),
        *([f"overrides: {redact(shlex.join(start['overrides']))}"] if start.get("overrides") else []),
    ]
