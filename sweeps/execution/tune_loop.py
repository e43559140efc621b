"""Tune's loop over the trials of a sweep, which keeps nothing of those that ended: the record is in their folders."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Experiment, Trial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import ConcurrencyLimiter, Searcher, SearchGenerator


class LeanSearchGenerator(SearchGenerator):
    """Makes Tune's trials of what the search suggests, without copying and parsing the experiment for each."""

    resources: tune.PlacementGroupFactory  # one for all, so that no two are compared by their contents

    def create_trial_if_possible(self, experiment_spec: dict[str, Any]) -> Trial | None:
        trial_id = Trial.generate_id()
        suggested = self.searcher.suggest(trial_id)
        if suggested == Searcher.FINISHED:
            self.set_finished()
        if not isinstance(suggested, dict):
            return None
        self._counter += 1
        return Trial(
            experiment_spec["run"],
            trial_id=trial_id,
            storage=experiment_spec["storage"],
            config=suggested,
            experiment_tag=suggested["trial"],
            placement_group_factory=self.resources,
            max_failures=experiment_spec["max_failures"],
        )


class LeanTuneController(TuneController):
    """Tune's, without snapshots of its state and without a list of what it did: neither would be read."""

    def checkpoint(self, force: bool = False, wait: bool = False) -> None:
        pass

    def _mark_trial_to_checkpoint(self, trial: Trial) -> None:
        pass

    def on_step_end(self) -> None:
        super().on_step_end()
        for trial in [one for one in self._trials if one.is_finished()]:
            self._trials.remove(trial)
            for known in (self._live_trials, self._stopped_trials, self._failed_trials):
                known.discard(trial)


def run_tune(
    trial: Any,
    folder: Path,
    search: Searcher,
    scheduler: TrialScheduler,
    *,
    stop: tune.Stopper,
    callbacks: list[tune.Callback],
    concurrent: int,
    resources: tune.PlacementGroupFactory,
    max_failures: int,
) -> None:
    """`tune.run` on a sweep, less what serves only who reads Tune's own files afterwards.

    There is no snapshot of every trial at the end, no analysis that looks for files which are not written, and no
    import of every tracker that Tune knows, which takes seconds before the first trial.
    """
    experiment = Experiment(
        ".tune",
        trial,
        stop=stop,
        num_samples=sys.maxsize,  # the search knows
        storage_path=str(folder),
        max_failures=max_failures,
    )
    asked = LeanSearchGenerator(ConcurrencyLimiter(search, max_concurrent=concurrent))
    asked.resources = resources
    asked.add_configurations([experiment])
    loop = LeanTuneController(
        search_alg=asked,
        scheduler=scheduler,
        stopper=stop,
        callbacks=callbacks,
        reuse_actors=True,
        storage=experiment.storage,
        trial_checkpoint_config=experiment.checkpoint_config,
    )
    loop.setup_experiments([experiment], total_num_samples=asked.total_samples)
    try:
        while not loop.is_finished():
            loop.step()
    except Exception:
        loop.cleanup()
        raise
    loop.cleanup()
