"""Points in the unit cube with classes: planar sets of known density, digits, small tables, series from files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gatesweep.core.cache import machine_cache
from gatesweep.core.data import LARGEST_SIZE, check_batch_size, require, shuffled
from gatesweep.trainables.born.files import read_series
from gatesweep.trainables.born.mixture import Mixture

Dataset = Literal["moons", "circles", "spirals", "digits", "iris", "wine", "breast_cancer", "series"]
Batch = tuple[Tensor, Tensor]  # points (B, n) in [0, 1], classes (B,)
Arrays = tuple[NDArray[np.float64], NDArray[np.int64]]
NOISE = {"moons": 0.05, "circles": 0.05, "spirals": 0.5}  # default standard deviations, in the units of `curve`
LENGTH = {"moons": 3.2, "circles": 6.3, "spirals": 70.0}  # of the longer curve, in the same units, rounded up
PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Recipe:
    """Fields that determine the points and their split; the key of the cache. They are those of `BornData`."""

    dataset: Dataset
    per_class: int
    noise: float | None
    val: float
    test: float
    path: str | None
    test_path: str | None
    data_seed: int


@dataclass(frozen=True)
class Points:
    """Scaled points by part, names of the classes, shape of one point, and the exact density where it is known."""

    parts: dict[str, Batch]
    names: tuple[str, ...]
    shape: tuple[int, ...]
    exact: Mixture | None


@machine_cache
def points(recipe: Recipe, device: torch.device) -> Points:
    """Make the points of a recipe on a device; cached, so trials share them. Raises InputError for a bad file."""
    rng = np.random.default_rng(recipe.data_seed)
    split, names, shape = _raw(recipe, rng)
    x = split[0][0]
    low, high = (np.zeros(1), np.full(1, 16.0)) if recipe.dataset == "digits" else (x.min(axis=0), x.max(axis=0))
    span = np.where(high > low, high - low, 1.0)
    parts = {}
    for name, (values, labels) in zip(PARTS, split, strict=True):
        # A held-out point beyond the range of the training points would have no density, so it moves to the edge.
        scaled = torch.from_numpy(((values - low) / span).clip(0, 1)).float()
        parts[name] = (scaled.to(device), torch.from_numpy(labels).to(device))
    exact = None
    if recipe.dataset in NOISE:
        # Gaussians replace the curve, at most half the noise apart; at the inner end of a spiral, up to 1.7 times the
        # noise. Along a curve log p(x|c) is right to 1e-4, at a moon's ends to 3e-3, at a spiral's inner end to 0.7.
        count = math.ceil(2 * LENGTH[recipe.dataset] / _noise(recipe))
        middles = (np.arange(count) + 0.5) / count
        curves = [curve(recipe.dataset, label, middles) for label in range(len(names))]
        centres = [torch.from_numpy((centre - low) / span).to(device) for centre in curves]
        widths = torch.from_numpy(_noise(recipe) / span)
        exact = Mixture(centres, [widths.to(device)] * len(names))
    return Points(parts, names, shape, exact)


def curve(dataset: str, label: int, t: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute points of the curve of class `label`, 0 or 1, at parameters t (m,) in [0, 1]; returns (m, 2).

    Data are uniform in t, plus noise. `moons`: two interlocking half circles of radius 1. `circles`: radius 1 and 1/2.
    `spirals`: two arms of Archimedes' spiral, one turn each, from radius pi to 5 pi; the angle grows as sqrt(t), which
    makes points nearly uniform along the arm, except near its inner end.
    """
    if dataset == "moons":
        angle = math.pi * t
        if label == 0:
            return np.stack([np.cos(angle), np.sin(angle)], axis=1)
        return np.stack([1 - np.cos(angle), 0.5 - np.sin(angle)], axis=1)
    if dataset == "circles":
        return (1.0, 0.5)[label] * np.stack([np.cos(2 * math.pi * t), np.sin(2 * math.pi * t)], axis=1)
    angle = 2 * math.pi * np.sqrt(t)
    radius = (1, -1)[label] * (2 * angle + math.pi)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _noise(recipe: Recipe) -> float:
    """Standard deviation of planar points around their curve, in the units of `curve`."""
    return NOISE[recipe.dataset] if recipe.noise is None else recipe.noise


def _raw(recipe: Recipe, rng: np.random.Generator) -> tuple[list[Arrays], tuple[str, ...], tuple[int, ...]]:
    """Unscaled training, validation and test points, the names of the classes, and the shape of one point."""
    if recipe.dataset == "series":
        require(recipe.path is not None, "data.path", recipe.path, "a .ts, .tsv or .txt file of labelled series")
        assert recipe.path is not None
        x, labels, names = read_series(recipe.path)
        if recipe.test_path is None:
            return _split(x, labels, (recipe.val, recipe.test), rng), names, x.shape[1:]
        held_out = read_series(recipe.test_path, key="data.test_path", names=names, length=x.shape[1])
        test, val, _ = _split(held_out[0], held_out[1], (recipe.val / (recipe.val + recipe.test), 0.0), rng)
        return [(x, labels), val, test], names, x.shape[1:]
    if recipe.dataset not in NOISE:
        from sklearn import datasets

        table = getattr(datasets, f"load_{recipe.dataset}")()
        x, labels = table.data.astype(np.float64), table.target.astype(np.int64)
        shape = (8, 8) if recipe.dataset == "digits" else x.shape[1:]
        return _split(x, labels, (recipe.val, recipe.test), rng), tuple(map(str, table.target_names)), shape
    noise, count = _noise(recipe), recipe.per_class
    clouds = [curve(recipe.dataset, label, rng.random(count)) for label in range(2)]
    x = np.concatenate(clouds) + noise * rng.standard_normal((2 * count, 2))
    return _split(x, np.repeat([0, 1], count), (recipe.val, recipe.test), rng), ("0", "1"), (2,)


