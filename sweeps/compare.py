"""Compare sweeps: `python sweeps/compare.py results/A results/B [--html compare.html]`, or `results/*`.

Sweeps that still run, or were interrupted, are taken as they are. Exit codes: 0, and 2 where there is none to compare.
"""

from __future__ import annotations

import argparse
import html
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from gatesweep.core.gate import Gate
from gatesweep.core.record import write_atomically
from gatesweep.sweeps import report
from gatesweep.sweeps.pages import parameters, plots
from gatesweep.sweeps.pages.page import family, gate_note
from gatesweep.sweeps.pages.render import duration, figures, render, score
from gatesweep.sweeps.report import Sweep

NUMERIC = ("trials", "passed", "rate", "best score")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
COLOURS = ("finished", "diverged", "passed", "failed", "stopped", "interrupted")  # by their colours alone
SHOWN = 3  # importances


def find(arguments: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """The folders of sweeps, each once, and what is there but is none; raises ValueError for what is not there."""
    missing = [path for path in arguments if not path.exists()]
    if missing:
        raise ValueError(f"got {str(missing[0])!r}, which is not there")
    found = list(dict.fromkeys(path.resolve() for path in arguments))
    sweeps = [path for path in found if is_sweep(path)]
    return sweeps, [path for path in found if path not in sweeps]


def is_sweep(folder: Path) -> bool:
    """Whether it is a sweep's: that of a single run has curves of its own."""
    return (folder / "config.yaml").is_file() and not (folder / "scalars.csv").exists()


def facts(sweep: Sweep) -> dict[str, str]:
    """A row of the table."""
    top = sweep.trials[0] if sweep.trials and sweep.trials[0].score is not None else None
    passed, count = sum(trial.outcome == "passed" for trial in sweep.trials), len(sweep.trials)
    seconds, epochs = report.first_pass(sweep.trials)
    found = parameters.importances(parameters.make_study(sweep, plots.axis_of(sweep)))
    read = dict.fromkeys(sweep.gate.reads) if top else {}
    return {
        "sweep": sweep.folder.name,
        "family": family(sweep),
        "state": "ended" if sweep.ended else "interrupted" if sweep.interrupted else "not ended",
        "trials": str(count),
        "passed": str(passed),
        "rate": f"{passed / count:.0%}" if count else "",
        "best score": score(top.score) if top else "",
        "to first pass": "" if seconds is None else f"{duration(seconds)}, {epochs} epochs",
        "in all": f"{duration(sweep.seconds)}, {sum(len(trial.epochs) for trial in sweep.trials)} epochs",
        "metrics of the best": ", ".join(
            f"{name.removeprefix('val/')} {figures(top.metrics.get(name))}" for name in read if top
        ),
        "importances": ", ".join(f"{name} {value:.2f}" for name, value in list(found.items())[:SHOWN]),
    }


def to_text(rows: Sequence[Mapping[str, str]]) -> str:
    table = [list(rows[0]), *(list(row.values()) for row in rows)]
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in table)
    return "\n".join(line.rstrip() for line in lines)


def groups(sweeps: Sequence[Sweep]) -> list[list[Sweep]]:
    """The sweeps of each gate."""
    found: dict[str, list[Sweep]] = {}
    for sweep in sweeps:
        found.setdefault(json.dumps(sweep.config["gate"], sort_keys=True), []).append(sweep)
    return list(found.values())


def described(gate: Gate) -> str:
    return ", ".join(f"{metric} {rule}" for metric, rule in gate.thresholds.items()) or "no thresholds"


