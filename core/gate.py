"""The compliance gate: thresholds that must clear all at once, and how far a run is from them."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from gatesweep.core.errors import InputError
from gatesweep.core.trainable import Metrics

COMPARE = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}
RULE = re.compile(r"\s*(>=|<=|>|<)\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*")
WORST_SCORE = -1e9  # the score of a metric that is not a number: ranks last, and is still a number


@dataclass(frozen=True)
class Threshold:
    metric: str
    comparison: str
    bound: float
    scale: float

    def shortfall(self, value: float) -> float:
        """How far `value` is on the wrong side, in units of `scale`; negative when there is room."""
        gap = self.bound - value if self.comparison.startswith(">") else value - self.bound
        return gap / self.scale


@dataclass(frozen=True)
class Gate:
    """Thresholds by metric, e.g. ``{"val/edge_compliance": "> 0.95"}``; an empty gate never passes.

    `objective` (a metric, with `mode`) ranks the runs that clear every threshold. `bound` says which number
    of a proportion is compared: the value itself (`point`), or the end of its 95 % Wilson interval that is
    nearer to failing (`wilson`). `consecutive` is the number of epochs in a row that must clear.
    `scales` sets the unit of a metric's shortfall; by default that is the size of its threshold.
    """

    thresholds: Mapping[str, str] = field(default_factory=dict)
    objective: str | None = None
    mode: Literal["min", "max"] = "max"
    bound: Literal["point", "wilson"] = "point"
    consecutive: int = 1
    scales: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.consecutive < 1:
            raise InputError(f"gate.consecutive: got {self.consecutive}, expected at least 1")
        for metric, rule in self.thresholds.items():
            if not RULE.fullmatch(str(rule)):
                raise InputError(f"gate.thresholds: {metric!r} got {rule!r}, expected e.g. '> 0.95' or '<= 0.1'")
        for metric, scale in self.scales.items():
            if not scale > 0:
                raise InputError(f"gate.scales: {metric!r} got {scale!r}, expected a positive number")

    @cached_property
    def rules(self) -> list[Threshold]:
        rules = []
        for metric, rule in self.thresholds.items():
            match = RULE.fullmatch(rule)
            assert match
            bound = float(match[2])
            rules.append(Threshold(metric, match[1], bound, self.scales.get(metric) or abs(bound) or 1.0))
        return rules

    @property
    def reads(self) -> list[str]:
        """The metrics that a run must report."""
        return [*self.thresholds, *([self.objective] if self.objective else [])]

    def missed(self, metrics: Metrics) -> list[str]:
        """Why the gate does not pass, one line per threshold that is not cleared."""
        self.require(metrics)
        return [
            f"{rule.metric} = {self._value(rule, metrics):.4g}, needs {rule.comparison} {rule.bound:g}"
            for rule in self.rules
            if not self._clears(rule, metrics)
        ]

    def cleared(self, metrics: Metrics) -> bool:
        """Whether every threshold clears at once."""
        return bool(self.rules) and not self.missed(metrics)

    def score(self, metrics: Metrics) -> float:
        """One number, larger is better, never NaN: below 0 by the distance to the gate, from 1 to 2 once cleared.

        An empty gate is ranked by its objective alone, in [-1, 0).
        """
        self.require(metrics)
        if not self.rules:
            return squash(self.objective_value(metrics)) - 1.0
        if self.cleared(metrics):
            return 1.0 + squash(self.objective_value(metrics))
        gaps = [rule.shortfall(self._value(rule, metrics)) for rule in self.rules]
        if any(math.isnan(gap) for gap in gaps):  # `max` would pass over it
            return WORST_SCORE
        return max(-sum(max(0.0, gap) for gap in gaps), WORST_SCORE)

    def objective_value(self, metrics: Metrics) -> float:
        """The objective as a number to maximise; NaN where there is none."""
        value = metrics[self.objective] if self.objective else math.nan
        return -value if self.mode == "min" else value

    def constraints(self, metrics: Metrics) -> Metrics:
        """Signed shortfall of each threshold, at most 0 exactly when it clears (what Optuna calls a constraint)."""
        values = {}
        for rule in self.rules:
            gap = rule.shortfall(self._value(rule, metrics))
            if not math.isfinite(gap):
                gap = -WORST_SCORE if math.isnan(gap) or gap > 0 else WORST_SCORE
            strict_tie = gap <= 0 and not self._clears(rule, metrics)
            values[rule.metric] = math.ulp(0.0) if strict_tie else gap
        return values

    def require(self, metrics: Metrics) -> None:
        """Raise InputError unless the run reports every metric that this gate reads."""
        for metric in self.reads:
            if metric not in metrics:
                names = sorted(name for name in metrics if not name.endswith(("_low", "_high")))
                raise InputError(f"gate: {metric!r} is not reported; this trainable reports {', '.join(names)}")

    def _value(self, rule: Threshold, metrics: Metrics) -> float:
        end = "_low" if rule.comparison.startswith(">") else "_high"
        return metrics.get(rule.metric + end, metrics[rule.metric]) if self.bound == "wilson" else metrics[rule.metric]

    def _clears(self, rule: Threshold, metrics: Metrics) -> bool:
        return COMPARE[rule.comparison](self._value(rule, metrics), rule.bound)


def squash(value: float) -> float:
    """Monotone map of the reals onto [0, 1); NaN goes to 0."""
    return 0.0 if math.isnan(value) else min(0.5 + math.atan(value) / math.pi, math.nextafter(1.0, 0.0))


def proportion(name: str, hits: int, total: int, z: float = 1.96) -> Metrics:
    """`hits / total` under `name`, with the ends of its Wilson interval as `name_low` and `name_high`.

    Nothing checked means nothing shown: 0 of 0 is 0, with the interval [0, 1].
    Source: Wilson, J. Am. Stat. Assoc. 22 (1927) 209; z = 1.96 covers 95 %.
    """
    if total == 0:
        return {name: 0.0, f"{name}_low": 0.0, f"{name}_high": 1.0}
    share = hits / total
    centre = share + z * z / (2 * total)
    spread = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    low, high = max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)
    return {name: share, f"{name}_low": low, f"{name}_high": high}
