"""The few collective operations that the core needs, each a no-op in a single process."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from gatesweep.core.trainable import Metrics


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if world_size() > 1 else 0


def average_gradients(params: Iterable[Tensor]) -> None:
    """Average gradients over ranks: what DDP does, for losses that bypass its forward."""
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
    """Average metrics over ranks, so that every rank takes the same branch on them."""
    if world_size() == 1 or not metrics:
        return metrics
    return dict(zip(metrics, average(list(metrics.values())), strict=True))


def average(numbers: Sequence[float]) -> list[float]:
    """Each number's average over ranks, with one collective."""
    if world_size() == 1 or not numbers:
        return list(numbers)
    total = torch.tensor(numbers, dtype=torch.float64, device=_device())
    dist.all_reduce(total)
    return (total / world_size()).tolist()


def sum_over_ranks(*tensors: Tensor) -> None:
    """Add up over ranks, in place, e.g. the counts that a codebook's moving average takes in; all by one collective."""
    if world_size() == 1:
        return
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):  # in the same order on every rank
        alike = [tensor for tensor in tensors if tensor.dtype == dtype]
        flat = torch.cat([tensor.flatten() for tensor in alike])
        dist.all_reduce(flat)
        for tensor, total in zip(alike, flat.split([tensor.numel() for tensor in alike]), strict=True):
            tensor.copy_(total.view_as(tensor))


def mean_count(mask: Tensor) -> Tensor:
    """What to divide a sum over this rank's part of a mask (samples, ...) by, for a mean over the whole batch's.

    In one process, and in evaluation, where every rank sees all samples, that is how much of the mask is set. Over
    ranks it is as much as so many samples have set on average, by one collective: masked means over parts of a batch
    then average to the masked mean over the batch, whichever rank has more of the mask. Exact, but for a batch of
    fewer samples than there are ranks: what a rank takes along counts.
    """
    count = mask.sum()
    return count if _alone() else mean_over_ranks(count / len(mask), len(mask)) * len(mask)


def mean_over_ranks(mean: Tensor, samples: int) -> Tensor:
    """The mean over the whole batch of something whose mean over this rank's samples is `mean`; without a gradient.

    In evaluation that is `mean`, for every rank sees all samples.
    """
    if _alone():
        return mean.detach()
    sums = torch.cat([mean.detach().flatten() * samples, mean.new_full((1,), samples)])
    dist.all_reduce(sums)
    return (sums[:-1] / sums[-1]).view_as(mean)


def broadcast(tensors: Iterable[Tensor]) -> None:
    """Start every rank from rank 0's values."""
    if world_size() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, 0)


def everywhere(flag: bool) -> bool:
    """Whether `flag` holds on every rank, so that all of them take the same branch."""
    if world_size() == 1:
        return flag
    agreed = torch.tensor(int(flag), device=_device())  # NCCL reduces no booleans
    dist.all_reduce(agreed, dist.ReduceOp.MIN)
    return bool(agreed)


def _alone() -> bool:
    """Whether what this rank computes is of all samples: outside of training one may do so while others do not."""
    return world_size() == 1 or not torch.is_grad_enabled()


def _device() -> torch.device:
    """Where the process group can reduce: NCCL sees CUDA tensors only."""
    return torch.device("cuda") if dist.get_backend() == "nccl" else torch.device("cpu")
