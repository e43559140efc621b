"""The publisher: it sends the folders of a sweep to MLflow, a parent run for the sweep and a child for each trial."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from gatesweep.core.files import hold_lock, write_atomically
from gatesweep.core.record import REOPENED, Event
from gatesweep.sweeps.config.recorded import read_config
from gatesweep.sweeps.config.schema import make_gate
from gatesweep.sweeps.config.secrets import redact_values
from gatesweep.sweeps.config.values import flatten
from gatesweep.sweeps.execution.figures import epoch_figures
from gatesweep.sweeps.records.layout import (
    CONFIG,
    CONFIRM,
    ERROR,
    EVENTS,
    FIGURES,
    MLFLOW_POINTER,
    RESULT,
    SCALARS,
    trial_folders,
)
from gatesweep.sweeps.records.reader import read_result
from gatesweep.sweeps.storage.uploads import fetch_trial
from gatesweep.sweeps.tracking.models import delete_model, log_model
from gatesweep.sweeps.tracking.points import BATCH_POINTS, curve_points, milliseconds, new_events
from gatesweep.sweeps.tracking.runs import DeletedRun, SweepRuns
from gatesweep.sweeps.tracking.sweep_run import publish_sweep_run
from gatesweep.sweeps.tracking.view import (
    PARENT_RUN,
    RUN_COLOUR,
    proportion_tags,
    run_colour,
    ui_base,
    view_tag,
    view_url,
)

SWEEP_RUN = "the sweep"  # the parent run, among the names of trials
STATUS = {"failed": "FAILED", "interrupted": "KILLED"}  # every other outcome is FINISHED
MAX_TAG = 5000  # characters of a tag: MLflow's limit


class Publisher:
    """Sends what is new in a sweep's folder since the last `sync`; a new publisher sends all of it again.

    `url` opens the sweep in MLflow. Raises MlflowException, or OSError where the server cannot be reached.
    """

    def __init__(self, sweep: Path, uri: str, experiment: str) -> None:
        self.sweep = sweep
        with publisher_lock(sweep):
            self.config = read_config(sweep / CONFIG)
            self.runs = SweepRuns(sweep, uri, experiment)
            self.began = int((sweep / CONFIG).stat().st_mtime * 1000)
            self.parent = self.runs.find_or_create("sweep", sweep.name, {"sweep.kind": "sweep"}, self.began)
            shown = {key: value for key, value in self.config.to_dict().items() if key != "search"}
            self.runs.log_params(self.parent, flatten(redact_values(shown)))
            if self.runs.stage(self.parent) == "active":
                self.runs.client.update_run(self.parent, status="RUNNING")
            self.children: dict[str, str] = {}  # identifiers of the trials' runs
            self.sent: dict[str, tuple[int, int]] = {}  # of each trial: bytes of its events, and steps
            self.unsent_figures: dict[str, dict[Path, None]] = {}  # of each trial, in their order
            self.ended: set[str] = set()
            self.varied: list[str] | None = None  # the parameters that the sweep's view shows
            self.url = view_url(uri, self.runs.experiment, sweep.name)
            self.ui_base = ui_base(uri)
            self._write_pointer()

    def sync(self, final: bool = True) -> None:
        """Send what is new. Only the `final` sync sends the end of the sweep: its report may not be written before.

        A fault with one run does not hinder the others. Raises the first fault when all has been tried; raises at once
        where the server does not answer.
        """
        with publisher_lock(self.sweep):
            faults: list[Exception] = []
            for folder in [*trial_folders(self.sweep), *trial_folders(self.sweep, CONFIRM)]:
                if folder.name not in self.ended:
                    faults += self._attempt(folder.name, partial(self._publish_trial, folder))
            if final:
                faults += self._attempt(SWEEP_RUN, self._publish_sweep)
            if faults:
                raise faults[0]

    def _write_pointer(self) -> None:
        """Write the sweep's address in MLflow into its folder."""
        place = {"base": self.ui_base, "experiment": self.runs.experiment, "sweep": self.parent}
        pointer = {**place, "compare": self.url, "runs": self.children}
        write_atomically(self.sweep / MLFLOW_POINTER, json.dumps(pointer, indent=1) + "\n")

    def _attempt(self, name: str, send: Callable[[], None]) -> list[Exception]:
        """Send one run; return its fault, if any. A run that was deleted by hand is no fault."""
        try:
            send()
        except Exception as fault:
            self.runs.check_server()
            stage = self.runs.stage(self.parent if name == SWEEP_RUN else self.children.get(name))
            if stage == "gone" and name != SWEEP_RUN:  # deleted for good: made anew
                self.children.pop(name, None)
                self.sent.pop(name, None)
            if not isinstance(fault, DeletedRun) and stage != "deleted":
                return [fault]
            print(f"tracking: the run of {name} was deleted, and stays so; its record is kept", file=sys.stderr)
            self.ended.add(name)
        return []

    def _publish_sweep(self) -> None:
        if SWEEP_RUN in self.ended:
            return
        if publish_sweep_run(self.runs, self.parent, self.sweep, self.config.gate.thresholds):
            self.ended.add(SWEEP_RUN)

    def _publish_trial(self, folder: Path) -> None:
        """Send a trial's new events. Only what was sent is counted, so a fault leaves the rest for the next sync."""
        name, points = folder.name, []
        start, steps = self.sent.get(name, (0, 0))
        offset = start
        for event, offset in new_events(folder / EVENTS, start):
            if event["event"] == "epoch":
                points += curve_points(event, steps)
                steps += len(event["losses"])
                figures = epoch_figures(folder, event["epoch"])
                self.unsent_figures.setdefault(name, {}).update(dict.fromkeys(figures))
                if len(points) < BATCH_POINTS:
                    continue
            self._log_points(name, points)
            points = []
            if event["event"] == "start":
                self._start(folder, event)
            elif event["event"] == "interrupted":
                self.runs.client.set_terminated(self.children[name], "KILLED", milliseconds(event))
            elif event["event"] == REOPENED:
                self.ended.discard(name)
                delete_model(self.runs, folder)
            elif event["event"] == "end":
                self._end(self.children[name], folder, event)
            self.sent[name] = offset, steps
        self._log_points(name, points)
        self.sent[name] = offset, steps
        self._send_figures(name)

    def _log_points(self, name: str, points: list[Any]) -> None:
        if points:
            self.runs.log_points(self.children[name], points)

    def _send_figures(self, name: str) -> None:
        """Send a trial's figures, after its curves: a full artifact store must not cost points."""
        unsent = self.unsent_figures.get(name, {})
        for path in list(unsent):
            self.runs.client.log_artifact(self.children[name], str(path), FIGURES)
            del unsent[path]

    def _start(self, folder: Path, event: Event) -> None:
        if folder.name not in self.children:
            config, values = yaml.safe_load((folder / CONFIG).read_text()), event.get("values", {})
            shown = {key: config[key] for key in ("trainable", "data", "training", "seed")}
            kind = folder.name.partition("_")[0]
            tags = {"sweep.kind": kind, "trial": folder.name, PARENT_RUN: self.parent}
            tags[RUN_COLOUR] = run_colour(int(folder.name.rpartition("_")[2]))
            run = self.runs.find_or_create(kind, folder.name, tags, milliseconds(event))
            self.runs.log_params(run, {**flatten(redact_values(shown)), **values})
            self._update_view(list(values))
            self.children[folder.name] = run
            self._write_pointer()
        self.runs.client.update_run(self.children[folder.name], status="RUNNING")

    def _update_view(self, values: list[str]) -> None:
        """Write the sweep's view again where it does not show these parameters yet."""
        varied = list(dict.fromkeys([*(self.varied or []), *values]))
        if varied != self.varied:
            view = view_tag(self.sweep.name, make_gate(self.config.gate), varied, self.began)
            self.runs.client.set_experiment_tag(self.runs.experiment, *view)
            self.varied = varied

    def _end(self, run: str, folder: Path, event: Event) -> None:
        from mlflow.entities import RunTag

        result, outcome = read_result(folder), event["outcome"]
        tags = {"outcome": outcome, "gate": "passed" if outcome == "passed" else "missed"}
        tags |= {"gate.missed": "; ".join(result["missed"]), "reason": result["reason"] or ""}
        tags |= proportion_tags(make_gate(self.config.gate), result["metrics"])
        self.runs.client.log_batch(run, tags=[RunTag(key, text[:MAX_TAG]) for key, text in tags.items()])
        self.runs.client.set_terminated(run, STATUS.get(outcome, "FINISHED"), milliseconds(event))
        self._send_figures(folder.name)  # artifacts come last: there may be no room for them
        self.runs.log_files(run, [folder / name for name in (CONFIG, RESULT, SCALARS, ERROR)])
        if self.config.storage:  # figures and checkpoints were on other machines until now
            fetch_trial(self.config.storage, folder)
            for path in sorted((folder / FIGURES).glob("*.png")):
                self.runs.client.log_artifact(run, str(path), FIGURES)
        if outcome in self.config.tracking.models:
            log_model(self.runs, run, folder)
        self.ended.add(folder.name)


@contextmanager
def publisher_lock(sweep: Path) -> Iterator[None]:
    """Hold the lock of a sweep's publisher: two at once would both look for a run, find none, and make it twice."""
    with hold_lock(sweep / ".publish"):
        yield
