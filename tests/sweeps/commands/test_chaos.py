"""What is killed, and when, makes no difference to a sweep: rounds of tests/support/chaos.py."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from gatesweep.core import checkpoint
from tests.support.chaos import Chaos, three_nodes
from tests.support.undisturbed import differences

TRIALS, EPOCHS, SEED = 3, 4, 2  # which strikes in the middle of a sweep: none is begun again


@pytest.fixture(scope="module")
def chaos(ray_here: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chaos]:
    """One undisturbed sweep for all rounds, which differ in what is killed."""
    size = [f"num_samples={TRIALS}", f"training.max_epochs={EPOCHS}"]
    with three_nodes() as cluster:
        yield Chaos(tmp_path_factory.mktemp("chaos"), size, kills=1, seed=SEED, cluster=cluster)


@pytest.mark.parametrize("kind", ["trial", "driver", "node"])
def test_a_kill_makes_no_difference(kind: str, chaos: Chaos) -> None:
    """Of a process of the trial, of the driver with all that it started, of a node of a cluster."""
    round = chaos.round(kind, 0)
    assert not round.faults, "\n".join([*round.hits, *round.faults])
    assert len(round.hits) == 1


def doubled(sweep: Path) -> None:
    path = sweep / "trial_0001" / "events.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:2], *lines[1:]]))


def lost(sweep: Path) -> None:
    path = sweep / "trial_0001" / "events.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def nudged(sweep: Path) -> None:
    newest = checkpoint.newest(sweep / "trial_0001" / "checkpoints")
    assert newest
    found, state = newest
    name = next(iter(state["trainable"]))
    state["trainable"][name] = torch.nextafter(state["trainable"][name], torch.tensor(9.0))
    checkpoint.save(found.path, state, {key: value for key, value in found.meta.items() if key != "sha256"})


def published_twice(sweep: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{sweep.parent / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("gatesweep").experiment_id
    tags = {"sweep": sweep.name, "sweep.kind": "trial", "trial": "trial_0001"}
    client.set_terminated(client.create_run(experiment, tags=tags).info.run_id)


@pytest.mark.parametrize(
    "tamper, told",
    [
        (doubled, "trial_0001: epochs [1, 1, 2"),
        (lost, "expected one end, the last"),
        (nudged, "trial_0001: weights differ"),
        (published_twice, "MLflow: 5 runs"),
    ],
)
def test_the_comparison_sees_what_is_lost_or_there_twice(
    tamper: Callable[[Path], None], told: str, chaos: Chaos, tmp_path: Path
) -> None:
    whole = chaos.undisturbed("trial")
    copy = tmp_path / whole.name
    shutil.copytree(whole, copy)
    for file in whole.parent.glob("mlflow.db*"):
        shutil.copy(file, tmp_path)
    assert differences(copy, whole) == []
    tamper(copy)
    assert any(told in difference for difference in differences(copy, whole))
