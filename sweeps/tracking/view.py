"""The view that MLflow's UI opens with a sweep's URL: runs, columns and charts, kept as a tag of the experiment.

MLflow 3.17 documents neither this format, which its "Share" button writes, nor some of its tags. All that gatesweep
knows of them is in this file. tests/sweeps/tracking/test_mlflow_private.py checks the names, test_ui.py the result.
"""

from __future__ import annotations

import base64
import colorsys
import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from gatesweep.core.gate import Gate, interval
from gatesweep.core.record import STEP_LOSS
from gatesweep.sweeps.config.secrets import bare_address
from gatesweep.sweeps.records.pareto import pareto_lines
from gatesweep.sweeps.records.summary import result_lines
from gatesweep.sweeps.records.text import format_cell, format_interval
from gatesweep.sweeps.tracking.names import metric_key, mlflow_key, runs_query

TAG_PREFIX = "mlflow.sharedViewState."
EXPERIMENT_KIND = {"mlflow.experimentKind": "custom_model_development"}  # tag of an experiment: shows runs, not traces
PARENT_RUN = "mlflow.parentRunId"
RUN_COLOUR = "mlflow.runColor"
NOTE = "mlflow.note.content"
LOGGED_ARTIFACTS = "mlflow.loggedArtifacts"
LEADERBOARD_TABLE = "leaderboard.json"  # artifact of the sweep's run, in MLflow's format of a table
UI_ADDRESS = "http://127.0.0.1:5000"  # of `make ui`, which shows a sqlite file
SECTION = "sweep"
CHART_FLAGS = {"deleted": False, "isGenerated": False}
PARAMETERS_SHOWN = (12, 6, 3, 1, 0)  # as many as fit in the tag
MAX_VIEW = 5000  # characters of an experiment's tag


def view_tag(sweep: str, identity: str | None, gate: Gate, varied: Sequence[str], at: int) -> tuple[str, str]:
    """Return key and value of the experiment's tag with the view of a sweep, of this name and, if any, identifier.

    `varied` names the parameters to show, and `at` is the sweep's start (ms).
    """
    runs, value = runs_query(sweep, identity), ""
    for shown in PARAMETERS_SHOWN:
        state = json.dumps(_state(runs, gate, varied[:shown]), separators=(",", ":"))
        packed = f"deflate;{base64.b64encode(zlib.compress(state.encode(), 9)).decode()}"
        value = json.dumps({"name": f"sweep {sweep}", "createdAt": at, "updatedAt": at, "state": packed})
        if len(value) <= MAX_VIEW:
            break
    return TAG_PREFIX + _key(identity or sweep), value


def view_url(uri: str, experiment: str, identity: str) -> str:
    """Return the URL that opens the view of a sweep: runs by their score, and their curves in charts.

    `identity` is the sweep's identifier, or its name where it has none.
    """
    query = {"viewStateShareKey": _key(identity), "compareRunsMode": "CHART", "workflowType": "machine_learning"}
    return f"{ui_base(uri)}/#/experiments/{experiment}/runs?{urlencode(query)}"


def run_url(pointer: Mapping[str, Any], sweep: str, trial: str) -> str:
    """Return the URL of a trial's run. `pointer` is the content of `mlflow.json`.

    For a trial without a run in it, the URL searches for the run.
    """
    runs = f"{pointer['base']}/#/experiments/{pointer['experiment']}/runs"
    if trial in pointer.get("runs", {}):
        return f"{runs}/{pointer['runs'][trial]}"
    found = runs_query(sweep, pointer.get("id"))
    query = {"searchFilter": f"{found} and tags.trial = '{trial}'", "workflowType": "machine_learning"}
    return f"{runs}?{urlencode(query)}"


def ui_base(uri: str) -> str:
    """Return the address of the UI for a tracking URI, without a password in it."""
    return bare_address(uri).rstrip("/") if uri.startswith("http") else UI_ADDRESS


def sweep_note(summary: Mapping[str, Any], gate: Mapping[str, str]) -> str:
    """Return the description of the sweep's run, in markdown: how the sweep ended.

    `summary` is the content of `summary.json`, and `gate` holds the thresholds by metric.
    """
    thresholds = ", ".join(f"`{metric}` {rule}" for metric, rule in gate.items()) or "none"
    lines = [f"**{summary['passed']} of {summary['trials']} trials passed** in {summary['seconds']:.0f} s.", ""]
    lines += [f"Gate: {thresholds}", ""]
    sentences = [*result_lines(summary, gate), *pareto_lines(summary.get("front", []))]
    for sentence in sentences:
        lines += [f"{sentence}.", ""]
    if best := summary["best"]:
        metrics = {name: value for name, value in best["metrics"].items() if value is not None}
        rows = [*best["params"].items(), *((name, metric_text(name, metrics)) for name in gate)]
        lines += [f"Best: {best['trial']}, {best['outcome']} after {best['epochs']} epochs", "", "| | |", "|---|---|"]
        for name, value in rows:
            lines.append(f"| {name} | {value:.4g} |" if isinstance(value, float) else f"| {name} | {value} |")
    return "\n".join(lines)


