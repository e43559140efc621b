"""The update of one batch: backward, averaging over ranks, clipping and the optimizer's step."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_, get_total_norm

from gatesweep.core.distributed import average_gradients, broadcast
from gatesweep.core.precision import Precision, autocast_disabled, grad_scaler
from gatesweep.core.trainable import Mean, Trainable


class TrainStep:
    """Implements `core.trainable.Step`; holds the optimizers and the gradient scaler.

    The loop announces each batch by `batch`, as a part of the batches of one update. `update` weights its loss by the
    batch's share of the samples, and steps on the last batch.

    Attributes:
        finite: the losses and gradient norms of this epoch, scalars on the device, that must be finite.
        norms: the mean of each gradient norm over this epoch's updates.
    """

    def __init__(
        self,
        trainable: Trainable,
        model: nn.Module,
        *,
        clip_norm: float | None,
        precision: Precision,
        schedule: Callable[[float], float],
        log_grad_norm_every: int | None = None,
    ) -> None:
        self.trainable, self.model = trainable, model
        self.clip_norm, self.precision, self.schedule = clip_norm, precision, schedule
        self.log_grad_norm_every = log_grad_norm_every
        self.ddp = isinstance(model, DistributedDataParallel)  # averages in its own backward
        if not self.ddp:
            broadcast(trainable.state_dict().values())
        self.optimizers = trainable.optimizers()
        self.device = trainable.progress.device
        self.scaler = grad_scaler(precision, self.device)
        self.finite: list[Tensor] = []
        self.norms, self.updates = Mean(), Counter[str]()
        self.names = {id(param): name for name, param in trainable.named_parameters()}
        self.share, self.last, self.accumulating = 1.0, True, False
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group.setdefault("initial_lr", group["lr"])

    def begin_epoch(self) -> None:
        """Clear the gradient norms and the finite checks of the epoch before."""
        self.norms, self.updates = Mean(), Counter[str]()
        self.finite = []

    def set_progress(self, progress: float) -> None:
        """Set the fraction of the run done (0 to 1): the trainable's `progress`, and every learning rate."""
        self.trainable.progress.fill_(progress)
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * self.schedule(progress)

    def batch(self, share: float, *, first: bool, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Return the context of one batch, which holds `share` of the samples of its update.

        Inside it, DDP averages gradients only on the update's last batch.
        """
        self.share, self.last, self.accumulating = share, last, not (first and last)
        if first and self.accumulating:
            for optimizer in self.optimizers.values():
                optimizer.zero_grad(set_to_none=True)
        return self.model.no_sync() if self.ddp and not last else contextlib.nullcontext()  # type: ignore[operator]

    def update(self, loss: Tensor, optimizer: str = "main") -> Tensor:
        """Add the gradients of `loss`, a scalar, and step the named optimizer; see `core.trainable.Step.update`.

        Returns the gradient norm before clipping, a scalar; NaN before the update's last batch.
        """
        stepped = self.optimizers[optimizer]
        params = [param for group in stepped.param_groups for param in group["params"] if param.requires_grad]
        self.finite.append(loss.detach())
        if not self.accumulating:
            stepped.zero_grad(set_to_none=True)
        with autocast_disabled(self.precision, self.device):
            # Only this optimizer's parameters: a generator's loss must leave nothing in the critic's gradients.
            self.scaler.scale(loss if self.share == 1 else loss * self.share).backward(
                inputs=None if self.ddp else params
            )
        if not self.last:
            return torch.full((), torch.nan, device=self.device)
        return self._step(stepped, params, "grad_norm" if optimizer == "main" else f"grad_norm_{optimizer}")

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the optimizers and the scaler."""
        return {
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "scaler": self.scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the optimizers' moments and counters.

        Learning rates and weight decays stay those of the configuration: a trial that is copied from another one
        (population-based training) changes them.
        """
        for name, optimizer in self.optimizers.items():
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({**state["optimizers"][name], "param_groups": groups})
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])

    def _step(self, optimizer: torch.optim.Optimizer, params: list[Tensor], name: str) -> Tensor:
        """Average, unscale, measure, clip, step; `name` is the metric of the gradient norm."""
        if not self.ddp:
            average_gradients(params)
        self.scaler.unscale_(optimizer)
        if self.log_grad_norm_every and self.updates[name] % self.log_grad_norm_every == 0:
            with_grads = [(param, param.grad) for param in params if param.grad is not None]
            self.norms.add({f"grad_norm/{self.names[id(param)]}": grad.norm() for param, grad in with_grads})
        self.updates[name] += 1
        if self.clip_norm is None:
            norm = get_total_norm([param.grad for param in params if param.grad is not None])
        else:
            norm = clip_grad_norm_(params, self.clip_norm)
        if not self.scaler.is_enabled():  # in fp16 the scaler handles infinite gradients: it skips the step
            self.finite.append(norm)
        self.norms.add({name: norm})
        self.scaler.step(optimizer)
        self.scaler.update()
        return norm
