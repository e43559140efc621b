"""Points in the unit cube with a class: planar sets whose density is known, digits, small tables, series from files."""

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
from gatesweep.core.data import check_batch_size, require, shuffled
from gatesweep.trainables.born.files import read_series
from gatesweep.trainables.born.mixture import Mixture

Dataset = Literal["moons", "circles", "spirals", "digits", "iris", "wine", "breast_cancer", "series"]
Batch = tuple[Tensor, Tensor]  # points (B, n) in [0, 1], classes (B,)
Arrays = tuple[NDArray[np.float64], NDArray[np.int64]]
NOISE = {"moons": 0.05, "circles": 0.05, "spirals": 0.5}  # the source's, in the units of `curve`
LENGTH = {"moons": 3.2, "circles": 6.3, "spirals": 70.0}  # of the longer curve, at least
PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Recipe:
    """All that the points and their split depend on."""

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
    """The three parts, scaled; the names of the classes; the shape of a point; where known, the exact density."""

    parts: dict[str, Batch]
    names: tuple[str, ...]
    shape: tuple[int, ...]
    exact: Mixture | None


@machine_cache
def points(recipe: Recipe, device: torch.device) -> Points:
    """The points of a recipe, made once and kept on the device for every trial that asks."""
    rng = np.random.default_rng(recipe.data_seed)
    split, names, shape = _raw(recipe, rng)
    x = split[0][0]
    low, high = (np.zeros(1), np.full(1, 16.0)) if recipe.dataset == "digits" else (x.min(axis=0), x.max(axis=0))
    span = np.where(high > low, high - low, 1.0)
    parts = {}
    for name, (values, labels) in zip(PARTS, split, strict=True):
        # A held-out point beyond the range of the training points would have no density: it moves to the edge.
        scaled = torch.from_numpy(((values - low) / span).clip(0, 1)).float()
        parts[name] = (scaled.to(device), torch.from_numpy(labels).to(device))
    exact = None
    if recipe.dataset in NOISE:
        # Points at most half the noise apart stand for a curve: the density between them then sags by under 1e-6.
        count = math.ceil(2 * LENGTH[recipe.dataset] / _noise(recipe))
        middles = (np.arange(count) + 0.5) / count
        centres = [torch.from_numpy((curve(recipe.dataset, one, middles) - low) / span) for one in range(len(names))]
        widths = torch.from_numpy(_noise(recipe) / span)
        exact = Mixture([one.to(device) for one in centres], [widths.to(device)] * len(names))
    return Points(parts, names, shape, exact)


def curve(dataset: str, label: int, t: NDArray[np.float64]) -> NDArray[np.float64]:
    """(m, 2): the points of a class's curve at parameters t (m,) in [0, 1], which data are spread around evenly.

    Half circles of radius 1 that interlock; circles of radius 1 and 1/2; two arms of Archimedes' spiral, one turn from
    radius pi to 5 pi, with t even in the area under the angle, so that they are nearly even along the arm.
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
    return NOISE[recipe.dataset] if recipe.noise is None else recipe.noise


def _raw(recipe: Recipe, rng: np.random.Generator) -> tuple[list[Arrays], tuple[str, ...], tuple[int, ...]]:
    """The three parts, unscaled; the names of the classes; the shape of a point."""
    if recipe.dataset == "series":
        require(recipe.path is not None, "data.path", recipe.path, "a .ts, .tsv or .txt file of labelled series")
        assert recipe.path is not None
        x, labels, names = read_series(recipe.path)
        if recipe.test_path is None:
            return _split(x, labels, (recipe.val, recipe.test), rng), names, x.shape[1:]
        held_out, of_those, _ = read_series(recipe.test_path, key="data.test_path", names=names, length=x.shape[1])
        halves = _split(held_out, of_those, (recipe.val / (recipe.val + recipe.test), 0.0), rng)
        return [(x, labels), halves[1], halves[0]], names, x.shape[1:]
    if recipe.dataset not in NOISE:
        from sklearn import datasets

        found = getattr(datasets, f"load_{recipe.dataset}")()
        x, labels = found.data.astype(np.float64), found.target.astype(np.int64)
        shape = (8, 8) if recipe.dataset == "digits" else x.shape[1:]
        return _split(x, labels, (recipe.val, recipe.test), rng), tuple(map(str, found.target_names)), shape
    noise, count = _noise(recipe), recipe.per_class
    clouds = [curve(recipe.dataset, label, rng.random(count)) for label in range(2)]
    x = np.concatenate(clouds) + noise * rng.standard_normal((2 * count, 2))
    return _split(x, np.repeat([0, 1], count), (recipe.val, recipe.test), rng), ("0", "1"), (2,)


def _split(
    x: NDArray[np.float64], labels: NDArray[np.int64], shares: tuple[float, float], rng: np.random.Generator
) -> list[Arrays]:
    """Training, validation and test part: of each class the two `shares` are held out."""
    chosen: list[list[NDArray[np.int64]]] = [[], [], []]
    for label in np.unique(labels):
        mine = rng.permutation(np.flatnonzero(labels == label))
        ends = np.rint(np.cumsum(shares) * len(mine)).astype(int)
        val, test, train = np.split(mine, ends)
        for place, piece in zip(chosen, (train, val, test), strict=True):
            place.append(piece)
    indices = [np.concatenate(place) for place in chosen]
    return [(x[one], labels[one]) for one in indices]


class BornData:
    """Batches of points (B, n) in the unit cube and their classes (B,).

    `moons`, `circles` and `spirals` have `per_class` points of each of two classes, on a curve but for Gaussian `noise`
    (in units in which a moon has radius 1 and the spiral 5 pi; null: 0.05, 0.05 and 0.5). `digits` are scikit-learn's,
    8 x 8 pixels, and so are `iris`, `wine` and `breast_cancer`, of 4, 13 and 30 features. `series` come from the file
    `path`; with `test_path`, what is held out comes from there. Of each class the shares `val` and `test` are held out.
    Each feature's range in training is scaled to [0, 1] (a pixel's is 0 to 16); held-out points beyond it move to the
    edge. Points and split depend on `data_seed`; `seed` orders the epochs.
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
        require(per_class >= 4, "data.per_class", per_class, "at least 4")
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
            least = int(self.part(part)[1].bincount(minlength=self.n_classes).min())
            require(least >= 2, "data.val", val, f"shares that leave two points or more of each class in {part}")

    @property
    def names(self) -> tuple[str, ...]:
        """Of the classes."""
        return self.points.names

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one point: (8, 8) for digits, (n,) for others."""
        return self.points.shape

    @property
    def exact(self) -> Mixture | None:
        """The density that planar points were drawn from."""
        return self.points.exact

    def part(self, name: str) -> Batch:
        """`train`, `val` or `test`, whole."""
        return self.points.parts[name]

    def train(self, epoch: int) -> Sequence[Batch]:
        x, labels = self.part("train")
        order = shuffled(len(labels), self.batch_size, seed=self.seed, epoch=epoch, device=self.device)
        return [(x[rows], labels[rows]) for rows in order]

    def val(self) -> Sequence[Batch]:
        return [self.part("val")]

    def test(self) -> Sequence[Batch]:
        return [self.part("test")]
