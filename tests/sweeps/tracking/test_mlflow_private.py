"""Names of MLflow that it does not document: an MLflow without them is refused here, by name."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.utils import mlflow_tags

from gatesweep.core.gate import Gate
from gatesweep.sweeps.tracking import view

PINNED = f"expected as in the pinned mlflow 3.17.2, got mlflow {mlflow.__version__}"


@pytest.fixture(scope="module")
def ui() -> str:
    """The program of MLflow's UI."""
    folder = Path(mlflow.__file__).parent / "server" / "js" / "build" / "static" / "js"
    return "\n".join(path.read_text() for path in sorted(folder.glob("*.js")))


@pytest.mark.parametrize(
    ("constant", "tag"),
    [
        ("MLFLOW_PARENT_RUN_ID", view.PARENT_RUN),
        ("MLFLOW_RUN_NOTE", view.NOTE),
        ("MLFLOW_LOGGED_ARTIFACTS", view.LOGGED_ARTIFACTS),
    ],
)
def test_a_tag_has_its_name(constant: str, tag: str) -> None:
    assert getattr(mlflow_tags, constant, None) == tag, f"mlflow_tags.{constant} is not {tag}: {PINNED}"


def test_the_ui_reads_its_tags_and_the_key_of_a_shared_view(ui: str) -> None:
    names = [view.RUN_COLOUR, view.TAG_PREFIX, "viewStateShareKey", *view.EXPERIMENT_KIND]
    for name in [*names, *view.EXPERIMENT_KIND.values(), "compareRunsMode", "deflate;"]:
        assert name in ui, f"MLflow's UI has no {name}: {PINNED}"


def test_the_ui_has_every_key_of_the_view(ui: str) -> None:
    gate = Gate(thresholds={"val/loss": "< 0.1"})
    for key in set(_keys(view._state("sweep", gate, ["trainable.lr"]))):
        assert key in ui, f"MLflow's UI has no key {key} in the state of a view: {PINNED}"


def test_the_store_of_a_sqlite_file_takes_its_address_and_its_artifacts() -> None:
    parameters = list(inspect.signature(SqlAlchemyStore.__init__).parameters)[1:3]
    assert parameters == ["db_uri", "default_artifact_root"], f"SqlAlchemyStore takes {parameters}: {PINNED}"
    assert "engine" in SqlAlchemyStore.__init__.__code__.co_names, f"SqlAlchemyStore has no engine: {PINNED}"


def _keys(state: Any) -> Iterator[str]:
    if isinstance(state, dict):
        yield from state
    for part in state.values() if isinstance(state, dict) else state if isinstance(state, list) else ():
        yield from _keys(part)
