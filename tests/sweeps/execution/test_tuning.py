"""Tune's loop as a sweep uses it: what it holds does not grow with the trials that ended, however they did."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gatesweep.sweeps.commands.run import run_sweep
from gatesweep.sweeps.config.compose import compose_config
from gatesweep.sweeps.execution import tune_loop
from gatesweep.sweeps.execution.ray_private import LeanTuneController
from tests.conftest import trivial

pytestmark = pytest.mark.usefixtures("ray_here")


def test_trials_that_ended_are_forgotten_and_nothing_of_tunes_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Passed, stopped and failed ones, and one whose process was killed and began again."""
    marker, held, written = tmp_path / "marker", [], set()
    marker.touch()

    class Watched(LeanTuneController):
        def on_step_end(self) -> None:
            super().on_step_end()
            kept = (self._trials, self._live_trials, self._stopped_trials, self._failed_trials, self._trials_to_cache)
            held.append(max(len(trials) for trials in kept))
            written.update(path.name for path in (tmp_path / "latest" / ".tune").glob("*") if path.is_file())

    monkeypatch.setattr(tune_loop, "LeanTuneController", Watched)
    space: dict[str, Any] = {
        "misbehave": {"type": "categorical", "choices": [None, "boom", "kill"]},
        "lr": {"type": "categorical", "choices": [1e-4, 0.3]},
    }
    options = ["search=grid", "num_samples=null", "grace_period=1"]
    code = run_sweep(compose_config(trivial(tmp_path, space, *options, marker=str(marker), at_epoch=1)))
    summary = json.loads((tmp_path / "latest" / "summary.json").read_text())
    assert code == 0 and not marker.exists()
    assert summary["trials"] == 6 and summary["failed"] >= 1 and summary["passed"] >= 1
    assert max(held) == 1 and held[-1] == 0 and written <= {".validate_storage_marker"}
