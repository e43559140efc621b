"""Winners run again, on seeds that no trial had: how often does such a configuration pass?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray.tune.search import Searcher

from gatesweep.core.trainable import Metrics
from gatesweep.sweeps.config.schema import Config
from gatesweep.sweeps.records.layout import CONFIRM
from gatesweep.sweeps.records.reader import rank_trials, read_trials

FRESH_SEEDS = 1_000_000  # how far above the trials' seeds these begin


class Confirmation(Searcher):
    """Hands Tune the runs that are left; `confirm_0003_1` is trial_0003 on a second seed.

    Every run is known beforehand, so an interrupted confirmation goes on, and one of more seeds adds to it.
    """

    def __init__(self, sweep: Path, seeds: int, trials: int) -> None:
        super().__init__()
        winners = [trial for trial in rank_trials(read_trials(sweep)) if trial.outcome == "passed"][:trials]
        self.unfinished = [
            {
                "trial": f"{trial.name.replace('trial', CONFIRM)}_{seed}",
                "number": FRESH_SEEDS + seed,
                "values": trial.values,
            }
            for seed in range(seeds)  # so that each winner has been run once before the first is again
            for trial in winners
        ]
        self.live: dict[str, dict[str, Any]] = {}

    def is_over(self) -> bool:
        return not self.unfinished

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict, **spec: Any) -> bool:
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if not self.unfinished:
            return None if self.live else Searcher.FINISHED  # one that runs may be handed back yet
        return self.suggestion(self.unfinished.pop(0))

    def suggestion(self, trial: dict[str, Any]) -> dict[str, Any]:
        self.live[trial["trial"]] = trial
        return dict(trial)

    def hand_back(self, name: str) -> None:
        """Take a run back that never began, to hand it out again."""
        self.unfinished.append(self.live.pop(name))

    def tell(self, name: str, outcome: str, epoch: int, metrics: Metrics) -> None:
        """Its record says it all."""
        del self.live[name]

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        """Nothing: the recorder calls `tell`."""


def confirmation_config(config: Config, search: Confirmation) -> Config:
    """The configuration to confirm with: all runs begin, and each goes on until it passes or its epochs are over."""
    return config.replace(
        num_samples=len(search.unfinished),
        stop_after_passes=None,
        time_budget=None,
        resources=config.resources.replace(stack=1),
        scheduler={"_target_": "ray.tune.schedulers.FIFOScheduler"},
    )