def _split(
    x: NDArray[np.float64], labels: NDArray[np.int64], shares: tuple[float, float], rng: np.random.Generator
) -> list[Arrays]:
    """Training, validation and test points; `shares` of each class are held out for the last two."""
    parts: list[list[NDArray[np.int64]]] = [[], [], []]
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        ends = np.rint(np.cumsum(shares) * len(members)).astype(int)
        val, test, train = np.split(members, ends)
        for part, rows in zip(parts, (train, val, test), strict=True):
            part.append(rows)
    indices = [np.concatenate(part) for part in parts]
    return [(x[rows], labels[rows]) for rows in indices]


class BornData:
    """Points (B, n) in the unit cube and their classes (B,), in training batches and whole held-out parts.

    * `moons`, `circles`, `spirals`: `per_class` points of each of two classes, around a curve of the plane. `noise` is
      the standard deviation in each direction, in units where a moon has radius 1 and the spiral 5 pi; null stands for
      0.05, 0.05 and 0.5. The density is known (`exact`).
    * `digits`: scikit-learn's handwritten digits, 8 x 8 pixels.
    * `iris`, `wine`, `breast_cancer`: scikit-learn's tables, of 4, 13 and 30 features.
    * `series`: labelled series from the file `path` (`read_series`). All held-out points come from a second file,
      `test_path`, where there is one.

    The shares `val` and `test` of each class are held out. They are shares of all points; with `test_path` they give
    the ratio in which that file is split.
    Each feature is scaled so that its range in training becomes [0, 1]; pixels have the range 0 to 16. Held-out points
    beyond the range move to the edge. Points and their split depend on `data_seed`, the order of an epoch on `seed`.
    """

    def __init__(
        self,
        *,
        device: torch.device,
        seed: int,
        batch_size: int = 256,
        dataset: Dataset = "moons",
        per_class: int = 4000,
        noise: float | None = None,
        val: float = 0.25,
        test: float = 0.25,
        path: str | None = None,
        test_path: str | None = None,
        data_seed: int = 42,
    ) -> None:
        """Check the fields and make the points. Raises InputError for a bad value or file."""
        require(4 <= per_class <= LARGEST_SIZE, "data.per_class", per_class, f"at least 4 and at most {LARGEST_SIZE}")
        require(noise is None or noise > 0, "data.noise", noise, "above 0, or null")
        require(0 < val < 1, "data.val", val, "a share between 0 and 1")
        require(0 <= test < 1 - val, "data.test", test, f"a share from 0 to below {1 - val:g}, 1 - data.val")
        require(dataset == "series" or path is None, "data.path", path, "null, or data.dataset=series")
        require(path is not None or test_path is None, "data.test_path", test_path, "null, or a data.path beside it")
        recipe = Recipe(dataset, per_class, noise, val, test, path, test_path, data_seed)
        self.device, self.seed, self.batch_size = torch.device(device), seed, batch_size
        self.points = points(recipe, self.device)
        x = self.part("train")[0]
        check_batch_size(batch_size, len(x))
        self.n_features, self.n_classes = x.shape[1], len(self.points.names)
        for part in ("train", "val"):
            fewest = int(self.part(part)[1].bincount(minlength=self.n_classes).min())
            require(fewest >= 2, "data.val", val, f"shares that leave two points or more of each class in {part}")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes, by their number."""
        return self.points.names

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one point: (8, 8) for digits, (n,) for other data."""
        return self.points.shape

    @property
    def exact(self) -> Mixture | None:
        """Density that planar points were drawn from; None for other data."""
        return self.points.exact

    def part(self, name: str) -> Batch:
        """Return all points (N, n) and classes (N,) of `train`, `val` or `test`; the last two are sorted by class."""
        return self.points.parts[name]

    def train(self, epoch: int) -> Sequence[Batch]:
        """Return the training batches of an epoch, in an order that depends on `seed` and `epoch` only."""
        x, labels = self.part("train")
        order = shuffled(len(labels), self.batch_size, seed=self.seed, epoch=epoch, device=self.device)
        return [(x[rows], labels[rows]) for rows in order]

    def val(self) -> Sequence[Batch]:
        """Return the validation points as one batch."""
        return [self.part("val")]

    def test(self) -> Sequence[Batch]:
        """Return the test points as one batch."""
        return [self.part("test")]
