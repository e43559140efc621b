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
    """A source of curves: it picks the next curve and is told how each trial ended."""

    def ask(self) -> LearningCurve | None:
        """Return the next curve, each curve at most once; None when none is left."""
        ...

    def tell(self, name: str, outcome: str, epoch: int, metrics: Metrics) -> None:
        """Take note of how the trial `name` ended: its outcome, and its last epoch with the metrics of that epoch."""
        ...


class FixedOrder:
    """A source that takes the curves in the given order."""

    def __init__(self, curves: list[LearningCurve]) -> None:
        self.left = curves[::-1]

    def ask(self) -> LearningCurve | None:
        """Return the next curve; None when none is left."""
        return self.left.pop() if self.left else None

    def tell(self, name: str, outcome: str, epoch: int, metrics: Metrics) -> None:
        """Do nothing: a fixed order learns nothing from results."""


def shuffled_order(recorded: RecordedSweep, seed: str) -> FixedOrder:
    """Return a source that takes the recorded curves in random order."""
    return FixedOrder(random.Random(seed).sample(recorded.curves, len(recorded.curves)))


class NearestRecorded:
    """A source that follows a sampler: it picks the unused curve nearest to the sampler's proposal.

    The study receives the parameter values of the recorded curve, not the proposed ones. So every result in the study
    stands at the point where it was measured.
    """

    def __init__(self, config: Config, space: Space, curves: list[LearningCurve]) -> None:
        self.config, self.space, self.left = config, space, list(curves)
        self.search = Search(config, space, make_gate(config.gate), None)

    def ask(self) -> LearningCurve | None:
        """Return the unused curve nearest to the sampler's next proposal; None when none is left."""
        if not self.left:
            return None
        study = self.search.study
        past = study.get_trials(deepcopy=False)
        draft = optuna.create_study(directions=study.directions, sampler=self.search.sampler(len(past)))
        draft.add_trials(past)
        proposal = draft.ask()
        suggest_values(proposal, self.space, self.search.exhaustive)
        curve = min(self.left, key=lambda curve: point_distance(curve.params, proposal.params, proposal.distributions))
        self.left.remove(curve)
        study.sampler = optuna.samplers.RandomSampler(seed=len(past))  # never draws: the values are enqueued
        study.enqueue_trial(curve.params)
        self.search.suggestion(study.ask())
        return curve

    def tell(self, name: str, outcome: str, epoch: int, metrics: Metrics) -> None:
        """Tell the study how the trial ended."""
        self.search.tell(name, outcome, epoch, metrics)


def point_distance(
    first: Mapping[str, Any], second: Mapping[str, Any], distributions: Mapping[str, BaseDistribution]
) -> float:
    """Return the squared distance of two points in the unit cube of the search space.

    Each range has length 1, on a logarithmic scale where values are drawn on one. Unequal choices are 1 apart. A
    parameter that only one of the points has counts 1 as well. `distributions` holds those of `second`, by name.
    """
    distance = float(len(first.keys() ^ second.keys()))
    for key in first.keys() & second.keys():
        shape: Any = distributions[key]
        if isinstance(shape, CategoricalDistribution):
            distance += first[key] != second[key]
        elif shape.high > shape.low:
            scale = math.log if shape.log else float
            distance += ((scale(first[key]) - scale(second[key])) / (scale(shape.high) - scale(shape.low))) ** 2
    return distance


@dataclass(frozen=True)
class SimulatedEnd:
    """The end of one simulated trial."""

    curve: LearningCurve
    outcome: str  # that of the curve, or `stopped` by the scheduler, or `cut` by the end of the sweep
    epochs: int

    @property
    def false_kill(self) -> bool:
        """True for a trial that was stopped although its whole curve passes."""
        return self.outcome == "stopped" and self.curve.passes


@dataclass
class SimulatedSweep:
    """The result of one simulated sweep."""

    ends: dict[str, SimulatedEnd] = field(default_factory=dict)  # by the trial's name
    seconds: float = 0.0  # virtual
    first_pass: float = math.inf  # virtual seconds until a trial passed
    passed: int = 0


