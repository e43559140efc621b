"""The vertical axis of scores: distances below the gate, passes above it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from gatesweep.core.gate import WORST_SCORE
from gatesweep.sweeps.records.reader import SweepRecord

PlotFigure = dict[str, Any]
AXIS = {"gridcolor": "var(--line)", "linecolor": "var(--line)", "zeroline": False}
TITLE = {"font": {"size": 13}, "standoff": 8}


class ScoreAxis:
    """A map from scores to heights: below 0 the distance to the gate, above 0 a band for scores that clear it.

    The distance d has the height -asinh(d / unit), which is linear near the gate and logarithmic far from it. `gated`
    is False for a gate without thresholds: then the height is the score.
    """

    def __init__(self, scores: Iterable[float | None], gated: bool = True) -> None:
        finite = [score for score in scores if score is not None and not math.isnan(score)]
        missed = [-score for score in finite if WORST_SCORE < score < 0]
        cleared = [score for score in finite if score >= 1]
        self.gated, self.far = gated, max(missed, default=0.0) or 1.0
        self.hopeless = any(score <= WORST_SCORE for score in finite)
        self.unit = min(0.1, self.far / 3)
        self.floor = -math.asinh(self.far / self.unit)
        self.bottom = self.floor * (1.15 if self.hopeless else 1.05)
        self.top = -0.2 * self.floor
        self.worst, self.best = min(cleared, default=1.0), max(cleared, default=1.0)

    def __call__(self, score: float | None) -> float | None:
        """Return the height of a score; None for None and NaN."""
        if score is None or math.isnan(score):
            return None
        if not self.gated:
            return max(score, -1.0)
        if score <= WORST_SCORE:
            return self.bottom
        if score < 1:  # a cut-off may lie between 0 and 1, a trial's score may not
            return -math.asinh(max(0.0, -score) / self.unit)
        rank = (score - self.worst) / (self.best - self.worst) if self.best > self.worst else 0.5
        return self.top * (0.25 + 0.5 * rank)

    def ticks(self) -> list[tuple[float, str]]:
        """Return heights with their labels, at least a twelfth of the axis apart."""
        first = math.floor(math.log10(self.unit)) - 1
        decades = [10.0**power for power in range(first, math.ceil(math.log10(self.far)) + 1)]
        ticks = [(0.0, "the gate")]
        for distance in [*reversed(decades), *(3 * decade for decade in reversed(decades))]:
            height = -math.asinh(distance / self.unit)
            if distance <= self.far and all(abs(height - tick) > -self.bottom / 12 for tick, _ in ticks):
                ticks.append((height, f"{distance:g}"))
        if self.hopeless:
            ticks = [(height, text) for height, text in ticks if height - self.bottom > -self.bottom / 14]
            ticks.append((self.bottom, "no number"))
        return sorted([*ticks, (self.top / 2, "passed")])

    def layout(self) -> PlotFigure:
        """Return Plotly's layout of the axis, with the band for scores that clear the gate."""
        if not self.gated:
            return {"yaxis": {**AXIS, "title": {**TITLE, "text": "score"}}, "shapes": []}
        values, texts = zip(*self.ticks(), strict=True)
        axis = {
            "title": {**TITLE, "text": "distance to the gate"},
            "tickvals": values,
            "ticktext": texts,
            "tickmode": "array",
        }
        axis["range"] = [self.bottom - 0.04 * self.top - 0.02, self.top]
        band = {"type": "rect", "xref": "paper", "x0": 0, "x1": 1, "y0": 0, "y1": self.top, "layer": "below"}
        band |= {"fillcolor": "var(--band)", "line": {"width": 0}}
        edge = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": 0, "y1": 0}
        edge["line"] = {"color": "var(--passed)", "width": 1.5}
        return {"yaxis": {**AXIS, **axis}, "shapes": [band, edge]}


def score_axis(sweep: SweepRecord) -> ScoreAxis:
    """Return the axis for the scores of a sweep."""
    scores = [event["score"] for trial in sweep.trials for event in trial.epochs]
    return ScoreAxis(scores, gated=bool(sweep.gate.rules))
