"""Effect of the varied parameters on the gate's score: importances, history and parallel coordinates, by Optuna.

The sweep's own study has few COMPLETE trials, because most are stopped early. Here every trial with a score counts. Its
value is the height at which the score is drawn, so that distances far from the gate do not outweigh the others.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from gatesweep.sweeps.records.reader import SweepRecord, TrialRecord
from gatesweep.sweeps.reports.plots import OUTCOME_STYLES
from gatesweep.sweeps.reports.render import format_choice, format_score
from gatesweep.sweeps.reports.score_axis import AXIS, TITLE, PlotFigure, ScoreAxis

MAX_LINES = 500  # lines of parallel coordinates
MIN_LEAVES = 4  # trials for importances: of fewer, a forest tells nothing
MAX_LEAVES = 200  # trials for importances: the time grows with the square, 200 trials take 2 s and 1,000 take 23 s

optuna.logging.set_verbosity(optuna.logging.WARNING)


def score_study(sweep: SweepRecord, axis: ScoreAxis) -> optuna.Study:
    """Return a study in memory of all trials of a sweep; parameters with a single value are left out."""
    shapes = parameter_distributions(sweep)
    names = short_names(list(shapes))
    study = optuna.create_study(direction="maximize")
    begun = {trial_number(trial): trial for trial in sweep.trials}
    for index in range(max(begun, default=-1) + 1):
        trial = begun.get(index)  # None for a trial that never began: numbers stay those of the folders
        height = axis(trial.score) if trial else None
        if trial is None or height is None:
            study.add_trial(create_trial(state=TrialState.FAIL))
            continue
        values = {key: plain_choice(trial.values[key]) for key in shapes if key in trial.values}
        study.add_trial(
            create_trial(
                value=height,
                params={names[key]: value for key, value in values.items()},
                distributions={names[key]: shapes[key] for key in values},
                constraints={"gate": -1.0 if trial.outcome == "passed" else 1.0} if sweep.gate.rules else None,
            )
        )
    return study


def parameter_distributions(sweep: SweepRecord) -> dict[str, BaseDistribution]:
    """Return the range of each parameter that took at least two values; a choice among numbers stays a choice."""
    distributions: dict[str, BaseDistribution] = {}
    for key in dict.fromkeys(key for trial in sort_by_number(sweep.trials) for key in trial.values):
        values: list[Any] = [plain_choice(trial.values[key]) for trial in sweep.trials if key in trial.values]
        distinct, leaf = list(dict.fromkeys(values)), _space_leaf(sweep.config.search.space, key)
        conditional = len(values) < len(sweep.trials)
        if len(distinct) == 1 and not conditional:
            continue
        numeric = not any(isinstance(value, str) for value in values)
        if not numeric or leaf.get("type") == "categorical":
            distributions[key] = CategoricalDistribution(distinct)
        else:
            low, high = min(values), max(values)
            integral = all(isinstance(value, int) for value in values)
            shape: Any = IntDistribution if integral else FloatDistribution
            distributions[key] = shape(low, high, log=bool(leaf.get("log")) and low > 0)
    return distributions


def parameter_importances(study: optuna.Study) -> dict[str, float]:
    """Return the share of the score's variance that each parameter explains, by fANOVA, the largest first.

    Empty where no parameter varied, all scores are equal, or there are fewer than MIN_LEAVES of them.
    Source: Hutter et al., ICML 2014.
    """
    scored = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    varied = {name for trial in scored for name in trial.params}
    if len({trial.value for trial in scored}) < 2 or len(scored) < MIN_LEAVES or not varied:
        return {}
    from optuna.importance import FanovaImportanceEvaluator  # imports scikit-learn and scipy.stats: 1.5 s

    sample = optuna.create_study(direction="maximize")
    sample.add_trials(spread_evenly(scored, MAX_LEAVES))
    # Optuna's default evaluator looks at the best tenth of the trials: two of 16.
    importances = optuna.importance.get_param_importances(sample, evaluator=FanovaImportanceEvaluator(seed=0))
    shares = {name: float(value) for name, value in importances.items() if math.isfinite(value)}
    return dict(sorted(shares.items(), key=lambda item: (-item[1], item[0]))) if sum(shares.values()) > 0 else {}


def spread_evenly(trials: list[FrozenTrial], limit: int) -> list[FrozenTrial]:
    """Return at most `limit` of the trials, evenly spread over their order."""
    return [trials[index * len(trials) // limit] for index in range(limit)] if len(trials) > limit else trials


def draw_importances(importances: dict[str, float]) -> PlotFigure:
    """Draw importances as bars, the longest on top; Optuna's own plot would compute them again."""
    names, values = list(reversed(importances)), list(reversed(importances.values()))
    bars: PlotFigure = {"type": "bar", "orientation": "h", "x": values, "y": [_escape(name) for name in names]}
    bars |= {"text": [f"{value:.2f}" for value in values], "textposition": "outside", "cliponaxis": False}
    bars |= {"marker": {"color": "var(--finished)"}, "hoverinfo": "skip"}
    xaxis = {
        **AXIS,
        "range": [0, 1.15 * max(values)],
        "title": {**TITLE, "text": "share of the differences between scores"},
    }
    layout = {"xaxis": xaxis, "yaxis": {**AXIS, "ticksuffix": " ", "type": "category"}, "height": 90 + 34 * len(names)}
    margin = {"l": 16 + 8 * max(len(name) for name in names), "r": 12, "t": 8, "b": 48}
    return {"data": [bars], "layout": {**layout, "showlegend": False, "bargap": 0.35, "margin": margin}}