class SimulatedTrial:
    """The part of a Tune trial that schedulers read, over a recorded curve."""

    status = "RUNNING"

    def __init__(self, number: int, curve: LearningCurve) -> None:
        self.trial_id = f"trial_{number:04d}"
        self.config = {"trial": self.trial_id, "number": number}
        self.curve, self.epoch = curve, 0
        self.last_result: dict[str, Any] = {"epoch": 0, "score": WORST_SCORE}

    def report(self) -> bool:
        """Move on to the next epoch's result; return True if it is the last, or if the curve has no epoch."""
        if self.curve.scores:
            self.epoch += 1
            score = self.curve.scores[self.epoch - 1]
            self.last_result = {"epoch": self.epoch, "score": score, "training_iteration": self.epoch}
        return self.epoch == len(self.curve.scores)

    @property
    def seconds(self) -> float:
        """The duration of the next epoch."""
        return self.curve.seconds[self.epoch] if self.epoch < len(self.curve.seconds) else 0.0


def make_stopping_scheduler(config: Config, space: Space) -> TrialScheduler:
    """Make the scheduler that the section `scheduler` names. Raises InputError for one that does more than stop."""
    scheduler = make_scheduler(config.scheduler, config.training.max_epochs, space, config=config)
    stopping = GateASHA | AsyncHyperBandScheduler | MedianStoppingRule
    if isinstance(scheduler, stopping) or type(scheduler) is FIFOScheduler:
        return scheduler
    raise InputError(
        f"scheduler: got {config.scheduler['_target_']}, expected one that only stops trials "
        "(asha, hyperband, median, none): there are no recorded curves of trials that are paused, copied or changed"
    )


def simulate_sweep(config: Config, recorded: RecordedSweep, space: Space, source: Source) -> SimulatedSweep:
    """Run one sweep in virtual time, as Tune would: the scheduler hears of each epoch at the moment when it ends.

    A trial takes `recorded.start` seconds, then the recorded seconds of each of its epochs. Raises InputError where
    the scheduler asks for more than to stop trials.
    """
    scheduler = make_stopping_scheduler(config, space)
    result = SimulatedSweep()
    budget, enough_passes = config.time_budget or math.inf, config.stop_after_passes or math.inf
    max_trials, workers = config.num_samples or math.inf, config.max_concurrent or recorded.concurrent
    running: list[tuple[float, int, SimulatedTrial]] = []  # with the time of its next report; numbers break ties
    begun = 0
    controller: Any = _Controller(running)
    while result.passed < enough_passes:
        while len(running) < workers and begun < max_trials and (curve := source.ask()):
            trial = SimulatedTrial(begun, curve)
            scheduler.on_trial_add(controller, trial)
            heapq.heappush(running, (result.seconds + recorded.start + trial.seconds, begun, trial))
            begun += 1
        if not running or running[0][0] > budget:
            break
        result.seconds, number, trial = running[0]
        outcome = _outcome_after_epoch(scheduler, controller, trial)
        if outcome is None:
            heapq.heapreplace(running, (result.seconds + trial.seconds, number, trial))
            continue
        heapq.heappop(running)
        result.ends[trial.trial_id] = SimulatedEnd(trial.curve, outcome, trial.epoch)
        source.tell(trial.trial_id, outcome, trial.epoch, trial.curve.metrics[trial.epoch - 1] if trial.epoch else {})
        if outcome == "passed":
            result.passed += 1
            result.first_pass = min(result.first_pass, result.seconds)
    for _, _, trial in running:  # the end of the sweep cut them short
        result.ends[trial.trial_id] = SimulatedEnd(trial.curve, "cut", trial.epoch)
    return result


def _outcome_after_epoch(scheduler: TrialScheduler, controller: Any, trial: Any) -> str | None:
    """Report a trial's next epoch; return its outcome, or None if it goes on.

    The scheduler does not judge the last epoch.
    """
    outcome = trial.curve.outcome if trial.report() else None
    if outcome is None:
        decision = scheduler.on_trial_result(controller, trial, trial.last_result)
        if decision not in (TrialScheduler.CONTINUE, TrialScheduler.STOP):
            raise InputError(f"scheduler: it asked to {decision} a trial, expected to stop trials or to let them go on")
        outcome = "stopped" if decision == TrialScheduler.STOP else None
    if outcome:
        scheduler.on_trial_complete(controller, trial, trial.last_result)
    return outcome


class _Controller:
    """The part of Tune's controller that schedulers use."""

    def __init__(self, running: list[tuple[float, int, SimulatedTrial]]) -> None:
        self.running = running

    def get_live_trials(self) -> list[SimulatedTrial]:
        return [trial for _, _, trial in self.running]
