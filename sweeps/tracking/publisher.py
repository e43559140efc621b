"""The publisher: it sends the folders of a sweep to MLflow, a parent run for the sweep and a child for each trial."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from gatesweep.core.files import hold_lock, write_atomically
from gatesweep.core.record import Event, read_events
from gatesweep.sweeps.config.recorded import read_config
from gatesweep.sweeps.config.schema import make_gate
from gatesweep.sweeps.records.layout import CONFIG, CONFIRM, EVENTS, MLFLOW_POINTER, PUBLISHER_LOCK, TRIAL, is_running
from gatesweep.sweeps.tracking.last_word import publish_last_word
from gatesweep.sweeps.tracking.names import mlflow_key
from gatesweep.sweeps.tracking.parameters import code_tags, sweep_parameters
from gatesweep.sweeps.tracking.runs import DeletedRun, SweepRuns
from gatesweep.sweeps.tracking.sweep_run import publish_sweep_run
from gatesweep.sweeps.tracking.trial_run import SweepFacts, TrialRun
from gatesweep.sweeps.tracking.view import ui_base, view_tag, view_url

SWEEP_RUN = "the sweep"  # the parent run, among the names of trials


class Publisher:
    """Sends what is new in a sweep's folder since the last `sync`; a new publisher sends what MLflow has not.

    With `follow`, a driver is at work until the last sync. `url` opens the sweep in MLflow. Raises MlflowException,
    or OSError where the server cannot be reached.
    """

    def __init__(self, sweep: Path, uri: str, experiment: str, follow: bool = False) -> None:
        self.sweep, self.follow, self.name = sweep, follow, uuid.uuid4().hex
        with self._lock():
            self.config = read_config(sweep / CONFIG)
            self.began = int((sweep / CONFIG).stat().st_mtime * 1000)
            self.starts = len(self._starts())
            self.runs = SweepRuns(sweep, uri, experiment)
            self.runs.on_progress = partial(os.utime, sweep / PUBLISHER_LOCK)  # for whoever waits
            self.trials: dict[str, TrialRun] = {}
            self.ended: set[str] = set()
            self.varied: list[str] = []  # the parameters that the sweep's view shows
            self.view: list[str] | None = None  # those that it shows in MLflow
            self.url = view_url(uri, self.runs.experiment, self.runs.identity or sweep.name)
            self.ui_base = ui_base(uri)
            self.pointer = ""
            self._list_runs()
            self.parent = self._find_parent()
            self._write_pointer()
            self._sign()

    def sync(self, final: bool = True) -> None:
        """Send what is new. Only the `final` sync sends the end of the sweep: its report may not be written before.

        A fault with one run does not hinder the others. Raises the first fault when all has been tried; raises at once
        where the server does not answer.
        """
        with self._lock():
            if (self.sweep / PUBLISHER_LOCK).read_text() != self.name:  # another one was at work, or a run got lost
                self._list_runs()
                self._sign()
            facts = self._facts(final)
            faults: list[Exception] = []
            for name in self._unended():
                faults += self._attempt(name, partial(self._publish_trial, name, facts))
            self._write_view()
            self._write_pointer()
            if final and SWEEP_RUN not in self.ended:
                faults += self._attempt(SWEEP_RUN, partial(self._publish_sweep, facts))
            if faults:
                raise faults[0]

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """Hold the lock of the sweep's publisher: two at once would both find no run, and make it twice."""
        with hold_lock(self.sweep / PUBLISHER_LOCK):
            yield

    def _sign(self, name: str | None = None) -> None:
        """Note in the lock that the runs are known to this publisher; with "" that they are to be listed again."""
        (self.sweep / PUBLISHER_LOCK).write_text(self.name if name is None else name)

    def _list_runs(self) -> None:
        """Ask MLflow for the sweep's runs. A trial whose run is another one than was known is looked at anew."""
        self.listed = self.runs.listed()
        for name, trial in list(self.trials.items()):
            run = self.listed.get(name)
            if run is None or trial.run is None or run.info.run_id != trial.run.info.run_id:
                del self.trials[name]
            else:
                trial.status = run.info.status

    def _find_parent(self) -> Any:
        """Find or make the run of the sweep, and send its parameters."""
        run = self.listed.get("")
        if run is None:
            run = self.runs.create("", {"sweep.kind": "sweep"}, self.began)
        if run.info.lifecycle_stage == "active":
            missing = {
                key: value
                for key, value in sweep_parameters(self.config).items()
                if mlflow_key(key) not in run.data.params  # a resumed sweep may have other values: MLflow takes none
            }
            self.runs.send(run.info.run_id, params=missing, tags=code_tags(self._newest_start()))
            if (self.follow or is_running(self.sweep)) and run.info.status != "RUNNING":
                self.runs.client.update_run(run.info.run_id, status="RUNNING")
        return run

    def _starts(self) -> list[Event]:
        return [event for event in read_events(self.sweep / EVENTS) if event["event"] == "start"]

    def _newest_start(self) -> Event:
        return next(reversed(self._starts()), {})

    def _facts(self, final: bool) -> SweepFacts:
        """Gather what trials need to know. A followed sweep lives until its end, and on if it was resumed since."""
        live = not final or len(self._starts()) != self.starts if self.follow else is_running(self.sweep)
        start, tracking = self._newest_start(), self.config.tracking
        return SweepFacts(
            parent=self.parent.info.run_id,
            tags=code_tags(start),
            models=list(tracking.models),
            gate=make_gate(self.config.gate),
            storage=self.config.storage,
            live_since=start.get("time", 0.0) if live else None,
        )

    def _unended(self) -> list[str]:
        """List the trials that have begun and of which something may be missing in MLflow, by name, winners last."""
        names = {entry.name for entry in os.scandir(self.sweep) if entry.name.startswith((f"{TRIAL}_", f"{CONFIRM}_"))}
        unended = sorted(name for name in names - self.ended if (self.sweep / name / EVENTS).exists())
        return sorted(unended, key=lambda name: name.startswith(CONFIRM))

    def _write_pointer(self) -> None:
        """Write the sweep's address in MLflow into its folder, if it has changed."""
        place = {"base": self.ui_base, "experiment": self.runs.experiment, "sweep": self.parent.info.run_id}
        runs = {name: trial.run.info.run_id for name, trial in self.trials.items() if trial.run is not None}
        pointer = json.dumps({**place, "id": self.runs.identity, "compare": self.url, "runs": runs}, indent=1) + "\n"
        if pointer != self.pointer:
            write_atomically(self.sweep / MLFLOW_POINTER, pointer)
            self.pointer = pointer

    def _attempt(self, name: str, send: Callable[[], None]) -> list[Exception]:
        """Send one run; return its fault, if any. A run that was deleted by hand is no fault."""
        try:
            send()
        except Exception as fault:
            self.runs.check_server()
            run = self.parent if name == SWEEP_RUN else self.trials[name].run if name in self.trials else None
            stage = self.runs.stage(run.info.run_id) if run is not None else "gone"
            if stage == "gone":  # deleted for good, or perhaps made although the answer was lost: looked for
                self._sign("")
            if not isinstance(fault, DeletedRun) and stage != "deleted":
                return [fault]
            print(f"tracking: the run of {name} was deleted, and stays so; its record is kept", file=sys.stderr)
            self.ended.add(name)
        return []

    def _publish_sweep(self, facts: SweepFacts) -> None:
        for name, trial in self.trials.items():
            if trial.run is not None and trial.run.info.lifecycle_stage == "active":
                publish_last_word(self.runs, trial.run, self.sweep / name, facts.gate)
        thresholds = self.config.gate.thresholds
        if publish_sweep_run(self.runs, self.parent, self.sweep, thresholds, facts.live_since is not None):
            self.ended.add(SWEEP_RUN)

    def _publish_trial(self, name: str, facts: SweepFacts) -> None:
        if name not in self.trials:
            self.trials[name] = TrialRun(self.sweep / name, self.runs, self.listed.get(name))
        trial = self.trials[name]
        if not trial.complete:
            trial.publish(facts)
        self.varied = list(dict.fromkeys([*self.varied, *trial.values]))
        if trial.complete:
            self.ended.add(name)

    def _write_view(self) -> None:
        """Write the sweep's view again where it does not show all parameters yet."""
        if self.varied != self.view:
            gate = make_gate(self.config.gate)
            self.runs.set_view(*view_tag(self.sweep.name, self.runs.identity, gate, self.varied, self.began))
            self.view = list(self.varied)
