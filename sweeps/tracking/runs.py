"""The runs of one sweep in an MLflow experiment."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from gatesweep.core.errors import InputError
from gatesweep.sweeps.config.secrets import redact
from gatesweep.sweeps.records.reader import sweep_identity
from gatesweep.sweeps.tracking.database import create_database
from gatesweep.sweeps.tracking.names import (
    ID_TAG,
    MAX_PARAM,
    MAX_TAG,
    experiment_name,
    mlflow_key,
    run_name,
    runs_query,
    text_value,
)
from gatesweep.sweeps.tracking.points import BATCH_POINTS
from gatesweep.sweeps.tracking.view import EXPERIMENT_KIND

BATCH = {"metrics": BATCH_POINTS, "params": 100, "tags": 100}  # entities of each kind in a request: MLflow's limits
BATCH_ENTITIES = 1000  # of all kinds
PAGE = 1000  # runs
REFUSALS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "MALFORMED_REQUEST")  # the request is at fault, not the server
Stage = Literal["active", "deleted", "gone"]


class DeletedRun(Exception):
    """A person has deleted a run. It stays deleted, and the record keeps its content."""


class SweepRuns:
    """Finds and makes a sweep's runs in an MLflow experiment, by their tags.

    Makes the sqlite file of the URI and the experiment where they are missing. A sweep is known by the identifier in
    its record, which a copy of its folder shares; one of an older version, which has none, by the name of its folder.
    Raises MlflowException, or OSError where the server cannot be reached.
    """

    def __init__(self, sweep: Path, uri: str, experiment: str) -> None:
        from mlflow import MlflowClient

        self.sweep, self.identity = sweep.name, sweep_identity(sweep)
        if uri.startswith("sqlite:///"):
            create_database(Path(uri.removeprefix("sqlite:///")))
        self.uri, self.client = uri, MlflowClient(uri)
        self.on_progress: Callable[[], object] = bool  # called whenever MLflow has taken something
        self.reported: set[str] = set()  # what MLflow has refused, as it was said
        artifacts = None if uri.startswith("http") else sweep.parent.resolve() / "mlartifacts"
        self.experiment = self._experiment_id(experiment_name(experiment), artifacts)

    def listed(self) -> dict[str, Any]:
        """Return the sweep's runs by their trials' names, "" for the sweep's own, deleted ones included.

        MLflow makes a second run of the same tags without complaint, so what is not listed has to be made, once.
        """
        from mlflow.entities import ViewType

        query = runs_query(self.sweep, self.identity)
        runs: dict[str, Any] = {}
        token = None
        while True:
            page = self.client.search_runs([self.experiment], query, ViewType.ALL, PAGE, page_token=token)
            for run in page:
                if self._is_own(run.data.tags):
                    trial = run.data.tags.get("trial", "")
                    if trial not in runs or runs[trial].info.lifecycle_stage != "active":
                        runs[trial] = run
            if not (token := page.token):
                return runs

    def create(self, name: str, tags: Mapping[str, str], start: int) -> Any:
        """Make and return the run of a trial, or with "" of the sweep, that begins at `start` (ms)."""
        title = f"{name} {self.sweep}" if name else self.sweep  # the trial first: tables cut long names
        identity = {ID_TAG: self.identity} if self.identity else {}
        tags = {"sweep": self.sweep, **identity, **tags}
        texts = {mlflow_key(key): text_value(value, MAX_TAG) for key, value in tags.items()}
        return self.client.create_run(self.experiment, start_time=start, tags=texts, run_name=run_name(title))

    def send(
        self, run: str, metrics: Iterable[Any] = (), params: Mapping[str, Any] = {}, tags: Mapping[str, Any] = {}
    ) -> None:
        """Send points, parameters and tags of a run, in as few requests as MLflow takes.

        `metrics` have MLflow's keys; the names of the others become keys here. What MLflow refuses is left out and said
        once, and holds nothing else back.
        """
        from mlflow.entities import Param, RunTag

        entities: list[tuple[str, Any]] = [
            ("params", Param(mlflow_key(name), text_value(value, MAX_PARAM))) for name, value in params.items()
        ]
        entities += [("tags", RunTag(mlflow_key(name), text_value(value, MAX_TAG))) for name, value in tags.items()]
        entities += [("metrics", metric) for metric in metrics]
        batch: dict[str, list[Any]] = {kind: [] for kind in BATCH}
        for kind, entity in entities:
            if len(batch[kind]) == BATCH[kind] or sum(map(len, batch.values())) == BATCH_ENTITIES:
                self._send(run, batch)
                batch = {kind: [] for kind in BATCH}
            batch[kind].append(entity)
        if any(batch.values()):
            self._send(run, batch)

    def send_files(self, run: Any, paths: Iterable[Path], folder: str | None = None) -> None:
        """Send the files that exist as artifacts of a run, into `folder` there."""
        from mlflow import MlflowException
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        repository = get_artifact_repository(run.info.artifact_uri, tracking_uri=self.uri)
        for path in paths:
            if path.exists():
                try:
                    repository.log_artifact(str(path), folder)
                except MlflowException as error:
                    if not _is_refusal(error):
                        raise
                    self.report_refusal(f"the file {path.name!r}", error)
                self.on_progress()

    def stage(self, run: str) -> Stage:
        """Return the stage of a run: active, deleted, or gone (for good)."""
        from mlflow import MlflowException

        try:
            return self.client.get_run(run).info.lifecycle_stage
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return "gone"
            raise

    def check_server(self) -> None:
        """Raise MlflowException or OSError where the server does not answer."""
        self.client.get_experiment(self.experiment)

    def set_view(self, key: str, value: str) -> None:
        """Write the tag of the experiment that holds the sweep's view; without it, MLflow shows its own."""
        from mlflow import MlflowException

        try:
            self.client.set_experiment_tag(self.experiment, key, value)
        except MlflowException as error:
            if not _is_refusal(error):
                raise
            self.report_refusal("the view of the sweep", error)

    def report_refusal(self, refused: str, error: Exception) -> None:
        """Print, once, what MLflow has refused, and why."""
        if refused not in self.reported:
            self.reported.add(refused)
            reason = redact(next(iter(str(error).splitlines()), type(error).__name__)[:300])
            print(f"tracking: MLflow refuses {refused} ({reason}); the record keeps it", file=sys.stderr)

    def _is_own(self, tags: Mapping[str, str]) -> bool:
        return bool(self.identity) or (tags.get("sweep") == self.sweep and ID_TAG not in tags)

    def _send(self, run: str, batch: dict[str, list[Any]]) -> None:
        """Send a batch; where MLflow refuses it, send its halves, so that only what is at fault is left out."""
        from mlflow import MlflowException

        try:
            self.client.log_batch(run, **batch)
            self.on_progress()
        except MlflowException as error:
            if not _is_refusal(error) or self.stage(run) != "active":
                raise
            entities = [(kind, entity) for kind, entities in batch.items() for entity in entities]
            if len(entities) == 1:
                kind, entity = entities[0]
                return self.report_refusal(f"the {kind.removesuffix('s')} {entity.key!r}", error)
            for half in (entities[: len(entities) // 2], entities[len(entities) // 2 :]):
                self._send(run, {kind: [entity for name, entity in half if name == kind] for kind in BATCH})

    def _experiment_id(self, name: str, artifacts: Path | None) -> str:
        """The experiment's identifier; the experiment is made if there is none, unless another sweep is quicker."""
        from mlflow import MlflowException

        experiment = self.client.get_experiment_by_name(name)
        if experiment is None:
            try:
                return self.client.create_experiment(name, artifacts and artifacts.as_uri(), tags=EXPERIMENT_KIND)
            except MlflowException:
                experiment = self.client.get_experiment_by_name(name)
                if experiment is None:
                    raise
        if experiment.lifecycle_stage != "active":
            raise InputError(
                f"tracking.experiment: got {name!r}, which was deleted in MLflow: restore it, or take another name"
            )
        return experiment.experiment_id


def _is_refusal(error: Any) -> bool:
    """Return True where a request is at fault and another one may succeed."""
    return error.error_code in REFUSALS
