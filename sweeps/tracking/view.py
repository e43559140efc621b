"""What MLflow's UI opens with a sweep's URL: its runs, columns and charts, a view kept as a tag of the experiment.

MLflow 3.17 does not document the format; it is what its "Share" button keeps.
tests/sweeps/tracking/test_ui.py guards it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from gatesweep.core.gate import Gate
from gatesweep.core.record import STEP_LOSS
from gatesweep.sweeps.records.pareto import pareto_lines
from gatesweep.sweeps.records.summary import confirmation_lines

TAG_PREFIX = "mlflow.sharedViewState."
UI_ADDRESS = "http://127.0.0.1:5000"  # where `make ui` shows a sqlite file
SECTION = "sweep"
AS_IT_IS = {"deleted": False, "isGenerated": False}
MAX_PARAMETERS = 12  # parameters shown: a tag of an experiment holds 5,000 characters, deflated


def view_tag(sweep: str, gate: Gate, varied: Sequence[str], at: int) -> tuple[str, str]:
    """Key and value of the experiment's tag with the view of a sweep, which began at `at` (ms)."""
    packed = zlib.compress(json.dumps(_state(sweep, gate, varied[:MAX_PARAMETERS]), separators=(",", ":")).encode(), 9)
    state = f"deflate;{base64.b64encode(packed).decode()}"
    return TAG_PREFIX + _key(sweep), json.dumps(
        {"name": f"sweep {sweep}", "createdAt": at, "updatedAt": at, "state": state}
    )


def view_url(uri: str, experiment: str, sweep: str) -> str:
    """What opens that view: runs by their score, their curves in charts."""
    query = {"viewStateShareKey": _key(sweep), "compareRunsMode": "CHART", "workflowType": "machine_learning"}
    return f"{ui_base(uri)}/#/experiments/{experiment}/runs?{urlencode(query)}"


def run_url(place: Mapping[str, Any], sweep: str, trial: str) -> str:
    """Where a trial's run is, by what `mlflow.json` holds; one that was not there yet is looked for."""
    runs = f"{place['base']}/#/experiments/{place['experiment']}/runs"
    if trial in place.get("runs", {}):
        return f"{runs}/{place['runs'][trial]}"
    query = {"searchFilter": f"tags.sweep = '{sweep}' and tags.trial = '{trial}'", "workflowType": "machine_learning"}
    return f"{runs}?{urlencode(query)}"


def ui_base(uri: str) -> str:
    return uri.rstrip("/") if uri.startswith("http") else UI_ADDRESS


def sweep_note(summary: Mapping[str, Any], gate: Mapping[str, str]) -> str:
    """How a sweep ended, in markdown: its run's description."""
    wanted = ", ".join(f"`{metric}` {rule}" for metric, rule in gate.items()) or "none"
    lines = [f"**{summary['passed']} of {summary['trials']} trials passed** in {summary['seconds']:.0f} s.", ""]
    lines += [f"Gate: {wanted}", ""]
    said = [*confirmation_lines(summary.get("confirmed", {})), *pareto_lines(summary.get("front", []))]
    lines += [text for line in said for text in (f"{line}.", "")]
    if best := summary["best"]:
        rows = [*best["params"].items(), *((name, best["metrics"].get(name)) for name in gate)]
        lines += [f"Best: {best['trial']}, {best['outcome']} after {best['epochs']} epochs", "", "| | |", "|---|---|"]
        lines += [
            f"| {name} | {value:.4g} |" if isinstance(value, float) else f"| {name} | {value} |" for name, value in rows
        ]
    return "\n".join(lines)


def _key(sweep: str) -> str:
    return hashlib.sha256(sweep.encode()).hexdigest()[:16]


def _state(sweep: str, gate: Gate, varied: Sequence[str]) -> dict[str, Any]:
    gated = list(dict.fromkeys(gate.reads))
    columns = [*(("metrics", name) for name in ["score", *gated]), *(("params", name) for name in varied)]
    columns = [("tags", "outcome"), *columns, ("tags", "gate.missed")]
    return {
        "searchFilter": f"tags.sweep = '{sweep}' and tags.`sweep.kind` = 'trial'",
        "orderByKey": "metrics.`score`",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": [*(f"{kind}.`{name}`" for kind, name in columns), "attributes.`Models`"],
        "columnOrder": [],
        "columnWidths": {},
        "runsHiddenMode": "SHOW_ALL",  # the UI's own shows ten
        "compareRunCharts": _charts(gated, varied),
        "compareRunSections": [{"uuid": SECTION, "name": "Sweep", "display": True, **AS_IT_IS, "isReordered": False}],
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
        chosen = {"selectedParams": list(varied), "selectedMetrics": ["score"]}
        charts.insert(0, _chart("PARALLEL", "What was varied", showAllRuns=True, **chosen))
        axes = {"xaxis": {"key": varied[0], "type": "PARAM"}, "yaxis": {"key": "score", "type": "METRIC"}}
        charts.append(_chart("SCATTER", f"{varied[0]} and score", **axes))
    return [{"uuid": f"chart-{index:02d}", **chart} for index, chart in enumerate(charts)]


def _chart(kind: str, title: str, **more: Any) -> dict[str, Any]:
    return {
        "type": kind,
        "displayName": title,
        "metricSectionId": SECTION,
        **AS_IT_IS,
        "runsCountToCompare": 100,
        **more,
    }


def _line(metric: str) -> dict[str, Any]:
    axes = {"xAxisKey": "step", "selectedXAxisMetricKey": "", "xAxisScaleType": "linear", "range": {}}
    axes |= {"yAxisKey": "metric", "yAxisExpressions": [], "scaleType": "linear"}
    own = {"useGlobalXaxisKey": False, "useGlobalLineSmoothing": False, "lineSmoothness": 0, "ignoreOutliers": False}
    return _chart("LINE", metric, metricKey=metric, selectedMetricKeys=[metric], **axes, **own)
