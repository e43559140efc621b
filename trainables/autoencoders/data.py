"""Data sets of tokens: collision events, simulated or from a file, and handwritten digits as sets of their rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gatesweep.core.cache import machine_cache
from gatesweep.core.data import check_batch_size, check_size, require, shuffled
from gatesweep.trainables.autoencoders import files
from gatesweep.trainables.autoencoders.events import Events, simulate

Batch = tuple[Tensor, Tensor]  # standardised features (B, T, F) float32, 0 at padding; ids (B, T) int64, 0 at padding
EVAL_BATCH_SIZE = 512  # samples in a validation or test batch


@dataclass(frozen=True)
class Splits:
    """Training, validation and test samples on the device; mean and standard deviation (F,) of the training tokens."""

    train: Batch
    val: Batch
    test: Batch
    mean: Tensor
    std: Tensor


class TokenData(ABC):
    """Base class of token data: batches of features (B, T, F) and ids (B, T), split into train, val and test.

    Features are standardised by mean and standard deviation of the training tokens. Padding has id 0 and features 0; no
    loss and no metric counts it. `batch_size` is in samples; the last batch of an epoch may be smaller. `seed` chooses
    the order of each epoch. Raises InputError if `batch_size` is not from 1 to the number of training samples.
    """

    def __init__(self, splits: Splits, *, device: torch.device, seed: int, batch_size: int) -> None:
        self.device, self.seed, self.batch_size = torch.device(device), seed, batch_size
        self.mean, self.std = splits.mean, splits.std
        self._splits = splits
        check_batch_size(batch_size, len(splits.train[0]))

    @property
    def n_features(self) -> int:
        """Number of features F of a token."""
        return self._splits.train[0].shape[-1]

    @property
    def n_ids(self) -> int:
        """Number of possible ids, including 0 for padding: the largest id in the data, plus 1."""
        return 1 + max(int(ids.max()) for _, ids in (self._splits.train, self._splits.val, self._splits.test))

    @property
    def max_tokens(self) -> int:
        """Number of tokens T of a sample, padding included."""
        return self._splits.train[0].shape[1]

    def train(self, epoch: int) -> Sequence[Batch]:
        """Return the training batches in an order that depends on `seed` and `epoch` only."""
        features, ids = self._splits.train
        order = shuffled(len(ids), self.batch_size, seed=self.seed, epoch=epoch, device=self.device)
        return [(features[rows], ids[rows]) for rows in order]

    def val(self) -> Sequence[Batch]:
        """Return the validation batches, which the gate is decided on."""
        return _in_batches(self._splits.val)

    def test(self) -> Sequence[Batch]:
        """Return the test batches, which neither training nor the gate uses."""
        return _in_batches(self._splits.test)

    def train_all(self) -> Batch:
        """Return all training samples, also those of other ranks, as one batch."""
        return self._splits.train

    def raw(self, features: Tensor) -> Tensor:
        """Undo the standardisation of features (..., F)."""
        return features * self.std + self.mean

    @abstractmethod
    def physical(self, features: Tensor) -> Tensor:
        """Convert standardised features (..., F) to physical values; the subclass gives their number and units."""

    @property
    @abstractmethod
    def fields(self) -> dict[str, list[int]]:
        """Names of the physical quantities, each with its columns in the last axis of `physical`."""

    @abstractmethod
    def errors(self, reconstructed: Tensor, features: Tensor) -> dict[str, Tensor]:
        """Return the absolute errors in physical units, one tensor (..., n) for each of the `fields`.

        Both arguments are standardised features (..., F).
        """


# --- events


@dataclass(frozen=True)
class Recipe:
    """Settings that the events and their split depend on; the configuration keys of `EventData`.

    Raises InputError if a number is below 1, or if there is neither a file nor a number of events.
    """

    path: str | None
    dataset: str
    n_events: int | None
    held_out: int
    max_tokens: int
    data_seed: int

    def __post_init__(self) -> None:
        if self.path is None:
            expected = "a number of events to simulate (null is for a file in data.path: all of it)"
            require(self.n_events is not None, "data.n_events", self.n_events, expected)
        for field in ("n_events", "held_out", "max_tokens"):
            value = getattr(self, field)
            if value is not None:
                check_size(f"data.{field}", value)


@machine_cache
def event_splits(recipe: Recipe, device: torch.device) -> Splits:
    """Simulate or read events, and split them; the result is cached on the device for all trials of this recipe.

    Raises InputError if too few events are left to train on, or if the file is bad (`files.read`).
    """
    events = _events(recipe)
    limit = (len(events) - 1) // 2
    expected = f"1 to {limit}: of {len(events)} events, as many for validation, as many for test, the others to train"
    require(recipe.held_out <= limit, "data.held_out", recipe.held_out, expected)
    objects = torch.from_numpy(events.objects)
    phi = objects[..., 2]
    log_pt = objects[..., 0].clamp(min=1e-9).log()  # the pT of padding is 0
    raw = torch.stack([log_pt, objects[..., 1], phi.cos(), phi.sin()], dim=-1)
    return _split(raw, torch.from_numpy(events.ids), recipe.held_out, recipe.data_seed, device, pooled=False)


class EventData(TokenData):
    """Collision events: each token is an object with features log(pT / GeV), eta, cos phi, sin phi, and its id.

    The events are simulated (`events.simulate`), or read from an HDF5 or ROOT file (`files.read`) if there is a `path`;
    `dataset` is then the name of its table or tree. `n_events` is their number; null reads the whole file. An event
    keeps its `max_tokens` objects of largest pT. `held_out` events are for validation, as many for test, and the others
    for training. `data_seed` decides the simulation and the split; `seed` decides the order of each epoch.

    Raises InputError if a value is out of its range, or if the file is bad.
    """

    def __init__(
        self,
        *,
        device: torch.device,
        seed: int,
        batch_size: int = 256,
        path: str | None = None,
        dataset: str = "events",
        n_events: int | None = 20000,
        held_out: int = 2000,
        max_tokens: int = 18,
        data_seed: int = 42,
    ) -> None:
        recipe = Recipe(path, dataset, n_events, held_out, max_tokens, data_seed)
        super().__init__(event_splits(recipe, torch.device(device)), device=device, seed=seed, batch_size=batch_size)

    def physical(self, features: Tensor) -> Tensor:
        """Convert features (..., 4) to log(pT / GeV), eta and phi in radians, from -pi to pi (..., 3)."""
        log_pt, eta, cos, sin = self.raw(features).unbind(dim=-1)
        return torch.stack([log_pt, eta, torch.atan2(sin, cos)], dim=-1)

    @property
    def fields(self) -> dict[str, list[int]]:
        """Columns of pT, eta and phi in `physical`."""
        return {"pt": [0], "eta": [1], "phi": [2]}

    def errors(self, reconstructed: Tensor, features: Tensor) -> dict[str, Tensor]:
        """Return |Delta log pT|, |Delta eta| and |Delta phi|, each (..., 1); Delta phi is in radians, at most pi."""
        delta = self.physical(reconstructed) - self.physical(features)
        phi = torch.remainder(delta[..., 2:] + torch.pi, 2 * torch.pi) - torch.pi
        return {"pt": delta[..., :1].abs(), "eta": delta[..., 1:2].abs(), "phi": phi.abs()}

    def closure(self, features: Tensor) -> Tensor:
        """Return |r - 1| (...,) of features (..., 4), where r is the length of the vector (cos phi, sin phi)."""
        return (torch.linalg.vector_norm(self.raw(features)[..., 2:], dim=-1) - 1).abs()


# --- digits


@dataclass(frozen=True)
class DigitRecipe:
    """Settings that the split of the digits depends on; configuration keys of `DigitData`."""

    held_out: int
    data_seed: int


@machine_cache
def digit_splits(recipe: DigitRecipe, device: torch.device) -> Splits:
    """Load and split the digits; the result is cached on the device for all trials of this recipe.

    Raises InputError if `held_out` leaves no digit to train on.
    """
    from sklearn.datasets import load_digits

    images = torch.from_numpy(load_digits().images)  # (1797, 8, 8), intensities from 0 to 16
    limit = (len(images) - 1) // 2
    expected = f"1 to {limit}, as many for validation as for test"
    require(1 <= recipe.held_out <= limit, "data.held_out", recipe.held_out, expected)
    ids = torch.arange(1, 9).expand(len(images), 8).contiguous()
    # Some pixels at the margin are nearly always 0: divided by their own small spread they would dominate the loss.
    return _split(images, ids, recipe.held_out, recipe.data_seed, device, pooled=True)


class DigitData(TokenData):
    """Handwritten digits, 1797 images of 8 x 8 pixels: a token is a row of 8 pixels; its id is 1 to 8 from the top.

    `held_out` digits are for validation, as many for test, and the others for training. `data_seed` decides the split;
    `seed` decides the order of each epoch. Raises InputError if a value is out of its range.

    Source: the test part of UCI's Optical Recognition of Handwritten Digits, as scikit-learn ships it (CC BY 4.0).
    """

    def __init__(
        self,
        *,
        device: torch.device,
        seed: int,
        batch_size: int = 64,
        held_out: int = 180,
        data_seed: int = 42,
    ) -> None:
        splits = digit_splits(DigitRecipe(held_out, data_seed), torch.device(device))
        super().__init__(splits, device=device, seed=seed, batch_size=batch_size)

    def physical(self, features: Tensor) -> Tensor:
        """Convert features (..., 8) to the intensities of a row's pixels (..., 8), clipped to 0 to 16."""
        return self.raw(features).clamp(0, 16)

    @property
    def fields(self) -> dict[str, list[int]]:
        """Columns of the pixels in `physical`."""
        return {"pixel": list(range(8))}

    def errors(self, reconstructed: Tensor, features: Tensor) -> dict[str, Tensor]:
        """Return the absolute errors of the intensities (..., 8), in units of the 0 to 16 scale."""
        return {"pixel": (self.physical(reconstructed) - self.physical(features)).abs()}


