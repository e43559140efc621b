"""The contract between the training core and a model family."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Batch = Any  # a tensor, or tuples, lists and dicts of tensors whose first axis counts samples
Losses = dict[str, Tensor]  # scalars on the device; "loss" is the one that is minimised
Metrics = dict[str, float]  # scalars on the host, named "split/name"
TOGETHER = 64  # scalars that `Mean` adds up at a time


class Diverged(Exception):
    """Raised from anywhere inside a step when training cannot usefully go on."""


class Data(Protocol):
    """What a family trains on; lives outside the module, so that the trials of a process can share it.

    A family's own class is built as `Data(*, device, seed, **fields of its YAML)` and may keep what is
    expensive (a corpus, a solved problem) by `core.shared.made_once`, for all processes of a machine.
    """

    def train(self, epoch: int) -> Sequence[Batch]:
        """The batches of one epoch, on the device: a pure function of `epoch`, or a resumed run differs.

        Several workers get the same batches, and the core gives each its part of every tensor's first axis.
        """

    def val(self) -> Sequence[Batch]:
        """The held-out batches, the same at every call."""


class Step(Protocol):
    """What the core lends a trainable for one batch."""

    @property
    def model(self) -> nn.Module:
        """The trainable itself, inside its DistributedDataParallel wrapper where there is one."""

    def update(self, loss: Tensor, optimizer: str = "main") -> Tensor:
        """Backward, average over ranks, unscale, clip, step; returns the gradient norm before clipping."""


class Trainable(nn.Module, ABC):
    """A model together with the loss that trains it: `forward` *is* the loss.

    Declare a loss and the defaults below train it. Own the step (override `train_step`) when one loss
    and one optimizer are not enough. A family's class is built as `Trainable(data, **fields of its YAML)`:
    shapes come from the data, hyperparameters from the YAML. State that must survive (counters, adaptive
    weights, running statistics) lives in buffers.
    """

    stackable: ClassVar[frozenset[str]] = frozenset()
    """Hyperparameters that may differ between trials trained as one stack: rates, and what `vary` keeps."""

    progress: Tensor
    """The fraction of the run done, 0 to 1, set by the core before each step; every schedule reads it."""

    epoch: int = 0
    """The epoch under evaluation, from 1, of `max_epochs`; set by the core, 0 outside a run."""

    max_epochs: int = 0

    def __init__(self, *, lr: float = 1e-3, weight_decay: float = 0.0) -> None:
        super().__init__()
        self.lr, self.weight_decay = lr, weight_decay
        self.recompute = False  # set by the core: training.activation_checkpointing
        self.register_buffer("progress", torch.zeros(()))

    @abstractmethod
    def forward(self, batch: Batch) -> Losses: ...

    @abstractmethod
    def oracle(self, data: Data) -> Metrics:
        """What `evaluate` would report of the gated metrics if the exact answer stood in for the model.

        It must pass the gate: a gate that the data itself fails stops every trial for nothing.
        """

    @abstractmethod
    def trivial(self, data: Data) -> Metrics:
        """The same for a baseline that has learned nothing of the rules; it must fail the gate."""

    def optimizers(self) -> dict[str, Optimizer]:
        return {"main": AdamW(self.parameters(), lr=self.lr, weight_decay=self.weight_decay)}

    def train_step(self, batch: Batch, step: Step) -> Losses:
        losses = step.model(batch)
        step.update(losses["loss"])
        return losses

    @torch.no_grad()
    def evaluate(self, data: Data) -> Metrics:
        """Held-out metrics, without their `val/` prefix, which the core adds.

        What is costly may be left out while it is not `due`. A gated metric then keeps its last value, and the gate
        passes only where all of them were evaluated.
        """
        mean = Mean()
        for batch in data.val():
            mean.add(self(batch), samples(batch))
        return mean.value()

    def vary(self, **values: float) -> None:
        """Keep hyperparameters as buffers, scalars that may differ between a stack's members; no part of the state."""
        for name, value in values.items():
            self.register_buffer(name, torch.tensor(float(value)), persistent=False)

    def due(self, every: int) -> bool:
        """Whether what is evaluated every so many epochs is, now: at the first one, the last, and outside a run."""
        return self.epoch in (0, self.max_epochs) or (self.epoch - 1) % every == 0

    def begin(self, data: Data) -> None:
        """Runs once, before the first epoch of a fresh run, e.g. to pretrain."""

    def end_epoch(self, data: Data, metrics: Metrics) -> None:
        """Runs after each evaluation, e.g. to retrain; may change `metrics`."""

    def figures(self, data: Data) -> dict[str, Callable[[], Figure]]:
        """What a person would rather see than numbers, by kind; called in eval mode, drawn only if asked for.

        The figures are matplotlib's own (`matplotlib.figure.Figure()`, no pyplot), and whatever they need is
        imported when they are drawn. Losses and metrics are drawn for every trainable without being named here.
        """
        return {}

    def recomputed(self, block: nn.Module, *inputs: Tensor) -> Any:
        """`block(*inputs)`; under activation checkpointing its activations are computed again in the backward pass."""
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(block, *inputs, use_reentrant=False)
        return block(*inputs)


