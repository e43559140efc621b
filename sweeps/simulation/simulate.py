"""A sweep over recorded curves in virtual time, with the schedulers and samplers that real sweeps use."""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from gatesweep.core.errors import InputError
from gatesweep.core.gate import WORST_SCORE
from gatesweep.core.trainable import Metrics
from gatesweep.sweeps.config.schema import Config, make_gate
from gatesweep.sweeps.schedulers.asha import GateASHA
from gatesweep.sweeps.schedulers.factory import make_scheduler
from gatesweep.sweeps.search.searcher import Search
from gatesweep.sweeps.search.space import Space, suggest_values
from gatesweep.sweeps.simulation.recorded import LearningCurve, RecordedSweep


class Source(Protocol):
    """Which curve is tried next."""

    def ask(self) -> LearningCurve | None: ...

    def tell(self, name: str, outcome: str, epoch: int, metrics: Metrics) -> None: ...


class FixedOrder:
    """One curve after the other."""

    def __init__(self, curves: list[LearningCurve]) -> None:
        self.left = curves[::-1]

    def ask(self) -> LearningCurve | None:
        return self.left.pop() if self.left else None

    def tell(self, name: str, outcome: str, epoch: int, metrics: Metrics) -> None:
        """Nobody learns from it."""


def shuffled_order(pool: RecordedSweep, seed: str) -> FixedOrder:
    return FixedOrder(random.Random(seed).sample(pool.curves, len(pool.curves)))


class NearestRecorded:
    """The curve that is nearest to what a sampler proposes, of those not tried yet; the sampler hears of that one.

    Its values are the recorded ones, not those proposed: the study holds what was measured, where it was measured.
    """

    def __init__(self, config: Config, space: Space, curves: list[LearningCurve]) -> None:
        self.config, self.space, self.left = config, space, list(curves)
        self.search = Search(config, space, make_gate(config.gate), None)

    def ask(self) -> LearningCurve | None:
        if not self.left:
            return None
        study = self.search.study
        past = study.get_trials(deepcopy=False)
        draft = optuna.create_study(directions=study.directions, sampler=self.search.sampler(len(past)))
        draft.add_trials(past)
        drawn = draft.ask()
        suggest_values(drawn, self.space, self.search.exhaustive)
        curve = min(self.left, key=lambda one: point_distance(one.params, drawn.params, drawn.distributions))
        self.left.remove(curve)
        study.sampler = optuna.samplers.RandomSampler(seed=len(past))  # asked for nothing
        study.enqueue_trial(curve.params)
        self.search.suggestion(study.ask())
        return curve

    def tell(self, name: str, outcome: str, epoch: int, metrics: Metrics) -> None:
        self.search.tell(name, outcome, epoch, metrics)


def point_distance(one: Mapping[str, Any], other: Mapping[str, Any], shapes: Mapping[str, BaseDistribution]) -> float:
    """Squared, in the unit cube of the space: ranges are 1 long (logarithms, where drawn so), unequal choices 1 apart.

    So are two points of which one alone has a parameter. `shapes` are those of `other`.
    """
    apart = float(len(one.keys() ^ other.keys()))
    for key in one.keys() & other.keys():
        shape: Any = shapes[key]
        if isinstance(shape, CategoricalDistribution):
            apart += one[key] != other[key]
        elif shape.high > shape.low:
            scale = math.log if shape.log else float
            apart += ((scale(one[key]) - scale(other[key])) / (scale(shape.high) - scale(shape.low))) ** 2
    return apart


@dataclass(frozen=True)
class SimulatedEnd:
    """How one trial of a replay ended."""

    curve: LearningCurve
    outcome: str
    epochs: int

    @property
    def false_kill(self) -> bool:
        return self.outcome == "stopped" and self.curve.passes


@dataclass
class SimulatedSweep:
    """What became of one replayed sweep."""

    ends: dict[str, SimulatedEnd] = field(default_factory=dict)  # by the trial's name
    seconds: float = 0.0  # virtual
    first_pass: float = math.inf
    passed: int = 0


