"""The compliance gate: thresholds that must all clear at once, and a score for the distance to them.

The reasons for the score, and the units of its distances, are in `core.shortfall`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

from gatesweep.core.errors import InputError, MissingMetric
from gatesweep.core.shortfall import RULE, Threshold, make_thresholds
from gatesweep.core.trainable import Metrics

WORST_SCORE = -1e9  # the score where a metric is NaN: it ranks last, and is still a finite number


@dataclass(frozen=True)
class Gate:
    """Thresholds by metric, e.g. ``{"val/edge_compliance": "> 0.95"}``. A gate without thresholds never passes.

    `objective` is the metric that ranks the runs that clear every threshold; `mode` says if it is minimised or
    maximised. `bound` chooses the number that is compared where a metric is a proportion: `point` is the proportion
    itself, `wilson` the end of its 95 % Wilson interval that is nearer to failing. `consecutive` is the number of
    epochs in a row that must clear.

    `baseline` has the metrics of a model that has learned nothing: they give the shortfalls their units. `scales` gives
    units directly. `shortfall` is `bounded`, or `linear` for records of older versions: there a shortfall has no limit,
    and its unit is the size of its bound.

    Raises InputError for a value that is none of these.
    """

    thresholds: Mapping[str, str] = field(default_factory=dict)
    objective: str | None = None
    mode: Literal["min", "max"] = "max"
    bound: Literal["point", "wilson"] = "point"
    consecutive: int = 1
    scales: Mapping[str, float] = field(default_factory=dict)
    baseline: Mapping[str, float] = field(default_factory=dict)
    shortfall: Literal["bounded", "linear"] = "bounded"

    def __post_init__(self) -> None:
        for metric, rule in self.thresholds.items():
            if not RULE.fullmatch(str(rule)):
                raise InputError(f"gate.thresholds: {metric!r} got {rule!r}, expected e.g. '> 0.95' or '<= 0.1'")
        if self.mode not in ("min", "max"):
            raise InputError(f"gate.mode: got {self.mode!r}, expected min or max")
        if self.bound not in ("point", "wilson"):
            raise InputError(f"gate.bound: got {self.bound!r}, expected point or wilson")
        if self.shortfall not in ("bounded", "linear"):
            raise InputError(f"gate.shortfall: got {self.shortfall!r}, expected bounded or linear")
        if self.consecutive < 1:
            raise InputError(f"gate.consecutive: got {self.consecutive}, expected at least 1")
        for metric, scale in self.scales.items():
            if not scale > 0:
                raise InputError(f"gate.scales: {metric!r} got {scale!r}, expected a positive number")

    @cached_property
    def rules(self) -> list[Threshold]:
        """The thresholds, parsed, with their units, in the order in which they were given."""
        return make_thresholds(self.thresholds, self.scales, self.baseline, self.shortfall == "linear")

    @property
    def reads(self) -> list[str]:
        """The metrics that a run must report: those with a threshold, and the objective."""
        return [*self.thresholds, *([self.objective] if self.objective else [])]

    def require(self, metrics: Metrics) -> None:
        """Raise InputError unless `metrics` has every metric that this gate reads."""
        for metric in self.reads:
            if metric not in metrics:
                raise _not_reported(metric, metrics)

    def missed(self, metrics: Metrics) -> list[str]:
        """Return one line for each threshold that does not clear. Raises InputError where a metric is absent."""
        self.require(metrics)
        return [
            f"{rule.metric} = {self._value(rule, metrics):.4g}, needs {rule.comparison} {rule.bound:g}"
            for rule in self.rules
            if not self._clears(rule, metrics)
        ]

    @property
    def unit_lines(self) -> list[str]:
        """One line for each threshold: its unit, where that comes from, and how much the metric counts."""
        return [f"{rule}, {rule.unit_text}" for rule in self.rules]

    def cleared(self, metrics: Metrics) -> bool:
        """Return True if every threshold clears at once. Raises InputError where a metric is absent."""
        return bool(self.rules) and not self.missed(metrics)

    def score(self, metrics: Metrics) -> float:
        """Return one number, larger is better, never NaN. Raises InputError where a metric is absent.

        It is in [1, 2) once the gate is cleared, and grows with the objective. Else it is minus the sum of the
        shortfalls, at most 0; `WORST_SCORE` where a metric is NaN. Without thresholds it is in [-1, 0), and grows with
        the objective.
        """
        self.require(metrics)
        if not self.rules:
            return squash(self.objective_value(metrics)) - 1.0
        if self.cleared(metrics):
            return 1.0 + squash(self.objective_value(metrics))
        shortfalls = [rule.shortfall(self._value(rule, metrics)) for rule in self.rules]
        if any(math.isnan(shortfall) for shortfall in shortfalls):  # `max(0.0, nan)` is 0.0
            return WORST_SCORE
        return max(-sum(max(0.0, shortfall) for shortfall in shortfalls), WORST_SCORE)

    def objective_value(self, metrics: Metrics) -> float:
        """Return the objective as a number to maximise; NaN where the gate has none."""
        value = metrics[self.objective] if self.objective else math.nan
        return -value if self.mode == "min" else value

    def compared_value(self, rule: Threshold, metrics: Mapping[str, float]) -> float | None:
        """Return the number that is compared with the bound of `rule`; None where the metric is absent.

        It is the metric itself, or, with `bound` wilson, the end of its interval where there is one.
        """
        value = metrics.get(rule.metric)
        if self.bound == "point":
            return value
        return metrics.get(rule.metric + ("_low" if rule.comparison.startswith(">") else "_high"), value)

    def other_verdict(self, metrics: Metrics) -> str:
        """Return in words the verdict of the other `bound` where it differs from this one's; else an empty string.

        It is empty, too, where a metric is absent.
        """
        other = replace(self, bound=self.other_bound)
        if any(metric not in metrics for metric in self.reads) or other.cleared(metrics) == self.cleared(metrics):
            return ""
        return "clears" if other.cleared(metrics) else f"misses: {'; '.join(other.missed(metrics))}"

    @property
    def other_bound(self) -> Literal["point", "wilson"]:
        """The value of `bound` that this gate has not."""
        return "wilson" if self.bound == "point" else "point"

    def constraints(self, metrics: Metrics) -> Metrics:
        """Return the signed shortfall of each threshold: finite, and at most 0 exactly when the threshold clears.

        That is a constraint as Optuna defines it. Raises InputError where a metric is absent.
        """
        values = {}
        for rule in self.rules:
            shortfall = rule.shortfall(self._value(rule, metrics))
            if not math.isfinite(shortfall):
                shortfall = -WORST_SCORE if math.isnan(shortfall) or shortfall > 0 else WORST_SCORE
            strict_tie = shortfall <= 0 and not self._clears(rule, metrics)
            values[rule.metric] = math.ulp(0.0) if strict_tie else shortfall
        return values

    def _value(self, rule: Threshold, metrics: Metrics) -> float:
        value = self.compared_value(rule, metrics)
        if value is None:
            raise _not_reported(rule.metric, metrics)
        return value

    def _clears(self, rule: Threshold, metrics: Metrics) -> bool:
        return rule.clears(self._value(rule, metrics))


def squash(value: float) -> float:
    """Map a real number to [0, 1): 1/2 + arctan(value)/pi, strictly below 1. NaN gives 0."""
    return 0.0 if math.isnan(value) else min(0.5 + math.atan(value) / math.pi, math.nextafter(1.0, 0.0))


def proportion(name: str, hits: float, total: float, z: float = 1.96) -> Metrics:
    """Return `hits / total` as metric `name`, with the ends of its Wilson interval as `name_low` and `name_high`.

    These two say that a metric is a proportion, and of how many cases. Where cases do not all weigh the same, `total`
    is the number of equal, independent cases that tell as much. z = 1.96 covers 95 %. Without samples (0 of 0) the
    proportion is 0, with the interval [0, 1].
    Source: Wilson, J. Am. Stat. Assoc. 22 (1927) 209.
    """
    if total == 0:
        return {name: 0.0, f"{name}_low": 0.0, f"{name}_high": 1.0}
    share = hits / total
    centre = share + z * z / (2 * total)
    spread = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    low, high = max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)
    return {name: share, f"{name}_low": low, f"{name}_high": high}


def interval(name: str, metrics: Mapping[str, float]) -> tuple[float, float] | None:
    """Return the ends of a proportion's 95 % interval, as `proportion` reported them; None for another metric."""
    low, high = metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
    return None if low is None or high is None or name not in metrics else (low, high)


def is_interval_end(name: str, names: Collection[str]) -> bool:
    """Return True for a name that is an end of the interval of another metric among `names`."""
    base, _, end = name.rpartition("_")
    return end in ("low", "high") and {base, f"{base}_low", f"{base}_high"} <= set(names)


def _not_reported(metric: str, metrics: Metrics) -> MissingMetric:
    names = sorted(name for name in metrics if not name.endswith(("_low", "_high")))
    return MissingMetric(f"gate: {metric!r} is not reported; this trainable reports {', '.join(names)}")
