"""The leaderboard as a table of the page: cells with their text, link and sort key."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gatesweep.core.gate import interval
from gatesweep.sweeps.records.last_word import last_words
from gatesweep.sweeps.records.layout import ERROR, MLFLOW_POINTER, TRIAL
from gatesweep.sweeps.records.reader import SweepRecord, TrialRecord, read_json
from gatesweep.sweeps.records.summary import columns_on_test
from gatesweep.sweeps.records.text import format_interval
from gatesweep.sweeps.reports.parameters import short_names, sort_by_number
from gatesweep.sweeps.reports.render import format_choice, format_score, format_value
from gatesweep.sweeps.tracking.view import run_url


def leaderboard_cells(
    sweep: SweepRecord, links: Mapping[str, Any]
) -> tuple[list[dict[str, Any]], list[list[dict[str, Any]]]]:
    """Return the columns and the rows of the table. Each row is a list of cells, as `table_cell` makes them."""
    metrics = list(dict.fromkeys(sweep.gate.reads))
    keys = list(dict.fromkeys(key for trial in sort_by_number(sweep.trials) for key in trial.values))
    short = short_names(keys)
    fixed = [("trial", False), ("outcome", False), ("epochs", True), ("seconds", True), ("score", True)]
    columns = [{"name": name, "full": name, "numeric": numeric} for name, numeric in fixed]
    columns += [{"name": name.removeprefix("val/"), "full": name, "numeric": True} for name in metrics]
    words = last_words(sweep.folder, TRIAL)
    on_test = list(columns_on_test(sweep.gate, words, ""))
    columns += [{"name": name, "full": name, "numeric": name != "test"} for name in on_test]
    verdicts = {trial.name: sweep.gate.other_verdict(trial.metrics) for trial in sweep.trials}
    other = [f"gate.bound={sweep.gate.other_bound}"] if any(verdicts.values()) else []
    columns += [{"name": name, "full": name, "numeric": False} for name in other]
    columns += [{"name": short[key], "full": key, "numeric": True} for key in keys]
    columns += [{"name": "reason", "full": "reason", "numeric": False}]
    columns += [{"name": "MLflow", "full": "MLflow", "numeric": False}] if links else []
    rows = []
    for trial in sweep.trials:
        cells = [table_cell(trial.name, "", href=f"{trial.name}/"), table_cell(trial.outcome, "", mark=trial.outcome)]
        cells += [
            table_cell(len(trial.epochs)),
            table_cell(trial.seconds, text=f"{trial.seconds:.1f}"),
            table_cell(trial.score, text=format_score(trial.score)),
        ]
        cells += [metric_cell(name, trial.metrics) for name in metrics]
        tested = columns_on_test(sweep.gate, words, trial.name)
        cells += [table_cell(tested[name], "" if name == "test" else "number") for name in on_test]
        cells += [table_cell(verdicts[trial.name], "reason") for _ in other]
        cells += [
            table_cell(trial.values[key], text=format_choice(trial.values[key]))
            if key in trial.values
            else table_cell(None)
            for key in keys
        ]
        cells.append(table_cell(end_reason(sweep.folder, trial), "reason"))
        if links:
            cells.append(table_cell("run", "", href=run_url(links, sweep.folder.name, trial.name)))
        rows.append(cells)
    return columns, rows


def metric_cell(name: str, metrics: Mapping[str, float]) -> dict[str, Any]:
    """Return the cell of a metric: its value, and behind a proportion its 95 % interval."""
    text = format_value(metrics.get(name)) + format_interval(interval(name, metrics))
    return table_cell(metrics.get(name), text=text)


def table_cell(
    value: Any, kind: str = "number", *, text: str | None = None, href: str | None = None, mark: str | None = None
) -> dict[str, Any]:
    """Return a cell: text, CSS class `kind`, sort key, and, if any, the link `href` and the outcome `mark` to draw."""
    if text is None:
        text = value if isinstance(value, str) else format_value(value)
    sort_key = value if isinstance(value, int | float) and not isinstance(value, bool) else None
    return {"text": text, "kind": kind, "value": sort_key, "href": href, "mark": mark}


def end_reason(sweep: Path, trial: TrialRecord) -> str:
    """Return the reason of a trial's outcome; for a failed trial, the last line of its traceback."""
    path = sweep / trial.name / ERROR
    lines = path.read_text(errors="replace").strip().splitlines() if path.exists() else []
    return lines[-1] if lines and trial.outcome == "failed" else trial.reason


def mlflow_links(sweep: Path) -> dict[str, Any]:
    """Return the addresses of the sweep's runs in MLflow; empty where they are not known."""
    path = sweep / MLFLOW_POINTER
    links = read_json(path) if path.exists() else {}
    bases = (links.get("base"), links.get("compare", "http://"))
    return links if all(str(base).startswith(("http://", "https://")) for base in bases) else {}  # no javascript:
