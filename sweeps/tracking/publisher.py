"""A sweep's run directories, projected onto MLflow: a parent run for the sweep, a child for every trial."""

from __future__ import annotations

import colorsys
import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from gatesweep.core import checkpoint
from gatesweep.core.files import hold_lock, write_atomically
from gatesweep.core.record import STEP_LOSS, Event, read_events
from gatesweep.sweeps.config.recorded import read_config
from gatesweep.sweeps.config.schema import make_gate
from gatesweep.sweeps.config.values import flatten
from gatesweep.sweeps.execution.figures import epoch_figures
from gatesweep.sweeps.records.layout import CONFIRM, FIGURES, MLFLOW_POINTER, OUTCOMES, trial_folders
from gatesweep.sweeps.records.reader import read_result
from gatesweep.sweeps.records.summary import leaderboard, leaderboard_columns
from gatesweep.sweeps.storage.uploads import fetch_trial
from gatesweep.sweeps.tracking.database import create_database
from gatesweep.sweeps.tracking.models import pack_model
from gatesweep.sweeps.tracking.view import sweep_note, ui_base, view_tag, view_url

BATCH_POINTS = 1000  # metrics a request: MLflow's limit
SWEEP_RUN = "the sweep"  # the parent run, among the names of trials
STATUS = {"failed": "FAILED", "interrupted": "KILLED"}  # every other outcome is FINISHED


class DeletedRun(Exception):
    """Somebody has deleted a run; it stays so, and the record keeps what it held."""


class Publisher:
    """Sends what is new in a sweep's folder since the last `sync`; a new one sends all of it again."""

    def __init__(self, sweep: Path, uri: str, experiment: str) -> None:
        with publisher_lock(sweep):
            self._open(sweep, uri, experiment)

    def _open(self, sweep: Path, uri: str, experiment: str) -> None:
        from mlflow import MlflowClient

        self.sweep = sweep
        self.config = read_config(sweep / "config.yaml")
        root = sweep.parent.resolve()
        if uri.startswith("sqlite:///"):
            create_database(Path(uri.removeprefix("sqlite:///")))
        self.client = MlflowClient(uri)
        self.experiment = self._experiment(experiment, None if uri.startswith("http") else root / "mlartifacts")
        self.began = int((sweep / "config.yaml").stat().st_mtime * 1000)
        self.parent = self._run("sweep", sweep.name, {"sweep.kind": "sweep"}, self.began)
        self._params(
            self.parent, flatten({key: value for key, value in self.config.to_dict().items() if key != "search"})
        )
        if self._stage(self.parent) == "active":
            self.client.update_run(self.parent, status="RUNNING")
        self.runs: dict[str, str] = {}
        self.sent: dict[str, tuple[int, int]] = {}  # of a trial: bytes of its events, and steps
        self.pictures: dict[str, dict[Path, None]] = {}  # that are to be sent yet
        self.ended: set[str] = set()
        self.varied: list[str] | None = None  # the parameters that the sweep's view shows
        self.url = view_url(uri, self.experiment, sweep.name)
        self.place = {"base": ui_base(uri), "experiment": self.experiment, "sweep": self.parent}
        self._point()

    def _point(self) -> None:
        """Leave word in the sweep's folder of where it is."""
        place = {**self.place, "compare": self.url, "runs": self.runs}
        write_atomically(self.sweep / MLFLOW_POINTER, json.dumps(place, indent=1) + "\n")

    def sync(self, final: bool = True) -> None:
        """Raises what went wrong first, when all has been tried; at once where the server is away.

        How the sweep ended is sent by the `final` one: its report may yet be written.
        """
        with publisher_lock(self.sweep):
            self._sync(final)

    def _sync(self, final: bool) -> None:
        faults: list[Exception] = []
        for folder in [*trial_folders(self.sweep), *trial_folders(self.sweep, CONFIRM)]:
            if folder.name not in self.ended:
                faults += self._attempt(folder.name, partial(self._trial, folder))
        if final:
            faults += self._attempt(SWEEP_RUN, self._sweep)
        if faults:
            raise faults[0]

    def _experiment(self, name: str, artifacts: Path | None) -> str:
        """The experiment's number; made if there is none, unless another sweep is quicker."""
        from mlflow import MlflowException

        found = self.client.get_experiment_by_name(name)
        if found is None:
            try:
                kind = {"mlflow.experimentKind": "custom_model_development"}
                return self.client.create_experiment(name, artifacts and artifacts.as_uri(), tags=kind)
            except MlflowException:
                found = self.client.get_experiment_by_name(name)
                if found is None:
                    raise
        return found.experiment_id

    def _attempt(self, name: str, send: Callable[[], None]) -> list[Exception]:
        """What went wrong with one run, which is nothing to the others."""
        try:
            send()
        except Exception as fault:
            self.client.get_experiment(self.experiment)  # raises where the server is away
            stage = self._stage(self.parent if name == SWEEP_RUN else self.runs.get(name))
            if stage == "gone" and name != SWEEP_RUN:  # deleted for good: made anew
                self.runs.pop(name, None)
                self.sent.pop(name, None)
            if not isinstance(fault, DeletedRun) and stage != "deleted":
                return [fault]
            print(f"tracking: the run of {name} was deleted, and stays so; its record is kept", file=sys.stderr)
            self.ended.add(name)
        return []

    def _stage(self, run: str | None) -> str:
        """What has become of a run: active, deleted, gone (for good), or none that is known."""
        from mlflow import MlflowException

        if run is None:
            return "unknown"
        try:
            return self.client.get_run(run).info.lifecycle_stage
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return "gone"
            raise

    def _trial(self, folder: Path) -> None:
        """Send a trial's new events. Only what was sent is counted as sent: a fault leaves the rest for next time."""
        name, points = folder.name, []
        start, step = self.sent.get(name, (0, 0))
        offset = start
        for event, offset in self._new_events(folder, start):
            if event["event"] == "epoch":
                points += curve_points(event, step)
                step += len(event["losses"])
                self.pictures.setdefault(name, {}).update(dict.fromkeys(epoch_figures(folder, event["epoch"])))
                if len(points) < BATCH_POINTS:
                    continue
            self._log(name, points)
            points = []
            if event["event"] == "start":
                self._start(folder, event)
            elif event["event"] == "interrupted":
                self.client.set_terminated(self.runs[name], "KILLED", milliseconds(event))
            elif event["event"] == "end":
                self._end(self.runs[name], folder, event)
            self.sent[name] = offset, step
        self._log(name, points)
        self.sent[name] = offset, step
        self._draw(name)

    def _log(self, name: str, points: list[Any]) -> None:
        for start in range(0, len(points), BATCH_POINTS):
            self.client.log_batch(self.runs[name], metrics=points[start : start + BATCH_POINTS])

    def _draw(self, name: str) -> None:
        """Send a trial's figures, after its curves: they may find no room where these do."""
        waiting = self.pictures.get(name, {})
        for path in list(waiting):
            self.client.log_artifact(self.runs[name], str(path), FIGURES)
            del waiting[path]

    def _new_events(self, folder: Path, offset: int) -> Iterator[tuple[Event, int]]:
        with (folder / "events.jsonl").open("rb") as stream:
            stream.seek(offset)
            for line in stream:
                if not line.endswith(b"\n"):
                    return  # still being written
                offset += len(line)
                yield json.loads(line), offset

    def _start(self, folder: Path, event: Event) -> None:
        if folder.name not in self.runs:
            config, values = yaml.safe_load((folder / "config.yaml").read_text()), event.get("values", {})
            shown = {key: config[key] for key in ("trainable", "data", "training", "seed")}
            kind = folder.name.partition("_")[0]
            tags = {"sweep.kind": kind, "trial": folder.name, "mlflow.parentRunId": self.parent}
            tags["mlflow.runColor"] = run_colour(int(folder.name.rpartition("_")[2]))
            run = self._run(kind, folder.name, tags, milliseconds(event))
            self._params(run, {**flatten(shown), **values})
            self._show(list(values))
            self.runs[folder.name] = run
            self._point()
        self.client.update_run(self.runs[folder.name], status="RUNNING")

    def _show(self, values: list[str]) -> None:
        """Keep the sweep's view, where it does not show these parameters yet."""
        varied = list(dict.fromkeys([*(self.varied or []), *values]))
        if varied != self.varied:
            view = view_tag(self.sweep.name, make_gate(self.config.gate), varied, self.began)
            self.client.set_experiment_tag(self.experiment, *view)
            self.varied = varied

    def _end(self, run: str, folder: Path, event: Event) -> None:
        from mlflow.entities import RunTag

        result = read_result(folder)
        tags = {"outcome": event["outcome"], "gate": "passed" if event["outcome"] == "passed" else "missed"}
        tags |= {"gate.missed": "; ".join(result["missed"]), "reason": result["reason"] or ""}
        self.client.log_batch(run, tags=[RunTag(key, text[:5000]) for key, text in tags.items()])
        self.client.set_terminated(run, STATUS.get(event["outcome"], "FINISHED"), milliseconds(event))
        self._draw(folder.name)  # from here on there may be no room
        for name in ("config.yaml", "result.json", "scalars.csv", "error.txt"):
            if (folder / name).exists():
                self.client.log_artifact(run, str(folder / name))
        if self.config.storage:  # on other machines, until now
            fetch_trial(self.config.storage, folder)
            for path in sorted((folder / FIGURES).glob("*.png")):
                self.client.log_artifact(run, str(path), FIGURES)
        if event["outcome"] in self.config.tracking.models:
            self._model(run, folder)
        self.ended.add(folder.name)

    def _model(self, run: str, folder: Path) -> None:
        """The checkpoint that passed, else the best, as a logged model: weights, and no code that loading would run."""
        from mlflow.entities import LoggedModelOutput

        found, name = checkpoint.best(folder / "checkpoints"), f"{self.sweep.name}-{folder.name}"
        if found is None or self._logged(name):
            return
        model = self.client.create_logged_model(
            self.experiment, name=name, source_run_id=run, model_type="checkpoint", tags={"sweep": self.sweep.name}
        )
        with TemporaryDirectory(prefix=".model", dir=folder) as aside:
            pack_model(folder, found, Path(aside))
            self.client.log_model_artifacts(model.model_id, aside)
        self.client.finalize_logged_model(model.model_id, "READY")
        self.client.log_outputs(run, [LoggedModelOutput(model.model_id, step=found.epoch)])

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

        path, events = self.sweep / "summary.json", read_events(self.sweep / "events.jsonl")
        runs_again = bool(events) and events[-1]["event"] == "start"  # and the summary is of its earlier end
        if SWEEP_RUN in self.ended or runs_again or not path.exists():
            return
        summary, at = json.loads(path.read_text()), int(path.stat().st_mtime * 1000)
        for name in ("config.yaml", "summary.json", "leaderboard.csv", "study.journal", "report.html"):
            if (self.sweep / name).exists():
                self.client.log_artifact(self.parent, str(self.sweep / name))
        self.client.log_dict(self.parent, leaderboard_columns(leaderboard(self.sweep)), "leaderboard.json")
        shown = json.dumps([{"path": "leaderboard.json", "type": "table"}])  # how the UI knows
        self.client.set_tag(self.parent, "mlflow.loggedArtifacts", shown)
        counts = {key: float(summary[key]) for key in ("trials", *OUTCOMES)}
        self.client.log_batch(self.parent, metrics=[Metric(key, value, at, 0) for key, value in counts.items()])
        self.client.set_tag(self.parent, "best.trial", (summary["best"] or {}).get("trial", ""))
        self.client.set_tag(self.parent, "mlflow.note.content", sweep_note(summary, self.config.gate.thresholds))
        self.client.set_terminated(self.parent, "KILLED" if summary["interrupted"] else "FINISHED", at)
        self.ended.add(SWEEP_RUN)

    def _run(self, kind: str, name: str, tags: dict[str, str], start: int) -> str:
        """The run of these tags, made if there is none: making is not idempotent, so it looks first."""
        from mlflow.entities import ViewType

        mine = {"sweep": self.sweep.name, **tags}
        query = " and ".join(f"tags.`{key}` = '{mine[key]}'" for key in ("sweep", "sweep.kind", "trial") if key in mine)
        if found := self.client.search_runs([self.experiment], query, ViewType.ALL, max_results=1):
            if kind != "sweep" and found[0].info.lifecycle_stage != "active":
                raise DeletedRun(name)
            return found[0].info.run_id
        title = name if kind == "sweep" else f"{name} {self.sweep.name}"  # what differs first: tables cut names short
        return self.client.create_run(self.experiment, start_time=start, tags=mine, run_name=title).info.run_id

    def _params(self, run: str, values: dict[str, Any]) -> None:
        from mlflow.entities import Param

        found = self.client.get_run(run)
        if found.info.lifecycle_stage != "active":
            return
        known = found.data.params  # a resumed sweep may have changed num_samples: parameters are final
        new = [Param(key, str(value)[:6000]) for key, value in values.items() if key not in known]
        for start in range(0, len(new), 100):
            self.client.log_batch(run, params=new[start : start + 100])


