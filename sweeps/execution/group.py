"""Trials of several workers: Ray Train's worker group is started once and trains trial after trial.

Three parts communicate through a coordinator. Tune's trial (`TrainTrial`) assigns trials and asks for epochs. The
workers (`run_worker`) ask for trials, train and report. The driver cleans up after processes that were killed.
"""

from __future__ import annotations

import os
import threading
import uuid
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
import torch.distributed as dist
from ray import tune
from ray.train.torch import get_device, prepare_model
from torch import nn

from gatesweep.core.cache import join_cache
from gatesweep.core.distributed import DDP_OPTIONS
from gatesweep.sweeps.config.schema import Config, ResourcesConfig
from gatesweep.sweeps.config.trust import Trust, adopt_trust
from gatesweep.sweeps.execution.coordinator import Assignment, Job
from gatesweep.sweeps.execution.train_private import LoopbackTorchConfig, WorkerGroup
from gatesweep.sweeps.execution.training import train_epochs
from gatesweep.sweeps.execution.trial import epoch_report, failure_report, mark_output, trial_config

# Settings of Ray Train: poll a group that ends sooner than every two seconds, and start fewer processes for it.
TRAIN_ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}


class RankOutOfMemory(Exception):
    """A rank is out of memory."""


class TrainTrial(tune.Trainable):
    """Tune's side of trials with several workers: a thread of it holds the worker group."""

    def setup(
        self, config: dict[str, Any], base: Config, sweep: str, cache: str | None, trust: Trust, coordinator: Any
    ) -> None:
        """Start with the trial of `config`; `base` is the sweep's configuration and `sweep` its folder."""
        self.base, self.sweep, self.cache, self.trust, self.coordinator = base, Path(sweep), cache, trust, coordinator
        self.group: str | None = None
        self.size: ResourcesConfig | None = None
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Give the group the next trial; a trial with other resources gets a group of its own."""
        config = trial_config(self.base, new_config)
        size = config.resources
        if self.group and (size != self.size or not size.reuse_workers):
            self.cleanup()
        job = Job(new_config["trial"], config, size.max_failures)
        group, self.size = self.group or uuid.uuid4().hex, size
        ray.get(self.coordinator.assign.remote(group, job, self._actor()))
        if self.group is None:
            self.group = group
            self.thread = threading.Thread(target=self._hold, args=(group, size), daemon=True)
            self.fault: BaseException | None = None
            self.thread.start()
        return True

    def step(self) -> dict[str, Any]:
        """Return the report of the next epoch. Raises RuntimeError when the worker group has ended."""
        report = self.coordinator.step.remote(self.group)
        while not ray.wait([report], timeout=0.5)[0]:
            if not self.thread.is_alive():
                raise RuntimeError(f"the worker group ended: {self.fault}")
        return ray.get(report)

    def cleanup(self) -> None:
        """Let the workers go; their resources are free when this returns."""
        if self.group:
            ray.get(self.coordinator.assign.remote(self.group, None, self._actor()))
            self.thread.join(timeout=30)
            ray.get(self.coordinator.clear.remote(self.group))
            self.group = None

    def _actor(self) -> Any:
        return ray.get_runtime_context().current_actor

    def _hold(self, group: str, size: ResourcesConfig) -> None:
        for name, value in TRAIN_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        gpu = size.gpus_per_worker > 0
        amounts = {"CPU": size.cpus_per_worker, "GPU": size.gpus_per_worker}
        loop = {"coordinator": self.coordinator, "group": group, "sweep": str(self.sweep)}
        loop |= {"cache": self.cache, "trust": self.trust}
        try:
            WorkerGroup(
                run_worker,
                train_loop_config=loop,
                torch_config=LoopbackTorchConfig(backend="nccl" if gpu else "gloo"),
                scaling_config=ray.train.ScalingConfig(
                    num_workers=size.workers,
                    use_gpu=gpu,
                    resources_per_worker={kind: amount for kind, amount in amounts.items() if amount},
                ),
                run_config=ray.train.RunConfig(
                    name=group,
                    storage_path=self.logdir,  # Ray Train's own state, unused later: trials keep their checkpoints
                    failure_config=ray.train.FailureConfig(max_failures=-1),  # the coordinator counts for each trial
                ),
            ).fit()
        except BaseException as error:  # any end of the group ends the trial, in `step`
            self.fault = error


def run_worker(loop: dict[str, Any]) -> None:
    """Train, as one worker of a group, trial after trial until there are no more.

    `loop` holds the coordinator, the name of the group, the sweep's folder, the cache and the trusted modules.
    """
    coordinator, group = loop["coordinator"], loop["group"]
    join_cache(loop["cache"])
    adopt_trust(loop["trust"])
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    device = get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if rank == 0:
        ray.get(coordinator.register.remote(group, ray.util.get_current_placement_group()))
    start = [uuid.uuid4().hex]
    dist.broadcast_object_list(start, device=device)
    serial = 0
    while (assignment := ray.get(coordinator.next_job.remote(group, serial, *start))) is not None:
        serial = assignment.serial
        mark_output([assignment.job.trial], f"{rank}")
        try:
            _train(coordinator, rank, assignment, str(device), Path(loop["sweep"]))
        except (torch.AcceleratorError, dist.DistError):
            raise  # this process is unusable, or another one has gone: Ray Train starts the group again
        except Exception as error:
            final = isinstance(error, RankOutOfMemory)
            report = failure_report(error, assignment.recorded, assignment.job.config)
            if final:
                report["reason"] = str(error)
            if "gloo" in str(error) or not ray.get(
                coordinator.report_fault.remote(assignment, rank, world_size, final, report)
            ):
                raise
    mark_output([])


def wrap_ddp(module: nn.Module) -> nn.Module:
    """Wrap a module in DistributedDataParallel; buffers are not synchronised, as they are equal on all ranks."""
    return prepare_model(module, move_to_device=False, parallel_strategy_kwargs=DDP_OPTIONS)


def _train(coordinator: Any, rank: int, assignment: Assignment, device: str, sweep: Path) -> None:
    """Train one trial for as many epochs as the coordinator asks for."""
    config, group, serial = assignment.job.config, assignment.group, assignment.serial
    if config.device in ("auto", "cuda"):
        config = config.replace(device=device)
    folder = sweep / assignment.job.trial
    running = train_epochs(config, folder, recorded=assignment.recorded, rank=rank, wrap=wrap_ddp)
    reported = assignment.reported
    try:
        while ray.get(coordinator.may_train.remote(group, serial, reported)):
            epoch = next(running)
            if epoch.outcome == "failed":  # perhaps by one rank's memory, while the other ranks wait for it
                raise RankOutOfMemory(epoch.reason)
            if rank == 0:
                ray.get(coordinator.report.remote(group, serial, epoch_report(epoch)))
            reported += 1
            if epoch.outcome is not None:
                break
    finally:
        running.close()
