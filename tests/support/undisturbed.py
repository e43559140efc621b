"""Compare a disturbed sweep with an undisturbed one: record, weights, study, rungs and MLflow."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from gatesweep.core import checkpoint
from gatesweep.core.events import DamagedRecord
from gatesweep.core.record import STEP_LOSS, Event, curves, json_safe, read_events
from gatesweep.sweeps.commands.publish import MLFLOW_ENVIRONMENT
from gatesweep.sweeps.config.recorded import read_config
from gatesweep.sweeps.records.last_word import read_last_word
from gatesweep.sweeps.records.layout import (
    CHECKPOINTS,
    CONFIG,
    EVENTS,
    OUTCOMES,
    RESULT,
    SCALARS,
    SUMMARY,
    trial_folders,
)
from gatesweep.sweeps.schedulers.factory import make_scheduler
from gatesweep.sweeps.schedulers.history import recorded_scores
from gatesweep.sweeps.search.space import read_space
from gatesweep.sweeps.search.study import open_study


def differences(swept: Path, whole: Path) -> list[str]:
    """Return the faults of the sweep `swept`, and its differences from the undisturbed sweep `whole`."""
    try:
        return _differences(swept, whole)
    except DamagedRecord as error:
        return [str(error)]


def _differences(swept: Path, whole: Path) -> list[str]:
    faults = []
    names = [folder.name for folder in trial_folders(whole)]
    if [folder.name for folder in trial_folders(swept)] != names:
        return [f"trials: {[folder.name for folder in trial_folders(swept)]}, expected {names}"]
    for name in names:
        faults += [f"{name}: {fault}" for fault in trial_differences(swept / name, whole / name)]
        if (values := _values(swept / name)) != (expected := _values(whole / name)):
            faults.append(f"{name}: values: {values}, expected {expected}")
    for part, read in {"summary": _counts, "study": _study, "rungs": rungs}.items():
        if read(swept) != read(whole):
            faults.append(f"{part}: {read(swept)}, expected {read(whole)}")
    return faults + list(_mlflow(swept))


def trial_differences(trial: Path, twin: Path) -> list[str]:
    """Return the faults of a trial's record, and its differences from a twin that has the same seed."""
    return [*_record(trial), *_unlike(trial, twin)]


def epochs(trial: Path) -> list[Event]:
    """Return the recorded epochs of a trial."""
    return [event for event in read_events(trial / EVENTS) if event["event"] == "epoch"]


def rungs(sweep: Path) -> Any:
    """Return the state of a resumed sweep's scheduler: the rungs of each bracket, and the stopped trials."""
    config = read_config(sweep / CONFIG)
    scheduler = make_scheduler(config.scheduler, config.training.max_epochs, read_space(config), recorded_scores(sweep))
    brackets = getattr(scheduler, "brackets", [])  # scheduler=none has none
    return [bracket.rungs for bracket in brackets], sorted(getattr(scheduler, "stopped", ()))


def _record(trial: Path) -> Iterator[str]:
    """Faults of a trial's record: it has one end and every epoch once, and its three files agree."""
    events, seen = read_events(trial / EVENTS), epochs(trial)
    if [event["event"] for event in events].count("end") != 1 or events[-1]["event"] != "end":
        yield f"events end with {[event['event'] for event in events][-3:]}, expected one end, the last"
    if [event["epoch"] for event in seen] != list(range(1, len(seen) + 1)):
        yield f"epochs {[event['epoch'] for event in seen]}"
    result = json.loads((trial / RESULT).read_text())
    if result["curves"] != json_safe(curves(seen)) or result["outcome"] != events[-1]["outcome"]:
        yield "result.json differs from the events"
    with (trial / SCALARS).open() as stream:
        if [int(row["epoch"]) for row in csv.DictReader(stream)] != [event["epoch"] for event in seen]:
            yield "scalars.csv differs from the events"


