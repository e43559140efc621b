"""Circuits as batches: generated filters or a user's own, split by type, with their poles, zeros and responses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gatesweep.core.cache import machine_cache
from gatesweep.core.data import check_batch_size, require, shuffled
from gatesweep.trainables.circuits.circuit import TYPES, Circuits, generate, load
from gatesweep.trainables.circuits.physics import Roots, grid, response, roots

Batch = dict[str, Tensor]
SIX = ("low_pass", "high_pass", "band_pass", "band_stop", "rlc_series", "rlc_parallel")
PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Recipe:
    """All that a set of circuits depends on."""

    types: tuple[str, ...]
    counts: tuple[int, int, int]
    path: str | None
    data_seed: int

    def __post_init__(self) -> None:
        for one in self.types:
            require(one in TYPES, "data.types", one, f"one of {', '.join(TYPES)}")
        require(len(set(self.types)) == len(self.types) > 0, "data.types", list(self.types), "each type once")
        for part, count in zip(PARTS, self.counts, strict=True):
            expected = f"at least {len(self.types)}, one of each type"
            require(count >= (len(self.types) if self.path is None else 1), f"data.n_{part}", count, expected)


@dataclass(frozen=True)
class Part:
    """One part of the split: its circuits, their poles and zeros, and the same as tensors on the device."""

    circuits: Circuits
    roots: Roots
    tensors: Batch


@dataclass(frozen=True)
class Statistics:
    """What the training part says of scale, for normalising.

    `mean`, `std` (10, 3): of log10 values in each place; `low`, `high` (3,): their range by kind; `pole`, `zero`:
    mean and standard deviation of ln |p| and ln |z| (p and z in units of 1e5 rad/s).
    """

    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    pole: tuple[float, float]
    zero: tuple[float, float]


@dataclass(frozen=True)
class Filters:
    """The three parts and the scales of the first."""

    parts: dict[str, Part]
    statistics: Statistics
    names: tuple[str, ...]
    most: dict[str, int] = field(default_factory=dict)  # poles, zeros, zeros at the origin of any circuit


@machine_cache
def filters(recipe: Recipe, device: torch.device) -> Filters:
    """The circuits of a recipe, made once and kept on the device for every trial that asks."""
    rng = np.random.default_rng(recipe.data_seed)
    if recipe.path is None:
        counts = [share_out(count, len(recipe.types)) for count in recipe.counts]
        split = [generate(recipe.types, each, rng) for each in counts]
    else:
        split = stratified(load(recipe.path), recipe.counts, rng)
    found = [roots(part.mask, part.values) for part in split]
    for part, one in zip(split, found, strict=True):
        if not one.defined.all():
            bad = part.names[part.types[(~one.defined).argmax()]]
            require(
                False, "data.path", recipe.path, f"circuits that join VIN to VOUT, and one of type {bad!r} does not"
            )
    statistics = measure(split[0], found[0])
    most = {
        "poles": max(int(np.isfinite(one.poles).sum(axis=1).max()) for one in found),
        "zeros": max(int(np.isfinite(one.zeros).sum(axis=1).max()) for one in found),
        "origin": max(int(one.at_origin.max()) for one in found),
    }
    parts = {
        name: Part(circuits, one, _tensors(circuits, one, statistics, most, device))
        for name, circuits, one in zip(PARTS, split, found, strict=True)
    }
    return Filters(parts, statistics, split[0].names, most)


def share_out(count: int, kinds: int) -> list[int]:
    """`count` in `kinds` shares that differ by one at most."""
    return [count // kinds + (kind < count % kinds) for kind in range(kinds)]


def stratified(circuits: Circuits, counts: Sequence[int], rng: np.random.Generator) -> list[Circuits]:
    """The circuits of a file in three parts, in the proportion of `counts`, and every type in each part."""
    chosen: list[list[NDArray[np.int64]]] = [[], [], []]
    for index, name in enumerate(circuits.names):
        mine = rng.permutation(np.flatnonzero(circuits.types == index))
        ends = np.rint(np.cumsum(counts) / sum(counts) * len(mine)).astype(int)
        pieces = np.split(mine, ends[:2])
        for part, piece in zip(PARTS, pieces, strict=True):
            expected = f"enough of them for data.n_train : n_val : n_test = {':'.join(map(str, counts))} ({part} got 0)"
            require(len(piece) > 0, "data.path", f"{len(mine)} circuits of type {name}", expected)
        for place, piece in zip(chosen, pieces, strict=True):
            place.append(piece)
    return [circuits[np.concatenate(place)] for place in chosen]


def measure(circuits: Circuits, found: Roots) -> Statistics:
    """The scales of a training part. A place that no circuit uses has mean 0 and deviation 1."""
    mask, values = circuits.mask, circuits.values
    count = np.maximum(mask.sum(axis=0), 1)
    mean = (values * mask).sum(axis=0) / count
    std = np.sqrt((np.square(values - mean) * mask).sum(axis=0) / count)
    kinds = [values[..., kind][mask[..., kind]] for kind in range(mask.shape[2])]
    low = np.array([one.min(initial=0.0) if len(one) == 0 else one.min() for one in kinds])
    high = np.array([one.max(initial=0.0) if len(one) == 0 else one.max() for one in kinds])
    scales = []
    for root in (found.poles, found.zeros):
        logs = np.log(np.abs(root[np.isfinite(root)]))
        scales.append((float(logs.mean()), float(logs.std()) or 1.0) if len(logs) else (0.0, 1.0))
    return Statistics(mean, np.where(std > 1e-9, std, 1.0), low, high, scales[0], scales[1])


def points(root: NDArray[np.complex128], most: int, scale: tuple[float, float]) -> NDArray[np.float32]:
    """Roots as points (n, most, 3): standardised ln magnitude, cosine and sine of the phase; 0 where there is none."""
    root = root[:, :most]
    magnitude = (np.log(np.abs(root)) - scale[0]) / scale[1]
    point = np.stack([magnitude, np.cos(np.angle(root)), np.sin(np.angle(root))], axis=-1)
    return np.nan_to_num(point).astype(np.float32)


def _tensors(
    circuits: Circuits, found: Roots, statistics: Statistics, most: dict[str, int], device: torch.device
) -> Batch:
    mask, values = torch.from_numpy(circuits.mask), torch.from_numpy(circuits.values)
    omega = grid(torch.device("cpu"), torch.float64)
    arrays = {
        "mask": mask.float(),
        "values": values.float(),
        "poles": torch.from_numpy(points(found.poles, most["poles"], statistics.pole)),
        "zeros": torch.from_numpy(points(found.zeros, most["zeros"], statistics.zero)),
        # How many poles, zeros and zeros at the origin; a pole at the origin counts as none there.
        "counts": torch.from_numpy(
            np.stack(
                [
                    np.isfinite(found.poles).sum(axis=1),
                    np.isfinite(found.zeros).sum(axis=1),
                    found.at_origin.clip(min=0),
                ],
                axis=1,
            )
        ),
        "response": torch.view_as_real(response(mask, values, omega)).float(),
        "type": torch.from_numpy(circuits.types),
    }
    return {name: array.to(device) for name, array in arrays.items()}


class CircuitData:
    """Batches of circuits: `mask` and `values` (B, 10, 3), `poles` and `zeros` as points (B, most, 3), `counts`
    (B, 3), `response` (B, 61, 2) and `type` (B,).

    `types` are generated with values of their own, or `path` names a CSV of circuits, which are split in the
    proportion of the three sizes. The circuits and their split depend on `data_seed`; `seed` orders the epochs.
    """

    def __init__(
        self,
        *,
        device: torch.device,
        seed: int,
        batch_size: int = 64,
        types: list[str] | None = None,
        n_train: int = 2400,
        n_val: int = 400,
        n_test: int = 400,
        path: str | None = None,
        data_seed: int = 42,
    ) -> None:
        chosen = SIX if types is None else tuple(types)
        recipe = Recipe(chosen, (n_train, n_val, n_test), path, data_seed)
        self.device, self.seed, self.batch_size = torch.device(device), seed, batch_size
        self.filters = filters(recipe, self.device)
        check_batch_size(batch_size, len(self.part("train").circuits))

    @property
    def statistics(self) -> Statistics:
        return self.filters.statistics

    @property
    def most(self) -> dict[str, int]:
        """How many `poles`, `zeros` and zeros at the `origin` any circuit has."""
        return self.filters.most

    def part(self, name: str) -> Part:
        """`train`, `val` or `test`, whole."""
        return self.filters.parts[name]

    def train(self, epoch: int) -> Sequence[Batch]:
        tensors = self.part("train").tensors
        orders = shuffled(len(tensors["mask"]), self.batch_size, seed=self.seed, epoch=epoch, device=self.device)
        return [_rows(tensors, order) for order in orders]

    def val(self) -> Sequence[Batch]:
        return [self.part("val").tensors]


def _rows(tensors: Batch, rows: Tensor) -> Batch:
    return {name: tensor[rows] for name, tensor in tensors.items()}
