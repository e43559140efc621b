"""What every peer trains: gatesweep's own core, on the same configuration, search space and seeds.

Imports nothing that a trial does not need, for a peer that starts a process for each pays for it each time.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import torch

from gatesweep.core.loop import Epoch, fit
from gatesweep.sweeps.config.build import build_run
from gatesweep.sweeps.config.schema import Config, make_settings
from gatesweep.sweeps.config.values import with_values
from gatesweep.sweeps.search.space import read_space, suggest_values

CONFIG, LOG = "config.json", "log.jsonl"


def append(path: Path, **facts: Any) -> None:
    """One line, in one write: several processes append to the same file."""
    with path.open("ab", buffering=0) as stream:
        stream.write(json.dumps({"time": time.time(), **facts}).encode() + b"\n")


@dataclass(frozen=True)
class Job:
    """A sweep's configuration, and the folder where its trials tell of every epoch."""

    config: Config
    folder: Path

    @classmethod
    def read(cls, folder: Path) -> Job:
        return cls(Config.of(json.loads((folder / CONFIG).read_text())), folder)

    @property
    def max_epochs(self) -> int:
        return self.config.training.max_epochs

    @property
    def trials(self) -> int:
        return self.config.num_samples

    @property
    def at_once(self) -> int:
        return self.config.max_concurrent

    @property
    def seed(self) -> int:
        return self.config.seed

    def dimensions(self) -> dict[str, optuna.distributions.BaseDistribution]:
        """The search space as flat dimensions, a composition's fractions among them."""
        space = read_space(self.config)
        assert not any(leaf.when for leaf in space.values()), "conditional leaves have no flat form"
        trial = optuna.create_study().ask()
        suggest_values(trial, space)
        return trial.distributions

    def train(self, point: dict[str, Any], number: int) -> Iterator[Epoch]:
        """Trial `number` at a point of `dimensions()`: as gatesweep trains it, but for checkpoints."""
        return self.train_on(suggest_values(optuna.trial.FixedTrial(point), read_space(self.config)), number)

    def train_on(self, values: dict[str, Any], number: int) -> Iterator[Epoch]:
        torch.set_num_threads(self.config.resources.threads)
        config = with_values(self.config, {**values, "seed": self.seed + number})
        trainable, data = build_run(config)
        for epoch in fit(trainable, data, make_settings(config)):
            facts = {"trial": number, "epoch": epoch.index, "outcome": epoch.outcome}
            append(self.folder / LOG, **facts, seconds=epoch.metrics["system/seconds"])
            yield epoch


def loss(epoch: Epoch) -> float:
    """What peers minimise: infinite where a trial diverged."""
    value = epoch.metrics.get("val/loss", math.nan)
    return value if math.isfinite(value) else math.inf
