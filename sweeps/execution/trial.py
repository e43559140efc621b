"""One trial inside its own process: an epoch of `core.loop.fit` a step. The process is kept for the next trial."""

from __future__ import annotations

import shutil
import sys
import traceback
import warnings
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from ray import tune

from gatesweep.core import checkpoint
from gatesweep.core.cache import join_cache
from gatesweep.core.errors import MissingMetric
from gatesweep.core.function import Hung
from gatesweep.core.gate import WORST_SCORE
from gatesweep.core.loop import Epoch
from gatesweep.core.resume import copied_state
from gatesweep.sweeps.config.schema import Config, ResourcesConfig
from gatesweep.sweeps.config.trust import Trust, adopt_trust
from gatesweep.sweeps.config.values import with_values
from gatesweep.sweeps.execution.memory import is_memory_error, memory_reason
from gatesweep.sweeps.execution.training import train_epochs, write_checkpoint
from gatesweep.sweeps.records.layout import CHECKPOINTS

if TYPE_CHECKING:  # a trial's process does without Optuna, whose import takes a third of a second
    from gatesweep.sweeps.search.space import Space

DONATED = ".donated"  # in a trial's folder: files of the checkpoint of another trial, or of its own before a pause
OUTPUT_MARK = "::gatesweep trial "  # where the output of other trials begins; `trial_logs` reads it
WORKERS_DIED = "its workers died"  # start of the reason of a trial that a worker group gave up


class DirectTrial(tune.Trainable):
    """Tune's side of a trial with one worker: each `step` is one epoch, so Tune stops a trial by asking for no more.

    A fault of the trial's own is its outcome, and the process goes on to the next trial. Only a fault that may have
    left the process unusable ends it: a CUDA fault, or a function that does not end.
    """

    running: Generator[Epoch] | None = None
    hung: Hung | None = None

    def setup(self, config: dict[str, Any], base: Config, sweep: str, cache: str | None, trust: Trust) -> None:
        """Start with the trial of `config`; `base` is the sweep's configuration and `sweep` its folder."""
        self.base, self.sweep = base, Path(sweep)
        join_cache(cache)
        adopt_trust(trust)
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """End the current trial and take the next one, which another process gets where this one raises Hung."""
        self.cleanup()
        if self.hung:
            raise self.hung
        self.trial = new_config
        mark_output([self.trial["trial"]])
        self.latest: Epoch | None = None
        self.resume: dict[str, Any] | None = None
        self.files: Path | None = None
        return True

    def step(self) -> dict[str, Any]:
        """Train one epoch and report it. Raises torch.AcceleratorError."""
        try:
            if self.running is None:
                config = trial_config(self.base, self.trial)
                self.running = train_epochs(config, self.folder, self.resume, files=self.files)
            self.latest = next(self.running)
        except torch.AcceleratorError:
            raise
        except Exception as error:
            return failure_report(error, self.latest.index if self.latest else 0, self.base)
        return epoch_report(self.latest)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write the last epoch, for schedulers that pause or copy trials."""
        assert self.latest, "nothing trained yet"
        if self.base.data:
            write_checkpoint(Path(checkpoint_dir) / "epoch", self.latest, trial=self.trial["trial"])
        elif newest := checkpoint.newest(self.folder / CHECKPOINTS):  # a function goes on from what it has saved itself
            shutil.copytree(newest[0].path, Path(checkpoint_dir) / "epoch")

    def load_checkpoint(self, checkpoint_dir: str) -> None:
        """Go on from the epoch that `save_checkpoint` wrote, of this trial or of a donor. Raises DamagedCheckpoint."""
        self.cleanup()
        mark_output([self.trial["trial"]])
        if not self.base.data and not (Path(checkpoint_dir) / "epoch").exists():
            return  # the function saves nothing, so it begins anew
        saved = checkpoint.read(Path(checkpoint_dir) / "epoch")
        if saved.folder:  # Tune removes its own
            self.files = self.folder / DONATED
            shutil.rmtree(self.files, ignore_errors=True)
            shutil.copytree(saved.folder, self.files)
        is_own = saved.meta["trial"] == self.trial["trial"]
        self.resume = saved.state() if is_own else copied_state(saved.state(), self.trial["epochs"])

    def cleanup(self) -> None:
        """End the current run."""
        try:
            if self.running:
                self.running.close()
        except Hung as hung:
            self.hung = hung
        self.running = None
        mark_output([])

    @property
    def folder(self) -> Path:
        """The folder of the current trial."""
        return self.sweep / self.trial["trial"]


def mark_output(trials: Sequence[str], rank: str = "") -> None:
    """Say on both standard streams that what follows is of these trials, and show each warning once more."""
    warnings.simplefilter("default", append=True)
    for stream in (sys.stdout, sys.stderr):
        print(f"{OUTPUT_MARK}{','.join(trials)}{rank and f' rank {rank}'}", file=stream, flush=True)


def trial_config(base: Config, trial: dict[str, Any]) -> Config:
    """Return the whole configuration of one trial: the sweep's, with the trial's values and a seed of its own."""
    return with_values(base, {**trial["values"], "seed": base.seed + trial["number"]})


def trial_members(config: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the trials of one Tune trial: the members of a stack, or the trial itself."""
    return config.get("members", [config])


def several_workers(resources: ResourcesConfig, space: Space) -> bool:
    """Return True where trials have several workers, or may have."""
    return resources.workers > 1 or "resources.workers" in space


def epoch_report(epoch: Epoch) -> dict[str, Any]:
    """Return the report of an epoch to Tune."""
    return {
        "epoch": epoch.index,
        "score": epoch.score,
        "outcome": epoch.outcome,
        "reason": epoch.reason,
        "metrics": epoch.metrics,
        "losses": epoch.losses,
        "done": epoch.outcome is not None,
    }


def failure_report(error: Exception, epoch: int, config: Config) -> dict[str, Any]:
    """Return the report to Tune of a trial that its own fault ended after `epoch`; call it where `error` is handled.

    A lack of memory is named, with what `config` could do about it. `is_common` says that every trial of the sweep
    would end with this error. The traceback goes to the trial's log, too.
    """
    traceback.print_exc()
    return {
        "epoch": epoch,
        "score": WORST_SCORE,
        "outcome": "failed",
        "reason": memory_reason(error, config) if is_memory_error(error) else f"{type(error).__name__}: {error}",
        "traceback": traceback.format_exc(),
        "is_common": isinstance(error, MissingMetric),
        "done": True,
    }
