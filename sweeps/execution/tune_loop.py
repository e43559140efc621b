"""Tune's loop over the trials of a sweep. It keeps nothing of ended trials: the record is in their folders."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.error import TuneError
from ray.tune.experiment import Experiment, Trial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import ConcurrencyLimiter, Searcher

from gatesweep.sweeps.execution.ray_private import CountingSearchGenerator, LeanTuneController
from gatesweep.sweeps.execution.watchdog import Watchdog


def run_tune(
    trial: Any,
    folder: Path,
    search: Searcher,
    scheduler: TrialScheduler,
    *,
    stop: Callable[[], bool],
    callbacks: list[tune.Callback],
    concurrent: int,
    resources: tune.PlacementGroupFactory,
    max_failures: int,
    watchdog: Watchdog,
) -> None:
    """Run the trials that `search` suggests, `concurrent` at a time, until it has no more or `stop()` is true.

    `trial` is the class that Tune runs, `folder` the sweep's, `resources` the reservation of each trial. Raises the
    OSError of a callback that could not write.

    Leaves out what `tune.run` does for readers of Tune's own files: the snapshot of every trial at the end, the
    analysis that looks for files which are not written, and the import of every tracker that Tune knows, which takes
    seconds before the first trial.
    """
    experiment = Experiment(
        ".tune",
        trial,
        num_samples=sys.maxsize,  # the search ends the sweep
        storage_path=str(folder),
        max_failures=max_failures,
    )
    generator = LeanSearchGenerator(ConcurrencyLimiter(search, max_concurrent=concurrent))
    generator.resources = resources
    generator.add_configurations([experiment])
    controller = LeanTuneController(
        search_alg=generator,
        scheduler=scheduler,
        callbacks=[watchdog, *callbacks],  # before the recorder, which takes the metrics out of a report
        reuse_actors=True,
        storage=experiment.storage,
        trial_checkpoint_config=experiment.checkpoint_config,
    )
    controller.setup_experiments([experiment], total_num_samples=generator.total_samples)
    try:
        while not controller.is_finished() and not stop():
            controller.step()
            watchdog.look(controller.awaited_actors())
    except Exception as fault:
        controller.cleanup()
        if isinstance(fault, TuneError) and isinstance(fault.__context__, OSError):
            raise fault.__context__ from None  # Tune puts its text into an error of its own
        raise
    controller.cleanup()


class LeanSearchGenerator(CountingSearchGenerator):
    """Makes Tune's trials from the suggestions of a search, without copying and parsing the experiment for each."""

    resources: tune.PlacementGroupFactory  # shared by all trials, so that Tune need not compare contents

    def create_trial_if_possible(self, experiment_spec: dict[str, Any]) -> Trial | None:
        """Return the next trial; None while the search has no suggestion, or after its last one."""
        trial_id = Trial.generate_id()
        suggestion = self.searcher.suggest(trial_id)
        if suggestion == Searcher.FINISHED:
            self.set_finished()
        if not isinstance(suggestion, dict):
            return None
        self.count_trial()
        return Trial(
            experiment_spec["run"],
            trial_id=trial_id,
            storage=experiment_spec["storage"],
            config=suggestion,
            experiment_tag=suggestion["trial"],
            placement_group_factory=self.resources,
            max_failures=experiment_spec["max_failures"],
        )
