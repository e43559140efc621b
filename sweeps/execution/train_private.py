"""Private names of Ray Train that worker groups need, as in the pinned ray 2.60.0.

tests/sweeps/execution/test_ray_private.py checks each of them.
"""

from __future__ import annotations

from typing import Any

from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback


class WorkerGroup(TorchTrainer):
    """Ray's trainer without its detached cleaner, which needs a dashboard; the coordinator does that work."""

    def _create_default_callbacks(self) -> list[Any]:
        return [
            callback
            for callback in super()._create_default_callbacks()
            if not isinstance(callback, PlacementGroupCleanerCallback)
        ]
