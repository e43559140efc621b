"""Batches of circuits, generated or read from a file, with their poles, zeros and responses.

The split into train, val and test is stratified: every part has circuits of every type.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gatesweep.core.cache import machine_cache
from gatesweep.core.data import check_batch_size, require, shuffled
from gatesweep.core.errors import InputError
from gatesweep.trainables.circuits.circuit import TYPES, Circuits, generate, load
from gatesweep.trainables.circuits.physics import Roots, grid, response, roots

Batch = dict[str, Tensor]
SIX = ("low_pass", "high_pass", "band_pass", "band_stop", "rlc_series", "rlc_parallel")
PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Recipe:
    """Everything that a set of circuits depends on; `counts` are the sizes of train, val and test.

    Raises InputError for an unknown or repeated type, and for a part too small to have one circuit of each type.
    """

    types: tuple[str, ...]
    counts: tuple[int, int, int]
    path: str | None
    data_seed: int

    def __post_init__(self) -> None:
        for name in self.types:
            require(name in TYPES, "data.types", name, f"one of {', '.join(TYPES)}")
        require(len(set(self.types)) == len(self.types) > 0, "data.types", list(self.types), "each type once")
        minimum = len(self.types) if self.path is None else 1
        expected = f"at least {minimum}, one of each type" if self.path is None else "at least 1"
        for part, count in zip(PARTS, self.counts, strict=True):
            require(count >= minimum, f"data.n_{part}", count, expected)


@dataclass(frozen=True)
class Part:
    """One part of the split (train, val or test): n circuits, their roots, and both as tensors on the device.

    The tensors are described in `CircuitData`, with n for B.
    """

    circuits: Circuits
    roots: Roots
    tensors: Batch


@dataclass(frozen=True)
class Statistics:
    """The scales of the training part, for normalising.

    `mean` and `std` (10, 3) are of the log10 values in each place, `low` and `high` (3,) their range for each kind.
    `pole` and `zero` are the mean and the standard deviation of ln |p| and ln |z|, with p and z in units of 1e5 rad/s.
    """

    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    pole: tuple[float, float]
    zero: tuple[float, float]


@dataclass(frozen=True)
class Filters:
    """The parts `train`, `val` and `test`, the scales of the training part, and the names of the types.

    `max_counts` holds the largest numbers of `poles`, of `zeros` and of zeros at the `origin` that any circuit has.
    """

    parts: dict[str, Part]
    statistics: Statistics
    names: tuple[str, ...]
    max_counts: dict[str, int] = field(default_factory=dict)


@machine_cache
def filters(recipe: Recipe, device: torch.device) -> Filters:
    """Generate or read the circuits of a recipe and solve them; every trial of the machine shares them.

    Raises InputError for a bad file, and for a circuit without a transfer function.
    """
    rng = np.random.default_rng(recipe.data_seed)
    if recipe.path is None:
        split = [generate(recipe.types, even_shares(count, len(recipe.types)), rng) for count in recipe.counts]
    else:
        split = stratified(load(recipe.path), recipe.counts, rng)
    solved = [roots(circuits.mask, circuits.values) for circuits in split]
    for circuits, solution in zip(split, solved, strict=True):
        if not solution.defined.all():
            name = circuits.names[circuits.types[(~solution.defined).argmax()]]
            expected = f"circuits that join VIN to VOUT, and one of type {name!r} does not"
            raise InputError(f"data.path: got {recipe.path!r}, expected {expected}")
    statistics = measure(split[0], solved[0])
    max_counts = {
        "poles": max(int(np.isfinite(solution.poles).sum(axis=1).max()) for solution in solved),
        "zeros": max(int(np.isfinite(solution.zeros).sum(axis=1).max()) for solution in solved),
        "origin": max(int(solution.at_origin.max()) for solution in solved),
    }
    parts = {
        name: Part(circuits, solution, _tensors(circuits, solution, statistics, max_counts, device))
        for name, circuits, solution in zip(PARTS, split, solved, strict=True)
    }
    return Filters(parts, statistics, split[0].names, max_counts)


def even_shares(count: int, kinds: int) -> list[int]:
    """Divide `count` into `kinds` integers that differ by at most one."""
    return [count // kinds + (kind < count % kinds) for kind in range(kinds)]


def stratified(circuits: Circuits, counts: Sequence[int], rng: np.random.Generator) -> list[Circuits]:
    """Split circuits into train, val and test in the proportion of `counts` (3 integers), type by type.

    Raises InputError if a type has too few circuits for every part to get one.
    """
    rows: list[list[NDArray[np.int64]]] = [[], [], []]
    for index, name in enumerate(circuits.names):
        of_type = rng.permutation(np.flatnonzero(circuits.types == index))
        ends = np.rint(np.cumsum(counts) / sum(counts) * len(of_type)).astype(int)
        pieces = np.split(of_type, ends[:2])
        for part, piece in zip(PARTS, pieces, strict=True):
            expected = f"enough of them for data.n_train : n_val : n_test = {':'.join(map(str, counts))} ({part} got 0)"
            require(len(piece) > 0, "data.path", f"{len(of_type)} circuits of type {name}", expected)
        for part_rows, piece in zip(rows, pieces, strict=True):
            part_rows.append(piece)
    return [circuits[np.concatenate(part_rows)] for part_rows in rows]


def measure(circuits: Circuits, solution: Roots) -> Statistics:
    """Return the scales of training circuits and their roots.

    A place that no circuit uses has mean 0 and standard deviation 1.
    """
    mask, values = circuits.mask, circuits.values
    count = np.maximum(mask.sum(axis=0), 1)
    mean = (values * mask).sum(axis=0) / count
    std = np.sqrt((np.square(values - mean) * mask).sum(axis=0) / count)
    by_kind = [values[..., kind][mask[..., kind]] for kind in range(mask.shape[2])]
    low = np.array([logs.min() if len(logs) else 0.0 for logs in by_kind])
    high = np.array([logs.max() if len(logs) else 0.0 for logs in by_kind])
    scales = []
    for root in (solution.poles, solution.zeros):
        logs = np.log(np.abs(root[np.isfinite(root)]))
        scales.append((float(logs.mean()), float(logs.std()) or 1.0) if len(logs) else (0.0, 1.0))
    return Statistics(mean, np.where(std > 1e-9, std, 1.0), low, high, scales[0], scales[1])


def points(root: NDArray[np.complex128], width: int, scale: tuple[float, float]) -> NDArray[np.float32]:
    """Return the first `width` roots of each row (n, 6) as points (n, width, 3), 0 where a row has no more roots.

    A point is ln |root|, standardised by `scale` (mean, standard deviation), and the cosine and sine of its phase.
    """
    root = root[:, :width]
    magnitude = (np.log(np.abs(root)) - scale[0]) / scale[1]
    point = np.stack([magnitude, np.cos(np.angle(root)), np.sin(np.angle(root))], axis=-1)
    return np.nan_to_num(point).astype(np.float32)


class CircuitData:
    """Batches of circuits, as dictionaries of tensors.

    `mask` (B, 10, 3) is 1 where a component is, and `values` (B, 10, 3) is log10 of its value over `REFERENCE`.
    `poles` (B, max_counts["poles"], 3) and `zeros` (B, max_counts["zeros"], 3) are the roots as `points`. `counts`
    (B, 3) are the numbers of poles, of zeros and of zeros at the origin; a pole at the origin is not counted.
    `response` (B, 61, 2) holds real and imaginary part of VOUT/VIN on the frequencies of `grid`. `type` (B,) is an
    index.

    Circuits of `types` are generated, or read from the CSV file `path` and split in the proportion of the three sizes.
    Circuits and split depend on `data_seed`, and `seed` orders the epochs. The fields are described in
    `configs/data/circuits.yaml`. Raises InputError for a value out of range or a bad file.
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
        recipe = Recipe(SIX if types is None else tuple(types), (n_train, n_val, n_test), path, data_seed)
        self.device, self.seed, self.batch_size = torch.device(device), seed, batch_size
        self.filters = filters(recipe, self.device)
        check_batch_size(batch_size, len(self.part("train").circuits))

    @property
    def statistics(self) -> Statistics:
        """The scales of the training part."""
        return self.filters.statistics

    @property
    def max_counts(self) -> dict[str, int]:
        """The largest numbers of `poles`, of `zeros` and of zeros at the `origin` that any circuit has."""
        return self.filters.max_counts

    def part(self, name: str) -> Part:
        """Return the part `train`, `val` or `test`."""
        return self.filters.parts[name]

    def train(self, epoch: int) -> Sequence[Batch]:
        """Return the training circuits in batches, in an order that depends on `seed` and `epoch` only."""
        tensors = self.part("train").tensors
        orders = shuffled(len(tensors["mask"]), self.batch_size, seed=self.seed, epoch=epoch, device=self.device)
        return [_rows(tensors, order) for order in orders]

    def val(self) -> Sequence[Batch]:
        """Return all val circuits as one batch."""
        return [self.part("val").tensors]

    def test(self) -> Sequence[Batch]:
        """Return the test circuits as one batch."""
        return [self.part("test").tensors]


def _tensors(
    circuits: Circuits, solution: Roots, statistics: Statistics, max_counts: dict[str, int], device: torch.device
) -> Batch:
    mask, values = torch.from_numpy(circuits.mask), torch.from_numpy(circuits.values)
    omega = grid(torch.device("cpu"), torch.float64)
    counts = (
        np.isfinite(solution.poles).sum(axis=1),
        np.isfinite(solution.zeros).sum(axis=1),
        solution.at_origin.clip(min=0),
    )
    arrays = {
        "mask": mask.float(),
        "values": values.float(),
        "poles": torch.from_numpy(points(solution.poles, max_counts["poles"], statistics.pole)),
        "zeros": torch.from_numpy(points(solution.zeros, max_counts["zeros"], statistics.zero)),
        "counts": torch.from_numpy(np.stack(counts, axis=1)),
        "response": torch.view_as_real(response(mask, values, omega)).float(),
        "type": torch.from_numpy(circuits.types),
    }
    return {name: array.to(device) for name, array in arrays.items()}


def _rows(tensors: Batch, rows: Tensor) -> Batch:
    return {name: tensor[rows] for name, tensor in tensors.items()}
