"""The plots of a sweep, as dictionaries that plotly.js draws.

Colours are names of CSS variables such as `var(--ink)`. The page fills them in, so plots follow its light
or dark scheme.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gatesweep.core.gate import Gate
from gatesweep.core.record import Event
from gatesweep.core.shortfall import Threshold
from gatesweep.sweeps.config.targets import locate
from gatesweep.sweeps.config.trust import is_trusted
from gatesweep.sweeps.records.pareto import counted_trials, trial_cost
from gatesweep.sweeps.records.reader import SweepRecord, TrialRecord
from gatesweep.sweeps.reports.render import format_score
from gatesweep.sweeps.reports.score_axis import AXIS, TITLE, PlotFigure, ScoreAxis

Cutoff = tuple[
    int, float, int
]  # of a rung: its epoch, its last cut-off score, and the number of trials that reached it
# The style of each outcome, never colour alone, in the order of legends and tables.
OUTCOME_STYLES: dict[str, dict[str, Any]] = {
    "passed": {"dash": "solid", "symbol": "circle", "width": 2.2},
    "finished": {"dash": "dash", "symbol": "square", "width": 1.6},
    "stopped": {"dash": "dot", "symbol": "triangle-down", "width": 1.4},
    "diverged": {"dash": "dashdot", "symbol": "x", "width": 1.6},
    "failed": {"dash": "longdash", "symbol": "diamond", "width": 1.6},
    "interrupted": {"dash": "longdashdot", "symbol": "circle-open", "width": 1.6},
}
MAX_POINTS = 20_000  # points in a plot, for any number of trials


def plot_progress(sweep: SweepRecord, axis: ScoreAxis, cutoffs: Sequence[Cutoff]) -> PlotFigure:
    """Plot the score of every trial over its epochs, with the rungs of successive halving and their cut-offs."""
    traces = outcome_curves(sweep.trials, lambda event: axis(event["score"]), value_text="")
    layout = axis.layout()
    layout |= {"xaxis": {**AXIS, "title": {**TITLE, "text": "epoch"}, "rangemode": "tozero"}, "height": 480}
    for milestone in sorted({milestone for milestone, _, _ in cutoffs}):
        line = {"type": "line", "yref": "paper", "x0": milestone, "x1": milestone, "y0": 0, "y1": 1, "layer": "below"}
        layout["shapes"].append({**line, "line": {"color": "var(--muted)", "width": 1, "dash": "dot"}})
    if cutoffs:
        traces.append(
            {
                "x": [milestone for milestone, _, _ in cutoffs],
                "y": [axis(cutoff) for _, cutoff, _ in cutoffs],
                "customdata": [[f"{cutoff:.4g}", count] for _, cutoff, count in cutoffs],
                "mode": "markers",
                "name": "cut-off at a rung",
                "marker": {"symbol": "line-ew", "size": 26, "line": {"width": 3, "color": "var(--ink)"}},
                "hovertemplate": "rung at epoch %{x}, reached by %{customdata[1]}<br>"
                "stopped below a score of %{customdata[0]}<extra></extra>",
            }
        )
    return {"data": traces, "layout": layout}


def plot_pareto(sweep: SweepRecord, pareto: Sequence[Mapping[str, Any]], cost: str) -> PlotFigure:
    """Plot the objective of the trials that count over their cost; a line joins the points of the Pareto front."""
    objective, trials = str(sweep.gate.objective), counted_trials(sweep.trials, sweep.gate)
    points = {
        "x": [_finite(trial_cost(trial, cost)) for trial in trials],
        "y": [_finite(trial.metrics.get(objective)) for trial in trials],
        "customdata": [trial.name for trial in trials],
        "mode": "markers",
        "marker": {"size": 9, "color": "var(--passed)", "symbol": OUTCOME_STYLES["passed"]["symbol"]},
        "hovertemplate": f"<b>%{{customdata}}</b><br>{cost} %{{x:.4g}}<br>{objective} %{{y:.4g}}<extra></extra>",
    }
    line: PlotFigure = {"x": [point[cost] for point in pareto], "y": [point[objective] for point in pareto]}
    line["mode"] = "lines"
    line |= {"line": {"color": "var(--muted)", "width": 1.5}, "hoverinfo": "skip"}
    axes = {
        "xaxis": {**AXIS, "title": {**TITLE, "text": cost}},
        "yaxis": {**AXIS, "title": {**TITLE, "text": objective}},
    }
    return {"data": [line, points], "layout": {**axes, "height": 380, "showlegend": False}}


def rung_cutoffs(sweep: SweepRecord) -> list[Cutoff]:
    """Rebuild the rungs of successive halving from the record; empty for other schedulers."""
    from gatesweep.sweeps.schedulers.asha import GateASHA  # imported here: Ray Tune takes seconds to import
    from gatesweep.sweeps.schedulers.factory import make_scheduler
    from gatesweep.sweeps.schedulers.history import group_by_arrival

    if not is_trusted(str(sweep.config.scheduler.get("_target_"))):  # a report imports nobody else's code
        return []
    if not issubclass(locate("scheduler", sweep.config.scheduler), GateASHA):
        return []
    timed_scores = [
        (event["elapsed"], (name, event["epoch"], event["score"]))
        for name, event in sweep.epochs_by_arrival()
        if event["score"] is not None
    ]
    max_epochs = sweep.config.training.max_epochs
    scheduler: Any = make_scheduler(sweep.config.scheduler, max_epochs, {}, group_by_arrival(timed_scores))
    return sorted(
        (round(milestone), float(bracket.cutoff(scores)), len(scores))
        for bracket in scheduler.brackets
        for milestone, scores in bracket.rungs
        if scores and milestone < max_epochs
    )


def plot_metrics(sweep: SweepRecord) -> list[tuple[str, PlotFigure]]:
    """Plot each gated metric over epochs, the failing side of its threshold shaded, and the objective; with titles."""
    gate = sweep.gate
    figures = [
        (f"{rule.metric} {rule.comparison} {rule.bound:g}", _plot_metric(sweep.trials, rule.metric, rule, gate))
        for rule in gate.rules
    ]
    if gate.objective and gate.objective not in gate.thresholds:
        better = "smaller" if gate.mode == "min" else "larger"
        figures.append(
            (f"{gate.objective} ({better} is better)", _plot_metric(sweep.trials, gate.objective, None, gate))
        )
    return figures


def _plot_metric(trials: Sequence[TrialRecord], name: str, rule: Threshold | None, gate: Gate) -> PlotFigure:
    traces = outcome_curves(
        trials, lambda event: gate.compared_value(rule, event["metrics"]) if rule else event["metrics"].get(name)
    )
    values = [value for trace in traces for value in trace["y"] if value is not None]
    values += [rule.bound] if rule else []
    xaxis = {**AXIS, "title": {**TITLE, "text": "epoch"}, "rangemode": "tozero"}
    layout: PlotFigure = {"xaxis": xaxis, "yaxis": dict(AXIS), "height": 260, "showlegend": False, "shapes": []}
    layout["margin"] = {"l": 58, "r": 8, "t": 8, "b": 40}
    if not values:
        return {"data": [], "layout": layout}
    low, high = min(values), max(values)
    logarithmic = low > 0 and high > 50 * low
    if logarithmic:
        low, high = math.log10(low), math.log10(high)
    room = 0.06 * (high - low or abs(high) or 1.0)
    low, high = low - room, high + room
    layout["yaxis"] |= {"range": [low, high], "type": "log" if logarithmic else "linear"}
    if logarithmic:
        powers = range(math.floor(low), math.ceil(high) + 1)
        ticks = [value * 10.0**power for power in powers for value in ((1, 3) if high - low < 3 else (1,))]
        layout["yaxis"] |= {"tickvals": ticks, "ticktext": [f"{value:g}" for value in ticks], "tickmode": "array"}
    if rule:
        edges = [10**low if logarithmic else low, rule.bound]
        if rule.comparison.startswith("<"):
            edges = [rule.bound, 10**high if logarithmic else high]
        across = {"xref": "paper", "x0": 0, "x1": 1, "layer": "below"}
        layout["shapes"] = [
            {
                "type": "rect",
                **across,
                "y0": edges[0],
                "y1": edges[1],
                "fillcolor": "var(--shade)",
                "line": {"width": 0},
            },
            {
                "type": "line",
                **across,
                "y0": rule.bound,
                "y1": rule.bound,
                "line": {"color": "var(--ink)", "width": 1.2},
            },
        ]
    return {"data": traces, "layout": layout}


def outcome_curves(
    trials: Sequence[TrialRecord], value: Callable[[Event], float | None], value_text: str = ": %{y:.4g}"
) -> list[PlotFigure]:
    """Return one trace per outcome with the curves of its trials: gaps between them, and a mark at each end.

    `value` takes the height from an epoch's event. `value_text` is Plotly's template for it in the hover text.
    """
    limit = max(10, min(200, MAX_POINTS // max(1, len(trials))))
    thinning = min(1.0, (25 / max(1, len(trials))) ** 0.35)  # thinner lines where there are many
    traces = []
    for outcome, style in OUTCOME_STYLES.items():
        group = [trial for trial in trials if trial.outcome == outcome and trial.epochs]
        x: list[int | None] = []
        y: list[float | None] = []
        sizes, labels = [], []
        for trial in group:
            points = thin_epochs(trial.epochs, limit)
            heights = [_finite(value(event)) for event in points]
            end = max((index for index, height in enumerate(heights) if height is not None), default=-1)
            x += [*(event["epoch"] for event in points), None]
            y += [*heights, None]
            sizes += [4 + 5 * thinning if index == end else 0 for index in range(len(points) + 1)]
            labels += [[trial.name, format_score(event["score"])] for event in points] + [["", ""]]
        if not any(height is not None for height in y):
            continue
        traces.append(
            {
                "x": x,
                "y": y,
                "customdata": labels,
                "name": f"{outcome} ({len(group)})",
                "mode": "lines+markers",
                "line": {"color": f"var(--{outcome})", "dash": style["dash"], "width": thinning * style["width"]},
                "marker": {"symbol": style["symbol"], "size": sizes, "opacity": 1, "line": {"width": 0}},
                "hovertemplate": f"<b>%{{customdata[0]}}</b>, {outcome}<br>epoch %{{x}}{value_text}<br>"
                "score %{customdata[1]}<extra></extra>",
            }
        )
    return traces


def thin_epochs(epochs: Sequence[Event], limit: int) -> list[Event]:
    """Return at most `limit` epochs, evenly spread, with the first, the best and the last among them."""
    if len(epochs) <= limit:
        return list(epochs)
    last = len(epochs) - 1
    kept = {round(index * last / (limit - 2)) for index in range(limit - 1)}
    scores = [-math.inf if event["score"] is None else event["score"] for event in epochs]
    return [epochs[index] for index in sorted({*kept, scores.index(max(scores))})]


def _finite(value: float | None) -> float | None:
    """The value; None where it is not finite, which Plotly draws as a gap."""
    return None if value is None or not math.isfinite(value) else value
