"""A process that died, or that ran out of memory, says why."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray
import torch

from gatesweep.sweeps.config.compose import compose_config
from gatesweep.sweeps.execution.deaths import Deaths
from gatesweep.sweeps.execution.trial import failure_report

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("allocate", [lambda: bytearray(2**60), lambda: torch.empty(2**50)])
def test_an_allocation_that_fails_names_memory_and_a_remedy(allocate: object) -> None:
    try:
        allocate()  # type: ignore[operator]
    except (MemoryError, RuntimeError) as error:
        reason = failure_report(error, 0, compose_config(["data.batch_size=32", "max_concurrent=2"]))["reason"]
    assert reason.startswith("out of memory: ") and "GiB; try data.batch_size=16 training.accumulate=2" in reason
    assert "max_concurrent" in reason


@pytest.mark.usefixtures("ray_here")
def test_a_killed_process_says_how_much_memory_it_had() -> None:
    class Trial:
        def work(self) -> None:
            time.sleep(60)

        def pid(self) -> int:
            return os.getpid()

    actor = ray.remote(num_cpus=0)(Trial).remote()
    pid = ray.get(actor.pid.remote())
    deaths = Deaths(compose_config([]))
    deaths.watch({"a": actor._actor_id.hex()})
    work = actor.work.remote()
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(ray.exceptions.RayActorError) as caught:
        ray.get(work)
    reason = deaths.explain("a", str(caught.value))
    assert reason.startswith("killed by SIGKILL") and "it had 0." in reason and "GiB in use" in reason


def test_rays_memory_monitor_costs_a_trial_its_process_and_says_so(tmp_path: Path) -> None:
    """A Ray of its own, whose limit is 1.5 GiB above what this machine uses now."""
    script = f"""
import os, pathlib
import gatesweep.sweeps
from gatesweep.sweeps.execution.ray_private import memory_of_machine
used, total = memory_of_machine()
os.environ["RAY_memory_usage_threshold"] = str((used + 1.5 * 2**30) / total)
os.environ["RAY_memory_monitor_refresh_ms"] = "50"
from gatesweep.sweeps.commands.run import main
from tests.support.classifier import classifier
options = ["num_samples=1", "trainable.fault=grow", "trainable.from_epoch=2", "resources.max_failures=1"]
main(classifier(pathlib.Path({str(tmp_path)!r}), *options))
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120)
    lines = [
        line for line in done.stdout.splitlines() if "out of memory: Ray's memory monitor ended its process" in line
    ]
    assert len(lines) >= 2, done.stdout + done.stderr  # one more for each process that died before the trial began
    assert "GiB in use" in lines[0] and "; try " in lines[0] and lines[-1].startswith("trial_0000 failed")