class SimulatedTrial:
    """What schedulers read of a Tune trial."""

    status = "RUNNING"

    def __init__(self, number: int, curve: LearningCurve) -> None:
        self.trial_id = f"trial_{number:04d}"
        self.config = {"trial": self.trial_id, "number": number}
        self.curve, self.epoch = curve, 0
        self.last_result: dict[str, Any] = {"epoch": 0, "score": WORST_SCORE}

    def report(self) -> bool:
        """The next epoch's result; whether it is the last, as for a trial that failed before its first."""
        if self.curve.scores:
            self.epoch += 1
            score = self.curve.scores[self.epoch - 1]
            self.last_result = {"epoch": self.epoch, "score": score, "training_iteration": self.epoch}
        return self.epoch == len(self.curve.scores)

    @property
    def seconds(self) -> float:
        """Those of the next epoch."""
        return self.curve.seconds[self.epoch] if self.epoch < len(self.curve.seconds) else 0.0


def make_stopping_scheduler(config: Config, space: Space) -> TrialScheduler:
    """The scheduler of a setting; raises InputError for one that does more than stop trials."""
    chosen = make_scheduler(config.scheduler, config.training.max_epochs, space)
    if isinstance(chosen, GateASHA | AsyncHyperBandScheduler | MedianStoppingRule) or type(chosen) is FIFOScheduler:
        return chosen
    raise InputError(
        f"scheduler: got {config.scheduler['_target_']}, expected one that only stops trials (asha, hyperband, "
        "median, none): of trials that are paused, copied or changed there are no recorded curves"
    )


def simulate_sweep(config: Config, pool: RecordedSweep, space: Space, source: Source) -> SimulatedSweep:
    """One sweep, as Tune would run it: the scheduler hears of every epoch at the moment when it would end.

    A trial takes `pool.start` seconds, then its epochs as long as they are recorded to have taken.
    """
    chosen, done = make_stopping_scheduler(config, space), SimulatedSweep()
    budget, enough = config.time_budget or math.inf, config.stop_after_passes or math.inf
    most, workers = config.num_samples or math.inf, config.max_concurrent or pool.concurrent
    running: list[tuple[float, int, SimulatedTrial]] = []  # when each reports next; numbers keep ties in order
    begun = 0
    controller: Any = _Controller(running)
    while done.passed < enough:
        while len(running) < workers and begun < most and (curve := source.ask()):
            trial = SimulatedTrial(begun, curve)
            chosen.on_trial_add(controller, trial)
            heapq.heappush(running, (done.seconds + pool.start + trial.seconds, begun, trial))
            begun += 1
        if not running or running[0][0] > budget:
            break
        done.seconds, number, trial = running[0]
        outcome = _decide(chosen, controller, trial)
        if outcome is None:
            heapq.heapreplace(running, (done.seconds + trial.seconds, number, trial))
            continue
        heapq.heappop(running)
        done.ends[trial.trial_id] = SimulatedEnd(trial.curve, outcome, trial.epoch)
        source.tell(trial.trial_id, outcome, trial.epoch, trial.curve.metrics[trial.epoch - 1] if trial.epoch else {})
        if outcome == "passed":
            done.passed += 1
            done.first_pass = min(done.first_pass, done.seconds)
    for _, _, trial in running:  # the end of the sweep cut them short
        done.ends[trial.trial_id] = SimulatedEnd(trial.curve, "cut", trial.epoch)
    return done


def _decide(chosen: TrialScheduler, controller: Any, trial: Any) -> str | None:
    """What became of a trial with its next epoch; None while it goes on. A scheduler does not judge the last one."""
    outcome = trial.curve.outcome if trial.report() else None
    if outcome is None:
        decision = chosen.on_trial_result(controller, trial, trial.last_result)
        if decision not in (TrialScheduler.CONTINUE, TrialScheduler.STOP):
            raise InputError(f"scheduler: it asked to {decision} a trial, expected to stop trials or to let them go on")
        outcome = "stopped" if decision == TrialScheduler.STOP else None
    if outcome:
        chosen.on_trial_complete(controller, trial, trial.last_result)
    return outcome


class _Controller:
    """What schedulers ask of Tune's."""

    def __init__(self, running: list[tuple[float, int, SimulatedTrial]]) -> None:
        self.running = running

    def get_live_trials(self) -> list[SimulatedTrial]:
        return [trial for _, _, trial in self.running]
