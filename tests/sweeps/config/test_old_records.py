"""Records of earlier commits can be read, published, loaded and resumed: a folder of records for each of them.

`tests/records/<commit>/<sweep>` is a sweep that was made with that commit: `experiment=mlp num_samples=5`, one passed,
two stopped, one interrupted by Ctrl-C after its third epoch and one not begun; of its checkpoints two were kept.
"""

from __future__ import annotations

import csv
import json
import math
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from gatesweep.core.gate import Gate
from gatesweep.core.record import read_events
from gatesweep.sweeps.commands.compare import main as compare
from gatesweep.sweeps.commands.load import load
from gatesweep.sweeps.commands.publish import MLFLOW_ENVIRONMENT
from gatesweep.sweeps.commands.report import main as report
from gatesweep.sweeps.commands.resume import configure
from gatesweep.sweeps.commands.run import run_sweep
from gatesweep.sweeps.config.recorded import read_config, read_values
from gatesweep.sweeps.records.summary import leaderboard, leaderboard_csv, write_summary
from gatesweep.sweeps.search.study import open_study
from gatesweep.sweeps.tracking.publisher import Publisher
from tests.support.readback import unlike

RECORDS = sorted(Path(__file__).parents[2].glob("records/*/*"))


@pytest.fixture(params=RECORDS, ids=lambda path: path.parent.name)
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy, under its name: that is also its study's."""
    return shutil.copytree(request.param, tmp_path / request.param.name)


def test_the_leaderboard_is_the_one_that_was_written_then(old: Path) -> None:
    with (old / "leaderboard.csv").open() as stream:
        then = list(csv.DictReader(stream))
    now = list(csv.DictReader(leaderboard_csv(leaderboard(old)).splitlines()))
    assert now == then and [row["outcome"] for row in now] == ["passed", "interrupted", "stopped", "stopped"]
    summary = json.loads((old / "summary.json").read_text())
    facts = {"versions": summary["versions"], "git_commit": summary["git_commit"]}
    assert write_summary(old, summary["seconds"], facts) == summary


def test_keys_that_were_renamed_are_read_under_their_new_names(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("training: {watch: 5}\nresources: {cpus: 2, gpus: 0}\n")
    values = read_values(path)
    assert values["training"] == {"checkpoint_every": 1, "log_grad_norm_every": 5, "system_metrics": False}
    assert {"cpus_per_worker": 2, "gpus_per_worker": 0}.items() <= values["resources"].items()


def test_a_record_that_breaks_a_younger_rule_is_still_reported_and_compared(old: Path) -> None:
    path = old / "config.yaml"
    values = yaml.safe_load(path.read_text())
    values["name"], values["seed"] = "two words", 2**63
    values["gate"]["thresholds"] = dict.fromkeys(values["gate"]["thresholds"], ">= 1e999")
    values["gate"]["consecutive"], values["resources"]["threads"] = 99, 100_000
    path.write_text(yaml.safe_dump(values))
    assert report([str(old)]) == compare([str(old)]) == 0


def test_the_model_comes_back(old: Path) -> None:
    trainable, data = load(old / "trial_0000", device="cpu")
    then = json.loads((old / "trial_0000" / "result.json").read_text())["metrics"]
    with torch.no_grad():
        now = trainable.evaluate(data)
    assert all(math.isclose(now[name], then[f"val/{name}"], rel_tol=1e-5) for name in ("loss", "r2"))


def test_it_is_published_whole(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in MLFLOW_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    uri = f"sqlite:///{old.parent / 'mlflow.db'}"
    Publisher(old, uri, "gatesweep").sync()
    assert unlike(old, uri) == []


@pytest.mark.usefixtures("ray_here")
def test_it_is_gone_on_with(old: Path) -> None:
    """The interrupted trial from its checkpoint, and the one that had not begun."""
    before = {name: (old / name / "events.jsonl").read_text() for name in ("trial_0000", "trial_0001", "trial_0002")}
    assert run_sweep(configure([f"resume={old}"])) == 0
    summary = json.loads((old / "summary.json").read_text())
    assert (summary["trials"], summary["interrupted"], summary["failed"], summary["diverged"]) == (5, 0, 0, 0)
    assert {name: (old / name / "events.jsonl").read_text() for name in before} == before
    events = read_events(old / "trial_0003" / "events.jsonl")
    epochs = [event["epoch"] for event in events if event["event"] == "epoch"]
    assert epochs == list(range(1, len(epochs) + 1)) and len(epochs) > 3
    assert [trial.state.is_finished() for trial in open_study(old).trials] == [True] * 5
    config = read_config(old / "config.yaml")
    linear = Gate(config.gate.thresholds, config.gate.objective, shortfall="linear")  # it is scored as it began
    assert config.gate.shortfall == "linear" and config.gate.baseline == {}
    scored = [event for event in events if event["event"] == "epoch" and event["outcome"] != "diverged"]
    assert [event["score"] for event in scored] == [linear.score(event["metrics"]) for event in scored]
