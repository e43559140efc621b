"""Trainables and data small enough to follow by hand, and comparisons of runs."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.optim import SGD, Optimizer

from gatesweep.core import rng
from gatesweep.core.loop import Epoch
from gatesweep.core.trainable import Data, Losses, Metrics, Split, Step, Trainable
from gatesweep.trainables.autoencoders.data import DigitData, EventData
from tests.support.trivial import Line, Points

CPU = torch.device("cpu")
Pairs = list[tuple[Tensor, Tensor]]


class Batches:
    """Data with the same batches in every epoch."""

    def __init__(self, batches: Pairs) -> None:
        self.batches = batches

    def train(self, epoch: int) -> Sequence[tuple[Tensor, Tensor]]:
        return self.batches

    def val(self) -> Sequence[tuple[Tensor, Tensor]]:
        return self.batches


class Slope(Trainable):
    """The loss is `slope * weight`: at rate r a step of plain SGD lowers the weight by r times the slope.

    Its evaluations report `values`, one after the other.
    """

    def __init__(self, slope: Sequence[float] = (1.0,), lr: float = 1.0, values: Sequence[float] = ()) -> None:
        super().__init__(lr=lr)
        self.weight, self.slope, self.values = nn.Parameter(torch.zeros(len(slope))), torch.tensor(slope), values
        self.register_buffer("evaluations", torch.zeros((), dtype=torch.int64))

    def forward(self, batch: Any) -> Losses:
        return {"loss": self.slope @ self.weight}

    def optimizers(self) -> dict[str, Optimizer]:
        return {"main": SGD(self.parameters(), lr=self.lr)}

    def evaluate(self, data: Data, split: Split = "val") -> Metrics:
        self.evaluations += 1
        return {"value": self.values[int(self.evaluations) - 1]} if self.values else {}


ONE = Batches([(torch.zeros(1), torch.zeros(1))])


def line(seed: int = 0, **fields: Any) -> Line:
    """Return a seeded `Line`."""
    rng.seed_everything(seed)
    return Line(Points(), **fields)


def weights(trainable: Trainable) -> dict[str, Tensor]:
    """Return a copy of the state of a trainable."""
    return {name: value.clone() for name, value in trainable.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Return True if two states are equal bit by bit."""
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def seen(epochs: Iterable[Epoch]) -> list[Any]:
    """Return all reports of epochs except times and memory, as text, so that NaN equals NaN."""
    return [
        (
            epoch.index,
            {name: repr(value) for name, value in epoch.metrics.items() if not name.startswith("system/")},
            list(map(repr, epoch.losses)),
            (epoch.score, epoch.outcome, epoch.reason),
        )
        for epoch in epochs
    ]


def stored(state: dict[str, Any]) -> dict[str, Any]:
    """Return a state after a round trip through a file."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


class Critic(Trainable):
    """A point that moves to where a critic scores it highly; the critic learns to score data above the point."""

    def __init__(self) -> None:
        super().__init__(lr=0.05)
        self.point, self.critic = (
            nn.Parameter(torch.zeros(8)),
            nn.Sequential(nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 1)),
        )
        self.left_in_the_critic: list[bool] = []

    def forward(self, batch: Any) -> Losses:
        return {"loss": -self.critic(self.point).mean()}

    def optimizers(self) -> dict[str, Optimizer]:
        return {"main": SGD([self.point], lr=self.lr), "critic": SGD(self.critic.parameters(), lr=self.lr)}

    def train_step(self, batch: Any, step: Step) -> Losses:
        critic = self.critic(self.point.detach()).mean() - self.critic(batch[0]).mean()
        step.update(critic, "critic")
        before = [param.grad.clone() for param in self.critic.parameters() if param.grad is not None]
        losses = self(batch)
        step.update(losses["loss"])
        after = [param.grad for param in self.critic.parameters() if param.grad is not None]
        self.left_in_the_critic += [not torch.equal(old, new) for old, new in zip(before, after, strict=True)]
        return {**losses, "critic": critic}


def critic(seed: int = 0) -> Critic:
    """Return a seeded `Critic`."""
    rng.seed_everything(seed)
    return Critic()


def small_events(**fields: Any) -> EventData:
    """Return a small data set of events."""
    return EventData(**({"device": CPU, "seed": 0, "n_events": 300, "held_out": 40, "batch_size": 32} | fields))


def small_digits(**fields: Any) -> DigitData:
    """Return the data set of digits."""
    return DigitData(**({"device": CPU, "seed": 0} | fields))


def stacks_as_it_trains_alone(members: Sequence[Trainable], batch: Any, **tolerance: float) -> None:
    """Assert that the losses of trainables stacked by vmap equal the losses of each alone."""
    params, buffers = stack_module_state(list(members))
    stacked = vmap(lambda p, b: functional_call(members[0], (p, b), (batch,)))(params, buffers)
    for position, member in enumerate(members):
        for name, loss in member(batch).items():
            torch.testing.assert_close(stacked[name][position], loss, **tolerance)
