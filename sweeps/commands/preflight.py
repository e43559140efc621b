"""Checks before the first trial: everything that can be known to be wrong, before there is a folder."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import ray
import torch
from ray.tune.schedulers import FIFOScheduler
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from gatesweep.core import device
from gatesweep.core.device import usage
from gatesweep.core.errors import InputError, reason
from gatesweep.core.gate import Gate
from gatesweep.core.loop import EPOCH_METRICS
from gatesweep.core.trainable import owns_step, samples
from gatesweep.sweeps.commands.folders import check_results_folder
from gatesweep.sweeps.commands.preflight_step import (
    build_checked,
    check_function_run,
    check_patience,
    check_step,
    evaluate_once,
)
from gatesweep.sweeps.config.build import build_run
from gatesweep.sweeps.config.recorded import read_config
from gatesweep.sweeps.config.schema import Config, make_gate, make_settings
from gatesweep.sweeps.config.values import with_values
from gatesweep.sweeps.execution.cluster import check_machine
from gatesweep.sweeps.execution.figures import check_figures
from gatesweep.sweeps.execution.trial import several_workers
from gatesweep.sweeps.records.layout import CONFIG, CONFIRM
from gatesweep.sweeps.records.pareto import TRIAL_COSTS
from gatesweep.sweeps.records.reader import read_trials
from gatesweep.sweeps.schedulers.asha import GateASHA
from gatesweep.sweeps.schedulers.factory import make_scheduler
from gatesweep.sweeps.schedulers.pbt import Population
from gatesweep.sweeps.search.changes import check_changes, check_trial_configs
from gatesweep.sweeps.search.confirmation import check_fresh_data
from gatesweep.sweeps.search.sampler import check_sampler, is_exhaustive
from gatesweep.sweeps.search.space import Space, check_grid
from gatesweep.sweeps.search.warm_start import check_warm_start, warm_start_folders
from gatesweep.sweeps.storage.store import Store
from gatesweep.sweeps.tracking.server import check_tracking


def check_sweep(folder: Path, config: Config, space: Space) -> None:
    """Raise InputError for whatever can be known to be wrong before Ray starts; `folder` is the sweep's to be."""
    check_results_folder(folder)
    if config.resume:
        before, trials = read_config(folder / CONFIG), read_trials(folder)
        check_changes(before, config, trials, folder)
        check_trial_configs(before, [*trials, *read_trials(folder, CONFIRM)], folder)
    check_search(config, space)
    check_fresh_data(config, read_config(folder / CONFIG) if config.resume else None, folder)
    if config.tracking.enabled:
        check_tracking(config.tracking.uri)
    if config.storage:
        Store(config.storage).check(folder)
    check_run(config, space)
    check_machine(config.resources)


def check_search(config: Config, space: Space) -> None:
    """Raise InputError unless sampler and scheduler can be made, and suit the space and each other."""
    scheduler = make_scheduler(config.scheduler, config.training.max_epochs, space, config=config)
    check_sampler(config, space)
    if isinstance(scheduler, Population) and several_workers(config.resources, space):
        raise InputError("resources.workers: scheduler=pbt copies trials, which needs workers of 1")
    if isinstance(scheduler, Population) and 1 in (config.num_samples, config.max_concurrent):
        key = "num_samples" if config.num_samples == 1 else "max_concurrent"
        raise InputError(
            f"{key}: got 1, expected at least 2: with scheduler=pbt trials run beside others and copy them"
        )
    if config.resources.stack != 1:
        got = f"resources.stack: got {config.resources.stack!r}, expected 1"
        if several_workers(config.resources, space):
            raise InputError(f"{got} with several workers: a stack is one process")
        if not isinstance(scheduler, GateASHA) and type(scheduler) is not FIFOScheduler:
            raise InputError(f"{got} with this scheduler: a stack can be thinned by scheduler=asha, or by none")
    if isinstance(scheduler, Population) and config.confirm.seeds:
        raise InputError(
            f"confirm.seeds: got {config.confirm.seeds}, expected 0: with scheduler=pbt no trial keeps its values"
        )
    if is_exhaustive(config.search.sampler):
        check_grid(space)
    elif config.num_samples is None:
        raise InputError("num_samples: got None, expected a number of trials (null is for search=grid)")
    before = read_config(Path(config.resume) / CONFIG) if config.resume else None
    cost = config.search.cost
    if before and before.search.cost != cost:
        raise InputError(f"search.cost: got {cost!r}, expected {before.search.cost!r}, as when the sweep began")
    if cost and config.gate.objective is None:
        raise InputError(
            f"search.cost: got {cost!r}, but the gate has no objective beside it: gate.objective=<a metric>"
        )
    if config.warm_start:
        if is_exhaustive(config.search.sampler):
            raise InputError("warm_start: got earlier sweeps, expected null: search=grid visits every point anyway")
        check_warm_start(config, space, warm_start_folders(before.warm_start) if before else [])


