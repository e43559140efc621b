"""Helpers for the data of every family: checks of fields, the order of an epoch, a rank's shard, micro-batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gatesweep.core.errors import InputError
from gatesweep.core.trainable import Batch, samples

MOST_LAYERS, LARGEST_SIZE = 1000, 1_000_000  # of a model: more takes minutes to build, and is a slip of the keyboard


class MicroBatch(NamedTuple):
    """One of the batches whose gradients add up to one update."""

    batch: Batch
    epoch_fraction: float
    """The fraction of the epoch that is done after this update, in (0, 1]."""
    share: float
    """This batch's share of the update's samples, in (0, 1]."""
    first: bool
    last: bool


def require(holds: bool, key: str, value: object, expected: str) -> None:
    """Check a value of the configuration: raises InputError with `key`, `value` and `expected` unless `holds`."""
    if not holds:
        raise InputError(f"{key}: got {value!r}, expected {expected}")


def check_size(key: str, size: int) -> None:
    """Raise InputError unless `size`, of a model under `key`, is one that can be built in a moment."""
    most = MOST_LAYERS if key.endswith(("layers", "depth")) else LARGEST_SIZE
    require(1 <= size <= most, key, size, f"at least 1 and at most {most}")


def check_batch_size(batch_size: int, count: int) -> None:
    """Raise InputError unless `batch_size` is between 1 and `count`, the number of samples in an epoch."""
    require(1 <= batch_size <= count, "data.batch_size", batch_size, f"1 to {count}, the training samples of an epoch")


def generator(*entropy: int) -> torch.Generator:
    """Return a CPU generator seeded by some numbers, e.g. (seed, epoch); close numbers give unrelated streams."""
    return torch.Generator().manual_seed(mix_seeds(*entropy))


def mix_seeds(*entropy: int) -> int:
    """Hash some numbers, none of them negative, to one seed of 63 bits (`numpy.random.SeedSequence`)."""
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]) >> 1


def shuffled(count: int, batch_size: int, *, seed: int, epoch: int, device: torch.device | str = "cpu") -> list[Tensor]:
    """Shuffle the indices 0 to `count` - 1 and split them into batches: tensors (batch_size,), int64, on `device`.

    The order is a function of (seed, epoch). Every index comes once, so the last batch may be smaller. All batches are
    views of one tensor, which is copied to the device once.
    """
    return list(torch.randperm(count, generator=generator(seed, epoch)).to(device).split(batch_size))


def shard_for_rank(batch: Batch, rank: int, world_size: int) -> tuple[Batch, float]:
    """Return this rank's samples of `batch`, and the factor for their mean loss.

    The factor is n_rank * world_size / n: averaging the weighted means over ranks then gives the mean over the whole
    batch, also where the ranks have different numbers of samples. A rank without samples gets the first one, with
    factor 0, so that it takes part in all collectives.
    """
    if world_size == 1:
        return batch, 1.0
    shard = _map_tensors(batch, lambda tensor: tensor[rank::world_size])
    count = samples(shard)
    if count == 0:
        return _map_tensors(batch, lambda tensor: tensor[:1]), 0.0
    return shard, count * world_size / samples(batch)


def micro_batches(batches: Sequence[Batch], accumulate: int) -> Iterator[MicroBatch]:
    """Group batches into updates of `accumulate` batches each; the last update of an epoch may have fewer.

    One update's batches are loaded at a time.
    """
    for start in range(0, len(batches), accumulate):
        end = min(start + accumulate, len(batches))
        group = [batches[position] for position in range(start, end)]
        total = sum(samples(batch) for batch in group)
        for offset, batch in enumerate(group):
            share = samples(batch) / total
            yield MicroBatch(batch, end / len(batches), share, first=offset == 0, last=offset == len(group) - 1)


def batch_layout(batch: Batch, name: str = "") -> dict[str, tuple[str, list[int]]]:
    """Return type and shape of each tensor in a batch, by its dotted path: `(x, {"y": y})` has the paths 0 and 1.y.

    `name` is the path of `batch` itself. Entries that are no tensors or containers are left out.
    """
    if isinstance(batch, Tensor):
        return {name: (str(batch.dtype).removeprefix("torch."), list(batch.shape))}
    layout: dict[str, tuple[str, list[int]]] = {}
    for key, part in batch.items() if isinstance(batch, dict) else enumerate(batch):
        if isinstance(part, Tensor | dict | list | tuple):
            layout |= batch_layout(part, f"{name}.{key}".lstrip("."))
    return layout


def _map_tensors(batch: Batch, function: Callable[[Tensor], Tensor]) -> Batch:
    """Apply `function` to each tensor of a batch, and keep its structure."""
    if isinstance(batch, Tensor):
        return function(batch)
    if isinstance(batch, dict):
        return {name: _map_tensors(part, function) for name, part in batch.items()}
    parts = [_map_tensors(part, function) if isinstance(part, Tensor | dict | list | tuple) else part for part in batch]
    if isinstance(batch, tuple):
        return type(batch)(*parts) if hasattr(batch, "_fields") else tuple(parts)
    return parts
