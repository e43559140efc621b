"""The shortfall of a metric: its distance to a threshold of the gate, in a unit of its own, as the score counts it.

A run that misses the gate has a score of minus the sum of its shortfalls. Schedulers and samplers compare runs by it,
so three things must hold. A metric must not outweigh the others because its threshold is a small number. A run that
is better in one metric and equal in the others must not rank lower. A score must not change when another trial ends,
so it depends on the gate alone.

The *unit* is what the metric can do: the distance from its threshold to the trivial baseline, a model that has learned
nothing. A sweep measures the baseline before its first trial and records it (`Gate.baseline`). A shortfall of d units
counts `bounded(d)`: d itself up to `LINEAR`, near the baseline and beyond it ever slower, at most 1. The first part is
one minus the one-sided desirability function of Derringer and Suich (J. Qual. Technol. 12 (1980) 214). Theirs is 0 from
the baseline on; the slow tail keeps the order of runs that are worse. Desirabilities are multiplied; shortfalls are
added, for a product is 0 for all runs that fail one metric wholly.

The baseline reaches some thresholds by itself: a constant prediction is well calibrated. Such a metric shows no
learning, and a run must not rank first because it has learned nothing. So all such metrics together count at most
`GUARDS`.

Without a baseline, a metric that must be large has the unit |bound|, its distance from zero. A metric that must be
small has no worst value, so its unit is `DECADE` |bound|, and it counts as those that the baseline reaches. These units
scale with the metric, so the order of runs is the same in percent. A bound of 0 has no size: its unit is 1, unless
`scales` or a baseline says more. `Gate.scales` replaces the unit of a metric, which then counts fully.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

COMPARE = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}
RULE = re.compile(r"\s*(>=|<=|>|<)\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*")
LINEAR = 0.8  # units up to which a shortfall counts what it is; one without end counts 1
GUARDS = 0.5  # what all metrics together count at most that the baseline reaches, or that have no known worst value
DECADE = 10.0  # the default unit of a metric that must be small, in sizes of its bound


@dataclass(frozen=True)
class Threshold:
    """One rule of a gate: `metric` must be `comparison` (a key of `COMPARE`) `bound`.

    Shortfalls are in `unit`, and count by `weight`. `origin` says in words where the unit comes from. A `linear`
    shortfall counts its units, without limit.
    """

    metric: str
    comparison: str
    bound: float
    unit: float
    origin: str
    weight: float = 1.0
    linear: bool = False

    def __str__(self) -> str:
        return f"{self.metric} {self.comparison} {self.bound:g}"

    @property
    def unit_text(self) -> str:
        """The unit, where it comes from, and how much the metric counts beside others, in words."""
        return f"unit {self.unit:.3g} ({self.origin}){'' if self.weight == 1 else f', counts {self.weight:.2g}'}"

    def clears(self, value: float) -> bool:
        """Return True if `value` clears the threshold; NaN does not."""
        return COMPARE[self.comparison](value, self.bound)

    def gap(self, value: float) -> float:
        """Return the distance from `value` to the bound, in the metric's own unit; negative on the side that clears."""
        return self.bound - value if self.comparison.startswith(">") else value - self.bound

    def shortfall(self, value: float) -> float:
        """Return the distance from `value` to the bound as it counts in the score; negative on the side that clears."""
        units = self.gap(value) / self.unit
        if self.linear or math.isnan(units):
            return units
        return math.copysign(self.weight * bounded(abs(units)), units)


def bounded(units: float) -> float:
    """Return what a shortfall of `units` (at least 0) counts: the units themselves up to `LINEAR`, and 1 for infinity.

    It is continuous and increases strictly. Beyond `LINEAR` it grows with the logarithm, because some metrics range
    over decades.
    """
    if units <= LINEAR:
        return units
    return 1.0 - (1.0 - LINEAR) / (1.0 + math.log(units / LINEAR))


def make_thresholds(
    rules: Mapping[str, str], scales: Mapping[str, float], baseline: Mapping[str, float], linear: bool
) -> list[Threshold]:
    """Return the thresholds of `rules`, which are valid (`RULE`), with their units. `linear`: as older versions had."""
    thresholds, guards = [], set()
    for metric, rule in rules.items():
        match = RULE.fullmatch(rule)
        assert match
        comparison, bound = match[1], float(match[2])
        size = abs(bound) or 1.0
        if scale := scales.get(metric):
            thresholds.append(Threshold(metric, comparison, bound, scale, "gate.scales", linear=linear))
        elif linear:
            thresholds.append(Threshold(metric, comparison, bound, size, "the size of the bound", linear=True))
        else:
            threshold, is_guard = _bounded_threshold(metric, comparison, bound, baseline.get(metric, math.nan))
            thresholds.append(threshold)
            guards |= {metric} if is_guard else set()
    if not 0 < len(guards) < len(thresholds):
        return thresholds
    weight = GUARDS / len(guards)
    return [replace(one, weight=weight) if one.metric in guards else one for one in thresholds]


def _bounded_threshold(metric: str, comparison: str, bound: float, baseline: float) -> tuple[Threshold, bool]:
    """Return a threshold with its unit, and True where the metric only guards; a `baseline` of NaN is not known."""
    is_guard, size = comparison.startswith("<"), abs(bound)
    if not bound:
        threshold = Threshold(metric, comparison, bound, 1.0, "no baseline, and a bound of 0")
    elif is_guard:
        threshold = Threshold(metric, comparison, bound, DECADE * size, f"no baseline: {DECADE:g} times the bound")
    else:
        threshold = Threshold(metric, comparison, bound, size, "no baseline: the distance from 0")
    distance = threshold.gap(baseline)
    if 0 < distance < math.inf:
        return replace(threshold, unit=distance, origin=f"from the baseline, {baseline:.4g}"), False
    if distance <= 0:
        return replace(threshold, origin=f"the baseline, {baseline:.4g}, reaches it"), True
    return threshold, is_guard
