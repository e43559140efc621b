"""The early end of a sweep: enough passes, or its time is up."""

from __future__ import annotations

from typing import Any

from ray import tune

from gatesweep.sweeps.execution.recorder import Recorder


class SweepStopper(tune.Stopper):
    """Ends the sweep after `passes` trials have passed, or after `seconds`; None means no such limit.

    The seconds count from the moment when the first trial is ready: starting processes uses up no budget.
    """

    def __init__(self, recorder: Recorder, passes: int | None, seconds: float | None) -> None:
        self.recorder = recorder
        self.passes, self.seconds = passes, seconds

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Return False: single trials are stopped by the scheduler."""
        return False

    def stop_all(self) -> bool:
        """Return True once a limit is reached. Raises FailedAlike where the trials all fail with the same cause."""
        self.recorder.alike.check()
        enough = self.passes is not None and self.recorder.outcomes["passed"] >= self.passes
        return enough or (self.seconds is not None and self.recorder.budget_used >= self.seconds)
