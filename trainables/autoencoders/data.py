"""Sets of tokens to reconstruct: collision events, simulated or from a file, and digits as sets of their rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gatesweep.core.cache import machine_cache
from gatesweep.core.data import check_batch_size, require, shuffled
from gatesweep.trainables.autoencoders import files
from gatesweep.trainables.autoencoders.events import Events, simulate

Batch = tuple[Tensor, Tensor]  # standardised features (B, T, F) float32, zero where padded; ids (B, T), 0 for padding
EVALUATED = 512  # samples of a held-out batch


@dataclass(frozen=True)
class Splits:
    """Training, validation and test samples on the device, and the tokens' mean and spread (F,) in training."""

    train: Batch
    val: Batch
    test: Batch
    mean: Tensor
    std: Tensor


class TokenData(ABC):
    """Batches of tokens: features (B, T, F), standardised by the training tokens' mean and spread, and ids (B, T).

    Padding has id 0 and features 0, and counts nowhere.
    """

    def __init__(self, splits: Splits, *, device: torch.device, seed: int, batch_size: int) -> None:
        self.device, self.seed, self.batch_size = torch.device(device), seed, batch_size
        self.mean, self.std = splits.mean, splits.std
        self._splits = splits
        check_batch_size(batch_size, len(splits.train[0]))

    @property
    def n_features(self) -> int:
        return self._splits.train[0].shape[-1]

    @property
    def n_ids(self) -> int:
        """How many ids there are, padding included."""
        return 1 + max(int(ids.max()) for _, ids in (self._splits.train, self._splits.val, self._splits.test))

    @property
    def max_tokens(self) -> int:
        return self._splits.train[0].shape[1]

    def train(self, epoch: int) -> Sequence[Batch]:
        features, ids = self._splits.train
        order = shuffled(len(ids), self.batch_size, seed=self.seed, epoch=epoch, device=self.device)
        return [(features[rows], ids[rows]) for rows in order]

    def val(self) -> Sequence[Batch]:
        return _in_batches(self._splits.val)

    def test(self) -> Sequence[Batch]:
        """Batches that neither training nor the gate has seen."""
        return _in_batches(self._splits.test)

    def train_all(self) -> Batch:
        """Every training sample, of all ranks, in one batch."""
        return self._splits.train

    def raw(self, features: Tensor) -> Tensor:
        """(..., F): features without their standardisation."""
        return features * self.std + self.mean

    @abstractmethod
    def physical(self, features: Tensor) -> Tensor:
        """What a person would measure of tokens (..., F)."""

    @property
    @abstractmethod
    def fields(self) -> dict[str, list[int]]:
        """The names of what is measured, and which of the last axis of `physical` belong to each."""

    @abstractmethod
    def errors(self, reconstructed: Tensor, features: Tensor) -> dict[str, Tensor]:
        """By field, the absolute errors (..., n) of reconstructed tokens (..., F), in physical units."""


def _in_batches(split: Batch) -> list[Batch]:
    return list(zip(split[0].split(EVALUATED), split[1].split(EVALUATED), strict=True))


# --- events


@dataclass(frozen=True)
class Recipe:
    """All that the events depend on."""

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
            require(value is None or value >= 1, f"data.{field}", value, "at least 1")


@machine_cache
def event_splits(recipe: Recipe, device: torch.device) -> Splits:
    """The events of a recipe, made or read once and kept on the device for every trial that asks."""
    events = _events(recipe)
    most = (len(events) - 1) // 2
    expected = f"1 to {most}: of {len(events)} events, as many for validation, as many for test, the others to train"
    require(recipe.held_out <= most, "data.held_out", recipe.held_out, expected)
    objects = torch.from_numpy(events.objects)
    phi = objects[..., 2]
    raw = torch.stack([objects[..., 0].clamp(min=1e-9).log(), objects[..., 1], phi.cos(), phi.sin()], dim=-1)
    return _split(raw, torch.from_numpy(events.ids), recipe.held_out, recipe.data_seed, device, alike=False)


def _events(recipe: Recipe) -> Events:
    if recipe.path is None:
        assert recipe.n_events is not None
        return simulate(recipe.n_events, recipe.max_tokens, recipe.data_seed)
    return files.read(Path(recipe.path), recipe.dataset, recipe.n_events).hardest(recipe.max_tokens)


