"""Sweeps side by side: a row of the table for each, and a page with their progress.

Sweeps that still run or were interrupted are compared as they are.
"""

from __future__ import annotations

import html
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

from gatesweep.core.files import write_atomically
from gatesweep.core.gate import Gate
from gatesweep.sweeps.records.layout import REPORT
from gatesweep.sweeps.records.reader import SweepRecord
from gatesweep.sweeps.records.summary import first_pass
from gatesweep.sweeps.reports.page import family_name, gate_note
from gatesweep.sweeps.reports.parameters import parameter_importances, score_study
from gatesweep.sweeps.reports.render import format_duration, format_score, format_value, render_template
from gatesweep.sweeps.reports.score_axis import AXIS, TITLE, PlotFigure, ScoreAxis, score_axis

NUMERIC_COLUMNS = ("trials", "passed", "rate", "best score")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
COLOURS = ("finished", "diverged", "passed", "failed", "stopped", "interrupted")  # CSS variables, for their colours
SAME_UNIT = 0.1  # the relative difference of units that still compare
SHOWN_IMPORTANCES = 3  # in a row of the table


def comparison_row(sweep: SweepRecord) -> dict[str, str]:
    """Return the row of a sweep in the table, as texts by column."""
    top = sweep.trials[0] if sweep.trials and sweep.trials[0].score is not None else None
    passed, count = sum(trial.outcome == "passed" for trial in sweep.trials), len(sweep.trials)
    seconds, epochs = first_pass(sweep.trials)
    importances = parameter_importances(score_study(sweep, score_axis(sweep)))
    gated_names = dict.fromkeys(sweep.gate.reads) if top else {}
    return {
        "sweep": sweep.folder.name,
        "family": family_name(sweep.config.trainable),
        "state": "ended" if sweep.ended else "interrupted" if sweep.interrupted else "not ended",
        "trials": str(count),
        "passed": str(passed),
        "rate": f"{passed / count:.0%}" if count else "",
        "best score": format_score(top.score) if top else "",
        "to first pass": "" if seconds is None else f"{format_duration(seconds)}, {epochs} epochs",
        "in all": f"{format_duration(sweep.seconds)}, {sum(len(trial.epochs) for trial in sweep.trials)} epochs",
        "metrics of the best": ", ".join(
            f"{name.removeprefix('val/')} {format_value(top.metrics.get(name))}" for name in gated_names if top
        ),
        "importances": ", ".join(
            f"{name} {value:.2f}" for name, value in list(importances.items())[:SHOWN_IMPORTANCES]
        ),
    }


def group_by_gate(sweeps: Sequence[SweepRecord]) -> list[list[SweepRecord]]:
    """Group sweeps whose scores compare, in the order of their first sweep: equal gates, in nearly equal units.

    The trivial baseline, and with it a unit, differs a little between data of different seeds.
    """
    groups: list[list[SweepRecord]] = []
    for sweep in sweeps:
        group = next((group for group in groups if is_comparable(group[0].gate, sweep.gate)), None)
        if group is None:
            groups.append([sweep])
        else:
            group.append(sweep)
    return groups


def is_comparable(first: Gate, second: Gate) -> bool:
    """Return True for gates that are equal but for their baselines, if their units differ by at most `SAME_UNIT`."""
    if replace(first, baseline={}) != replace(second, baseline={}):
        return False
    return all(
        rule.weight == other.weight and math.isclose(rule.unit, other.unit, rel_tol=SAME_UNIT)
        for rule, other in zip(first.rules, second.rules, strict=True)
    )


def describe_gates(groups: Sequence[Sequence[SweepRecord]]) -> list[str]:
    """Return the thresholds of each group's gate in one line, with their units where another has the same ones."""
    gates = [group[0].gate for group in groups]
    texts = [", ".join(f"{metric} {rule}" for metric, rule in gate.thresholds.items()) for gate in gates]
    return [
        ("; ".join(gate.unit_lines) if texts.count(text) > 1 else text) or "no thresholds"
        for gate, text in zip(gates, texts, strict=True)
    ]


def plot_comparison(sweeps: Sequence[SweepRecord]) -> PlotFigure:
    """Plot the best score so far over the epochs of all trials, one line per sweep; a star marks the first pass."""
    lines = {sweep.folder.name: line for sweep in sweeps if (line := best_so_far(sweep))}
    axis = ScoreAxis((value for line in lines.values() for _, value, _ in line), gated=bool(sweeps[0].gate.rules))
    traces = []
    for index, (name, line) in enumerate(lines.items()):
        style = {"color": f"var(--{COLOURS[index % len(COLOURS)]})", "dash": DASHES[index % len(DASHES)]}
        first_pass_at = next((index for index, (_, _, passed) in enumerate(line) if passed), None)
        traces.append(
            {
                "x": [epoch for epoch, _, _ in line],
                "y": [axis(value) for _, value, _ in line],
                "customdata": [format_score(value) for _, value, _ in line],
                "mode": "lines+markers",
                "name": html.escape(name),
                "line": {**style, "width": 2, "shape": "hv"},
                "marker": {
                    "symbol": "star",
                    "size": [15 if point == first_pass_at else 0 for point in range(len(line))],
                },
                "hovertemplate": "epoch %{x} of all trials<br>score %{customdata}<extra>%{fullData.name}</extra>",
            }
        )
    xaxis = {**AXIS, "title": {**TITLE, "text": "epochs of all trials"}, "rangemode": "tozero"}
    return {"data": traces, "layout": {**axis.layout(), "xaxis": xaxis, "height": 440, "showlegend": True}}


def best_so_far(sweep: SweepRecord) -> list[tuple[int, float, bool]]:
    """Return points of (epochs of all trials, best score so far, True once a trial passed).

    There is a point at each change, and one at the end.
    """
    ordered = [event for _, event in sweep.epochs_by_arrival()]
    line: list[tuple[int, float, bool]] = []
    for count, event in enumerate(ordered, 1):
        passed = event["outcome"] == "passed" or bool(line and line[-1][2])
        scores = [score for score in (event["score"], line[-1][1] if line else None) if score is not None]
        highest = max(scores, default=None)
        if highest is not None and (not line or (highest, passed) != line[-1][1:] or count == len(ordered)):
            line.append((count, highest, passed))
    return line


def write_comparison(path: Path, sweeps: Sequence[SweepRecord], rows: Sequence[Mapping[str, str]]) -> None:
    """Write the page of a comparison to `path`: the table, and for each gate a plot of its sweeps' progress."""
    links = {sweep.folder.name: sweep.folder / REPORT for sweep in sweeps}
    here = path.resolve().parent
    hrefs = {name: quote(os.path.relpath(page, here)) for name, page in links.items() if page.exists()}  # no scheme
    groups = group_by_gate(sweeps)
    figures = [
        {"gate": text, "note": gate_note(group[0].gate), "figure": plot_comparison(group)}
        for group, text in zip(groups, describe_gates(groups), strict=True)
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
    values = {"columns": columns, "rows": cells, "groups": figures, "differ": len(groups) > 1}
    write_atomically(path, render_template("compare.html", values))
