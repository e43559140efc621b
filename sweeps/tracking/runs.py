"""The runs of one sweep in an MLflow experiment."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from gatesweep.sweeps.tracking.database import create_database
from gatesweep.sweeps.tracking.points import BATCH_POINTS
from gatesweep.sweeps.tracking.view import EXPERIMENT_KIND

BATCH_PARAMS = 100  # parameters a request: MLflow's limit
MAX_PARAM = 6000  # characters of a parameter: MLflow's limit
Stage = Literal["active", "deleted", "gone", "unknown"]


class DeletedRun(Exception):
    """A person has deleted a run. It stays deleted, and the record keeps its content."""


class SweepRuns:
    """Finds and makes a sweep's runs in an MLflow experiment, by their tags.

    Makes the sqlite file of the URI and the experiment where they are missing. Raises MlflowException, or OSError where
    the server cannot be reached.
    """

    def __init__(self, sweep: Path, uri: str, experiment: str) -> None:
        from mlflow import MlflowClient

        self.sweep = sweep.name
        if uri.startswith("sqlite:///"):
            create_database(Path(uri.removeprefix("sqlite:///")))
        self.client = MlflowClient(uri)
        artifacts = None if uri.startswith("http") else sweep.parent.resolve() / "mlartifacts"
        self.experiment = self._experiment_id(experiment, artifacts)

    def find_or_create(self, kind: str, name: str, tags: dict[str, str], start: int) -> str:
        """Return the identifier of the run with these tags; make it, with the start (ms), if there is none.

        `kind` is that of the tag `sweep.kind`. It looks first because MLflow makes a second run of the same tags
        without complaint. Raises DeletedRun for a deleted run of a trial.
        """
        from mlflow.entities import ViewType

        tags = {"sweep": self.sweep, **tags}
        query = " and ".join(f"tags.`{key}` = '{tags[key]}'" for key in ("sweep", "sweep.kind", "trial") if key in tags)
        if runs := self.client.search_runs([self.experiment], query, ViewType.ALL, max_results=1):
            if kind != "sweep" and runs[0].info.lifecycle_stage != "active":
                raise DeletedRun(name)
            return runs[0].info.run_id
        title = name if kind == "sweep" else f"{name} {self.sweep}"  # the trial first: tables cut long names
        return self.client.create_run(self.experiment, start_time=start, tags=tags, run_name=title).info.run_id

    def stage(self, run: str | None) -> Stage:
        """Return the stage of a run: active, deleted, gone (for good), or unknown where there is no identifier."""
        from mlflow import MlflowException

        if run is None:
            return "unknown"
        try:
            return self.client.get_run(run).info.lifecycle_stage
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return "gone"
            raise

    def check_server(self) -> None:
        """Raise MlflowException or OSError where the server does not answer."""
        self.client.get_experiment(self.experiment)

    def log_params(self, run: str, values: dict[str, Any]) -> None:
        """Send the parameters that a run has not got yet.

        MLflow never changes a parameter, but a resumed sweep may have changed `num_samples`.
        """
        from mlflow.entities import Param

        current = self.client.get_run(run)
        if current.info.lifecycle_stage != "active":
            return
        sent = current.data.params
        new = [Param(key, str(value)[:MAX_PARAM]) for key, value in values.items() if key not in sent]
        for start in range(0, len(new), BATCH_PARAMS):
            self.client.log_batch(run, params=new[start : start + BATCH_PARAMS])

    def log_points(self, run: str, points: list[Any]) -> None:
        """Send points of curves."""
        for start in range(0, len(points), BATCH_POINTS):
            self.client.log_batch(run, metrics=points[start : start + BATCH_POINTS])

    def log_files(self, run: str, paths: list[Path]) -> None:
        """Send the files that exist as artifacts of a run."""
        for path in paths:
            if path.exists():
                self.client.log_artifact(run, str(path))

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
        return experiment.experiment_id
