"""The few collective operations that the core needs, each a no-op in a single process."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from core.trainable import Metrics


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
    for dtype in {grad.dtype for grad in grads}:  # one collective for all, not one for each
        alike = [grad for grad in grads if grad.dtype == dtype]
        flat = torch.cat([grad.flatten() for grad in alike])
        dist.all_reduce(flat)
        flat /= world_size()
        for grad, mean in zip(alike, flat.split([grad.numel() for grad in alike]), strict=True):
            grad.copy_(mean.view_as(grad))


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
    """Add up statistics of a batch over ranks, in place, e.g. the counts that a codebook's moving average takes in."""
    if world_size() > 1:
        for tensor in tensors:
            dist.all_reduce(tensor)


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


def _device() -> torch.device:
    """Where the process group can reduce: NCCL sees CUDA tensors only."""
    return torch.device("cuda") if dist.get_backend() == "nccl" else torch.device("cpu")
