"""What the data of every family share: checks of their fields, the order of an epoch, and a rank's part of a batch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from gatesweep.core.errors import InputError
from gatesweep.core.trainable import Batch, samples


def require(holds: bool, key: str, value: object, expected: str) -> None:
    """Raise InputError, in one line that says what to change, unless a value of the configuration holds."""
    if not holds:
        raise InputError(f"{key}: got {value!r}, expected {expected}")


def generator(*entropy: int) -> torch.Generator:
    """A generator on the CPU for these numbers: those of (seed, epoch) have nothing in common with the next epoch's."""
    return torch.Generator().manual_seed(mix_seeds(*entropy))


def mix_seeds(*entropy: int) -> int:
    """One seed, of 63 bits, for these numbers."""
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]) >> 1


def check_batch_size(batch_size: int, count: int) -> None:
    """Raise InputError unless a batch is at most the `count` samples of an epoch."""
    require(1 <= batch_size <= count, "data.batch_size", batch_size, f"1 to {count}, the training samples of an epoch")


def shuffled(count: int, batch_size: int, *, seed: int, epoch: int, device: torch.device | str = "cpu") -> list[Tensor]:
    """Indices into `count` samples, one tensor (batch_size,) a batch, in an order of the epoch's own.

    Every sample comes once: the last batch may be smaller. They reach the device in one copy.
    """
    return list(torch.randperm(count, generator=generator(seed, epoch)).to(device).split(batch_size))


def shard_for_rank(batch: Batch, rank: int, world: int) -> tuple[Batch, float]:
    """The samples of `batch` that this rank trains on, and what their mean loss weighs beside the other ranks'.

    Over the ranks every sample comes once, and the average of the weighted means is the mean over the whole batch, with
    as many samples on each rank or not. A rank for which none is left takes one along, at weight 0.
    """
    if world == 1:
        return batch, 1.0
    mine = _rows(batch, lambda tensor: tensor[rank::world])
    count = samples(mine)
    if count == 0:
        return _rows(batch, lambda tensor: tensor[:1]), 0.0
    return mine, count * world / samples(batch)


def batch_layout(batch: Batch, name: str = "") -> dict[str, tuple[str, list[int]]]:
    """Type and shape of each tensor in a batch, by the dotted path to it: `layout((x, {"y": y}))` has 0 and 1.y."""
    if isinstance(batch, Tensor):
        return {name: (str(batch.dtype).removeprefix("torch."), list(batch.shape))}
    parts = batch.items() if isinstance(batch, dict) else enumerate(batch)
    found = [
        batch_layout(one, f"{name}.{key}".lstrip("."))
        for key, one in parts
        if isinstance(one, Tensor | dict | list | tuple)
    ]
    return {path: tensor for tensors in found for path, tensor in tensors.items()}


def _rows(batch: Batch, choose: Callable[[Tensor], Tensor]) -> Batch:
    """A batch of the same shape with `choose` of each of its tensors."""
    if isinstance(batch, Tensor):
        return choose(batch)
    if isinstance(batch, dict):
        return {name: _rows(one, choose) for name, one in batch.items()}
    rows = [_rows(one, choose) if isinstance(one, Tensor | dict | list | tuple) else one for one in batch]
    if isinstance(batch, tuple):
        return type(batch)(*rows) if hasattr(batch, "_fields") else tuple(rows)
    return rows
