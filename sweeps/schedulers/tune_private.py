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
    """Tune's population-based training with a hook for the configuration of a clone, which keeps its own time."""

    def clone_config(self, trial: Any, epochs: int, donor: Any, donor_epochs: int) -> dict[str, Any]:
        """Return the configuration for `trial`, at its epoch `epochs`, which becomes a copy of `donor` at its own."""
        raise NotImplementedError

    def _get_new_config(self, trial: Any, trial_to_clone: Any) -> Any:
        epochs = [self._trial_state[side].last_result["epoch"] for side in (trial, trial_to_clone)]
        return self.clone_config(trial, epochs[0], trial_to_clone, epochs[1]), {}

    def _exploit(self, tune_controller: Any, trial: Any, trial_to_clone: Any) -> None:
        state = self._trial_state[trial]
        times = state.last_perturbation_time, state.last_train_time
        super()._exploit(tune_controller, trial, trial_to_clone)
        state.last_perturbation_time, state.last_train_time = times  # Tune would set the donor's