def _unlike(trial: Path, twin: Path) -> Iterator[str]:
    """Differences of a trial from its undisturbed twin, except values, times and memory."""
    for part, read in {"curves": _curves, "end": _end}.items():
        if read(trial) != read(twin):
            yield f"{part}: {read(trial)}, expected {read(twin)}"
    (at, state), (twin_at, twin_state) = (
        checkpoint.newest(folder / CHECKPOINTS) or (None, {}) for folder in (trial, twin)
    )
    if at is None or twin_at is None or at.epoch != twin_at.epoch or at.epoch != len(epochs(trial)):
        yield f"newest checkpoint: {at}, expected {twin_at}"
        return
    mine, others = state["trainable"], twin_state["trainable"]
    unequal = [
        key for key in {**mine, **others} if not (key in mine and key in others and same(mine[key], others[key]))
    ]
    if unequal:
        yield f"weights differ: {unequal}"


def same(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Return True if two tensors have equal types and values."""
    return first.dtype == second.dtype and torch.equal(first, second)


def _values(trial: Path) -> Any:
    return read_events(trial / EVENTS)[0]["values"]


def _curves(trial: Path) -> Any:
    """The metrics of every epoch except times and memory, its score, and the loss of every step."""
    return [
        (
            event["epoch"],
            event["score"],
            {name: value for name, value in event["metrics"].items() if not name.startswith("system/")},
            event["losses"],
        )
        for event in epochs(trial)
    ]


def _end(trial: Path) -> Any:
    last = read_events(trial / EVENTS)[-1]
    return last.get("outcome"), last.get("reason")


def _counts(sweep: Path) -> Any:
    summary = json.loads((sweep / SUMMARY).read_text())
    return {key: summary[key] for key in ("trials", *OUTCOMES, "interrupted", "epochs")}


def _study(sweep: Path) -> Any:
    """The data of the study that the sampler reads."""
    return [
        (trial.number, trial.state.name, trial.params, trial.values, trial.constraints, trial.intermediate_values)
        for trial in open_study(sweep).trials
    ]


def _mlflow(sweep: Path) -> Iterator[str]:
    """Faults in MLflow: the sweep and each trial have one finished run, with every point of every curve once."""
    for name, value in MLFLOW_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{sweep.parent / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("gatesweep").experiment_id
    runs = client.search_runs([experiment], f"tags.sweep = '{sweep.name}'")
    for run in runs:
        if run.info.status != "FINISHED":
            yield f"MLflow: the run of {run.data.tags.get('trial', 'the sweep')} is {run.info.status}"
    children = {run.data.tags["trial"]: run for run in runs if run.data.tags["sweep.kind"] == "trial"}
    names = [folder.name for folder in trial_folders(sweep)]
    if sorted(children) != names or len(runs) != 1 + len(names):
        yield f"MLflow: {len(runs)} runs of {sorted(children)}, expected one of {names} each, and one of the sweep"
        return
    for name, run in children.items():
        points = {key: _points(client, run.info.run_id, key) for key in run.data.metrics}
        expected = _expected(epochs(sweep / name)) | _expected_of_test(sweep / name)
        if points != expected:
            unequal = [key for key in {**points, **expected} if points.get(key) != expected.get(key)]
            yield f"MLflow: {name}: {[(key, points.get(key), expected.get(key)) for key in unequal[:2]]}"
        models = client.search_logged_models([experiment], filter_string=f"name = '{sweep.name}-{name}'")
        if len(models) != (run.data.tags["outcome"] in ("passed", "finished")):
            yield f"MLflow: {len(models)} models of {name}, which {run.data.tags['outcome']}"


def _points(client: Any, run: str, key: str) -> list[tuple[int, float]]:
    return sorted((point.step, point.value) for point in client.get_metric_history(run, key))


def _expected(recorded: list[Event]) -> dict[str, list[tuple[int, float]]]:
    """The points of each metric in the recorded epochs, as MLflow holds them."""
    points: dict[str, list[tuple[int, float]]] = {}
    for event in recorded:
        for key, value in {**event["metrics"], "score": event["score"], "epoch": event["epoch"]}.items():
            points.setdefault(key, []).append((event["epoch"], float(value)))
    losses = [loss for event in recorded for loss in event["losses"]]
    return {**points, STEP_LOSS: list(enumerate(losses, 1))}


def _expected_of_test(trial: Path) -> dict[str, list[tuple[int, float]]]:
    """The points of a winner's metrics on the test split."""
    word = read_last_word(trial)
    return {key: [(word.epoch, float(value))] for key, value in word.metrics.items()} if word else {}
