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

import torch

from gatesweep.core import checkpoint
from gatesweep.core.record import read_events
from gatesweep.sweeps.commands.train import main
from tests.conftest import TINY

ROOT = Path(__file__).parents[3]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
WALKS = [
    *TINY["walk_transformer"],
    "data.windows=2048",
    "trainable.sequences=64",
    "training.max_epochs=12",
    "trainable.dropout=0.1",
]


def start(*arguments: str) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "sweeps" / "train.py"), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)


def epochs(folder: Path) -> int:
    return sum(event["event"] == "epoch" for event in read_events(folder / "events.jsonl"))


def outcome(folder: Path) -> Any:
    """Final weights, and every curve without clocks and memory."""
    result = json.loads((folder / "result.json").read_text())
    curves = {name: curve for name, curve in result["curves"].items() if not name.startswith("system/")}
    found = checkpoint.newest(folder / "checkpoints")
    assert found
    return found[1]["trainable"], curves, result["outcome"]


def test_a_run_from_a_recorded_configuration_killed_twice_ends_bitwise_as_the_one_recorded(tmp_path: Path) -> None:
    assert main([*WALKS, "seed=5", f"results={tmp_path / 'whole'}"]) in (0, 3)
    whole = (tmp_path / "whole" / "latest_run").resolve()

    moments = random.Random(0)
    folder = tmp_path / "cut" / "latest_run"
    arguments = ["--config", str(whole / "config.yaml"), f"results={tmp_path / 'cut'}"]
    for _ in range(2):
        process, reached = start(*arguments), epochs(folder)
        while process.poll() is None and epochs(folder) <= reached:
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.5))  # somewhere inside an epoch, an evaluation or a checkpoint
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "it ended by itself: the run is too short for this test"
        arguments = ["--resume", str(folder.resolve())]
    assert main(arguments) in (0, 3)

    (whole_weights, *others), (weights, *found) = outcome(whole), outcome(folder.resolve())
    assert found == others
    assert weights.keys() == whole_weights.keys()
    assert all(torch.equal(value, weights[key]) for key, value in whole_weights.items())
