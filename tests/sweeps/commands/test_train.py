"""One run without Ray: its record, and that a kill costs nothing."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from gatesweep.core import checkpoint
from gatesweep.core.record import read_events
from tests.conftest import TINY

ROOT = Path(__file__).parents[3]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
WALKS = [
    *TINY["walk_transformer"],
    "data.windows=2048",
    "trainable.sequences=64",
    "training.max_epochs=16",
    "trainable.dropout=0.1",
]


def start(*arguments: str) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "sweeps" / "train.py"), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    output, errors = process.communicate(timeout=240)
    return process.returncode, output, errors


def epochs(folder: Path) -> int:
    return sum(event["event"] == "epoch" for event in read_events(folder / "events.jsonl"))


def outcome(folder: Path) -> Any:
    """Final weights, and every curve without clocks and memory."""
    result = json.loads((folder / "result.json").read_text())
    curves = {name: curve for name, curve in result["curves"].items() if not name.startswith("system/")}
    found = checkpoint.newest(folder / "checkpoints")
    assert found
    return found[1]["trainable"], curves, result["outcome"]


def test_a_run_killed_three_times_ends_bitwise_as_one_that_was_not(tmp_path: Path) -> None:
    code, _, errors = finish(start(*WALKS, f"results={tmp_path / 'whole'}"))
    assert code in (0, 3), errors
    whole = outcome((tmp_path / "whole" / "latest_run").resolve())

    moments = random.Random(0)
    folder = tmp_path / "cut" / "latest_run"
    arguments = [*WALKS, f"results={tmp_path / 'cut'}"]
    for _ in range(3):
        process, reached = start(*arguments), epochs(folder)
        while process.poll() is None and epochs(folder) <= reached:
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.5))  # somewhere inside an epoch, an evaluation or a checkpoint
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "it ended by itself: the run is too short for this test"
        arguments = ["--resume", str(folder.resolve())]
    code, _, errors = finish(start(*arguments))
    assert code in (0, 3), errors

    weights, curves, how = outcome(folder.resolve())
    assert (curves, how) == whole[1:]
    assert weights.keys() == whole[0].keys()
    assert all(torch.equal(value, weights[key]) for key, value in whole[0].items())


def test_ctrl_c_keeps_the_record_and_says_how_to_go_on(tmp_path: Path) -> None:
    process = start(*WALKS, "training.max_epochs=500", f"results={tmp_path}")
    folder = tmp_path / "latest_run"
    while process.poll() is None and epochs(folder) < 1:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    code, output, errors = finish(process)
    assert code == 130, errors
    assert output.splitlines()[-1] == f"interrupted; go on with: gatesweep train --resume {folder.resolve()}"
    assert read_events(folder / "events.jsonl")[-1]["event"] == "interrupted"


def test_a_trial_of_a_sweep_can_be_trained_again(tmp_path: Path) -> None:
    code, _, errors = finish(start(*WALKS, "training.max_epochs=1", "seed=5", f"results={tmp_path}"))
    first = (tmp_path / "latest_run").resolve()
    code, _, errors = finish(start("--config", str(first / "config.yaml")))
    second = (tmp_path / "latest_run").resolve()
    assert code in (0, 3) and first != second, errors
    assert outcome(first)[1] == outcome(second)[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--resume", "nowhere"], "expected the folder of a run"),
        (["--config", "nowhere.yaml"], "expected a config.yaml"),
        (["trainable.lr=quick"], "trainable.lr: got 'quick', expected a valid number"),
        (["data.batch_size=1000000"], "data.batch_size: got 1000000, expected 1 to 2560"),
        (["--no-such-flag"], "unrecognized arguments"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(arguments: list[str], message: str, tmp_path: Path) -> None:
    code, output, errors = finish(start(*arguments, f"results={tmp_path / 'results'}"))
    assert code == 2 and message in errors.splitlines()[-1] and output == ""
    assert not (tmp_path / "results").exists()