@contextmanager
def publisher_lock(sweep: Path) -> Iterator[None]:
    """One publisher of a sweep at a time: a run is looked for, then made, and two would both not find it."""
    with hold_lock(sweep / ".publish"):
        yield


def curve_points(event: Event, first: int) -> list[Any]:
    """The points of an epoch's metrics, by epoch, and of its steps' losses, by step from `first` + 1 on."""
    from mlflow.entities import Metric

    at, facts = milliseconds(event), {"score": event["score"], "epoch": event["epoch"]}
    points = [
        Metric(key, mlflow_number(value), at, event["epoch"]) for key, value in {**event["metrics"], **facts}.items()
    ]
    return points + [
        Metric(STEP_LOSS, mlflow_number(loss), at, first + step) for step, loss in enumerate(event["losses"], 1)
    ]


def milliseconds(event: Event) -> int:
    return int(event["time"] * 1000)


def run_colour(index: int) -> str:
    """A colour of its own for every run of a chart: MLflow's own palette repeats after eight."""
    hue = index * 0.618034 % 1  # steps of the golden ratio never come close to one another
    return "#" + "".join(f"{round(255 * part):02x}" for part in colorsys.hls_to_rgb(hue, 0.42, 0.65))


def mlflow_number(value: float | None) -> float:
    """MLflow stores infinities as 1.8e308, which no axis survives; they are recorded as null, and so sent as NaN."""
    return math.nan if value is None else float(value)
