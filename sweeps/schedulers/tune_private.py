"""Private names of Ray Tune that schedulers use, as in the pinned ray 2.60.0.

tests/sweeps/schedulers/test_tune_private.py checks each of them.
"""

from __future__ import annotations

from typing import Any

from ray.tune.schedulers import PopulationBasedTraining


def call_trial_method(tune_controller: Any, trial: Any, method: str, *arguments: Any) -> None:
    """Call a method of a trial's process. The process does it before its next epoch: it works in the order of calls."""
    tune_controller._schedule_trial_task(trial, method, arguments)


class CloningScheduler(PopulationBasedTraining):
    """Tune's population-based training with a public hook for the configuration of a clone."""

    def clone_config(self, trial: Any, config: dict[str, Any]) -> dict[str, Any]:
        """Return the configuration for `trial`, which becomes a copy of another one; `config` is Tune's proposal."""
        return config

    def _get_new_config(self, trial: Any, trial_to_clone: Any) -> Any:
        config, changes = super()._get_new_config(trial, trial_to_clone)
        return self.clone_config(trial, config), changes
