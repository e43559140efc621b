"""The axis on which scores are drawn: distances below the gate, passes above it."""

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
    """Where a score is drawn: the distance to the gate below it, by its size; what clears the gate in a band above.

    The distance d is drawn at -asinh(d / unit): linear near the gate and logarithmic far from it.
    """

    def __init__(self, scores: Iterable[float | None], gated: bool = True) -> None:
        known = [score for score in scores if score is not None and not math.isnan(score)]
        missed = [-score for score in known if WORST_SCORE < score < 0]
        cleared = [score for score in known if score >= 1]
        self.gated, self.far = gated, max(missed, default=0.0) or 1.0
        self.hopeless = any(score <= WORST_SCORE for score in known)
        self.unit = min(0.1, self.far / 3)
        self.floor = -math.asinh(self.far / self.unit)
        self.bottom = self.floor * (1.15 if self.hopeless else 1.05)
        self.top = -0.2 * self.floor
        self.worst, self.best = min(cleared, default=1.0), max(cleared, default=1.0)

    def __call__(self, score: float | None) -> float | None:
        if score is None or math.isnan(score):
            return None
        if not self.gated:
            return max(score, -1.0)
        if score <= WORST_SCORE:
            return self.bottom
        if score < 1:  # a cut-off may lie between 0 and 1, where no trial does
            return -math.asinh(max(0.0, -score) / self.unit)
        rank = (score - self.worst) / (self.best - self.worst) if self.best > self.worst else 0.5
        return self.top * (0.25 + 0.5 * rank)

    def ticks(self) -> list[tuple[float, str]]:
        """Distances worth a label, at least a twelfth of the axis apart."""
        first = math.floor(math.log10(self.unit)) - 1
        decades = [10.0**power for power in range(first, math.ceil(math.log10(self.far)) + 1)]
        found = [(0.0, "the gate")]
        for distance in [*reversed(decades), *(3 * decade for decade in reversed(decades))]:
            at = -math.asinh(distance / self.unit)
            if distance <= self.far and all(abs(at - other) > -self.bottom / 12 for other, _ in found):
                found.append((at, f"{distance:g}"))
        if self.hopeless:
            found = [(at, text) for at, text in found if at - self.bottom > -self.bottom / 14]
            found.append((self.bottom, "no number"))
        return sorted([*found, (self.top / 2, "passed")])

    def layout(self) -> PlotFigure:
        """The axis, and the band of what clears the gate."""
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
    scores = [event["score"] for trial in sweep.trials for event in trial.epochs]
    return ScoreAxis(scores, gated=bool(sweep.gate.rules))
