"""A sweep's run directories, projected onto MLflow: a parent run for the sweep, a child for every trial."""

from __future__ import annotations

import colorsys
import fcntl
import json
import math
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from core import checkpoint
from core.record import STEP_LOSS, Event
from sweeps import figures
from sweeps.load import WEIGHTS
from sweeps.report import OUTCOMES, read_result, trial_folders
from sweeps.storage import fetch

BATCH = 1000  # metrics a request: MLflow's limit
STATUS = {"failed": "FAILED", "interrupted": "KILLED"}  # every other outcome is FINISHED


class Publisher:
    """Sends what is new in a sweep's folder since the last `sync`; a new one sends all of it again."""

    def __init__(self, sweep: Path, uri: str, experiment: str) -> None:
        from mlflow import MlflowClient

        self.sweep = sweep
        self.config = yaml.safe_load((sweep / "config.yaml").read_text())
        root = sweep.parent.resolve()
        if uri.startswith("sqlite:///"):
            create_database(Path(uri.removeprefix("sqlite:///")))
        self.client = MlflowClient(uri)
        found = self.client.get_experiment_by_name(experiment)
        kind = {"mlflow.experimentKind": "custom_model_development"}
        artifacts = (root / "mlartifacts").as_uri() if uri.startswith("sqlite:///") else None
        self.experiment = (
            found.experiment_id if found else self.client.create_experiment(experiment, artifacts, tags=kind)
        )
        self.parent = self._run("sweep", sweep.name, {"sweep.kind": "sweep"}, self._started())
        self._params(self.parent, flatten({key: self.config[key] for key in self.config if key != "search"}))
        self.runs: dict[str, str] = {}
        self.offsets: dict[str, int] = {}
        self.steps: dict[str, int] = {}
        self.ended: set[str] = set()

    def sync(self) -> None:
        for folder in trial_folders(self.sweep):
            if folder.name not in self.ended:
                self._trial(folder)
        self._sweep()

    def _trial(self, folder: Path) -> None:
        """Send a trial's new events. Only what was sent is counted as sent: a fault leaves the rest for next time."""
        for event, offset in self._new_events(folder):
            if event["event"] == "start":
                self._start(folder, event)
            elif event["event"] == "epoch":
                self._epoch(self.runs[folder.name], folder, event)
            elif event["event"] == "interrupted":
                self.client.set_terminated(self.runs[folder.name], "KILLED", millis(event))
            elif event["event"] == "end":
                self._end(self.runs[folder.name], folder, event)
            self.offsets[folder.name] = offset

    def _new_events(self, folder: Path) -> Iterator[tuple[Event, int]]:
        offset = self.offsets.get(folder.name, 0)
        with (folder / "events.jsonl").open("rb") as stream:
            stream.seek(offset)
            for line in stream:
                if not line.endswith(b"\n"):
                    return  # still being written
                offset += len(line)
                yield json.loads(line), offset

    def _start(self, folder: Path, event: Event) -> None:
        if folder.name not in self.runs:
            config = yaml.safe_load((folder / "config.yaml").read_text())
            shown = {key: config[key] for key in ("trainable", "data", "training", "seed")}
            tags = {"sweep.kind": "trial", "trial": folder.name, "mlflow.parentRunId": self.parent}
            tags["mlflow.runColor"] = colour(int(folder.name.rpartition("_")[2]))
            run = self._run("trial", folder.name, tags, millis(event))
            self._params(run, {**flatten(shown), **event.get("values", {})})
            self.runs[folder.name], self.steps[folder.name] = run, 0
        self.client.update_run(self.runs[folder.name], status="RUNNING")

    def _epoch(self, run: str, folder: Path, event: Event) -> None:
        from mlflow.entities import Metric

        at, first = millis(event), self.steps[folder.name]
        score = {"score": event["score"], "epoch": event["epoch"]}
        points = [
            Metric(key, number(value), at, event["epoch"]) for key, value in {**event["metrics"], **score}.items()
        ]
        points += [Metric(STEP_LOSS, number(loss), at, first + step) for step, loss in enumerate(event["losses"], 1)]
        for start in range(0, len(points), BATCH):
            self.client.log_batch(run, metrics=points[start : start + BATCH])
        for path in figures.of_epoch(folder, event["epoch"]):
            self.client.log_artifact(run, str(path), figures.FOLDER)
        self.steps[folder.name] = first + len(event["losses"])

    def _end(self, run: str, folder: Path, event: Event) -> None:
        from mlflow.entities import RunTag

        result = read_result(folder)
        tags = {"outcome": event["outcome"], "gate": "passed" if event["outcome"] == "passed" else "missed"}
        tags |= {"gate.missed": "; ".join(result["missed"]), "reason": result["reason"] or ""}
        self.client.log_batch(run, tags=[RunTag(key, text[:5000]) for key, text in tags.items()])
        for name in ("config.yaml", "result.json", "scalars.csv", "error.txt"):
            if (folder / name).exists():
                self.client.log_artifact(run, str(folder / name))
        if self.config["storage"]:  # on other machines, until now
            fetch(self.config["storage"], folder)
            for path in sorted((folder / figures.FOLDER).glob("*.png")):
                self.client.log_artifact(run, str(path), figures.FOLDER)
        if event["outcome"] == "passed":
            self._model(run, folder)
        self.client.set_terminated(run, STATUS.get(event["outcome"], "FINISHED"), millis(event))
        self.ended.add(folder.name)

    def _model(self, run: str, folder: Path) -> None:
        """The checkpoint that passed, as a logged model: weights without code, so nothing runs when it is loaded."""
        import torch
        from mlflow.entities import LoggedModelOutput

        passed, name = checkpoint.best(folder / "checkpoints"), f"{self.sweep.name}-{folder.name}"
        if passed is None or self._logged(name):
            return
        model = self.client.create_logged_model(
            self.experiment, name=name, source_run_id=run, model_type="checkpoint", tags={"sweep": self.sweep.name}
        )
        aside = folder / ".model"
        aside.mkdir(exist_ok=True)
        torch.save(passed.state()["trainable"], aside / WEIGHTS)
        for source in (passed.path / checkpoint.META, folder / "config.yaml"):
            (aside / source.name).write_bytes(source.read_bytes())
        self.client.log_model_artifacts(model.model_id, str(aside))
        self.client.finalize_logged_model(model.model_id, "READY")
        self.client.log_outputs(run, [LoggedModelOutput(model.model_id, step=passed.epoch)])
        for file in aside.iterdir():
            file.unlink()
        aside.rmdir()

    def _logged(self, name: str) -> bool:
        found = self.client.search_logged_models([self.experiment], filter_string=f"name = '{name}'")
        for model in found:
            if str(model.status).endswith("READY"):
                return True
            self.client.delete_logged_model(model.model_id)  # a publisher was killed while it sent this one
        return False

    def _sweep(self) -> None:
        """The parent run: leaderboard, summary and how the sweep ended."""
        from mlflow.entities import Metric

        path = self.sweep / "summary.json"
        if not path.exists():
            return
        summary, at = json.loads(path.read_text()), int(path.stat().st_mtime * 1000)
        for name in ("config.yaml", "summary.json", "leaderboard.csv"):
            self.client.log_artifact(self.parent, str(self.sweep / name))
        counts = {key: float(summary[key]) for key in ("trials", *OUTCOMES)}
        self.client.log_batch(self.parent, metrics=[Metric(key, value, at, 0) for key, value in counts.items()])
        self.client.set_tag(self.parent, "best.trial", (summary["best"] or {}).get("trial", ""))
        self.client.set_terminated(self.parent, "KILLED" if summary["interrupted"] else "FINISHED", at)

    def _run(self, kind: str, name: str, tags: dict[str, str], start: int) -> str:
        """The run of these tags, made if there is none: making is not idempotent, so it looks first."""
        mine = {"sweep": self.sweep.name, **tags}
        query = " and ".join(f"tags.`{key}` = '{mine[key]}'" for key in ("sweep", "sweep.kind", "trial") if key in mine)
        found = self.client.search_runs([self.experiment], query, max_results=1)
        if found:
            return found[0].info.run_id
        title = name if kind == "sweep" else f"{name} {self.sweep.name}"  # what differs first: tables cut names short
        return self.client.create_run(self.experiment, start_time=start, tags=mine, run_name=title).info.run_id

    def _params(self, run: str, values: dict[str, Any]) -> None:
        from mlflow.entities import Param

        known = self.client.get_run(
            run
        ).data.params  # a resumed sweep may have changed num_samples: parameters are final
        new = [Param(key, str(value)[:6000]) for key, value in values.items() if key not in known]
        for start in range(0, len(new), 100):
            self.client.log_batch(run, params=new[start : start + 100])

    def _started(self) -> int:
        return int((self.sweep / "config.yaml").stat().st_mtime * 1000)


