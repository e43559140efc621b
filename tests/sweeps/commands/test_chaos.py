"""What is killed, and when, makes no difference to a sweep: rounds of tests/support/chaos.py."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gatesweep.core import checkpoint
from tests.support.undisturbed import differences

ROOT = Path(__file__).parents[3]
KINDS = ("trial", "driver", "node")
SIZE = ("--rounds=1", "--trials=3", "--epochs=4", "--kills=1")
SEED = 2  # strikes in the middle of a sweep: none is begun again


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a round of each kind, `output`, and the undisturbed sweep that all are compared with.

    In a process of its own: Ray ends one that has lost a cluster for a minute.
    """
    folder = tmp_path_factory.mktemp("chaos")
    command = [sys.executable, "-m", "tests.support.chaos", *KINDS, *SIZE, f"--seed={SEED}", f"--results={folder}"]
    with (folder / "output").open("w") as output:
        subprocess.run(command, stdout=output, stderr=output, cwd=ROOT, timeout=900)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_a_kill_makes_no_difference(kind: str, results: Path) -> None:
    """Of a process of the trial, of the driver with all that it started, of a node of a cluster."""
    output = (results / "output").read_text()
    rows = [line for line in output.splitlines() if line.startswith(f"| {kind} | 1 | 1 |")]  # one round, one kill
    assert rows and rows[0].endswith("| 0 |"), output  # none with a difference


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
        (doubled, "trial_0001/events.jsonl, line 3: epoch: got 1, expected 2"),
        (lost, "expected one end, the last"),
        (nudged, "trial_0001: weights differ"),
        (published_twice, "MLflow: 5 runs"),
    ],
)
def test_the_comparison_sees_what_is_lost_or_there_twice(
    tamper: Callable[[Path], None], told: str, results: Path, tmp_path: Path
) -> None:
    whole = next(results.glob("*-whole0"))
    copy = tmp_path / whole.name
    shutil.copytree(whole, copy)
    for file in whole.parent.glob("mlflow.db*"):
        shutil.copy(file, tmp_path)
    assert differences(copy, whole) == []
    tamper(copy)
    assert any(told in difference for difference in differences(copy, whole))
