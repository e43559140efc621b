"""What the data of every family share: checks of their fields, and which samples this rank sees in an epoch."""

from __future__ import annotations

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from core.distributed import world_size


def require(holds: bool, key: str, value: object, expected: str) -> None:
    """Raise ValueError, in one line that says what to change, unless a value of the configuration holds."""
    if not holds:
        raise ValueError(f"{key}: got {value!r}, expected {expected}")


def generator(*entropy: int) -> torch.Generator:
    """A generator on the CPU for these numbers: those of (seed, epoch) have nothing in common with the next epoch's."""
    mixed = np.random.SeedSequence(entropy).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(mixed[0]) >> 1)


def share(count: int) -> slice:
    """This rank's part of `count` samples: every rank gets as many, so up to `world_size - 1` are left out."""
    rank = dist.get_rank() if world_size() > 1 else 0
    return slice(rank, count // world_size() * world_size(), world_size())


def check_batch_size(batch_size: int, count: int) -> None:
    """Raise ValueError unless `count` samples make at least one whole batch on every rank."""
    most = count // world_size()
    require(1 <= batch_size <= most, "data.batch_size", batch_size, f"1 to {most}, the training samples of an epoch")


def shuffled(count: int, batch_size: int, *, seed: int, epoch: int) -> list[Tensor]:
    """Indices into `count` samples, one tensor (batch_size,) a batch: this rank's share in an order of the epoch's own.

    The last, incomplete batch is left out: a schedule sees as many updates in each epoch, and a compiled model one
    shape.
    """
    order = torch.randperm(count, generator=generator(seed, epoch))[share(count)]
    return [indices for indices in order.split(batch_size) if len(indices) == batch_size]