def _split(raw: Tensor, ids: Tensor, held_out: int, seed: int, device: torch.device, *, alike: bool) -> Splits:
    """Samples in an order of their own, the last of them held out; `raw` (n, T, F) float64, `ids` (n, T).

    Features that are `alike` share one mean and one spread.
    """
    order = torch.from_numpy(np.random.default_rng([seed, 1]).permutation(len(ids)))
    raw, ids = raw[order], ids[order]
    known = raw[: -2 * held_out][ids[: -2 * held_out] > 0]
    require(len(known) > 1, "data.held_out", held_out, "fewer: there are no tokens left to train on")
    if alike:
        known = known.reshape(-1, 1)
    mean, std = (one.expand(raw.shape[-1]).clone() for one in (known.mean(dim=0), known.std(dim=0)))
    std = torch.where(std > 0, std, 1.0)
    features = torch.where((ids > 0)[..., None], (raw - mean) / std, 0.0).float()
    train, val, test = (
        (features[part].to(device), ids[part].to(device))
        for part in (slice(-2 * held_out), slice(-2 * held_out, -held_out), slice(-held_out, None))
    )
    return Splits(train, val, test, mean.float().to(device), std.float().to(device))


class EventData(TokenData):
    """Collision events as lists of at most `max_tokens` objects: log pT, eta, cos phi and sin phi of each, and its id.

    They are simulated (`events.simulate`), or read from an HDF5 or ROOT file (`files.read`). `held_out` events are
    for validation, as many for test, the others for training. Everything but the order of the epochs, which `seed`
    chooses, depends on `data_seed`.
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
        """(..., 3): log(pT / GeV), eta and phi in (-pi, pi]."""
        log_pt, eta, cos, sin = self.raw(features).unbind(dim=-1)
        return torch.stack([log_pt, eta, torch.atan2(sin, cos)], dim=-1)

    @property
    def fields(self) -> dict[str, list[int]]:
        return {"pt": [0], "eta": [1], "phi": [2]}

    def errors(self, reconstructed: Tensor, features: Tensor) -> dict[str, Tensor]:
        """|Delta log pT|, |Delta eta| and |Delta phi| in radians, the short way round."""
        delta = self.physical(reconstructed) - self.physical(features)
        phi = torch.remainder(delta[..., 2:] + torch.pi, 2 * torch.pi) - torch.pi
        return {"pt": delta[..., :1].abs(), "eta": delta[..., 1:2].abs(), "phi": phi.abs()}

    def closure(self, features: Tensor) -> Tensor:
        """(...,): how far (cos phi, sin phi) is from the unit circle, |r - 1|."""
        return (torch.linalg.vector_norm(self.raw(features)[..., 2:], dim=-1) - 1).abs()


# --- digits


@dataclass(frozen=True)
class DigitRecipe:
    """All that the split of the digits depends on."""

    held_out: int
    data_seed: int


@machine_cache
def digit_splits(recipe: DigitRecipe, device: torch.device) -> Splits:
    from sklearn.datasets import load_digits

    images = torch.from_numpy(load_digits().images)  # (1797, 8, 8), 0 to 16
    most = (len(images) - 1) // 2
    expected = f"1 to {most}, as many for validation as for test"
    require(1 <= recipe.held_out <= most, "data.held_out", recipe.held_out, expected)
    ids = torch.arange(1, 9).expand(len(images), 8).contiguous()
    # Some pixels of the margin are nearly always empty: their own spread would make them count most.
    return _split(images, ids, recipe.held_out, recipe.data_seed, device, alike=True)


class DigitData(TokenData):
    """Handwritten digits (1797 images of 8 x 8 pixels), each a set of 8 tokens: the pixels of a row, its number as id.

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
        """(..., 8): the intensities of a row's pixels, 0 to 16."""
        return self.raw(features).clamp(0, 16)

    @property
    def fields(self) -> dict[str, list[int]]:
        return {"pixel": list(range(8))}

    def errors(self, reconstructed: Tensor, features: Tensor) -> dict[str, Tensor]:
        return {"pixel": (self.physical(reconstructed) - self.physical(features)).abs()}
