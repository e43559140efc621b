"""Confirmation: winners run again on fresh seeds, to measure the rate at which their values pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray.tune.search import Searcher

from gatesweep.core.trainable import Metrics
from gatesweep.sweeps.config.schema import Config
from gatesweep.sweeps.records.layout import CONFIRM, TRIAL
from gatesweep.sweeps.records.reader import rank_trials, read_trials

FRESH_SEEDS = 1_000_000  # the first seed number of a confirmation, far above the numbers of trials


class Confirmation(Searcher):
    """Proposes to Tune the runs that are left; `confirm_0003_1` is trial_0003 on its second fresh seed.

    All runs are known in advance, so an interrupted confirmation can go on, and more seeds add to an earlier one.
    """

    def __init__(self, sweep: Path, seeds: int, trials: int) -> None:
        """Plan `seeds` runs for each of the best `trials` that passed. Raises InputError for a damaged record."""
        super().__init__()
        winners = [trial for trial in rank_trials(read_trials(sweep)) if trial.outcome == "passed"][:trials]
        self.unfinished = [
            {
                "trial": f"{trial.name.replace(TRIAL, CONFIRM)}_{seed}",
                "number": FRESH_SEEDS + seed,
                "values": trial.values,
            }
            for seed in range(seeds)  # every winner runs once before the first runs again
            for trial in winners
        ]
        self.live: dict[str, dict[str, Any]] = {}

    def is_over(self) -> bool:
        """Return True if no run is left to begin."""
        return not self.unfinished

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict, **spec: Any) -> bool:
        """Accept whatever Tune sets: the runs are planned."""
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the next run; None while none is left but a live one may be handed back, FINISHED after that."""
        if not self.unfinished:
            return None if self.live else Searcher.FINISHED
        return self.suggestion(self.unfinished.pop(0))

    def suggestion(self, trial: dict[str, Any]) -> dict[str, Any]:
        """Return the Tune configuration of a run, and count the run as live."""
        self.live[trial["trial"]] = trial
        return dict(trial)

    def hand_back(self, name: str) -> None:
        """Take back a run that never began, to propose it again."""
        self.unfinished.append(self.live.pop(name))

    def tell(self, name: str, outcome: str, epoch: int, metrics: Metrics) -> None:
        """End a live run. Its folder records the outcome."""
        del self.live[name]

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        """Do nothing: the recorder calls `tell`."""


def confirmation_config(config: Config, runs: int) -> Config:
    """Return the configuration of a confirmation of `runs` runs: each goes on until it passes or has no epochs left."""
    return config.replace(
        num_samples=runs,
        stop_after_passes=None,
        time_budget=None,
        resources=config.resources.replace(stack=1),
        scheduler={"_target_": "ray.tune.schedulers.FIFOScheduler"},
    )