def draw_history(study: optuna.Study, sweep: SweepRecord, axis: ScoreAxis) -> PlotFigure:
    """Draw the score of every trial, and the best so far."""
    unconstrained = optuna.create_study(direction="maximize")
    for trial in study.get_trials(deepcopy=False):
        unconstrained.add_trial(create_trial(value=trial.value, state=trial.state))
    figure = _plain(optuna.visualization.plot_optimization_history(unconstrained, target_name="a trial"))
    trials = {trial_number(trial): trial for trial in sweep.trials}
    points, best, *_ = figure["data"]
    shown = [trials[index] for index in points["x"]]
    points["marker"] = {
        "size": 9,
        "symbol": [OUTCOME_STYLES[trial.outcome]["symbol"] for trial in shown],
        "color": [f"var(--{trial.outcome})" for trial in shown],
    }
    points["customdata"] = [[trial.name, trial.outcome, format_score(trial.score)] for trial in shown]
    points["hovertemplate"] = "<b>%{customdata[0]}</b>, %{customdata[1]}<br>score %{customdata[2]}<extra></extra>"
    best |= {"name": "best so far", "hoverinfo": "skip"}
    best["line"] = {"color": "var(--muted)", "width": 1.5, "shape": "hv"}
    figure["data"] = [best, points]
    xaxis = {**AXIS, "title": {**TITLE, "text": "trial"}}
    figure["layout"] = {**axis.layout(), "xaxis": xaxis, "height": 380, "showlegend": False}
    return figure


