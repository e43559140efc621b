"""Confirmation: winners run again on fresh seeds, to measure the rate at which their values pass."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray.tune.search import Searcher

from gatesweep.core.errors import InputError
from gatesweep.core.trainable import Metrics
from gatesweep.sweeps.config.schema import Config
from gatesweep.sweeps.records.layout import CONFIRM, TRIAL, trial_folders
from gatesweep.sweeps.records.reader import rank_trials, read_trials

FRESH_SEEDS = 1_000_000  # the first seed number of a confirmation, far above the numbers of trials


class Confirmation(Searcher):
    """Proposes to Tune the runs that are left; `confirm_0003_1` is trial_0003 on its second fresh seed.

    All runs are known in advance, so an interrupted confirmation can go on, and more seeds add to an earlier one.
    """

    def __init__(self, sweep: Path, seeds: int, trials: int, data_seeds: Mapping[str, int] = {}) -> None:
        """Plan `seeds` runs for each of the best `trials` that passed. Raises InputError for a damaged record.

        `data_seeds` are those of the data by dotted key, where each fresh seed gets fresh data (`data_seeds`).
        """
        super().__init__()
        winners = [trial for trial in rank_trials(read_trials(sweep)) if trial.outcome == "passed"][:trials]
        self.unfinished = [
            {
                "trial": f"{trial.name.replace(TRIAL, CONFIRM)}_{seed}",
                "number": FRESH_SEEDS + seed,
                "values": {**trial.values, **_fresh_data(data_seeds, trial.values, FRESH_SEEDS + seed)},
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


def data_seeds(config: Config) -> dict[str, int]:
    """Return the seeds that fresh data would change, by dotted key: those of the section `data`."""
    if config.confirm.data == "same":
        return {}
    return {f"data.{key}": value for key, value in config.data.items() if key.endswith("_seed")}


def check_fresh_data(config: Config, before: Config | None, sweep: Path) -> None:
    """Raise InputError where `confirm.data` asks for what the data cannot do, or for a mixture in one sweep.

    `before` is the configuration of a sweep that goes on.
    """
    confirm = config.confirm
    if confirm.seeds and confirm.data == "fresh" and not data_seeds(config):
        raise InputError("confirm.data: got 'fresh', expected 'same': the section data has no key that ends in _seed")
    if before and before.confirm.data != confirm.data and trial_folders(sweep, CONFIRM):
        expected = f"{before.confirm.data!r}, as its runs on fresh seeds have it"
        raise InputError(f"confirm.data: got {confirm.data!r}, expected {expected}")


def confirmation_config(config: Config, runs: int) -> Config:
    """Return the configuration of a confirmation of `runs` runs: each goes on until it passes or has no epochs left."""
    return config.replace(
        num_samples=runs,
        stop_after_passes=None,
        time_budget=None,
        resources=config.resources.replace(stack=1),
        scheduler={"_target_": "ray.tune.schedulers.FIFOScheduler"},
    )


def _fresh_data(seeds: Mapping[str, int], values: Mapping[str, Any], number: int) -> dict[str, int]:
    """Return the seeds of a run's data: those of the sweep, or of a trial that varied them, plus the run's number."""
    return {key: values.get(key, seed) + number for key, seed in seeds.items()}
