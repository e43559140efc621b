"""One trial, inside its own process: `core.loop.fit`, an epoch a step, and the process kept for the next trial."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Generator
from pathlib import Path
from typing import Any

import torch
from ray import tune

from gatesweep.core import checkpoint
from gatesweep.core.cache import join_cache
from gatesweep.core.gate import WORST_SCORE
from gatesweep.core.loop import Epoch
from gatesweep.sweeps.config.schema import Config
from gatesweep.sweeps.config.values import with_values
from gatesweep.sweeps.execution.training import train_epochs, write_checkpoint
from gatesweep.sweeps.search.space import Space


def trial_config(base: Config, trial: dict[str, Any]) -> Config:
    """The whole configuration of one trial: the sweep's, with its values and a seed of its own."""
    return with_values(base, {**trial["values"], "seed": base.seed + trial["number"]})


def trial_members(config: dict[str, Any]) -> list[dict[str, Any]]:
    """The trials in what Tune takes for one: those of a stack, or itself."""
    return config.get("members", [config])


def several_workers(config: Config, space: Space) -> bool:
    """Whether trials have several workers, or may have."""
    return config.resources.workers > 1 or "resources.workers" in space


def epoch_report(epoch: Epoch) -> dict[str, Any]:
    """What Tune hears of an epoch."""
    return {
        "epoch": epoch.index,
        "score": epoch.score,
        "outcome": epoch.outcome,
        "reason": epoch.reason,
        "metrics": epoch.metrics,
        "losses": epoch.losses,
        "done": epoch.outcome is not None,
    }


def failure_report(error: Exception, epoch: int) -> dict[str, Any]:
    """What Tune hears of a trial whose own fault, just caught, ended it after `epoch`."""
    return {
        "epoch": epoch,
        "score": WORST_SCORE,
        "outcome": "failed",
        "reason": f"{type(error).__name__}: {error}",
        "traceback": traceback.format_exc(),
        "done": True,
    }


class DirectTrial(tune.Trainable):
    """What Tune runs: each `step` is one epoch, so a trial is stopped by not asking for the next.

    A fault of the trial's own is its outcome, and the process goes on to the next trial; only what may have
    left the process unusable (a CUDA fault) ends it.
    """

    running: Generator[Epoch] | None = None

    def setup(self, config: dict[str, Any], base: Config, sweep: str, cache: str | None) -> None:
        warnings.simplefilter("ignore")  # they would reach nobody here
        self.base, self.sweep = base, Path(sweep)
        join_cache(cache)
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.cleanup()
        self.trial = new_config
        self.latest: Epoch | None = None
        self.resume: dict[str, Any] | None = None
        return True

    def step(self) -> dict[str, Any]:
        try:
            if self.running is None:
                config = trial_config(self.base, self.trial)
                self.running = train_epochs(config, self.sweep / self.trial["trial"], self.resume)
            self.latest = next(self.running)
        except torch.AcceleratorError:
            raise
        except Exception as error:
            return failure_report(error, self.latest.index if self.latest else 0)
        return epoch_report(self.latest)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """For schedulers that pause or copy trials."""
        assert self.latest, "nothing trained yet"
        write_checkpoint(Path(checkpoint_dir) / "epoch", self.latest)

    def load_checkpoint(self, checkpoint_dir: str) -> None:
        self.cleanup()
        self.resume = checkpoint.read(Path(checkpoint_dir) / "epoch").state()

    def cleanup(self) -> None:
        """End the run at hand."""
        if self.running:
            self.running.close()
        self.running = None
