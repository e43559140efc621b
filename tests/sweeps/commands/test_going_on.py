"""Going on, for real: without a journal, with more epochs, and once more after a failure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gatesweep.core.record import read_events
from gatesweep.sweeps.commands.publish import MLFLOW_ENVIRONMENT
from gatesweep.sweeps.search.study import open_study
from gatesweep.sweeps.tracking.publisher import Publisher
from tests.conftest import trivial
from tests.support.readback import connect
from tests.sweeps.commands.test_sweep import recorded, run

pytestmark = pytest.mark.usefixtures("ray_here")


def test_a_sweep_goes_on_as_if_it_had_been_longer_from_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """With a constant rate, for a schedule is that of the run's length."""
    for name, value in MLFLOW_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    space: dict[str, Any] = {"lr": {"type": "float", "low": 0.0001, "high": 0.001}}
    marker = tmp_path / "marker"
    options = ["scheduler=none", "training.schedule={shape:constant,warmup:0.0,floor:0.1}", "resources.max_failures=0"]
    mine = {"misbehave": "kill", "at_epoch": 2, "marker": str(marker)}
    longer = ["training.max_epochs=4", "num_samples=4"]
    _, whole, _ = run(trivial(tmp_path / "whole", space, *options, *longer, **mine))

    marker.touch()  # the first trial dies in its second epoch
    short = ["training.max_epochs=2", "num_samples=3", "tracking.models=[finished]"]
    _, folder, first = run(trivial(tmp_path / "short", space, *options, *short, **mine))
    assert (first["failed"], first["finished"]) == (1, 2) and not marker.exists()
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    Publisher(folder, uri, "gatesweep").sync()
    before = {path: path.read_bytes() for path in folder.glob("trial_*/events.jsonl")}
    (folder / "study.journal").write_text("not a journal\n")

    _, _, second = run([f"resume={folder}", *longer, "retry=failed"])
    assert "2 finished trials train on, to 4 epochs\n1 failed trials are tried again\n" in capfd.readouterr().out
    assert (second["trials"], second["finished"], second["failed"]) == (4, 4, 0)
    assert recorded(folder) == recorded(whole)  # bit for bit, also where a trial died
    assert all(path.read_bytes().startswith(text) for path, text in before.items())  # what was recorded stays
    assert [trial.state.name for trial in open_study(folder).trials] == ["COMPLETE"] * 4
    assert "retry: failed" not in (folder / "config.yaml").read_text()
    ends = [event for event in read_events(folder / "trial_0000" / "events.jsonl") if event["event"] == "end"]
    assert [event["outcome"] for event in ends] == ["finished"]

    Publisher(folder, uri, "gatesweep").sync()
    client = connect(uri)
    [experiment] = [found.experiment_id for found in client.search_experiments() if found.name == "gatesweep"]
    runs = client.search_runs([experiment], "tags.`sweep.kind` = 'trial'")
    assert {run.info.status for run in runs} == {"FINISHED"} and len(runs) == 4
    for run_there in runs:
        points = client.get_metric_history(run_there.info.run_id, "val/loss")
        assert sorted(point.step for point in points) == [1, 2, 3, 4]
    assert len(client.search_logged_models([experiment])) == 4
