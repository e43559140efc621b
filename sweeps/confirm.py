"""Winners run again, on seeds that no trial had: how often does such a configuration pass?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray.tune.search import Searcher

from gatesweep.core.trainable import Metrics
from gatesweep.sweeps import report

FRESH = 1_000_000  # how far above the trials' seeds these begin


class Confirmation(Searcher):
    """Hands Tune the runs that are left; `confirm_0003_1` is trial_0003 on a second seed.

    Every run is known beforehand, so an interrupted confirmation goes on, and one of more seeds adds to it.
    """

    def __init__(self, sweep: Path, seeds: int, trials: int) -> None:
        super().__init__()
        winners = [trial for trial in report.ranked(report.read_trials(sweep)) if trial.outcome == "passed"][:trials]
        self.unfinished = [
            {
                "trial": f"{trial.name.replace('trial', report.CONFIRM)}_{seed}",
                "number": FRESH + seed,
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


def settings(config: dict[str, Any], search: Confirmation) -> dict[str, Any]:
    """The configuration to confirm with: all runs begin, and each goes on until it passes or its epochs are over."""
    whole = {"num_samples": len(search.unfinished), "stop_after_passes": None, "time_budget": None}
    alone = {"resources": {**config["resources"], "stack": 1}}
    return {**config, **whole, **alone, "scheduler": {"_target_": "ray.tune.schedulers.FIFOScheduler"}}
