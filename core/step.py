"""What the core lends a trainable for one batch: backward, averaging, clipping and the optimizer's step."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_

from gatesweep.core.distributed import average_gradients, broadcast
from gatesweep.core.precision import Precision, autocast_disabled, scaler
from gatesweep.core.trainable import Mean, Trainable


class TrainStep:
    """Implements `core.trainable.Step`, and keeps the optimizers, the gradient scaler and the finite flag.

    The loop opens groups of batches (of one each, without accumulation): each batch's loss counts by its share of the
    group's samples, and `update` steps on the last of them.
    """

    def __init__(
        self,
        trainable: Trainable,
        model: nn.Module,
        *,
        clip_norm: float | None,
        precision: Precision,
        schedule: Callable[[float], float],
        watch: int | None = None,
    ) -> None:
        self.trainable, self.model = trainable, model
        self.clip_norm, self.precision, self.schedule = clip_norm, precision, schedule
        self.ddp = isinstance(model, DistributedDataParallel)  # averages in its own backward
        if not self.ddp:
            broadcast(trainable.state_dict().values())
        self.optimizers = trainable.optimizers()
        self.device = trainable.progress.device
        self.scaler = scaler(precision, self.device)
        self.finite: list[Tensor] = []  # what must be, of this epoch
        self.norms, self.updates = Mean(), Counter[str]()
        self.watch = watch
        self.names = {id(param): name for name, param in trainable.named_parameters()}
        self.share, self.last, self.grouped = 1.0, True, False
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group.setdefault("initial_lr", group["lr"])

    def begin_epoch(self) -> None:
        """Forget the gradient norms, and what has to be finite, of the epoch before."""
        self.norms, self.updates = Mean(), Counter[str]()
        self.finite = []

    def set_progress(self, progress: float) -> None:
        self.trainable.progress.fill_(progress)
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * self.schedule(progress)

    def batch(self, share: float, *, first: bool, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Enter one batch that holds `share` of its group's samples; DDP need not average before the last."""
        self.share, self.last, self.grouped = share, last, not (first and last)
        if first and self.grouped:
            for optimizer in self.optimizers.values():
                optimizer.zero_grad(set_to_none=True)
        return self.model.no_sync() if self.ddp and not last else contextlib.nullcontext()  # type: ignore[operator]

    def update(self, loss: Tensor, optimizer: str = "main") -> Tensor:
        chosen = self.optimizers[optimizer]
        params = [param for group in chosen.param_groups for param in group["params"] if param.requires_grad]
        self.finite.append(loss.detach())
        if not self.grouped:
            chosen.zero_grad(set_to_none=True)
        with autocast_disabled(self.precision, self.device):
            # Only this optimizer's parameters: a generator's loss leaves nothing in the critic's gradients.
            self.scaler.scale(loss if self.share == 1 else loss * self.share).backward(
                inputs=None if self.ddp else params
            )
        if not self.last:
            return torch.full((), torch.nan, device=self.device)
        return self._step(chosen, params, "grad_norm" if optimizer == "main" else f"grad_norm_{optimizer}")

    def _step(self, optimizer: torch.optim.Optimizer, params: list[Tensor], name: str) -> Tensor:
        if not self.ddp:
            average_gradients(params)
        self.scaler.unscale_(optimizer)
        if self.watch and self.updates[name] % self.watch == 0:
            graded = [(param, param.grad) for param in params if param.grad is not None]
            self.norms.add({f"grad_norm/{self.names[id(param)]}": grad.norm() for param, grad in graded})
        self.updates[name] += 1
        if self.clip_norm is None:
            norm = _norm([param.grad for param in params if param.grad is not None])
        else:
            norm = clip_grad_norm_(params, self.clip_norm)
        if not self.scaler.is_enabled():  # the scaler meets infinite fp16 gradients by skipping the step
            self.finite.append(norm)
        self.norms.add({name: norm})
        self.scaler.step(optimizer)
        self.scaler.update()
        return norm

    def state_dict(self) -> dict[str, Any]:
        return {
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "scaler": self.scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Moments and counters come back; rates and decays are the configuration's, which a copied trial may change."""
        for name, optimizer in self.optimizers.items():
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({**state["optimizers"][name], "param_groups": groups})
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])


def _norm(grads: list[Tensor]) -> Tensor:
    """`torch.nn.utils.get_total_norm` without its sorting by device and type: a third of the time, at every step."""
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
