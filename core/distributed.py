"""The few collective operations that the core needs, each a no-op in a single process."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor

from core.trainable import Metrics


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def average_gradients(params: Iterable[Tensor]) -> None:
    """Average gradients over ranks: what DDP does, for losses that bypass its forward."""
    if world_size() == 1:
        return
    for param in params:
        if param.grad is None:
            param.grad = torch.zeros_like(param)
        dist.all_reduce(param.grad)
        param.grad /= world_size()


def average_metrics(metrics: Metrics) -> Metrics:
    """Average metrics over ranks, so that every rank takes the same branch on them."""
    if world_size() == 1 or not metrics:
        return metrics
    total = torch.tensor(list(metrics.values()), dtype=torch.float64, device=_device())
    dist.all_reduce(total)
    return dict(zip(metrics, (total / world_size()).tolist(), strict=True))


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
