"""What is killed, and when, makes no difference to a sweep: rounds of tests/support/chaos.py."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from gatesweep.core import checkpoint
from tests.support.chaos import Chaos
from tests.support.undisturbed import differences

ROOT = Path(__file__).parents[3]
ROUNDS, TRIALS, EPOCHS, SEED = 1, 3, 4, 2  # which strikes in the middle of a sweep: none is begun again


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen]:
    """The kinds that need processes and clusters of their own, beside those that do not: it takes half as long."""
    size = [f"--rounds={ROUNDS}", f"--trials={TRIALS}", f"--epochs={EPOCHS}", "--kills=1", f"--seed={SEED}"]
    command = [sys.executable, "-m", "tests.support.chaos", "driver", "node", *size]
    with (tmp_path_factory.mktemp("script") / "output").open("w+") as output:
        process = subprocess.Popen(
            [*command, f"--results={tmp_path_factory.mktemp('results')}"], stdout=output, stderr=output, cwd=ROOT
        )
        process.output = output  # type: ignore[attr-defined]
        yield process
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def chaos(script: subprocess.Popen, ray_here: None, tmp_path_factory: pytest.TempPathFactory) -> Chaos:
    size = [f"num_samples={TRIALS}", f"training.max_epochs={EPOCHS}"]
    return Chaos(tmp_path_factory.mktemp("chaos"), size, kills=1, seed=SEED)


def test_a_killed_process_of_a_trial_makes_no_difference(chaos: Chaos) -> None:
    rounds = [chaos.round("trial", number) for number in range(ROUNDS)]
    faults = [f"{one.name}: {one.hits}: {fault}" for one in rounds for fault in one.faults]
    assert not faults, "\n".join(faults)
    assert [len(one.hits) for one in rounds] == [1] * ROUNDS


def test_a_killed_driver_or_a_lost_node_makes_no_difference(script: subprocess.Popen) -> None:
    script.wait(timeout=600)
    script.output.seek(0)  # type: ignore[attr-defined]
    output = script.output.read()  # type: ignore[attr-defined]
    assert script.returncode == 0, output
    for kind in ("driver", "node"):
        assert f"| {kind} | {ROUNDS} | {ROUNDS} |" in output


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