def millis(event: Event) -> int:
    return int(event["time"] * 1000)


def colour(index: int) -> str:
    """A colour of its own for every run of a chart: MLflow's own palette repeats after eight."""
    hue = index * 0.618034 % 1  # steps of the golden ratio never come close to one another
    return "#" + "".join(f"{round(255 * part):02x}" for part in colorsys.hls_to_rgb(hue, 0.42, 0.65))


def number(value: float | None) -> float:
    """MLflow stores infinities as 1.8e308, which no axis survives; they are recorded as null, and so sent as NaN."""
    return math.nan if value is None else float(value)


def flatten(node: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in node.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def create_database(path: Path) -> None:
    """Make MLflow's sqlite file once: aside under a lock, then renamed, for its migrations do not bear company."""
    if path.exists():
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            return
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        SqlAlchemyStore(f"sqlite:///{aside}", (path.parent / "mlartifacts").as_uri()).engine.dispose()
        with sqlite3.connect(aside) as connection:  # the UI reads while a sweep writes
            connection.execute("pragma journal_mode=wal")
            connection.execute("pragma wal_checkpoint(truncate)")
        connection.close()
        aside.rename(path)


def default_uri(sweep: Path) -> str:
    return f"sqlite:///{sweep.resolve().parent / 'mlflow.db'}"
