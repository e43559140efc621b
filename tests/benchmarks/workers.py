"""What a trial of two workers costs beside its training: `python -m tests.benchmarks.workers [--trials N]`.

The same trivial trials (gloo, two workers on the CPU) with workers that are kept and with a new `TorchTrainer`
for each trial; then, with a scheduler that stops trials, how long a decision takes, and how soon what a stopped trial
held is free. One trial at a time.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import tempfile
import threading
import time
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import gatesweep.sweeps  # sets Ray's environment before anything imports it  # noqa: F401  isort: skip

import ray

from gatesweep.core.checkpoint import newest
from gatesweep.core.record import Event, read_events
from gatesweep.sweeps.commands.run import run_sweep
from gatesweep.sweeps.config.compose import compose_config
from gatesweep.sweeps.execution.cluster import start_ray
from gatesweep.sweeps.records.layout import trial_folders
from tests.conftest import trivial
from tests.support.processes import descendants

TWO = ["resources.workers=2", "resources.cpus_per_worker=0.5"]
WORKERS = (
    "ray::RayTrainWorker",
    "ray::TrainController",
    "ray::WorkerGroupCoordinator",
    "ray::TrainTrial",
    "ray::DirectTrial",
)


class Watch:
    """When each worker group's reservation was first seen removed."""

    def __init__(self) -> None:
        self.removed: dict[str, float] = {}
        self.over = threading.Event()
        self.before = set(self._table())
        threading.Thread(target=self._run, daemon=True).start()

    def _table(self) -> dict[str, str]:
        return {key: one["state"] for key, one in ray.util.placement_group_table().items() if len(one["bundles"]) == 2}

    def _run(self) -> None:
        while not self.over.wait(0.02):
            for key, state in self._table().items():
                if state == "REMOVED" and key not in self.before:
                    self.removed.setdefault(key, time.time())


def swept(folder: Path, name: str, *overrides: str, **trainable: Any) -> list[list[Event]]:
    """The events of each trial, in the order of their numbers."""
    config = compose_config([*trivial(folder / name, None, *overrides, **trainable), "max_concurrent=1"])
    with contextlib.redirect_stdout(io.StringIO()):
        run_sweep(config)
    latest = (folder / name / "latest").resolve()
    for trial in trial_folders(latest):
        found, epochs = newest(trial / "checkpoints"), [e for e in read_events(trial / "events.jsonl") if "epoch" in e]
        assert found and found[0].epoch == len(epochs), f"{trial.name} trained past its stop"
    return [read_events(trial / "events.jsonl") for trial in trial_folders(latest)]


def overhead(folder: Path, name: str, trials: int, *overrides: str) -> tuple[float, float, float]:
    """Whole wall time, start until the first trial's end, and the median from end to end."""
    began = time.time()
    never = [
        "gate.thresholds={val/closeness:'> 2'}",
        "scheduler=none",
        "training.max_epochs=3",
        f"num_samples={trials}",
    ]
    ends = [began, *sorted(events[-1]["time"] for events in swept(folder, name, *never, *overrides))]
    return ends[-1] - began, ends[1] - began, median(later - earlier for earlier, later in pairwise(ends[1:]))


def decisions(folder: Path, name: str, trials: int, *overrides: str) -> tuple[list[float], list[float], list[float]]:
    """From a report to the next epoch's training, from the report at which a trial stops to its end in the record, and
    from there until its workers' reservation is gone; seconds."""
    watch = Watch()
    halving = [
        "gate.thresholds={val/closeness:'> 2'}",
        f"num_samples={trials}",
        "training.max_epochs=9",
        "grace_period=2",
    ]
    found = swept(folder, name, *halving, *overrides, "scheduler.reduction_factor=2")
    time.sleep(1.0)
    watch.over.set()
    between, stops, ends = [], [], []
    for events in found:
        epochs = [event for event in events if event["event"] == "epoch"]
        between += [b["time"] - a["time"] - b["metrics"]["system/seconds"] for a, b in pairwise(epochs)]
        ends.append(events[-1]["time"])
        if events[-1]["outcome"] == "stopped":
            stops.append(events[-1]["time"] - epochs[-1]["time"])
    freed = [gone - max(end for end in ends if end <= gone) for gone in watch.removed.values()]
    return between, stops, freed


def shown(seconds: list[float]) -> str:
    return f"{1000 * median(seconds):8.1f}{1000 * max(seconds):9.1f}" if seconds else f"{'-':>8}{'-':>9}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10)
    trials = parser.parse_args().trials
    kept, new = [*TWO, "resources.reuse_workers=true"], [*TWO, "resources.reuse_workers=false"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start_ray(compose_config([]).resources, None)
        rows = {"one process kept": overhead(folder, "direct", trials)}
        rows["two workers, group kept"] = overhead(folder, "kept", trials, *kept)
        rows["two workers, new TorchTrainer"] = overhead(folder, "new", trials, *new)
        latency = {"one process": decisions(folder, "d", trials), "group kept": decisions(folder, "k", trials, *kept)}
        latency["new TorchTrainer"] = decisions(folder, "n", trials, *new)
        left = len(descendants(os.getpid(), WORKERS))
        reserved = [one["state"] for one in ray.util.placement_group_table().values() if one["state"] != "REMOVED"]
        ray.shutdown()
    print(f"{trials} trials of three epochs; torch {version('torch')}, ray {version('ray')}")
    print(f"{'':32}{'wall s':>9}{'first trial s':>15}{'overhead a trial s':>20}")
    for label, (wall, first, steady) in rows.items():
        print(f"{label:32}{wall:9.2f}{first:15.2f}{steady:20.3f}")
    print(f"new / kept: {rows['two workers, new TorchTrainer'][2] / rows['two workers, group kept'][2]:.0f}")
    print(f"\nms, median and most   {'epoch to epoch':>17}{'stop to record':>17}{'record to free':>17}")
    for label, columns in latency.items():
        print(f"{label:22}{''.join(shown(column) for column in columns)}")
    print(f"left when all was over: {left} processes of trials, {len(reserved)} reservations")


if __name__ == "__main__":
    main()
