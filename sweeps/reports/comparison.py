"""Compare sweeps: `python sweeps/compare.py results/A results/B [--html compare.html]`, or `results/*`.

Sweeps that still run, or were interrupted, are taken as they are. Exit codes: 0, and 2 where there is none to compare.
"""

from __future__ import annotations

import html
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from gatesweep.core.files import write_atomically
from gatesweep.core.gate import Gate
from gatesweep.sweeps.records.reader import SweepRecord
from gatesweep.sweeps.records.summary import first_pass
from gatesweep.sweeps.reports.page import family_name, gate_note
from gatesweep.sweeps.reports.parameters import parameter_importances, score_study
from gatesweep.sweeps.reports.render import format_duration, format_score, format_value, render_template
from gatesweep.sweeps.reports.score_axis import AXIS, TITLE, PlotFigure, ScoreAxis, score_axis

NUMERIC_COLUMNS = ("trials", "passed", "rate", "best score")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
COLOURS = ("finished", "diverged", "passed", "failed", "stopped", "interrupted")  # by their colours alone
SHOWN_IMPORTANCES = 3  # importances


def comparison_row(sweep: SweepRecord) -> dict[str, str]:
    """A row of the table."""
    top = sweep.trials[0] if sweep.trials and sweep.trials[0].score is not None else None
    passed, count = sum(trial.outcome == "passed" for trial in sweep.trials), len(sweep.trials)
    seconds, epochs = first_pass(sweep.trials)
    found = parameter_importances(score_study(sweep, score_axis(sweep)))
    read = dict.fromkeys(sweep.gate.reads) if top else {}
    return {
        "sweep": sweep.folder.name,
        "family": family_name(sweep),
        "state": "ended" if sweep.ended else "interrupted" if sweep.interrupted else "not ended",
        "trials": str(count),
        "passed": str(passed),
        "rate": f"{passed / count:.0%}" if count else "",
        "best score": format_score(top.score) if top else "",
        "to first pass": "" if seconds is None else f"{format_duration(seconds)}, {epochs} epochs",
        "in all": f"{format_duration(sweep.seconds)}, {sum(len(trial.epochs) for trial in sweep.trials)} epochs",
        "metrics of the best": ", ".join(
            f"{name.removeprefix('val/')} {format_value(top.metrics.get(name))}" for name in read if top
        ),
        "importances": ", ".join(f"{name} {value:.2f}" for name, value in list(found.items())[:SHOWN_IMPORTANCES]),
    }


def group_by_gate(sweeps: Sequence[SweepRecord]) -> list[list[SweepRecord]]:
    """The sweeps of each gate."""
    found: dict[str, list[SweepRecord]] = {}
    for sweep in sweeps:
        found.setdefault(json.dumps(sweep.config.gate, sort_keys=True), []).append(sweep)
    return list(found.values())


def describe_gate(gate: Gate) -> str:
    return ", ".join(f"{metric} {rule}" for metric, rule in gate.thresholds.items()) or "no thresholds"


def plot_comparison(sweeps: Sequence[SweepRecord]) -> PlotFigure:
    """The best score so far over the epochs of all trials, a line a sweep; a star where a trial first passed."""
    lines = {sweep.folder.name: line for sweep in sweeps if (line := best_so_far(sweep))}
    axis = ScoreAxis((value for line in lines.values() for _, value, _ in line), gated=bool(sweeps[0].gate.rules))
    traces = []
    for index, (name, line) in enumerate(lines.items()):
        look = {"color": f"var(--{COLOURS[index % len(COLOURS)]})", "dash": DASHES[index % len(DASHES)]}
        first = next((at for at, (_, _, passed) in enumerate(line) if passed), None)
        traces.append(
            {
                "x": [epoch for epoch, _, _ in line],
                "y": [axis(value) for _, value, _ in line],
                "customdata": [format_score(value) for _, value, _ in line],
                "mode": "lines+markers",
                "name": html.escape(name),
                "line": {**look, "width": 2, "shape": "hv"},
                "marker": {"symbol": "star", "size": [15 if at == first else 0 for at in range(len(line))]},
                "hovertemplate": "epoch %{x} of all trials<br>score %{customdata}<extra>%{fullData.name}</extra>",
            }
        )
    xaxis = {**AXIS, "title": {**TITLE, "text": "epochs of all trials"}, "rangemode": "tozero"}
    return {"data": traces, "layout": {**axis.layout(), "xaxis": xaxis, "height": 440, "showlegend": True}}


def best_so_far(sweep: SweepRecord) -> list[tuple[int, float, bool]]:
    """Epochs of all trials, the best score by then, whether one had passed: where that changed, and the end."""
    ordered = [event for _, event in sweep.epochs_by_arrival()]
    line: list[tuple[int, float, bool]] = []
    for count, event in enumerate(ordered, 1):
        passed = event["outcome"] == "passed" or bool(line and line[-1][2])
        known = [event["score"]] if event["score"] is not None else []
        highest = max([*known, *(line[-1][1:2] if line else [])], default=None)
        if highest is not None and (not line or (highest, passed) != line[-1][1:] or count == len(ordered)):
            line.append((count, highest, passed))
    return line


def write_comparison(path: Path, sweeps: Sequence[SweepRecord], rows: Sequence[Mapping[str, str]]) -> None:
    """The page: the table, and for each gate its sweeps' progress."""
    links = {sweep.folder.name: sweep.folder / "report.html" for sweep in sweeps}
    here = path.resolve().parent
    hrefs = {name: os.path.relpath(page, here) for name, page in links.items() if page.exists()}
    figures = [
        {"gate": describe_gate(group[0].gate), "note": gate_note(group[0].gate), "figure": plot_comparison(group)}
        for group in group_by_gate(sweeps)
        if any(trial.epochs for sweep in group for trial in sweep.trials)
    ]
    columns = [{"name": name, "full": name, "numeric": name in NUMERIC_COLUMNS} for name in rows[0]]
    cells = [
        [
            {"text": text, "kind": "number" if name in NUMERIC_COLUMNS else "", "value": None, "mark": None}
            | {"href": hrefs.get(text) if name == "sweep" else None}
            for name, text in row.items()
        ]
        for row in rows
    ]
    values = {"columns": columns, "rows": cells, "groups": figures, "differ": len(group_by_gate(sweeps)) > 1}
    write_atomically(path, render_template("compare.html", values))
