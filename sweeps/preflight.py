"""What can be known to be wrong before the first trial, found out before there is a folder."""

from __future__ import annotations

import os
import shutil
import urllib.request
from pathlib import Path
from typing import Any

import ray
import torch
from ray.tune.schedulers import FIFOScheduler
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from gatesweep.core.trainable import owns_step, samples
from gatesweep.sweeps import figures, scheduler, search, warm
from gatesweep.sweeps.config import build, override
from gatesweep.sweeps.front import OF_TRIALS
from gatesweep.sweeps.schema import make_gate, make_settings, read_config
from gatesweep.sweeps.space import Float, Space
from gatesweep.sweeps.trial import several_workers


def check_tracking(uri: str | None) -> None:
    """Raise ValueError unless an MLflow server answers at an http(s) `uri`."""
    if uri is None or uri.startswith(("sqlite:///", "postgresql")):
        return
    if not uri.startswith(("http://", "https://")):
        raise ValueError(f"tracking.uri: got {uri!r}, expected http://host:port, sqlite:///file or postgresql://...")
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=5):
            return
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise ValueError(f"tracking.uri: got {uri!r}, expected a running MLflow server ({reason})") from error


def check_search(config: dict[str, Any], space: Space) -> None:
    """The sampler and the scheduler can be made, and suit the space."""
    chosen = scheduler.make(config, space)
    search.make_sampler(config)
    if isinstance(chosen, scheduler.Population) and several_workers(config, space):
        raise ValueError("resources.workers: scheduler=pbt copies trials, which needs workers of 1")
    if config["resources"]["stack"] != 1:
        got = f"resources.stack: got {config['resources']['stack']!r}, expected 1"
        if several_workers(config, space):
            raise ValueError(f"{got} with several workers: a stack is one process")
        if not isinstance(chosen, scheduler.GateASHA) and type(chosen) is not FIFOScheduler:
            raise ValueError(f"{got} with this scheduler: a stack can be thinned by scheduler=asha, or by none")
    if isinstance(chosen, scheduler.Population) and config["confirm"]["seeds"]:
        raise ValueError("confirm.seeds: got some, expected 0: with scheduler=pbt no trial keeps its values throughout")
    if search.is_exhaustive(config):
        for key, leaf in space.items():
            if isinstance(leaf, Float) and leaf.step is None and leaf.low < leaf.high:
                raise ValueError(f"search.space.{key}.step: missing, expected one: search=grid needs a finite space")
    elif config["num_samples"] is None:
        raise ValueError("num_samples: got None, expected a number of trials (null is for search=grid)")
    before = read_config(Path(config["resume"]) / "config.yaml") if config["resume"] else None
    cost = config["search"]["cost"]
    if before and before["search"]["cost"] != cost:
        raise ValueError(f"search.cost: got {cost!r}, expected {before['search']['cost']!r}, as when the sweep began")
    if cost and config["gate"]["objective"] is None:
        raise ValueError(
            f"search.cost: got {cost!r}, but the gate has no objective beside it: gate.objective=<a metric>"
        )
    if config["warm_start"]:
        if search.is_exhaustive(config):
            raise ValueError("warm_start: got earlier sweeps, expected null: search=grid visits every point anyway")
        warm.check(config, space, warm.folders(before) if before else [])


def check_machines(folder: Path, new: bool) -> None:
    """Raise ValueError unless every machine of the cluster sees the sweep's folder; a `new` one is removed then."""
    here = ray.get_runtime_context().get_node_id()
    others = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] != here]
    seen = ray.remote(num_cpus=0)(os.path.isfile)
    asked = {
        node["NodeManagerAddress"]: seen.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(str(folder / "config.yaml"))
        for node in others
    }
    blind = [address for address, answer in asked.items() if not ray.get(answer)]
    if blind:
        if new:
            shutil.rmtree(folder)
        raise ValueError(
            f"storage: got null, but {', '.join(blind)} does not see {str(folder)!r}: "
            "results=<a folder that all machines share>, or storage=<such a folder, or s3://bucket/sweeps>"
        )


def check_run(config: dict[str, Any], space: Space) -> None:
    """A run can be built, at every corner of the search space too, and reports what its gate reads."""
    torch.set_num_threads(config["resources"]["threads"])
    trainable, data = build(config)
    make_settings(config).check(trainable)
    batch, workers = data.train(0)[0], config["resources"]["workers"]
    if samples(batch) < workers:
        raise ValueError(f"resources.workers: got {workers}, expected at most {samples(batch)}, the samples of a batch")
    with torch.no_grad():
        reported = {f"train/{name}" for name in trainable(batch)}
        trainable.eval()
        reported |= {f"val/{name}" for name in trainable.evaluate(data)}
    gate = make_gate(config)
    if owns_step(trainable):  # what such a step reports is seen only in training
        reported |= {metric for metric in gate.reads if metric.startswith("train/")}
    figures.check(config["figures"], trainable, data)
    gate.require(dict.fromkeys(reported | {"train/grad_norm"}, 0.0))
    cost = config["search"]["cost"]
    if cost and cost not in (*OF_TRIALS, *reported) and not cost.startswith("system/"):
        raise ValueError(f"search.cost: got {cost!r}, expected epochs, seconds or one of {', '.join(sorted(reported))}")
    for key, leaf in space.items():
        for values in leaf.extremes(key):
            try:
                build(override(config, values))
            except Exception as error:  # whatever a family raises about its arguments
                shown = ", ".join(f"{name}={value}" for name, value in values.items())
                raise ValueError(f"search.space.{key}: {shown} cannot be built: {error}") from error
