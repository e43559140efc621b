"""The run of a trial in MLflow: what is there already, and what is still to be sent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gatesweep.core.gate import Gate
from gatesweep.core.record import REOPENED, Event
from gatesweep.sweeps.execution.figures import epoch_figures
from gatesweep.sweeps.records.layout import CONFIG, ERROR, EVENTS, FIGURES, RESULT, SCALARS
from gatesweep.sweeps.storage.uploads import fetch_trial
from gatesweep.sweeps.tracking.models import delete_models, log_model
from gatesweep.sweeps.tracking.names import mlflow_key
from gatesweep.sweeps.tracking.parameters import END_TAGS, end_tags, trial_parameters
from gatesweep.sweeps.tracking.points import BATCH_POINTS, EPOCH, curve_points, milliseconds, new_events
from gatesweep.sweeps.tracking.runs import DeletedRun, SweepRuns
from gatesweep.sweeps.tracking.view import PARENT_RUN, RUN_COLOUR, run_colour

STATUS = {"failed": "FAILED", "interrupted": "KILLED"}  # every other outcome is FINISHED
SENT_TAG = "sweep.sent"  # of an ended trial, once all of it has arrived: the bytes of its events


@dataclass(frozen=True)
class SweepFacts:
    """The facts about a sweep that the runs of all of its trials need.

    `live_since` is the time at which the driver at work began, None without a driver.
    """

    parent: str
    tags: dict[str, str]
    models: list[str]
    gate: Gate
    storage: str | None
    live_since: float | None


class TrialRun:
    """Sends a trial's folder, each time what is new in it. A fault leaves the rest for the next time."""

    def __init__(self, folder: Path, runs: SweepRuns, run: Any = None) -> None:
        """`run` is the trial's run where MLflow has one. Raises OSError."""
        self.folder, self.runs, self.run = folder, runs, run
        self.read, self.steps = 0, 0  # bytes of the events, and the steps of their epochs
        self.start: Event = {}  # the newest
        self.last: Event = {}
        self.params: dict[str, Any] | None = None  # unsent; None: not known yet
        self.unsent_figures: dict[Path, None] = {}  # in their order
        self.complete, self.status, self.epochs_there = False, "RUNNING", 0
        self.was_there = run is not None
        if run is not None:
            size = (folder / EVENTS).stat().st_size
            self.status, self.epochs_there = run.info.status, int(run.data.metrics.get(EPOCH, 0))
            self.complete = run.data.tags.get(SENT_TAG) == str(size) and self.status != "RUNNING"

    @property
    def values(self) -> dict[str, Any]:
        """The searched values of the trial's newest start; of its first, where its events were not read."""
        if not self.start:
            with (self.folder / EVENTS).open("rb") as stream:
                return json.loads(stream.readline() or b"{}").get("values", {})
        return self.start.get("values", {})

    def publish(self, sweep: SweepFacts) -> None:
        """Send what is new. Raises MlflowException, OSError, DamagedRecord, and DeletedRun for a deleted run."""
        if self.run is not None and self.run.info.lifecycle_stage != "active":
            raise DeletedRun(self.folder.name)
        points: list[Any] = []
        read, steps, last, reopened = self.read, self.steps, self.last, False
        for event, read in new_events(self.folder / EVENTS, self.read):
            last = event
            if event["event"] == "start":
                self.start = event
            reopened = reopened or event["event"] == REOPENED
            if event["event"] != "epoch":
                continue
            if event["epoch"] >= self.epochs_there:  # the last one that is there may lack points
                points += curve_points(event, steps)
            steps += len(event["losses"])
            self.unsent_figures.update(dict.fromkeys(epoch_figures(self.folder, event["epoch"])))
            if len(points) >= BATCH_POINTS:
                self._send(sweep, points)
                self.read, self.steps, points = read, steps, []
        if not self.start:
            return
        self._create(sweep)
        if reopened:
            self._take_end_back()
        tags, fault = {}, None
        if last.get("event") == "end":
            tags = end_tags(self.folder, last, sweep.gate)
        try:
            self._send_files(sweep, tags.get("outcome"))
        except Exception as error:  # a full artifact store must not cost points: they go before it is raised
            fault = error
        if tags and fault is None:
            tags[SENT_TAG] = str(read)
        self._send(sweep, points, tags)
        self.read, self.steps, self.last = read, steps, last
        self._set_status(sweep.live_since)
        if fault:
            raise fault
        self.complete = bool(tags)

    def _create(self, sweep: SweepFacts) -> None:
        """Make the run if there is none, and find out which parameters it lacks."""
        if self.params is not None:
            return
        name, params = self.folder.name, trial_parameters(self.folder, self.values)
        if self.run is None:
            tags = {"sweep.kind": name.partition("_")[0], "trial": name, PARENT_RUN: sweep.parent, **sweep.tags}
            tags[RUN_COLOUR] = run_colour(int(name.rpartition("_")[2]))
            self.run = self.runs.create(name, tags, milliseconds(self.start))
        there = self.run.data.params  # MLflow never changes a parameter, and refuses another value for it
        self.params = {key: value for key, value in params.items() if mlflow_key(key) not in there}

    def _take_end_back(self) -> None:
        """Remove what said how the trial ended, before it went on."""
        delete_models(self.runs, self.run.info.run_id)
        for tag in END_TAGS:
            if tag in self.run.data.tags:
                self.runs.client.delete_tag(self.run.info.run_id, tag)

    def _send(self, sweep: SweepFacts, points: list[Any], tags: Mapping[str, str] = {}) -> None:
        """Send points and tags, with the parameters that are missing."""
        self._create(sweep)
        self.runs.send(self.run.info.run_id, points, self.params or {}, tags)
        self.params = {}

    def _send_files(self, sweep: SweepFacts, outcome: str | None) -> None:
        """Send the figures that are new; once the trial has ended, its files and its model as well."""
        if outcome and sweep.storage:  # figures and checkpoints were on other machines until now
            fetch_trial(sweep.storage, self.folder)
            self.unsent_figures.update(dict.fromkeys(sorted((self.folder / FIGURES).glob("*.png"))))
        for path in list(self.unsent_figures):
            self.runs.send_files(self.run, [path], FIGURES)
            del self.unsent_figures[path]
        if outcome:
            self.runs.send_files(self.run, [self.folder / name for name in (CONFIG, RESULT, SCALARS, ERROR)])
        if outcome in sweep.models:
            again, self.was_there = self.was_there, True  # an attempt that fails may leave a part of a model
            log_model(self.runs, self.run.info.run_id, self.folder, again)

    def _set_status(self, live_since: float | None) -> None:
        """Set the run's status where MLflow has another."""
        kind, outcome = self.last["event"], self.last.get("outcome")
        if kind == "end":
            status = STATUS.get(str(outcome), "FINISHED")
        elif kind == "interrupted" or live_since is None or self.start["time"] < live_since:
            status = "KILLED"
        else:
            status = "RUNNING"
        if status == self.status:
            return
        if status == "RUNNING":
            self.runs.client.update_run(self.run.info.run_id, status=status)
        else:
            self.runs.client.set_terminated(self.run.info.run_id, status, milliseconds(self.last))
        self.status = status
