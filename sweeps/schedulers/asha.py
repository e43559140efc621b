"""What to stop early: successive halving on the distance to the gate, and Tune's other schedulers by their YAML."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from typing import Any

from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler

from gatesweep.core.errors import InputError
from gatesweep.core.gate import WORST_SCORE
from gatesweep.sweeps.schedulers.history import EpochScore


class GateASHA(AsyncHyperBandScheduler):
    """Asynchronous successive halving on the gate's score, at rungs in absolute epochs.

    Of equal scores none is stopped, for nothing says which is the better. Nor is one that is as near to the gate, at a
    rung, as any that cleared it later was there: where many pass, the best third is no measure. A trial whose gated
    metrics are no numbers is stopped at the first epoch from `grace_period` on.

    With several `brackets` (asynchronous Hyperband; no more than there are rungs) later ones spare a trial its first
    rungs. Rungs are keyed by the sweep's own trial names and rebuilt from the record, so that a resumed sweep decides
    as if it had never been interrupted; Tune itself forgets them. Source: Li et al., arXiv:1810.05934.
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
        grace_period = min(grace_period, max_t)  # a longer one than the run stops nobody
        if reduction_factor < 2:
            raise InputError(f"scheduler.reduction_factor: got {reduction_factor}, expected at least 2")
        if brackets < 1:
            raise InputError(f"scheduler.brackets: got {brackets}, expected at least 1")
        rungs = 1 + int(math.log(max_t / grace_period, reduction_factor))
        super().__init__(
            time_attr="epoch",
            metric="score",
            mode="max",
            grace_period=grace_period,
            reduction_factor=reduction_factor,
            brackets=min(brackets, rungs),
            max_t=max_t,
        )
        self.grace_period = grace_period
        self.cleared: set[str] = set()  # the trials that cleared the gate once
        self.stopped: set[str] = set()  # of the trials in `seen`
        for together in seen:
            self.stopped |= self.thin(together)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Nothing: a trial's bracket is drawn by its name."""

    def thin(self, together: Sequence[EpochScore]) -> set[str]:
        """Record epochs that came together; returns whom to stop.

        One that comes alone is judged by those before it, as Tune does; those of a stack by each other too.
        """
        self.cleared |= {name for name, _, score in together if score >= 1}
        stopped = {name for name, epoch, score in together if self._is_hopeless(epoch, score)}
        reached = []
        for name, epoch, score in together:
            bracket = self._bracket(name)
            if (rung := _rung(bracket, epoch)) is not None and name not in rung:
                before = bracket.cutoff(rung)
                rung[name] = score
                reached.append((name, score, bracket, rung, before))
        for name, score, bracket, rung, before in reached:
            cutoff = before if len(together) == 1 else bracket.cutoff(rung)
            as_near = (rung[one] for one in self.cleared & rung.keys())
            if cutoff is not None and score < min([cutoff, *as_near]):  # None: nobody was there before
                stopped.add(name)
        return stopped & {name for name, epoch, _ in together if epoch < self._max_t}  # then it ends by itself

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if "reports" in result:
            return self._thin_stack(tune_controller, trial, result)
        stopped = self.thin([(trial.config["trial"], result["epoch"], result["score"])])
        return TrialScheduler.STOP if stopped else TrialScheduler.CONTINUE

    def _thin_stack(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        reports = [(config["trial"], told) for config, told in result["reports"]]
        stopped = self.thin([(name, told["epoch"], told["score"]) for name, told in reports])
        stopped -= {name for name, told in reports if told["done"]}
        for name, told in reports:
            told["stopped"] = name in stopped
        gone = stopped | {name for name, told in reports if told["done"]}
        if gone >= {config["trial"] for config in trial.config["members"]}:
            return TrialScheduler.STOP
        if stopped:  # before the next epoch: a process does what it is asked in turn
            tune_controller._schedule_trial_task(trial, "drop", (sorted(stopped),))
        return TrialScheduler.CONTINUE

    def _is_hopeless(self, epoch: int, score: float) -> bool:
        return epoch >= self.grace_period and score <= WORST_SCORE

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Hear of the last epochs, of which `on_trial_result` did not."""
        alone = [(trial.config, result)] if "score" in result else []  # it may have failed before its first
        reports = result.get("reports", []) if "members" in trial.config else alone
        self.thin([(config["trial"], told["epoch"], told["score"]) for config, told in reports])

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """Nothing: rungs are kept by the trial's name."""

    def _bracket(self, name: str) -> Any:
        """A trial's bracket, drawn by its name: e times as likely with every rung it has more than another."""
        weights = [math.exp(len(bracket._rungs)) for bracket in self._brackets]
        return random.Random(name).choices(self._brackets, weights)[0]


def _rung(bracket: Any, epoch: int) -> dict[str, float] | None:
    """The highest one that an epoch has reached."""
    return next((recorded for milestone, recorded in bracket._rungs if epoch >= milestone), None)