def metric_text(name: str, metrics: Mapping[str, float]) -> str:
    """Return a metric's value as text, and behind a proportion its 95 % interval."""
    return format_cell(metrics.get(name)) + format_interval(interval(name, metrics))


def logged_table(path: str) -> str:
    """Return the value of the tag LOGGED_ARTIFACTS that makes the UI show an artifact as a table."""
    return json.dumps([{"path": path, "type": "table"}])


def proportion_tags(gate: Gate, metrics: Mapping[str, float | None]) -> dict[str, str]:
    """Return the tags about luck: the gated proportions with their intervals, and a verdict of the other bound."""
    numbers = {name: value for name, value in metrics.items() if value is not None}
    gated = [f"{name} {metric_text(name, numbers)}" for name in dict.fromkeys(gate.reads) if interval(name, numbers)]
    tags = {"gate.intervals": "; ".join(gated)} if gated else {}
    verdict = gate.other_verdict(numbers)
    return {**tags, **({f"gate.{gate.other_bound}": verdict} if verdict else {})}


def run_colour(index: int) -> str:
    """Return a colour for the run of a number, `#rrggbb`. MLflow's own palette repeats after eight runs."""
    hue = index * 0.618034 % 1  # steps of the golden ratio never come close to each other
    return "#" + "".join(f"{round(255 * part):02x}" for part in colorsys.hls_to_rgb(hue, 0.42, 0.65))


def _key(identity: str) -> str:
    return hashlib.sha256(identity.encode()).hexdigest()[:16]


def _state(runs: str, gate: Gate, varied: Sequence[str]) -> dict[str, Any]:
    """Return the state of the UI that shows the trials' runs among those which the search `runs` finds."""
    gated = [metric_key(name) for name in dict.fromkeys(gate.reads)]
    varied = [mlflow_key(name) for name in varied]
    columns = [*(("metrics", name) for name in ["score", *gated]), *(("params", name) for name in varied)]
    columns = [("tags", "outcome"), *columns, ("tags", "gate.missed")]
    return {
        "searchFilter": f"{runs} and tags.`sweep.kind` = 'trial'",
        "orderByKey": "metrics.`score`",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": [*(f"{kind}.`{name}`" for kind, name in columns), "attributes.`Models`"],
        "columnOrder": [],
        "columnWidths": {},
        "runsHiddenMode": "SHOW_ALL",  # the UI's default shows ten
        "compareRunCharts": _charts(gated, varied),
        "compareRunSections": [
            {"uuid": SECTION, "name": "Sweep", "display": True, **CHART_FLAGS, "isReordered": False}
        ],
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": True,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": None,
        "groupsExpanded": {},
        "autoRefreshEnabled": True,
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
    }  # fmt: skip


def _charts(gated: Sequence[str], varied: Sequence[str]) -> list[dict[str, Any]]:
    charts = [_line(name) for name in dict.fromkeys(["score", *gated, "train/loss", STEP_LOSS])]
    if varied:
        selected = {"selectedParams": list(varied), "selectedMetrics": ["score"]}
        charts.insert(0, _chart("PARALLEL", "What was varied", showAllRuns=True, **selected))
        axes = {"xaxis": {"key": varied[0], "type": "PARAM"}, "yaxis": {"key": "score", "type": "METRIC"}}
        charts.append(_chart("SCATTER", f"{varied[0]} and score", **axes))
    return [{"uuid": f"chart-{index:02d}", **chart} for index, chart in enumerate(charts)]


def _chart(kind: str, title: str, **fields: Any) -> dict[str, Any]:
    return {
        "type": kind,
        "displayName": title,
        "metricSectionId": SECTION,
        **CHART_FLAGS,
        "runsCountToCompare": 100,
        **fields,
    }


def _line(metric: str) -> dict[str, Any]:
    axes = {"xAxisKey": "step", "selectedXAxisMetricKey": "", "xAxisScaleType": "linear", "range": {}}
    axes |= {"yAxisKey": "metric", "yAxisExpressions": [], "scaleType": "linear"}
    own = {"useGlobalXaxisKey": False, "useGlobalLineSmoothing": False, "lineSmoothness": 0, "ignoreOutliers": False}
    return _chart("LINE", metric, metricKey=metric, selectedMetricKeys=[metric], **axes, **own)
