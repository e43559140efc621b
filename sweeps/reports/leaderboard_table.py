"""The leaderboard as a table of the page: cells with what they say, link to and are sorted by."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gatesweep.sweeps.records.layout import MLFLOW_POINTER
from gatesweep.sweeps.records.reader import SweepRecord, TrialRecord
from gatesweep.sweeps.reports.parameters import by_number, short_names
from gatesweep.sweeps.reports.render import format_choice, format_score, format_value
from gatesweep.sweeps.tracking.view import run_url


def leaderboard_cells(
    sweep: SweepRecord, links: Mapping[str, Any]
) -> tuple[list[dict[str, Any]], list[list[dict[str, Any]]]]:
    """Columns, and rows of cells; `value` is what a column sorts by."""
    metrics = list(dict.fromkeys(sweep.gate.reads))
    keys = list(dict.fromkeys(key for trial in by_number(sweep.trials) for key in trial.values))
    short = short_names(keys)
    plain_names = [("trial", False), ("outcome", False), ("epochs", True), ("seconds", True), ("score", True)]
    columns = [{"name": name, "full": name, "numeric": numeric} for name, numeric in plain_names]
    columns += [{"name": name.removeprefix("val/"), "full": name, "numeric": True} for name in metrics]
    columns += [{"name": short[key], "full": key, "numeric": True} for key in keys]
    columns += [{"name": "why", "full": "why", "numeric": False}]
    columns += [{"name": "MLflow", "full": "MLflow", "numeric": False}] if links else []
    rows = []
    for trial in sweep.trials:
        cells = [table_cell(trial.name, "", href=f"{trial.name}/"), table_cell(trial.outcome, "", mark=trial.outcome)]
        cells += [
            table_cell(len(trial.epochs)),
            table_cell(trial.seconds, text=f"{trial.seconds:.1f}"),
            table_cell(trial.score, text=format_score(trial.score)),
        ]
        cells += [table_cell(trial.metrics.get(name)) for name in metrics]
        cells += [
            table_cell(trial.values[key], text=format_choice(trial.values[key]))
            if key in trial.values
            else table_cell(None)
            for key in keys
        ]
        cells.append(table_cell(end_reason(sweep, trial), "why"))
        if links:
            cells.append(table_cell("run", "", href=run_url(links, sweep.folder.name, trial.name)))
        rows.append(cells)
    return columns, rows


def table_cell(value: Any, kind: str = "number", *, text: str | None = None, **more: Any) -> dict[str, Any]:
    said = (value if isinstance(value, str) else format_value(value)) if text is None else text
    sortable = value if isinstance(value, int | float) and not isinstance(value, bool) else None
    return {"text": said, "kind": kind, "value": sortable, "href": None, "mark": None, **more}


def end_reason(sweep: SweepRecord, trial: TrialRecord) -> str:
    """Why it ended as it did; of a failed one, what its traceback ends with."""
    path = sweep.folder / trial.name / "error.txt"
    lines = path.read_text(errors="replace").strip().splitlines() if path.exists() else []
    return lines[-1] if lines and trial.outcome == "failed" else trial.reason


def mlflow_links(sweep: Path) -> dict[str, Any]:
    """Where the sweep's runs are in MLflow, if that is known."""
    path = sweep / MLFLOW_POINTER
    links = json.loads(path.read_text()) if path.exists() else {}
    return links if str(links.get("base")).startswith(("http://", "https://")) else {}
