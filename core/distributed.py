"""The collective operations of the core. In a single process each of them returns at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from gatesweep.core.trainable import Metrics

# Buffers are not synchronised, as they are equal on all ranks.
DDP_OPTIONS: dict[str, Any] = {"forward_sync_buffers": False, "gradient_as_bucket_view": True}


def world_size() -> int:
    """Return the number of ranks; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the index of this process in its group; 0 without a process group."""
    return dist.get_rank() if world_size() > 1 else 0


def average_gradients(params: Iterable[Tensor]) -> None:
    """Average `.grad` over ranks in place, as DDP does, for losses that bypass DDP's forward.

    A parameter without a gradient counts as zero. One collective for each dtype.
    """
    if world_size() == 1:
        return
    grads = []
    for param in params:
        if param.grad is None:
            param.grad = torch.zeros_like(param)
        grads.append(param.grad)
    sum_over_ranks(*grads)
    for grad in grads:
        grad /= world_size()


def average_metrics(metrics: Metrics) -> Metrics:
    """Average metrics over ranks, so that all ranks take the same branch on them. All ranks need the same names."""
    if world_size() == 1 or not metrics:
        return metrics
    return dict(zip(metrics, average(list(metrics.values())), strict=True))


def average(numbers: Sequence[float]) -> list[float]:
    """Average each number over ranks, in float64, by one collective."""
    if world_size() == 1 or not numbers:
        return list(numbers)
    total = torch.tensor(numbers, dtype=torch.float64, device=_collective_device())
    dist.all_reduce(total)
    return (total / world_size()).tolist()


def sum_over_ranks(*tensors: Tensor) -> None:
    """Add tensors up over ranks, in place, e.g. the counts for a codebook's moving average. One collective a dtype."""
    if world_size() == 1:
        return
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):  # in the same order on every rank
        group = [tensor for tensor in tensors if tensor.dtype == dtype]
        flat = torch.cat([tensor.flatten() for tensor in group])
        dist.all_reduce(flat)
        for tensor, total in zip(group, flat.split([tensor.numel() for tensor in group]), strict=True):
            tensor.copy_(total.view_as(tensor))


def mean_count(mask: Tensor) -> Tensor:
    """Return the divisor, a scalar, that turns this rank's sum over `mask` (samples, ...) into a masked mean.

    In one process it is `mask.sum()`, and so it is in evaluation, where every rank sees all samples. In training on
    several ranks it is len(mask) times the mean of the mask per sample over the whole batch: the average of the ranks'
    masked means is then the masked mean over the whole batch, whichever rank has more of the mask. This is exact as
    long as each rank has a sample of its own (see `data.shard_for_rank`). One collective.
    """
    count = mask.sum()
    return count if _sees_whole_batch() else mean_over_ranks(count / len(mask), len(mask)) * len(mask)


def mean_over_ranks(mean: Tensor, samples: int) -> Tensor:
    """Return the mean over the whole batch, from this rank's `mean` (any shape) over its own `samples`.

    The result has no gradient. In evaluation it is `mean`, for every rank sees all samples. One collective.
    """
    if _sees_whole_batch():
        return mean.detach()
    sums = torch.cat([mean.detach().flatten() * samples, mean.new_full((1,), samples)])
    dist.all_reduce(sums)
    return (sums[:-1] / sums[-1]).view_as(mean)


def broadcast(tensors: Iterable[Tensor]) -> None:
    """Copy rank 0's values to all ranks, in place. One collective a tensor."""
    if world_size() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, 0)


def all_ranks_true(flag: bool) -> bool:
    """Return True if `flag` is true on every rank, so that all ranks take the same branch. One collective."""
    if world_size() == 1:
        return flag
    agreed = torch.tensor(int(flag), device=_collective_device())  # NCCL reduces no booleans
    dist.all_reduce(agreed, dist.ReduceOp.MIN)
    return bool(agreed)


def _sees_whole_batch() -> bool:
    """Return True where this rank computes on all samples: in one process, and in evaluation (no gradients).

    Some ranks may evaluate while others do not, so no collective is allowed there.
    """
    return world_size() == 1 or not torch.is_grad_enabled()


def _collective_device() -> torch.device:
    """Return the device of tensors for collectives: NCCL reduces CUDA tensors only."""
    return torch.device("cuda") if dist.get_backend() == "nccl" else torch.device("cpu")
