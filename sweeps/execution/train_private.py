"""Private names of Ray Train that worker groups need, as in the pinned ray 2.60.0.

tests/sweeps/execution/test_ray_private.py checks each of them.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import Any

import ray
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.torch.config import _set_torch_distributed_env_vars, _setup_torch_process_group, _TorchBackend
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}  # gloo takes the address of the host's name else


class WorkerGroup(TorchTrainer):
    """Ray's trainer without its detached cleaner, which needs a dashboard; the coordinator does that work."""

    def _create_default_callbacks(self) -> list[Any]:
        return [
            callback
            for callback in super()._create_default_callbacks()
            if not isinstance(callback, PlacementGroupCleanerCallback)
        ]


class LoopbackTorchConfig(TorchConfig):
    """Ray's configuration of a process group, which opens no port to the network where one machine has all workers."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """The class that makes the process group."""
        return LoopbackTorchBackend


class LoopbackTorchBackend(_TorchBackend):
    """Ray's backend, but workers of one machine meet in a file: torch's TCPStore would listen on every interface.

    Workers of several machines meet as Ray has it, at a port of the first one's.
    """

    meeting: str | None = None

    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        """Make the process group of the workers."""
        if len(set(worker_group.execute(_node_id))) > 1:
            return super().on_start(worker_group, backend_config)
        self.meeting = worker_group.execute_single(0, _make_meeting)
        worker_group.execute(_set_torch_distributed_env_vars)
        joins = [
            worker_group.execute_single_async(
                rank,
                _join_group,
                backend=backend_config.backend,
                world_rank=rank,
                world_size=len(worker_group),
                init_method=f"file://{self.meeting}",
                timeout_s=backend_config.timeout_s,
            )
            for rank in range(len(worker_group))
        ]
        ray.get(joins)

    def on_shutdown(self, worker_group: Any, backend_config: TorchConfig) -> None:
        """End the process group, and remove the file, on this machine also where a worker has died."""
        try:
            super().on_shutdown(worker_group, backend_config)
        finally:
            if self.meeting:
                _remove(self.meeting)
                with contextlib.suppress(ray.exceptions.RayError):
                    worker_group.execute_single(0, _remove, self.meeting)


def _node_id() -> str:
    return ray.get_runtime_context().get_node_id()


def _make_meeting() -> str:
    """Make the empty file in which the ranks meet."""
    descriptor, path = tempfile.mkstemp(prefix="gatesweep-", suffix=".ranks")
    os.close(descriptor)
    return str(Path(path).resolve())


def _remove(path: str) -> None:
    Path(path).unlink(missing_ok=True)


def _join_group(**group: Any) -> None:
    os.environ.update(LOOPBACK)  # also where the shell names an interface, for workers of several machines
    _setup_torch_process_group(**group)