def draw_coordinates(study: optuna.Study, axis: ScoreAxis) -> PlotFigure:
    """Draw one line per trial through its parameters, at most MAX_LINES of the best; trials that passed stand out."""
    study = best_of_study(study, MAX_LINES)
    figure = _plain(optuna.visualization.plot_parallel_coordinate(study, target_name="score"))
    lines = [trace for trace in figure["data"] if trace["mode"] == "lines" and "customdata" in trace]
    scored = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    heights = [trial.value for trial in scored if trial.value is not None]
    low, high = min(heights), max(heights)
    shapes = dict(sorted({name: shape for trial in scored for name, shape in trial.distributions.items()}.items()))
    conditional = [place for place, name in enumerate(shapes, 1) if not all(name in trial.params for trial in scored)]
    integral = [place for place, shape in enumerate(shapes.values(), 1) if isinstance(shape, IntDistribution)]
    for trace in lines:
        passed = axis.gated and trace["line"]["dash"] == "solid"
        trace["line"] |= {"color": "var(--passed)" if passed else "var(--finished)", "width": 2.2 if passed else 1.3}
        trace["opacity"] = 0.95 if passed else 0.25 + 0.6 * trace["y"][0]  # 1 is the best
        trace["hovertemplate"] = "%{customdata[0]}: %{customdata[1]}<extra></extra>"
        trace["customdata"][0] = ["score", ""]
    figure["data"] = sorted(lines, key=lambda trace: trace["line"]["width"])
    layout = figure["layout"]
    notes = [note for note in layout["annotations"] if note["x"] != 0]
    labels = [note for note in notes if note["x"] not in integral or "." not in note["text"]]
    style = dict(labels[0] if labels else {}, x=0)
    ticks = [(height, text) for height, text in axis.ticks() if low <= height <= high] if axis.gated else []
    labels += [{**style, "y": (height - low) / (high - low or 1), "text": text} for height, text in ticks]
    for note in labels:
        note["text"] = "absent" if note["x"] in conditional and note["text"] == "None" else note["text"]
        note |= {"font": {"size": 11, "color": "var(--muted)"}, "text": _escape(note["text"])}
        note |= {"bgcolor": "var(--paper)", "borderpad": 1}
    for shape in layout["shapes"]:
        shape["line"] = {"color": "var(--line)", "width": 1}
    layout["xaxis"] |= {"linecolor": "var(--line)", "ticktext": [_escape(text) for text in layout["xaxis"]["ticktext"]]}
    layout["xaxis"]["range"] = [-0.5, len(layout["shapes"]) - 0.5]
    base = {key: layout[key] for key in ("xaxis", "yaxis", "shapes", "hovermode")}
    margin = {"l": 16, "r": 16, "t": 16, "b": 48}
    figure["layout"] = {**base, "annotations": labels, "showlegend": False, "height": 420, "margin": margin}
    return figure


def best_of_study(study: optuna.Study, limit: int) -> optuna.Study:
    """Return a study of at most `limit` trials, those with the highest values."""
    scored = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    best = sorted(scored, key=lambda trial: trial.value or 0.0, reverse=True)[:limit]
    best_study = optuna.create_study(direction="maximize")
    best_study.add_trials(sorted(best, key=lambda trial: trial.number))
    return best_study


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Return the last parts of each dotted key, as many as are needed to tell the keys apart."""
    short = {}
    for key in keys:
        parts = key.split(".")
        ends = (".".join(parts[-count:]) for count in range(1, len(parts) + 1))
        other_keys = [f".{name}" for name in keys if name != key]
        short[key] = next((end for end in ends if not any(name.endswith(f".{end}") for name in other_keys)), key)
    return short


def sort_by_number(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Return the trials in the order in which they were proposed."""
    return sorted(trials, key=trial_number)


def trial_number(trial: TrialRecord) -> int:
    """Return the number in a trial's name."""
    return int(trial.name.rpartition("_")[2])


def plain_choice(value: Any) -> int | float | str:
    """Return a value as Optuna takes it for a choice: a number or a text."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else format_choice(value)


def _space_leaf(space: dict[str, Any], key: str) -> dict[str, Any]:
    """The leaf of the search space at `key`; empty for a part of a composition."""
    node: Any = space
    for part in key.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return node if isinstance(node, dict) else {}


def _plain(figure: Any) -> PlotFigure:
    """A Plotly figure as a dictionary."""
    return json.loads(figure.to_json())


def _escape(text: Any) -> str:
    """A label as plain text, because Plotly reads some HTML in labels."""
    return html.escape(str(text), quote=False)