# --- shared


def _in_batches(split: Batch) -> list[Batch]:
    return list(zip(split[0].split(EVAL_BATCH_SIZE), split[1].split(EVAL_BATCH_SIZE), strict=True))


def _events(recipe: Recipe) -> Events:
    if recipe.path is None:
        assert recipe.n_events is not None
        return simulate(recipe.n_events, recipe.max_tokens, recipe.data_seed)
    return files.read(Path(recipe.path), recipe.dataset, recipe.n_events).hardest(recipe.max_tokens)


def _split(raw: Tensor, ids: Tensor, held_out: int, seed: int, device: torch.device, *, pooled: bool) -> Splits:
    """Shuffle, split and standardise samples: features `raw` (n, T, F) float64 and `ids` (n, T).

    Mean and standard deviation are those of the training tokens: of each feature, or of all features together if
    `pooled`. A standard deviation of 0 counts as 1.
    """
    order = torch.from_numpy(np.random.default_rng([seed, 1]).permutation(len(ids)))
    raw, ids = raw[order], ids[order]
    tokens = raw[: -2 * held_out][ids[: -2 * held_out] > 0]
    require(len(tokens) > 1, "data.held_out", held_out, "fewer: there are no tokens left to train on")
    if pooled:
        tokens = tokens.reshape(-1, 1)
    mean, std = (moment.expand(raw.shape[-1]).clone() for moment in (tokens.mean(dim=0), tokens.std(dim=0)))
    std = torch.where(std > 0, std, 1.0)
    features = torch.where((ids > 0)[..., None], (raw - mean) / std, 0.0).float()
    train, val, test = (
        (features[rows].to(device), ids[rows].to(device))
        for rows in (slice(-2 * held_out), slice(-2 * held_out, -held_out), slice(-held_out, None))
    )
    return Splits(train, val, test, mean.float().to(device), std.float().to(device))
