"""The trials of a sweep: which class Tune runs them as, and what it is handed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from gatesweep.core.cache import cache_name
from gatesweep.sweeps.commands.signals import raise_if_interrupted
from gatesweep.sweeps.config.schema import Config
from gatesweep.sweeps.config.trust import current_trust
from gatesweep.sweeps.execution.recorder import Recorder
from gatesweep.sweeps.execution.stack import StackTrial
from gatesweep.sweeps.execution.stopping import Budget
from gatesweep.sweeps.execution.trial import DirectTrial, several_workers
from gatesweep.sweeps.execution.tune_loop import run_tune
from gatesweep.sweeps.execution.watchdog import Watchdog
from gatesweep.sweeps.schedulers.factory import make_scheduler
from gatesweep.sweeps.schedulers.history import recorded_scores
from gatesweep.sweeps.search.space import Space

TUNE_FOLDER = ".tune"  # in the sweep's folder: Tune's own files, of no use once the sweep has ended


def train_trials(folder: Path, config: Config, space: Space, recorder: Recorder, concurrent: int) -> list[str]:
    """Hand the trials that are left to Tune, `concurrent` at a time.

    Returns the keys of the limits that ended it with trials left, which are interrupted or did not begin. Raises
    KeyboardInterrupt, and OSError where the record cannot be written.
    """
    search = recorder.search
    scheduler = make_scheduler(config.scheduler, config.training.max_epochs, space, recorded_scores(folder), config)
    recorder.finish_unended(getattr(scheduler, "stopped", set()))
    budget = Budget(recorder, config)
    reached: list[str] = [] if search.is_over() else budget.reached()
    if search.is_over() or reached:
        recorder.close()
        return reached

    def stop() -> bool:
        raise_if_interrupted()
        recorder.tick()
        reached.extend(budget.reached())
        if reached:
            recorder.interrupted()
        return bool(reached)

    shutil.rmtree(folder / TUNE_FOLDER, ignore_errors=True)  # of what ran before this
    trial, reservation, callbacks = _trial_class(config, space, folder)
    run_tune(
        trial,
        folder,
        search,
        scheduler,
        stop=stop,
        callbacks=[recorder, *callbacks],
        concurrent=concurrent,
        resources=reservation,
        max_failures=config.resources.max_failures,
        watchdog=Watchdog(config.resources.silence, recorder.deaths),
    )
    return reached


def _trial_class(
    config: Config, space: Space, folder: Path
) -> tuple[Any, tune.PlacementGroupFactory, list[tune.Callback]]:
    """The class that Tune runs a trial as, its reservation, and the callbacks that clear up after it."""
    resources = config.resources
    parameters = {"base": config, "sweep": str(folder), "cache": cache_name(), "trust": current_trust()}
    if not several_workers(config.resources, space):
        reservation = tune.PlacementGroupFactory([{"CPU": resources.cpus_per_worker, "GPU": resources.gpus_per_worker}])
        trial = DirectTrial if resources.stack == 1 else StackTrial
        return tune.with_parameters(trial, **parameters), reservation, []
    from gatesweep.sweeps.execution.coordinator import (  # here, for Ray Train takes two seconds to import
        OrphanCleanup,
        WorkerGroupCoordinator,
    )
    from gatesweep.sweeps.execution.group import TrainTrial

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    coordinator = ray.remote(num_cpus=0, scheduling_strategy=here)(WorkerGroupCoordinator).remote()
    # The workers reserve their own; a reservation of Tune's must not be empty, and every machine has memory.
    reservation = tune.PlacementGroupFactory([{"CPU": 0, "memory": 2**20}])
    return (
        tune.with_parameters(TrainTrial, coordinator=coordinator, **parameters),
        reservation,
        [OrphanCleanup(coordinator)],
    )
