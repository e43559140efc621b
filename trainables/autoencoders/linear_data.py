"""A linear target under noise: the smallest data of all, for which the best possible score is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gatesweep.core.cache import machine_cache
from gatesweep.core.data import check_batch_size, generator, require, shuffled

Task = Literal["regression", "classification"]
Batch = tuple[Tensor, Tensor]  # features (B, F), targets (B,)


@dataclass(frozen=True)
class Recipe:
    """All that the samples depend on."""

    task: Task
    n_samples: int
    n_features: int
    noise: float
    held_out: int
    data_seed: int


@dataclass(frozen=True)
class Linear:
    """Samples of y = w x + noise, and `exact` (n,), the targets of the held-out ones without their noise."""

    train: Batch
    val: Batch
    exact: Tensor


@machine_cache
def linear(recipe: Recipe, device: torch.device) -> Linear:
    """The samples of a recipe, drawn once and kept on the device."""
    draws = generator(recipe.data_seed)
    weights = torch.randn(recipe.n_features, generator=draws)
    features = torch.randn(recipe.n_samples, recipe.n_features, generator=draws)
    exact = features @ weights
    noisy = exact + recipe.noise * torch.randn(recipe.n_samples, generator=draws)
    known = recipe.n_samples - recipe.held_out
    if recipe.task == "classification":
        targets, answers = (noisy > 0).float(), (exact > 0).float()
    else:
        mean, std = noisy[:known].mean(), noisy[:known].std()
        targets, answers = (noisy - mean) / std, (exact - mean) / std
    train, val = ((features[part].to(device), targets[part].to(device)) for part in (slice(known), slice(known, None)))
    return Linear(train, val, answers[known:].to(device))


class LinearData:
    """Batches of standard normal features (B, F) and of targets (B,) that are linear in them, but for noise.

    The target's weights are standard normal, so its variance is about `n_features`, and `noise` is the standard
    deviation of the noise on it. For `regression` targets are then standardised by their mean and spread in training,
    for `classification` they are its sign, as 0 or 1. `held_out` samples are for validation. `batch_size` is per
    worker; the last, incomplete batch of an epoch is left out. The samples depend on `data_seed`; `seed` orders the
    epochs.
    """

    def __init__(
        self,
        *,
        device: torch.device,
        seed: int,
        batch_size: int = 64,
        task: Task = "regression",
        n_samples: int = 5000,
        n_features: int = 16,
        noise: float = 0.1,
        held_out: int = 1000,
        data_seed: int = 42,
    ) -> None:
        require(n_samples >= 3, "data.n_samples", n_samples, "at least 3")
        require(n_features >= 1, "data.n_features", n_features, "at least 1")
        require(noise >= 0, "data.noise", noise, "at least 0")
        most = n_samples - 2
        require(1 <= held_out <= most, "data.held_out", held_out, f"1 to {most}, data.n_samples - 2")
        recipe = Recipe(task, n_samples, n_features, noise, held_out, data_seed)
        self.device, self.seed, self.batch_size, self.task = torch.device(device), seed, batch_size, task
        self.n_features, self.samples = n_features, linear(recipe, self.device)
        check_batch_size(batch_size, n_samples - held_out)

    @property
    def exact(self) -> Tensor:
        """(held_out,): the held-out targets without their noise."""
        return self.samples.exact

    def train(self, epoch: int) -> Sequence[Batch]:
        features, targets = self.samples.train
        order = shuffled(len(targets), self.batch_size, seed=self.seed, epoch=epoch, device=self.device)
        return [(features[rows], targets[rows]) for rows in order]

    def val(self) -> Sequence[Batch]:
        return [self.samples.val]
