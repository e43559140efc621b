"""Sweeps of which only Ray is missing: real trials in this process, and the recorder hears of them as from Tune.

A driver, fast and under control: between any two reports a test may do what it likes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from gatesweep.core.files import write_atomically
from gatesweep.core.trainable import Data, Metrics
from gatesweep.sweeps.config.compose import compose_config
from gatesweep.sweeps.config.schema import make_gate
from gatesweep.sweeps.config.values import to_yaml
from gatesweep.sweeps.execution.recorder import Recorder
from gatesweep.sweeps.execution.training import train_epochs
from gatesweep.sweeps.execution.trial import epoch_report, trial_config
from gatesweep.sweeps.records.provenance import provenance
from gatesweep.sweeps.records.summary import write_summary
from gatesweep.sweeps.search.searcher import Search
from gatesweep.sweeps.search.space import read_space
from tests.conftest import LR, trivial
from tests.support.trivial import Line

ROOT = Path(__file__).parents[2]


class Held(Line):
    """It waits with its evaluation while its marker is there."""

    def evaluate(self, data: Data) -> Metrics:
        while self.marker and self.marker.exists():
            time.sleep(0.05)
        return super().evaluate(data)


class Drive:
    """A sweep of `tests.support.trivial` in `results`/<name>, all its trials at once."""

    def __init__(self, results: Path, trials: int, *overrides: str, name: str = "sweep", **trainable: Any) -> None:
        options = [f"num_samples={trials}", "search=random", "tracking=mlflow", *overrides]
        self.config = compose_config(trivial(results, LR, *options, **trainable))
        self.folder = results / name
        self.folder.mkdir(parents=True)
        write_atomically(self.folder / "config.yaml", to_yaml(self.config))
        gate = make_gate(self.config.gate)
        search = Search(self.config, read_space(self.config), gate, self.folder)
        self.recorder = Recorder(self.folder, self.config, gate, search)
        self.trials = [SimpleNamespace(config=search.suggest(str(n)), last_result={}) for n in range(trials)]
        for trial in self.trials:
            self.recorder.on_trial_start(0, self.trials, trial)

    def hear(self, trial: Any, result: dict[str, Any]) -> None:
        """What Tune does with one report."""
        self.recorder.on_trial_result(0, self.trials, trial, result)
        trial.last_result = result
        if result["done"]:
            self.recorder.on_trial_complete(0, self.trials, trial)

    def train(self) -> Iterator[int]:
        """Train all trials to their ends, an epoch each in turn; the number of each turn, after it."""
        folders = [self.folder / trial.config["trial"] for trial in self.trials]
        running = [
            (trial, train_epochs(trial_config(self.config, trial.config), folder))
            for trial, folder in zip(self.trials, folders, strict=True)
        ]
        turn = 0
        while running:
            turn += 1
            for trial, steps in list(running):
                result = epoch_report(next(steps))
                self.hear(trial, result)
                if result["done"]:
                    steps.close()
                    running.remove((trial, steps))
            yield turn
        self.end()

    def end(self) -> None:
        self.recorder.on_experiment_end(self.trials)
        write_summary(self.folder, self.recorder.elapsed, provenance())


def publish(sweep: Path, *arguments: str, inside: tuple[str, ...] = ()) -> subprocess.Popen:
    """`python sweeps/publish.py`; `inside` is a command that runs it somewhere else."""
    command = [*inside, sys.executable, str(ROOT / "sweeps" / "publish.py"), str(sweep), *arguments]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, start_new_session=True,
    )  # fmt: skip


def finish(publisher: subprocess.Popen) -> tuple[int, list[str]]:
    """End it as a sweep does, whose pipe closes: its exit code, and what gatesweep said on stderr."""
    _, errors = publisher.communicate(timeout=120)
    return publisher.returncode, [line for line in errors.splitlines() if line.startswith("tracking")]


@contextmanager
def followed(sweep: Path, *arguments: str, inside: tuple[str, ...] = ()) -> Iterator[subprocess.Popen]:
    """A publisher beside the sweep, as `sweeps/run.py` starts one."""
    publisher = publish(sweep, *arguments, "--follow", inside=inside)
    try:
        yield publisher
    finally:
        publisher.kill()
        publisher.wait()