def progress(sweeps: Sequence[Sweep]) -> plots.Figure:
    """The best score so far over the epochs of all trials, a line a sweep; a star where a trial first passed."""
    lines = {sweep.folder.name: line for sweep in sweeps if (line := best_so_far(sweep))}
    axis = plots.Axis((value for line in lines.values() for _, value, _ in line), gated=bool(sweeps[0].gate.rules))
    traces = []
    for index, (name, line) in enumerate(lines.items()):
        look = {"color": f"var(--{COLOURS[index % len(COLOURS)]})", "dash": DASHES[index % len(DASHES)]}
        first = next((at for at, (_, _, passed) in enumerate(line) if passed), None)
        traces.append(
            {
                "x": [epoch for epoch, _, _ in line],
                "y": [axis(value) for _, value, _ in line],
                "customdata": [score(value) for _, value, _ in line],
                "mode": "lines+markers",
                "name": html.escape(name),
                "line": {**look, "width": 2, "shape": "hv"},
                "marker": {"symbol": "star", "size": [15 if at == first else 0 for at in range(len(line))]},
                "hovertemplate": "epoch %{x} of all trials<br>score %{customdata}<extra>%{fullData.name}</extra>",
            }
        )
    xaxis = {**plots.AXIS, "title": {**plots.TITLE, "text": "epochs of all trials"}, "rangemode": "tozero"}
    return {"data": traces, "layout": {**axis.layout(), "xaxis": xaxis, "height": 440, "showlegend": True}}


def best_so_far(sweep: Sweep) -> list[tuple[int, float, bool]]:
    """Epochs of all trials, the best score by then, whether one had passed: where that changed, and the end."""
    ordered = [event for _, event in sweep.heard()]
    line: list[tuple[int, float, bool]] = []
    for count, event in enumerate(ordered, 1):
        passed = event["outcome"] == "passed" or bool(line and line[-1][2])
        known = [event["score"]] if event["score"] is not None else []
        highest = max([*known, *(line[-1][1:2] if line else [])], default=None)
        if highest is not None and (not line or (highest, passed) != line[-1][1:] or count == len(ordered)):
            line.append((count, highest, passed))
    return line


def write(path: Path, sweeps: Sequence[Sweep], rows: Sequence[Mapping[str, str]]) -> None:
    """The page: the table, and for each gate its sweeps' progress."""
    links = {sweep.folder.name: sweep.folder / "report.html" for sweep in sweeps}
    here = path.resolve().parent
    hrefs = {name: os.path.relpath(page, here) for name, page in links.items() if page.exists()}
    figures = [
        {"gate": described(group[0].gate), "note": gate_note(group[0].gate), "figure": progress(group)}
        for group in groups(sweeps)
        if any(trial.epochs for sweep in group for trial in sweep.trials)
    ]
    columns = [{"name": name, "full": name, "numeric": name in NUMERIC} for name in rows[0]]
    cells = [
        [
            {"text": text, "kind": "number" if name in NUMERIC else "", "value": None, "mark": None}
            | {"href": hrefs.get(text) if name == "sweep" else None}
            for name, text in row.items()
        ]
        for row in rows
    ]
    values = {"columns": columns, "rows": cells, "groups": figures, "differ": len(groups(sweeps)) > 1}
    write_atomically(path, render("compare.html", values))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweeps", type=Path, nargs="+", metavar="FOLDER", help="of a sweep, e.g. results/latest")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page, too")
    arguments = parser.parse_args()
    try:
        folders, others = find(arguments.sweeps)
        if not folders:
            raise ValueError(f"got {str(arguments.sweeps[0])!r}, expected folders of sweeps (it is none)")
        if arguments.html and not arguments.html.resolve().parent.is_dir():
            raise ValueError(f"--html: got {str(arguments.html)!r}, whose folder is not there")
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if others:
        print(f"no sweeps, left out: {', '.join(path.name for path in others)}", file=sys.stderr)
    sweeps = [report.read(folder) for folder in folders]
    rows = [facts(sweep) for sweep in sweeps]
    print(to_text(rows))
    if len(groups(sweeps)) > 1:
        print("\nThe gates differ, so scores do not compare:")
        for group in groups(sweeps):
            print(f"  {described(group[0].gate)}: {', '.join(sweep.folder.name for sweep in group)}")
    if arguments.html:
        write(arguments.html, sweeps, rows)
        print(f"page {arguments.html}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
