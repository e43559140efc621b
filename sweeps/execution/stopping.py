"""The early end of a sweep: enough passes, or its time is up."""

from __future__ import annotations

from gatesweep.sweeps.config.schema import Config
from gatesweep.sweeps.execution.recorder import Recorder


class Budget:
    """The limits of a sweep: `stop_after_passes`, and the seconds of `time_budget`; None means no such limit."""

    def __init__(self, recorder: Recorder, config: Config) -> None:
        self.recorder, self.config = recorder, config

    def reached(self) -> list[str]:
        """Return the keys of the limits that are reached. Raises FailedAlike where all trials fail with one cause."""
        self.recorder.alike.check()
        passes, seconds = self.config.stop_after_passes, self.config.time_budget
        enough = passes is not None and self.recorder.outcomes["passed"] >= passes
        late = seconds is not None and self.recorder.elapsed >= seconds
        return ["stop_after_passes"] * enough + ["time_budget"] * late
