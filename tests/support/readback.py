"""Read a sweep back from MLflow and compare it with the sweep's folder: everything is there, and once."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import yaml

from gatesweep.core.record import STEP_LOSS, Event, read_events
from gatesweep.sweeps.config.values import flatten
from gatesweep.sweeps.records.layout import trial_folders
from gatesweep.sweeps.records.reader import read_result

STATUS = {"failed": "FAILED", "interrupted": "KILLED"}


def connect(uri: str) -> Any:
    """Return a client of the MLflow at `uri`."""
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    from mlflow import MlflowClient

    return MlflowClient(uri)


def runs(sweep: Path, client: Any, deleted: bool = False) -> list[tuple[str, Any]]:
    """Return the runs of a sweep with their trials' names, "" for the sweep; with `deleted`, the deleted runs."""
    from mlflow.entities import ViewType

    kind = ViewType.DELETED_ONLY if deleted else ViewType.ACTIVE_ONLY
    experiment = client.get_experiment_by_name("gatesweep")
    entities = (
        client.search_runs([experiment.experiment_id], f"tags.sweep = '{sweep.name}'", kind, 1000) if experiment else []
    )
    return sorted(((run.data.tags.get("trial", ""), run) for run in entities), key=lambda pair: pair[0])


def unlike(sweep: Path, uri: str, files: bool = True, without: Collection[str] = ()) -> list[str]:
    """Return what is absent, repeated or different in MLflow.

    Without `files`, artifacts are not compared. `without` names trials that are left out.
    """
    client, folders = connect(uri), [folder for folder in trial_folders(sweep) if folder.name not in without]
    named_runs = runs(sweep, client)
    names = ["", *(folder.name for folder in folders)]
    if [name for name, _ in named_runs] != names:
        return [f"runs: {[name for name, _ in named_runs]}, expected {names}"]
    (_, parent), *children = named_runs
    differences = []
    for folder, (name, run) in zip(folders, children, strict=True):
        events = read_events(folder / "events.jsonl")
        wrong = [*_points(client, run, events), *_headers(parent, run, folder, events)]
        if files:
            ended = events[-1]["event"] == "end"
            wrong += [*_files(client, run, folder, ended), *_models(client, run, sweep, folder, events)]
        differences += [f"{name}: {what}" for what in wrong]
    if files and (sweep / "summary.json").exists():
        differences += [f"sweep: {what}" for what in _same_files(client, parent, sweep, SWEEP_FILES)]
    return differences


SWEEP_FILES = ("config.yaml", "leaderboard.csv", "summary.json")
TRIAL_FILES = ("config.yaml", "result.json", "scalars.csv", "error.txt")


def expected(events: list[Event]) -> dict[str, list[tuple[int, str, int]]]:
    """Return the points (step, value, time in ms) of each recorded metric; values are text, so that NaN equals NaN."""
    points: dict[str, list[tuple[int, str, int]]] = {}
    steps = 0
    for event in events:
        if event["event"] != "epoch":
            continue
        at = int(event["time"] * 1000)
        for key, value in {**event["metrics"], "score": event["score"], "epoch": event["epoch"]}.items():
            points.setdefault(key, []).append((event["epoch"], repr(float(value)), at))
        for loss in event["losses"]:
            steps += 1
            points.setdefault(STEP_LOSS, []).append((steps, repr(float(loss)), at))
    return points


def _points(client: Any, run: Any, events: list[Event]) -> Iterator[str]:
    wanted = expected(events)
    if set(run.data.metrics) != set(wanted):
        yield f"metrics {sorted(set(run.data.metrics) ^ set(wanted))}"
    for key, points in wanted.items():
        history = client.get_metric_history(run.info.run_id, key)
        there = sorted((point.step, repr(float(point.value)), point.timestamp) for point in history)
        if there != points:
            lost, extra = len(set(points) - set(there)), len(there) - len(set(there) & set(points))
            yield f"{key}: {lost} of {len(points)} points lost, {extra} too many"


def _headers(parent: Any, run: Any, folder: Path, events: list[Event]) -> Iterator[str]:
    """Differences in parameters, tags and status."""
    config = yaml.safe_load((folder / "config.yaml").read_text())
    params = flatten({key: config[key] for key in ("trainable", "data", "training", "seed")})
    for key, value in {**params, **events[0]["values"]}.items():
        if run.data.params.get(key) != str(value):
            yield f"parameter {key}: {run.data.params.get(key)!r}, expected {str(value)!r}"
    last = events[-1]
    outcome = last["outcome"] if last["event"] == "end" else "interrupted" if last["event"] == "interrupted" else None
    tags = {"trial": folder.name, "mlflow.parentRunId": parent.info.run_id}
    if last["event"] == "end":
        tags |= {"outcome": last["outcome"], "gate": "passed" if last["outcome"] == "passed" else "missed"}
        tags |= {"gate.missed": "; ".join(read_result(folder)["missed"])}
    wrong = {key: run.data.tags.get(key) for key, value in tags.items() if run.data.tags.get(key) != value}
    if wrong:
        yield f"tags {wrong}, expected {tags}"
    status = STATUS.get(outcome, "FINISHED") if outcome else "RUNNING"
    if run.info.status != status:
        yield f"status {run.info.status}, expected {status}"


def _files(client: Any, run: Any, folder: Path, ended: bool) -> Iterator[str]:
    figures = sorted(str(path.relative_to(folder)) for path in folder.glob("figures/*.png"))
    wanted = [name for name in TRIAL_FILES if ended and (folder / name).exists()]
    yield from _same_files(client, run, folder, [*wanted, *figures])


def _same_files(client: Any, run: Any, folder: Path, names: Collection[str]) -> Iterator[str]:
    """Differences in files, byte by byte: a full disk leaves halves."""
    with tempfile.TemporaryDirectory() as aside:
        for name in names:
            try:
                fetched = Path(client.download_artifacts(run.info.run_id, name, aside))
            except Exception as error:  # whatever the store raises where it has none
                yield f"{name}: {type(error).__name__}"
                continue
            if fetched.read_bytes() != (folder / name).read_bytes():
                yield f"{name}: {fetched.stat().st_size} bytes, expected {(folder / name).stat().st_size}"


def _models(client: Any, run: Any, sweep: Path, folder: Path, events: list[Event]) -> Iterator[str]:
    """Differences in logged models: one for each trial whose outcome asks for one."""
    query = f"source_run_id = '{run.info.run_id}'"  # that of a run which was deleted for good stays
    models = client.search_logged_models([run.info.experiment_id], filter_string=query)
    ready = [str(model.status) for model in models]
    asked = yaml.safe_load((sweep / "config.yaml").read_text())["tracking"].get("models", ["passed"])
    wanted = int(events[-1].get("outcome") in asked and (folder / "checkpoints").exists())
    if len(ready) != wanted or any(not status.endswith("READY") for status in ready):
        yield f"models {ready}, expected {wanted}"
