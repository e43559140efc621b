"""What the varied parameters did to the gate's score: importances, history and parallel coordinates, by Optuna.

The sweep's own study has few COMPLETE trials, as most are stopped early. Here every trial that has a score counts, with
the height at which the score is drawn: distances far from the gate weigh no more than what they show.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.importance import FanovaImportanceEvaluator
from optuna.trial import FrozenTrial, TrialState, create_trial

from gatesweep.sweeps.config.schema import Config
from gatesweep.sweeps.records.reader import SweepRecord, TrialRecord
from gatesweep.sweeps.reports.plots import OUTCOME_STYLES
from gatesweep.sweeps.reports.render import format_choice, format_score
from gatesweep.sweeps.reports.score_axis import AXIS, TITLE, PlotFigure, ScoreAxis

MAX_LINES = 500  # of parallel coordinates
MAX_LEAVES = 200  # trials that importances rest on: their time grows with the square, 200 take 2 s and 1,000 take 23

optuna.logging.set_verbosity(optuna.logging.WARNING)


def score_study(sweep: SweepRecord, axis: ScoreAxis) -> optuna.Study:
    """A study in memory, of the run directories: parameters that took one value only are left out."""
    shapes = parameter_distributions(sweep)
    names = short_names(list(shapes))
    study = optuna.create_study(direction="maximize")
    begun = {trial_number(trial): trial for trial in sweep.trials}
    for index in range(max(begun, default=-1) + 1):
        trial = begun.get(index)  # none for one that never began: numbers stay those of the folders
        height = axis(trial.score) if trial else None
        if trial is None or height is None:
            study.add_trial(create_trial(state=TrialState.FAIL))
            continue
        chosen = {key: plain_choice(trial.values[key]) for key in shapes if key in trial.values}
        study.add_trial(
            create_trial(
                value=height,
                params={names[key]: value for key, value in chosen.items()},
                distributions={names[key]: shapes[key] for key in chosen},
                constraints={"gate": -1.0 if trial.outcome == "passed" else 1.0} if sweep.gate.rules else None,
            )
        )
    return study


def parameter_distributions(sweep: SweepRecord) -> dict[str, BaseDistribution]:
    """The range of each parameter that took at least two values; a choice among numbers stays one."""
    found: dict[str, BaseDistribution] = {}
    for key in dict.fromkeys(key for trial in by_number(sweep.trials) for key in trial.values):
        seen: list[Any] = [plain_choice(trial.values[key]) for trial in sweep.trials if key in trial.values]
        distinct, leaf = list(dict.fromkeys(seen)), _leaf(sweep.config, key)
        conditional = len(seen) < len(sweep.trials)
        if len(distinct) == 1 and not conditional:
            continue
        numbers = not any(isinstance(value, str) for value in seen)
        if not numbers or leaf.get("type") == "categorical":
            found[key] = CategoricalDistribution(distinct)
        else:
            low, high = min(seen), max(seen)
            whole = all(isinstance(value, int) for value in seen)
            shape: Any = IntDistribution if whole else FloatDistribution
            found[key] = shape(low, high, log=bool(leaf.get("log")) and low > 0)
    return found


def parameter_importances(study: optuna.Study) -> dict[str, float]:
    """The share of each parameter, largest first; empty where trials or their scores say nothing."""
    scored = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    varied = {name for trial in scored for name in trial.params}
    if len({trial.value for trial in scored}) < 2 or not varied:
        return {}
    some = optuna.create_study(direction="maximize")
    some.add_trials(spread_evenly(scored, MAX_LEAVES))
    # Of Optuna's evaluators not its default, which asks what sets the best tenth apart: of 16 trials, two.
    found = optuna.importance.get_param_importances(some, evaluator=FanovaImportanceEvaluator(seed=0))
    known = {name: float(value) for name, value in found.items() if math.isfinite(value)}
    return dict(sorted(known.items(), key=lambda one: (-one[1], one[0]))) if sum(known.values()) > 0 else {}


def spread_evenly(trials: list[FrozenTrial], most: int) -> list[FrozenTrial]:
    """At most so many of them, from the first to the last."""
    return [trials[index * len(trials) // most] for index in range(most)] if len(trials) > most else trials


def draw_importances(found: dict[str, float]) -> PlotFigure:
    """Bars, the longest on top; Optuna's own plot would work them out again."""
    names, values = list(reversed(found)), list(reversed(found.values()))
    bars: PlotFigure = {"type": "bar", "orientation": "h", "x": values, "y": [_escape(name) for name in names]}
    bars |= {"text": [f"{value:.2f}" for value in values], "textposition": "outside", "cliponaxis": False}
    bars |= {"marker": {"color": "var(--finished)"}, "hoverinfo": "skip"}
    xaxis = {**AXIS, "range": [0, 1.15 * max(values)], "title": {**TITLE, "text": "share of what sets scores apart"}}
    layout = {"xaxis": xaxis, "yaxis": {**AXIS, "ticksuffix": " ", "type": "category"}, "height": 90 + 34 * len(names)}
    margin = {"l": 16 + 8 * max(len(name) for name in names), "r": 12, "t": 8, "b": 48}
    return {"data": [bars], "layout": {**layout, "showlegend": False, "bargap": 0.35, "margin": margin}}