def owns_step(trainable: Trainable) -> bool:
    """Whether it overrides `train_step`, rather than declare a loss."""
    return type(trainable).train_step is not Trainable.train_step


class Mean:
    """Mean of named scalars, weighted by samples, that stays on the device until `value` is asked for.

    A step costs a copy of each scalar: they are added up so many at a time.
    """

    def __init__(self) -> None:
        self.weights: dict[str, int] = {}
        self.sums: dict[str, Tensor] = {}
        self.kept: dict[tuple[str, int], list[Tensor]] = {}  # of a name and a weight, and in no sum yet

    def add(self, scalars: Losses, weight: int = 1) -> None:
        for name, scalar in scalars.items():
            self.weights[name] = self.weights.get(name, 0) + weight
            kept = self.kept.setdefault((name, weight), [])
            kept.append(scalar.detach().clone())  # it may be a buffer, which will change
            if len(kept) == TOGETHER:
                self._sum(name, weight)

    def value(self) -> Metrics:
        return self.means(*to_host(self.totals))

    @property
    def totals(self) -> list[Tensor]:
        for name, weight in self.kept:
            self._sum(name, weight)
        return [self.sums[name] for name in self.weights]

    def means(self, totals: Sequence[float]) -> Metrics:
        """The means, from `totals` that are already on the host."""
        return {name: total / self.weights[name] for name, total in zip(self.weights, totals, strict=True)}

    def _sum(self, name: str, weight: int) -> None:
        if kept := self.kept[name, weight]:
            scalars = torch.stack(kept)
            total = weight * (scalars.double() if scalars.device.type != "mps" else scalars.float()).sum(dim=0)
            self.sums[name] = self.sums[name] + total if name in self.sums else total
            kept.clear()


def to_host(*groups: Sequence[Tensor]) -> list[list[float]]:
    """Scalars on the device as numbers, group by group, with one host sync for all of them."""
    filled = [torch.stack(list(group)).detach() for group in groups if group]
    if not filled:
        return [[] for _ in groups]
    dtype = torch.float32 if filled[0].device.type == "mps" else torch.float64
    numbers = iter(torch.cat([scalars.to(dtype) for scalars in filled]).tolist())
    return [list(islice(numbers, len(group))) for group in groups]


def samples(batch: Batch) -> int:
    """How many samples a batch holds: the length of the first axis of its first tensor."""
    if isinstance(batch, Tensor):
        return batch.shape[0]
    parts = batch.values() if isinstance(batch, dict) else batch
    for part in parts:
        if isinstance(part, Tensor | dict | list | tuple):
            return samples(part)
    raise TypeError(f"a batch needs a tensor in it, got {type(batch).__name__} without one")
