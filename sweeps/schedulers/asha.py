"""Asynchronous successive halving on the gate's score."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from gatesweep.core.errors import InputError
from gatesweep.core.gate import WORST_SCORE
from gatesweep.sweeps.schedulers.history import EpochScore
from gatesweep.sweeps.schedulers.tune_private import call_trial_method

MOST_REDUCED = 1000  # more trials than this never wait at one rung for one to go on
MOST_BRACKETS = 53  # rungs of the longest run that a configuration may have, at the smallest reduction factor


class GateASHA(FIFOScheduler):
    """Asynchronous successive halving on the gate's score, at rungs in absolute epochs.

    At each rung a trial stops when its score is below the cut-off of the rung. Three rules go beyond Tune's scheduler:
    * Ties survive: a trial at the cut-off goes on, because nothing says which of equal scores is the better.
    * A trial goes on when it is as near to the gate at a rung as some trial was that cleared the gate later. Where many
      trials pass, the best third is no measure.
    * A trial whose gated metrics are NaN stops at the first epoch from `grace_period` on.

    `grace_period` and `max_t` are epochs. With several `brackets` (asynchronous Hyperband; at most one a rung), later
    brackets spare a trial its first rungs. `seen` is the history of a resumed sweep, in groups that arrived together.
    Rungs are keyed by the sweep's own trial names and rebuilt from that history, so a resumed sweep decides as if it
    had never been interrupted. Raises InputError for an option out of its range.
    Source: Li et al., arXiv:1810.05934.
    """

    def __init__(
        self,
        *,
        grace_period: int = 1,
        reduction_factor: float = 3,
        brackets: int = 1,
        max_t: int,
        seen: Iterable[Sequence[EpochScore]] = (),
    ) -> None:
        if grace_period < 1:
            raise InputError(f"scheduler.grace_period: got {grace_period}, expected at least 1 epoch")
        grace_period = min(grace_period, max_t)  # with a longer one than the run, no trial is stopped
        if not 2 <= reduction_factor <= MOST_REDUCED:
            got = f"scheduler.reduction_factor: got {reduction_factor}"
            raise InputError(f"{got}, expected at least 2 and at most {MOST_REDUCED}")
        if not 1 <= brackets <= MOST_BRACKETS:
            got = f"scheduler.brackets: got {brackets}"
            raise InputError(f"{got}, expected at least 1 and at most {MOST_BRACKETS}: at most one a rung")
        super().__init__()
        self.grace_period, self.max_t = grace_period, max_t
        rungs = 1 + int(math.log(max_t / grace_period, reduction_factor))
        self.brackets = [
            Bracket(grace_period, max_t, reduction_factor, skipped=number) for number in range(min(brackets, rungs))
        ]
        self.cleared: set[str] = set()  # trials that cleared the gate at some epoch
        self.stopped: set[str] = set()  # trials of `seen` that were stopped at their last epoch
        for reports in seen:  # one that finished with fewer epochs, and trains on, was not stopped there
            self.stopped = self.stopped - {name for name, *_ in reports} | self.record_and_stop(reports)

    def record_and_stop(self, reports: Sequence[EpochScore]) -> set[str]:
        """Record epochs that arrived together; return the names of the trials to stop.

        A trial that reports alone is compared with the trials before it, as in Tune. Members of a stack are also
        compared with each other. A trial at its last epoch is never stopped: it ends by itself.
        """
        self.cleared |= {name for name, _, score in reports if score >= 1}
        stopped = {name for name, epoch, score in reports if self._is_hopeless(epoch, score)}
        arrivals = []
        for name, epoch, score in reports:
            bracket = self.bracket_of(name)
            rung = bracket.highest_rung(epoch)
            if rung is not None and name not in rung:
                previous_cutoff = bracket.cutoff(rung)
                rung[name] = score
                arrivals.append((name, bracket, rung, previous_cutoff))
        for name, bracket, rung, previous_cutoff in arrivals:
            cutoff = previous_cutoff if len(reports) == 1 else bracket.cutoff(rung)
            if cutoff is None:  # the first trial at this rung
                continue
            cleared_scores = [rung[cleared] for cleared in self.cleared & rung.keys()]
            if rung[name] < min([cutoff, *cleared_scores]):
                stopped.add(name)
        return stopped & {name for name, epoch, _ in reports if epoch < self.max_t}

    def bracket_of(self, name: str) -> Bracket:
        """Return the bracket of a trial, drawn by the trial's name alone.

        Each rung that a bracket has more than another makes it e times as likely.
        """
        weights = [math.exp(len(bracket.rungs)) for bracket in self.brackets]
        return random.Random(name).choices(self.brackets, weights)[0]

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Decide, for Tune, whether a trial goes on after an epoch; a stack goes on until all its members have ended.

        Marks the `reports` of a stack's stopped members, and tells its process to drop them.
        """
        if "reports" in result:
            return self._on_stack_result(tune_controller, trial, result)
        stopped = self.record_and_stop([(trial.config["trial"], result["epoch"], result["score"])])
        return TrialScheduler.STOP if stopped else TrialScheduler.CONTINUE

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Record the last epochs, which Tune does not pass to `on_trial_result`."""
        if "members" in trial.config:
            reports = result.get("reports", [])
        else:
            reports = [(trial.config, result)] if "score" in result else []  # it may have failed before its first epoch
        self.record_and_stop([(config["trial"], report["epoch"], report["score"]) for config, report in reports])

    def _on_stack_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        reports = [(config["trial"], report) for config, report in result["reports"]]
        stopped = self.record_and_stop([(name, report["epoch"], report["score"]) for name, report in reports])
        done = {name for name, report in reports if report["done"]}
        stopped -= done
        for name, report in reports:
            report["stopped"] = name in stopped
        if stopped | done >= {config["trial"] for config in trial.config["members"]}:
            return TrialScheduler.STOP
        if stopped:
            call_trial_method(tune_controller, trial, "drop", sorted(stopped))
        return TrialScheduler.CONTINUE

    def _is_hopeless(self, epoch: int, score: float) -> bool:
        return epoch >= self.grace_period and score <= WORST_SCORE


class Bracket:
    """Rungs of one bracket of successive halving: milestones in epochs, and the scores of the trials that reached them.

    Milestones are `min_t * reduction_factor**k` up to `max_t`, without the first `skipped` ones. `rungs` holds pairs of
    a milestone and the scores by trial name, the highest milestone first. Milestones and cut-offs equal those of Ray's
    AsyncHyperBandScheduler. Source: Li et al., arXiv:1810.05934, algorithm 2.
    """

    def __init__(self, min_t: int, max_t: int, reduction_factor: float, skipped: int = 0) -> None:
        self.reduction_factor = reduction_factor
        count = int(np.log(max_t / min_t) / np.log(reduction_factor) - skipped + 1)
        self.rungs: list[tuple[float, dict[str, float]]] = [
            (min_t * reduction_factor ** (rung + skipped), {}) for rung in reversed(range(count))
        ]

    def highest_rung(self, epoch: int) -> dict[str, float] | None:
        """Return the scores at the highest rung that an epoch has reached; None below the first rung."""
        return next((scores for milestone, scores in self.rungs if epoch >= milestone), None)

    def cutoff(self, scores: dict[str, float]) -> float | None:
        """Return the score that the best `1 / reduction_factor` of a rung reach; None for an empty rung."""
        if not scores:
            return None
        return np.nanpercentile(list(scores.values()), (1 - 1 / self.reduction_factor) * 100)