def draw_history(study: optuna.Study, sweep: SweepRecord, axis: ScoreAxis) -> PlotFigure:
    """The score of every trial, and the best so far."""
    unconstrained = optuna.create_study(direction="maximize")
    for trial in study.get_trials(deepcopy=False):
        unconstrained.add_trial(create_trial(value=trial.value, state=trial.state))
    figure = _plain(optuna.visualization.plot_optimization_history(unconstrained, target_name="a trial"))
    byname = {trial_number(trial): trial for trial in sweep.trials}
    points, best, *_ = figure["data"]
    shown = [byname[index] for index in points["x"]]
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
    """A line a trial through its parameters, of the best where there are many; those that passed stand out."""
    study = best_of_study(study, MAX_LINES)
    figure = _plain(optuna.visualization.plot_parallel_coordinate(study, target_name="score"))
    lines = [trace for trace in figure["data"] if trace["mode"] == "lines" and "customdata" in trace]
    scored = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    heights = [trial.value for trial in scored if trial.value is not None]
    low, high = min(heights), max(heights)
    shapes = dict(sorted({name: shape for trial in scored for name, shape in trial.distributions.items()}.items()))
    missing = [at for at, name in enumerate(shapes, 1) if not all(name in trial.params for trial in scored)]
    whole = [at for at, shape in enumerate(shapes.values(), 1) if isinstance(shape, IntDistribution)]
    for trace in lines:
        passed = axis.gated and trace["line"]["dash"] == "solid"
        trace["line"] |= {"color": "var(--passed)" if passed else "var(--finished)", "width": 2.2 if passed else 1.3}
        trace["opacity"] = 0.95 if passed else 0.25 + 0.6 * trace["y"][0]  # 1 is the best
        trace["hovertemplate"] = "%{customdata[0]}: %{customdata[1]}<extra></extra>"
        trace["customdata"][0] = ["score", ""]
    figure["data"] = sorted(lines, key=lambda trace: trace["line"]["width"])
    layout = figure["layout"]
    notes = [note for note in layout["annotations"] if note["x"] != 0]
    kept = [note for note in notes if note["x"] not in whole or "." not in note["text"]]
    looks = dict(kept[0] if kept else {}, x=0)
    ticks = [(at, text) for at, text in axis.ticks() if low <= at <= high] if axis.gated else []
    kept += [{**looks, "y": (at - low) / (high - low or 1), "text": text} for at, text in ticks]
    for note in kept:
        note["text"] = "absent" if note["x"] in missing and note["text"] == "None" else note["text"]
        note |= {"font": {"size": 11, "color": "var(--muted)"}, "text": _escape(note["text"])}
        note |= {"bgcolor": "var(--paper)", "borderpad": 1}
    for shape in layout["shapes"]:
        shape["line"] = {"color": "var(--line)", "width": 1}
    layout["xaxis"] |= {"linecolor": "var(--line)", "ticktext": [_escape(text) for text in layout["xaxis"]["ticktext"]]}
    layout["xaxis"]["range"] = [-0.5, len(layout["shapes"]) - 0.5]
    kind = {key: layout[key] for key in ("xaxis", "yaxis", "shapes", "hovermode")}
    margin = {"l": 16, "r": 16, "t": 16, "b": 48}
    figure["layout"] = {**kind, "annotations": kept, "showlegend": False, "height": 420, "margin": margin}
    return figure


def best_of_study(study: optuna.Study, most: int) -> optuna.Study:
    """The study of so many trials, the highest."""
    scored = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    best = sorted(scored, key=lambda trial: trial.value or 0.0, reverse=True)[:most]
    found = optuna.create_study(direction="maximize")
    found.add_trials(sorted(best, key=lambda trial: trial.number))
    return found


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """The last parts of dotted keys, as many as it takes to tell them apart."""
    short = {}
    for key in keys:
        parts = key.split(".")
        ends = (".".join(parts[-count:]) for count in range(1, len(parts) + 1))
        others = [f".{other}" for other in keys if other != key]
        short[key] = next((end for end in ends if not any(one.endswith(f".{end}") for one in others)), key)
    return short


def by_number(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    return sorted(trials, key=trial_number)


def trial_number(trial: TrialRecord) -> int:
    return int(trial.name.rpartition("_")[2])


def plain_choice(value: Any) -> int | float | str:
    """What Optuna takes for a choice: numbers and words."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else format_choice(value)


def _leaf(config: Config, key: str) -> dict[str, Any]:
    """The leaf of the search space at `key`; none for a part of a composition."""
    node: Any = config.search.space
    for part in key.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return node if isinstance(node, dict) else {}


def _plain(figure: Any) -> PlotFigure:
    return json.loads(figure.to_json())


def _escape(text: Any) -> str:
    """Plotly reads some HTML in its labels."""
    return html.escape(str(text), quote=False)
