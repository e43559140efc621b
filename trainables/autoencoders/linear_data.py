"""A linear target with noise: the smallest data set, for which the best possible score is known."""

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
    """Settings that the samples depend on; configuration keys of `LinearData`."""

    task: Task
    n_samples: int
    n_features: int
    noise: float
    held_out: int
    data_seed: int


@dataclass(frozen=True)
class Linear:
    """Samples of y = w x + noise, and `exact` (n,), the targets of the validation samples without noise."""

    train: Batch
    val: Batch
    test: Batch
    exact: Tensor


@machine_cache
def linear(recipe: Recipe, device: torch.device) -> Linear:
    """Draw the samples; the result is cached on the device for all trials of this recipe."""
    draws = generator(recipe.data_seed)
    weights = torch.randn(recipe.n_features, generator=draws)
    features = torch.randn(recipe.n_samples, recipe.n_features, generator=draws)
    noiseless = features @ weights
    noisy = noiseless + recipe.noise * torch.randn(recipe.n_samples, generator=draws)
    n_train = recipe.n_samples - recipe.held_out
    draws = generator(recipe.data_seed, 1)  # another one, so that test samples do not change the others
    test_features = torch.randn(recipe.held_out, recipe.n_features, generator=draws)
    test_noisy = test_features @ weights + recipe.noise * torch.randn(recipe.held_out, generator=draws)
    if recipe.task == "classification":
        targets, exact, test_targets = ((values > 0).float() for values in (noisy, noiseless, test_noisy))
    else:
        mean, std = noisy[:n_train].mean(), noisy[:n_train].std()
        targets, exact, test_targets = ((values - mean) / std for values in (noisy, noiseless, test_noisy))
    train = features[:n_train].to(device), targets[:n_train].to(device)
    val = features[n_train:].to(device), targets[n_train:].to(device)
    test = test_features.to(device), test_targets.to(device)
    return Linear(train, val, test, exact[n_train:].to(device))


class LinearData:
    """Batches of standard normal features (B, F) and of targets (B,), which are linear in the features plus noise.

    The weights of the target are standard normal, so the target's variance is about `n_features`. `noise` is the
    standard deviation of the noise. For `regression` the targets are then standardised by mean and standard deviation
    of the training targets; for `classification` they are the sign, as 0 or 1. `held_out` samples are for validation,
    the others for training; as many again are drawn for test. `batch_size` is in samples, over all workers; the last
    batch of an epoch may be smaller.
    `data_seed` decides the samples; `seed` decides the order of each epoch.

    Raises InputError if a value is out of its range.
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
        limit = n_samples - 2  # the standard deviation of the training targets needs two
        require(1 <= held_out <= limit, "data.held_out", held_out, f"1 to {limit}, data.n_samples - 2")
        recipe = Recipe(task, n_samples, n_features, noise, held_out, data_seed)
        self.device, self.seed, self.batch_size, self.task = torch.device(device), seed, batch_size, task
        self.n_features, self.samples = n_features, linear(recipe, self.device)
        check_batch_size(batch_size, n_samples - held_out)

    @property
    def exact(self) -> Tensor:
        """Targets (held_out,) of the validation samples without noise."""
        return self.samples.exact

    def train(self, epoch: int) -> Sequence[Batch]:
        """Return the training batches in an order that depends on `seed` and `epoch` only."""
        features, targets = self.samples.train
        order = shuffled(len(targets), self.batch_size, seed=self.seed, epoch=epoch, device=self.device)
        return [(features[rows], targets[rows]) for rows in order]

    def val(self) -> Sequence[Batch]:
        """Return the validation samples as one batch."""
        return [self.samples.val]

    def test(self) -> Sequence[Batch]:
        """Return the test samples as one batch."""
        return [self.samples.test]
