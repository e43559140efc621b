"""What a trial costs beside its training: `python -m tests.benchmarks.overhead [--nested N]`.

The same trivial trial (three epochs; with --work, so many seconds of sleep in all) under gatesweep, under plain
Optuna in one process, and under Ray's documented pattern, a Tune function that fits a one-worker TorchTrainer. One
trial at a time.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
import time
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import sweeps  # sets Ray's environment before anything imports it  # noqa: F401  isort: skip

import optuna
import ray
import ray.train
from ray import tune
from ray.train.torch import TorchConfig, TorchTrainer
from ray.tune.integration.ray_train import TuneReportCallback

from core.loop import fit
from core.record import read_events
from sweeps.cluster import start_ray
from sweeps.config import build, load, override
from sweeps.report import trial_folders
from sweeps.run import sweep
from sweeps.schema import make_settings
from tests.conftest import trivial

EPOCHS = 3


def gatesweep(config: dict[str, Any]) -> list[float]:
    """The moments at which trials ended, the first of them the start."""
    began = time.time()
    with contextlib.redirect_stdout(io.StringIO()):
        sweep(config)
    folder = (Path(config["results"]) / "latest").resolve()
    return [began, *sorted(read_events(trial / "events.jsonl")[-1]["time"] for trial in trial_folders(folder))]


def plain_optuna(config: dict[str, Any], trials: int) -> list[float]:
    ends = [time.time()]

    def objective(trial: optuna.Trial) -> float:
        chosen = override(config, {"trainable.lr": trial.suggest_float("lr", 1e-4, 1.0, log=True)})
        trainable, data = build(chosen)
        last = list(fit(trainable, data, make_settings(chosen)))[-1]
        ends.append(time.time())
        return last.metrics["val/loss"]

    optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0)).optimize(objective, n_trials=trials)
    return ends


def train_worker(config: dict[str, Any]) -> None:
    trainable, data = build(config)
    for epoch in fit(trainable, data, make_settings(config), wrap=ray.train.torch.prepare_model):
        ray.train.report({"score": epoch.score, "epoch": epoch.index})


def nested(config: dict[str, Any], trials: int, folder: str) -> list[float]:
    """https://docs.ray.io/en/latest/train/user-guides/hyperparameter-optimization.html"""
    ends = [time.time()]

    class Ends(tune.Callback):
        def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
            ends.append(time.time())

    def driver(values: dict[str, Any]) -> None:
        TorchTrainer(
            train_worker,
            train_loop_config=override(config, {"trainable.lr": values["lr"]}),
            torch_config=TorchConfig(backend="gloo"),
            scaling_config=ray.train.ScalingConfig(num_workers=1),
            run_config=ray.train.RunConfig(
                name=tune.get_context().get_trial_id(), storage_path=folder, callbacks=[TuneReportCallback()]
            ),
        ).fit()

    tune.run(
        tune.with_resources(driver, {"CPU": 0.01}),
        config={"lr": tune.loguniform(1e-4, 1.0)},
        num_samples=trials,
        max_concurrent_trials=1,
        storage_path=folder,
        verbose=0,
        callbacks=[Ends()],
    )
    return ends


def row(name: str, ends: list[float], work: float) -> tuple[str, float, float, float]:
    """Name, whole wall time, start until the first trial's end, and the median from end to end less its work."""
    steady = median(later - earlier for earlier, later in pairwise(ends[1:]))
    return name, ends[-1] - ends[0], ends[1] - ends[0], steady - work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--nested", type=int, default=20, help="trials of Ray's pattern, at some 25 s each; 0: none")
    parser.add_argument("--work", type=float, default=0.0, help="seconds of sleep in each trial")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        options = [f"num_samples={arguments.trials}", f"training.max_epochs={EPOCHS}", "scheduler=none"]
        # out of reach, so that every trial trains its three epochs
        options += ["gate.thresholds={val/closeness:'> 2'}", f"+trainable.epoch_seconds={arguments.work / EPOCHS}"]
        config = load([*trivial(Path(folder)), *options])
        rows = [row("plain Optuna, in process", plain_optuna(config, arguments.trials), arguments.work)]
        began = time.time()
        start_ray(config)
        started = time.time() - began
        ends = gatesweep(config)
        rows.append(row("gatesweep, direct", ends, arguments.work))
        if arguments.nested:
            found = nested(config, arguments.nested, folder)
            rows.append(row(f"Tune + TorchTrainer ({arguments.nested} trials)", found, arguments.work))
        ray.shutdown()
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "ray", "optuna"))
    print(f"{arguments.trials} trials of {EPOCHS} epochs, {arguments.work:g} s of work each; {packages}")
    print(f"ray.init {started:.1f} s, in none of the rows")
    print(f"{'':38}{'wall s':>9}{'first trial s':>15}{'overhead a trial s':>20}")
    for name, wall, first, overhead in rows:
        print(f"{name:38}{wall:9.2f}{first:15.2f}{overhead:20.4f}")


if __name__ == "__main__":
    main()
