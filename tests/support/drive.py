"""Sweeps without Ray: real trials in this process, which report to the recorder as Tune does.

The driver is fast and under control: a test may act between any two reports.
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
from gatesweep.core.trainable import Data, Metrics, Split
from gatesweep.sweeps.config.compose import compose_config
from gatesweep.sweeps.config.schema import make_gate
from gatesweep.sweeps.config.values import to_yaml
from gatesweep.sweeps.execution.recorder import Recorder
from gatesweep.sweeps.execution.training import train_epochs
from gatesweep.sweeps.execution.trial import epoch_report, trial_config
from gatesweep.sweeps.records.layout import CONFIG
from gatesweep.sweeps.records.provenance import provenance
from gatesweep.sweeps.records.summary import write_summary
from gatesweep.sweeps.search.searcher import Search
from gatesweep.sweeps.search.space import read_space
from tests.conftest import LR, trivial
from tests.support.trivial import Line

ROOT = Path(__file__).parents[2]


class Held(Line):
    """A trainable that delays its evaluation while its marker file exists."""

    def evaluate(self, data: Data, split: Split = "val") -> Metrics:
        while self.marker and self.marker.exists():
            time.sleep(0.05)
        return super().evaluate(data, split)


class Drive:
    """A sweep of `tests.support.trivial` in `results`/<name>, with all its trials at once."""

    def __init__(self, results: Path, trials: int, *overrides: str, name: str = "sweep", **trainable: Any) -> None:
        options = [f"num_samples={trials}", "search=random", "tracking=mlflow", *overrides]
        self.config = compose_config(trivial(results, LR, *options, **trainable))
        self.folder = results / name
        self.folder.mkdir(parents=True)
        write_atomically(self.folder / CONFIG, to_yaml(self.config))
        gate = make_gate(self.config.gate)
        search = Search(self.config, read_space(self.config), gate, self.folder)
        self.recorder = Recorder(self.folder, self.config, gate, search)
        self.trials = [SimpleNamespace(config=search.suggest(str(n)), last_result={}) for n in range(trials)]
        for trial in self.trials:
            self.recorder.on_trial_start(0, self.trials, trial)

    def report(self, trial: Any, result: dict[str, Any]) -> None:
        """Pass one report on as Tune does."""
        self.recorder.on_trial_result(0, self.trials, trial, result)
        trial.last_result = result
        if result["done"]:
            self.recorder.on_trial_complete(0, self.trials, trial)

    def train(self) -> Iterator[int]:
        """Train all trials to their ends, one epoch each per turn; yield the number of each turn after it."""
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
                self.report(trial, result)
                if result["done"]:
                    steps.close()
                    running.remove((trial, steps))
            yield turn
        self.end()

    def end(self) -> None:
        """End the sweep and write its summary."""
        self.recorder.on_experiment_end(self.trials)
        write_summary(self.folder, self.recorder.elapsed, provenance())


def publish(sweep: Path, *arguments: str, inside: tuple[str, ...] = ()) -> subprocess.Popen:
    """Start `python sweeps/publish.py`; `inside` is a command that runs it elsewhere."""
    command = [*inside, sys.executable, str(ROOT / "sweeps" / "publish.py"), str(sweep), *arguments]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, start_new_session=True,
    )  # fmt: skip


def finish(publisher: subprocess.Popen) -> tuple[int, list[str]]:
    """End a publisher as a sweep does, by closing its pipe; return its exit code and gatesweep's lines on stderr."""
    _, errors = publisher.communicate(timeout=120)
    return publisher.returncode, [line for line in errors.splitlines() if line.startswith("tracking")]


@contextmanager
def followed(sweep: Path, *arguments: str, inside: tuple[str, ...] = ()) -> Iterator[subprocess.Popen]:
    """Run a publisher beside the sweep, as `sweeps/run.py` does."""
    publisher = publish(sweep, *arguments, "--follow", inside=inside)
    try:
        yield publisher
    finally:
        publisher.kill()
        publisher.wait()