def check_machines(folder: Path, new: bool) -> None:
    """Raise InputError unless every machine of the cluster sees the sweep's folder; a `new` one is removed then."""
    here = ray.get_runtime_context().get_node_id()
    others = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] != here]
    is_file = ray.remote(num_cpus=0)(os.path.isfile)
    answers = {
        node["NodeManagerAddress"]: is_file.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(str(folder / CONFIG))
        for node in others
    }
    blind = [address for address, answer in answers.items() if not ray.get(answer)]
    if blind:
        if new:
            shutil.rmtree(folder)
        raise InputError(
            f"storage: got null, but {', '.join(blind)} does not see {str(folder)!r}: "
            "results=<a folder that all machines share>, or storage=<such a folder, or s3://bucket/sweeps>"
        )


def check_run(config: Config, space: Space) -> None:
    """Raise InputError unless a run can be built, at every corner of the space too, and reports what its gate reads.

    A function is not called: what it reports is known once its first trial has reported.
    """
    torch.set_num_threads(config.resources.threads)
    if not config.data:
        check_function_run(config, space)
        return
    trainable, data = build_checked(config)
    make_settings(config).check(trainable)
    batch = data.train(0)[0]
    _check_workers(config, space, samples(batch))
    check_step(config, space)
    with torch.no_grad():
        reported = {f"train/{name}" for name in trainable(batch)}
    reported |= {f"val/{name}" for name in evaluate_once(trainable, data)}
    gate = make_gate(config.gate)
    if owns_step(trainable):  # what such a step reports is seen only in training
        reported |= {metric for metric in gate.reads if metric.startswith("train/")}
    check_figures(config.figures, trainable, data)
    check_patience(config, reported | {"train/grad_norm"}, owns_step(trainable))
    _check_gate_metrics(gate, reported | {"train/grad_norm"})
    cost = config.search.cost
    reported |= {*EPOCH_METRICS, *(usage(device.choose(config.device), 1.0) if config.training.system_metrics else ())}
    if cost and cost not in (*TRIAL_COSTS, *reported):
        raise InputError(f"search.cost: got {cost!r}, expected epochs, seconds or one of {', '.join(sorted(reported))}")
    for key, leaf in space.items():
        for values in leaf.extremes(key):
            try:
                build_run(with_values(config, values))
            except Exception as error:  # whatever a family raises about its arguments
                shown = ", ".join(f"{name}={value}" for name, value in values.items())
                raise InputError(f"search.space.{key}: {shown} cannot be built: {reason(error)}") from error


def _check_gate_metrics(gate: Gate, reported: set[str]) -> None:
    """Raise InputError, under the key that names it, for a metric of the gate that is not among those `reported`."""
    try:
        gate.require(dict.fromkeys(reported, 0.0))
    except InputError as error:
        key = "objective" if reported >= gate.thresholds.keys() else "thresholds"
        raise InputError(f"gate.{key}{str(error).removeprefix('gate')}") from error


def _check_workers(config: Config, space: Space, batch_samples: int) -> None:
    """Raise InputError where a trial may have more workers than a batch has samples."""
    leaf = space.get("resources.workers")
    values = [config.resources.workers] if leaf is None else [max(point.values()) for point in leaf.extremes("")]
    if max(values) > batch_samples:
        key = "resources.workers" if leaf is None else "search.space.resources.workers"
        raise InputError(f"{key}: got {max(values)}, expected at most {batch_samples}, the samples of a batch")
