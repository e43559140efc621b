"""MLflow holds what the run directories hold, once, and gives the model back."""

from __future__ import annotations

import base64
import contextlib
import json
import math
import os
import sqlite3
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from gatesweep.core.record import STEP_LOSS, read_events
from gatesweep.sweeps.commands.load import load
from gatesweep.sweeps.commands.run import run_sweep
from gatesweep.sweeps.config.compose import compose_config
from gatesweep.sweeps.records.layout import trial_folders
from gatesweep.sweeps.tracking.database import default_uri
from gatesweep.sweeps.tracking.publisher import Publisher
from tests.conftest import trivial

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def swept(ray_here: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A sweep of four trials, of which one diverges, tracked in its results' own sqlite file."""
    results = tmp_path_factory.mktemp("results")
    space = {
        "misbehave": {"type": "categorical", "choices": [None, "nan"]},
        "lr": {"type": "categorical", "choices": [1e-4, 0.2]},
    }
    run_sweep(
        compose_config(
            trivial(
                results, space, "search=grid", "num_samples=null", "tracking=mlflow", "figures=standard", at_epoch=3
            )
        )
    )
    yield (results / "latest").resolve()


def client(sweep: Path, name: str = "mlflow.db") -> Any:
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{sweep.parent / name}")


def runs(sweep: Path, name: str = "mlflow.db", query: str = "tags.`sweep.kind` = 'trial'") -> dict[str, Any]:
    connection = client(sweep, name)
    experiment = connection.get_experiment_by_name("gatesweep").experiment_id
    return {run.data.tags.get("trial", "sweep"): run for run in connection.search_runs([experiment], query)}


def test_a_parent_and_a_child_for_every_trial(swept: Path) -> None:
    parent = runs(swept, query="tags.`sweep.kind` = 'sweep'")["sweep"]
    children = runs(swept)
    assert set(children) == {folder.name for folder in trial_folders(swept)}
    assert {run.data.tags["mlflow.parentRunId"] for run in children.values()} == {parent.info.run_id}
    start = read_events(swept / "events.jsonl")[0]
    assert {run.data.tags["sweep.id"] for run in (parent, *children.values())} == {start["sweep_id"]}
    assert parent.data.tags["code.source"] == start["code"]["module"] == "tests.support.trivial"
    assert (swept / start["code"]["source"]).stat().st_size > 1000
    summary = json.loads((swept / "summary.json").read_text())
    assert {key: parent.data.metrics[key] for key in ("trials", "passed", "diverged")} == {
        key: summary[key] for key in ("trials", "passed", "diverged")
    }


def test_outcomes_can_be_searched(swept: Path) -> None:
    passed = runs(swept, query="tags.outcome = 'passed' and tags.`sweep.kind` = 'trial'")
    recorded = [path.parent.name for path in swept.glob("*/result.json") if json.loads(path.read_text())["gate_passed"]]
    assert sorted(passed) == sorted(recorded) and len(passed) >= 1
    assert all(run.info.status == "FINISHED" for run in passed.values())


def test_every_point_of_every_curve_is_there_once(swept: Path) -> None:
    connection = client(swept)
    for name, run in runs(swept).items():
        epochs = [event for event in read_events(swept / name / "events.jsonl") if event["event"] == "epoch"]
        steps = connection.get_metric_history(run.info.run_id, STEP_LOSS)
        losses = [loss for event in epochs for loss in event["losses"]]
        assert [point.step for point in steps] == list(range(1, len(losses) + 1))
        assert all(same(point.value, loss) for point, loss in zip(steps, losses, strict=True))
        curve = connection.get_metric_history(run.info.run_id, "val/loss")
        recorded = [
            (event["epoch"], event["metrics"]["val/loss"]) for event in epochs if "val/loss" in event["metrics"]
        ]
        assert [(point.step, point.value) for point in curve] == recorded


def same(value: float, expected: float) -> bool:
    return value == expected or (math.isnan(value) and math.isnan(expected))


def test_the_configuration_is_there_as_parameters(swept: Path) -> None:
    run = next(iter(runs(swept).values()))
    assert {"trainable.lr", "training.max_epochs", "data.seed", "seed"} <= set(run.data.params)


def rows(database: Path) -> list[Any]:
    with sqlite3.connect(database) as connection:
        tables = ("runs", "metrics", "params", "logged_models where lifecycle_stage = 'active'")
        return [connection.execute(f"select count(*) from {table}").fetchone()[0] for table in tables]


def test_the_figures_of_a_trial_are_there(swept: Path) -> None:
    connection = client(swept)
    for name, run in runs(swept).items():
        drawn = {f"figures/{path.name}" for path in (swept / name / "figures").glob("*.png")}
        assert {artifact.path for artifact in connection.list_artifacts(run.info.run_id, "figures")} == drawn
        assert bool(drawn) == (run.data.tags["outcome"] in ("passed", "finished"))


def test_publishing_again_or_elsewhere_changes_nothing(swept: Path) -> None:
    before = rows(swept.parent / "mlflow.db")
    Publisher(swept, default_uri(swept), "gatesweep").sync()
    assert rows(swept.parent / "mlflow.db") == before
    command = [sys.executable, str(ROOT / "sweeps" / "publish.py"), str(swept)]
    done = subprocess.run(
        [*command, f"tracking.uri=sqlite:///{swept.parent / 'other.db'}"],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert rows(swept.parent / "other.db") == before


def test_whatever_fails_is_sent_again_and_nothing_is_there_twice(swept: Path) -> None:
    """A file not there yet, and a server that fails in every method, before or after it has done what was asked."""
    publisher, calls = Publisher(swept, f"sqlite:///{swept.parent / 'failing.db'}", "gatesweep"), Counter()

    class Failing:
        def __getattr__(self, method: str) -> Any:
            def call(*arguments: Any, **named: Any) -> Any:
                calls[method] += 1
                fails = calls[method] in (1, 2) or calls[method] % 11 == 0
                if fails and calls[method] % 2:
                    raise ConnectionError
                done = getattr(server, method)(*arguments, **named)
                if fails:
                    raise ConnectionError
                return done

            return call

    server, publisher.runs.client = publisher.runs.client, Failing()
    config = swept / "trial_0000" / "config.yaml"
    hidden = config.rename(swept / "hidden")
    for attempt in range(200):
        if attempt == 20:
            hidden.rename(config)
        with contextlib.suppress(ConnectionError, FileNotFoundError):
            publisher.sync()
            break
    assert 20 <= attempt < 199 and min(calls.values()) >= 2
    assert rows(swept.parent / "failing.db") == rows(swept.parent / "mlflow.db")


def test_what_passed_or_finished_leaves_a_model_with_a_signature(swept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    connection = client(swept)
    models = connection.search_logged_models([connection.get_experiment_by_name("gatesweep").experiment_id])
    outcomes = {
        folder.name: json.loads((folder / "result.json").read_text())["outcome"] for folder in trial_folders(swept)
    }
    expected = [f"{swept.name}-{name}" for name, outcome in outcomes.items() if outcome in ("passed", "finished")]
    assert sorted(model.name for model in models) == expected and "diverged" in outcomes.values()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # which the next line sets, for every sweep after it
    mlflow.set_tracking_uri(default_uri(swept))
    signature = mlflow.models.get_model_info(f"models:/{models[0].model_id}").signature
    assert [tensor.shape[0] for tensor in signature.inputs] == [-1, -1] and signature.outputs.input_names() == ["loss"]


def test_the_run_of_the_sweep_has_all_of_its_record(swept: Path) -> None:
    parent, connection = runs(swept, query="tags.`sweep.kind` = 'sweep'")["sweep"], client(swept)
    paths = {artifact.path for artifact in connection.list_artifacts(parent.info.run_id)}
    record = {"config.yaml", "summary.json", "leaderboard.csv", "study.journal", "report.html"}
    assert paths == record | {"leaderboard.json"}
    passed = json.loads((swept / "summary.json").read_text())["passed"]
    assert f"**{passed} of 4 trials passed**" in parent.data.tags["mlflow.note.content"]
    place = json.loads((swept / "mlflow.json").read_text())
    view = connection.get_experiment(place["experiment"]).tags[
        f"mlflow.sharedViewState.{place['compare'].split('=')[1][:16]}"
    ]
    state = json.loads(view)["state"].removeprefix("deflate;")
    shown = json.loads(zlib.decompress(base64.b64decode(state)))["selectedColumns"]
    assert {"metrics.`val/closeness`", "params.`trainable.lr`", "params.`trainable.misbehave`"} <= set(shown)
    assert len(view) < 5000  # MLflow's limit


def test_the_passing_model_comes_back(swept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By our loader from the run directory and from MLflow, and by MLflow's own; without running any code in it."""
    import mlflow

    connection = client(swept)
    experiment = connection.get_experiment_by_name("gatesweep").experiment_id
    model = connection.search_logged_models([experiment])[0]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # which the next line sets, for every sweep after it
    mlflow.set_tracking_uri(default_uri(swept))
    fetched = mlflow.artifacts.download_artifacts(f"models:/{model.model_id}")
    here, data = load(swept / model.name.removeprefix(f"{swept.name}-"), device="cpu")
    there, _ = load(fetched, device="cpu")
    weights = mlflow.pytorch.load_state_dict(fetched)
    for key, value in here.state_dict().items():
        assert torch.equal(value, there.state_dict()[key]) and torch.equal(value, weights[key])
    assert here.evaluate(data)["closeness"] > 0.9


def test_without_mlflow_nothing_of_it_is_written(ray_here: None, tmp_path: Path) -> None:
    run_sweep(compose_config(trivial(tmp_path, None, "num_samples=1")))
    assert {path.name for path in tmp_path.iterdir()} == {"latest", (tmp_path / "latest").resolve().name}


def test_publish_says_what_is_wrong(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "sweeps" / "publish.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 2 and "expected the folder of a sweep" in done.stderr
