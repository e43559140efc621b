"""Trials trained as one end as they would have alone, whoever leaves and whenever they come in again."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gatesweep.core import checkpoint, rng, stack
from gatesweep.core.loop import Epoch, Run, fit
from gatesweep.core.stack import Member, Unstackable, fit_stack
from gatesweep.core.stack_step import Stack
from gatesweep.core.trainable import Batch, Losses, Trainable
from gatesweep.sweeps.config.build import build_run
from gatesweep.sweeps.config.schema import Config, make_settings
from gatesweep.sweeps.config.targets import locate
from gatesweep.sweeps.config.values import with_values
from tests.conftest import TRAINABLES, tiny
from tests.support.examples import Batches, Slope

STACKABLE = [one for one in TRAINABLES if locate("trainable", tiny(one).trainable).train_step is Trainable.train_step]
CASES: dict[str, tuple[str, ...]] = {one: (one,) for one in STACKABLE} | {
    # at its default size the choice of the worst start makes a thousandth of a rounding
    "born_adversarial": ("born_adversarial", "trainable.dim=4", "trainable.bond=3", "trainable.std=0.01"),
    "physics_operator, running": ("physics_operator", "trainable.balance=running", "trainable.variational=true"),
    "walk_transformer, accumulated": ("walk_transformer", "training.accumulate=2", "training.clip_norm=null"),
    "mlp, patient": ("mlp", "training.patience={metric: val/loss, epochs: 1}", "training.max_epochs=4"),
    "mlp, bf16": ("mlp", "training.precision=bf16"),
}
LOOSE = {"mlp, bf16": 2e-2}  # rounding alone makes 1e-2 of it


@contextmanager
def equal_draws() -> Iterator[None]:
    """The same noise for tensors of the same shape, whoever draws it: torch's own differs under vmap.

    What comes from a generator stays as it is: data, which are kept for all tests of a process.
    """

    def noise(draw: Callable[..., np.ndarray], own: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def draws(*shape: Any, generator: torch.Generator | None = None, **options: Any) -> Tensor:
            if generator is not None:
                return own(*shape, generator=generator, **options)
            size = shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape
            return torch.from_numpy(draw(np.random.default_rng(7), tuple(size))).to(
                **{"dtype": torch.float32} | options
            )

        return draws

    rand, randn = noise(np.random.Generator.random, torch.rand), noise(np.random.Generator.standard_normal, torch.randn)
    with ExitStack() as patches:
        for name, other in (
            ("rand", rand),
            ("randn", randn),
            ("rand_like", lambda x: rand(x.shape, dtype=x.dtype)),
            ("randn_like", lambda x: randn(x.shape, dtype=x.dtype)),
            ("multinomial", lambda x, count, **options: torch.arange(count) % x.shape[-1]),
        ):
            patches.enter_context(mock.patch.object(torch, name, other))
        kept = mock.patch.object(F, "dropout", lambda x, p=0.5, training=True, inplace=False: _dropped(x, p * training))
        patches.enter_context(kept)
        yield


def _dropped(x: Tensor, p: float) -> Tensor:
    return x * (torch.rand(x.shape) >= p) / (1 - p) if p else x


def variants(config: Config, count: int = 3) -> list[Config]:
    """Configurations that differ in seed, and in every stackable value that is a number."""
    stackable = locate("trainable", config.trainable).stackable
    numbers = {name: config.trainable.get(name) for name in stackable}
    return [
        with_values(
            config,
            {"seed": position, "trainable.weight_decay": 0.01 * position}
            | {
                f"trainable.{name}": value * (1 + 0.3 * position)
                for name, value in numbers.items()
                if _scales(name, value)
            },
        )
        for position in range(count)
    ]


def _scales(name: str, value: Any) -> bool:
    return isinstance(value, float) and name not in ("weight_decay", "kl_warmup", "ramp", "hybrid")


def alone(config: Config, resume: dict[str, Any] | None = None) -> tuple[Trainable, list[Epoch]]:
    trainable, data = build_run(config)
    return trainable, list(fit(trainable, data, make_settings(config), resume=resume))


def together(
    configs: Sequence[Config],
    stop: Callable[[int, int], bool] = lambda position, epoch: False,
    resume: Sequence[dict[str, Any] | None] | None = None,
    **options: Any,
) -> tuple[list[Trainable], list[list[Epoch]]]:
    """The trainables and the epochs of each; `stop` says after which epoch one is stopped."""
    built = [(*build_run(config), rng.state()) for config in configs]
    states = resume or [None] * len(configs)
    members = [Member(one, drawn, state) for (one, _, drawn), state in zip(built, states, strict=True)]
    epochs: list[list[Epoch]] = [[] for _ in configs]
    running = fit_stack(members, built[0][1], make_settings(configs[0]), **{"measure": False} | options)
    stopped: Collection[int] | None = None
    while True:
        try:
            for position, epoch in running.send(stopped):
                epochs[position].append(epoch)
        except StopIteration:
            return [one for one, _, _ in built], epochs
        stopped = [position for position, one in enumerate(epochs) if one and stop(position, one[-1].index)]


def same(one: Trainable, other: Trainable, rel: float = 1e-4) -> None:
    for name, value in other.state_dict().items():
        if value.dtype.is_floating_point:
            off = (one.state_dict()[name] - value).norm() / value.norm().clamp(min=1e-3)
            assert off < rel, f"{name} is off by {off:.2g}"


@pytest.mark.parametrize("case", CASES)
def test_members_end_as_they_would_have_alone(case: str) -> None:
    configs = variants(tiny(*CASES[case]))
    with equal_draws():
        ours, epochs = together(configs)
        for one, found, config in zip(ours, epochs, configs, strict=True):
            other, expected = alone(config)
            same(one, other, LOOSE.get(case, 1e-3))
            assert [(epoch.index, epoch.outcome, epoch.reason) for epoch in found] == [
                (epoch.index, epoch.outcome, epoch.reason) for epoch in expected
            ]
            for mine, epoch in zip(found, expected, strict=True):
                assert set(mine.metrics) == set(epoch.metrics)
                assert mine.metrics["train/loss"] == pytest.approx(epoch.metrics["train/loss"], rel=1e-2, abs=1e-3)
                assert mine.losses == pytest.approx(epoch.losses, rel=1e-2, abs=1e-3)


def test_who_stays_after_a_rung_trains_on_as_alone() -> None:
    configs = variants(tiny("mlp", "training.max_epochs=4"), 4)
    ours, epochs = together(configs, lambda position, epoch: (position, epoch) in {(1, 1), (3, 2)})
    assert [len(one) for one in epochs] == [4, 1, 4, 2]
    for position in (0, 2):
        same(ours[position], alone(configs[position])[0])


def test_the_last_one_left_trains_on_as_alone() -> None:
    configs = variants(tiny("mlp", "training.max_epochs=4"))
    ours, epochs = together(configs, lambda position, epoch: position < 2 and epoch == 2)
    assert [len(one) for one in epochs] == [2, 2, 4]
    same(ours[2], alone(configs[2])[0])


def test_a_member_resumes_alone_and_in_a_stack_with_others_of_another_epoch(tmp_path: Path) -> None:
    configs = variants(tiny("mlp", "training.max_epochs=5"))
    states = []
    for position, (epochs, config) in enumerate(zip((1, 3, 2), configs, strict=True)):
        running = fit_stack(
            [Member(build_run(one)[0], rng.state()) for one in configs],
            build_run(config)[1],
            make_settings(config),
            measure=False,
        )
        for _ in range(epochs):
            latest = dict(next(running))[position]
        checkpoint.save(tmp_path / f"{position}", latest.state(), {"epoch": latest.index})
        states.append(checkpoint.read(tmp_path / f"{position}").state())
        running.close()
    ours, found = together([with_values(config, {"seed": 99}) for config in configs], resume=states)
    assert [[epoch.index for epoch in one] for one in found] == [[2, 3, 4, 5], [4, 5], [3, 4, 5]]
    for one, config in zip(ours, configs, strict=True):
        same(one, alone(config)[0])
    for position, (one, config) in enumerate(zip(ours, configs, strict=True)):
        same(alone(config, checkpoint.read(tmp_path / f"{position}").state())[0], one)


def test_a_checkpoint_holds_one_member_and_no_more() -> None:
    configs = variants(tiny("mlp"), 8)
    _, epochs = together(configs)
    held = [tensor for tensor in _tensors(epochs[0][-1].state()) if tensor.dtype.is_floating_point]
    assert all(tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size() for tensor in held)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _tensors(one)


def test_a_resumed_stack_that_draws_goes_on_bitwise() -> None:
    configs = variants(tiny("circuit_vae", "training.max_epochs=3"))
    whole, _ = together(configs)
    built = [(*build_run(config), rng.state()) for config in configs]
    running = fit_stack(
        [Member(one, drawn) for one, _, drawn in built], built[0][1], make_settings(configs[0]), measure=False
    )
    states = [epoch.state() for _, epoch in next(running)]
    running.close()
    again, rest = together(configs, resume=states)
    for one, other in zip(again, whole, strict=True):
        assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())
    assert [one[0].index for one in rest] == [2, 2, 2]


def test_who_diverges_leaves_the_others_as_they_are() -> None:
    configs = variants(tiny("mlp"))
    configs[1] = with_values(configs[1], {"trainable.lr": 1e30, "training.clip_norm": None})
    configs = [with_values(config, {"training.clip_norm": None}) for config in configs]
    ours, epochs = together(configs)
    assert [one[-1].outcome == "diverged" for one in epochs] == [False, True, False]
    assert epochs[1][-1].reason == "a training loss or its gradient was not finite"
    same(ours[2], alone(configs[2])[0])


class Branching(Slope):
    """Asks a tensor what to do, which no vmap can."""

    def forward(self, batch: Batch) -> Losses:
        loss = self.slope @ self.weight
        return {"loss": -loss if loss > 1 else loss}

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return Trainable.optimizers(self)


class Steady(Branching):
    """Has moments of its own length."""

    def __init__(self, beta: float) -> None:
        super().__init__()
        self.betas = [beta, 0.999]

    def forward(self, batch: Batch) -> Losses:
        return {"loss": self.slope @ self.weight}

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {"main": torch.optim.AdamW(self.parameters(), lr=self.lr, betas=tuple(self.betas))}


def test_what_cannot_stack_says_why() -> None:
    pairs = [(torch.zeros(2, 1), torch.zeros(2, 1))] * 2
    settings = make_settings(tiny("mlp"))

    def stacked(*trainables: Trainable) -> None:
        next(fit_stack([Member(one, rng.state()) for one in trainables], Batches(pairs), settings))

    with pytest.raises(Unstackable, match="control flow"):
        stacked(Branching(), Branching())
    with pytest.raises(Unstackable, match="expected one plain AdamW"):
        stacked(Slope(), Slope())
    with pytest.raises(Unstackable, match="more than learning rate and weight decay"):
        stacked(Steady(0.9), Steady(0.5))
    with pytest.raises(Unstackable, match="more than tensors of the same shape"):
        stacked(Branching((1.0,)), Branching((1.0, 2.0)))
    with pytest.raises(Unstackable, match="more than tensors of the same shape"):
        together([tiny("mlp"), tiny("mlp", "trainable.dropout=0.1")])  # a number that is no tensor
    with pytest.raises(Unstackable, match="a step of its own"):
        together(variants(tiny("born_gan")))
    with pytest.raises(Unstackable, match="fp16"):
        together(variants(tiny("mlp", "training.precision=fp16")))


def test_a_stack_that_is_slower_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([1.0, 1.0, 1.0, 3.1, 3.1])  # three passes alone, then two of three members
    monkeypatch.setattr(stack, "_time_epoch", lambda *given: next(times))
    with pytest.raises(Unstackable, match="alone"):
        together(variants(tiny("mlp")), measure=True)


def test_a_stack_that_no_longer_pays_goes_on_one_by_one_the_nearest_to_the_gate_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stack, "_time_epoch", lambda one, batches: 1e-9 if isinstance(one, Stack) else 2e-9)
    configs = variants(tiny("mlp", "training.max_epochs=3"))
    order: list[int] = []
    built = [(*build_run(config), rng.state()) for config in configs]
    scores: dict[int, float] = {}
    for epochs in fit_stack([Member(one, drawn) for one, _, drawn in built], built[0][1], make_settings(configs[0])):
        order += [position for position, _ in epochs]
        scores |= {position: epoch.score for position, epoch in epochs if epoch.index == 1}
    nearest = max(scores, key=lambda position: scores[position])
    assert order[:5] == [0, 1, 2, nearest, nearest]
    for (one, _, _), config in zip(built, configs, strict=True):
        same(one, alone(config)[0])


def test_constants_that_no_checkpoint_holds_are_not_stacked() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("scale", torch.arange(1000.0), persistent=False)
            self.register_buffer("kept", torch.zeros(3))

    configs = variants(tiny("circuit_vae"))
    runs = [Run(build_run(config)[0], make_settings(config), lambda module: module) for config in configs]
    for run in runs:
        run.trainable.add_module("scaled", Scaled())
    made = Stack(runs)
    assert "scaled.scale" not in made.buffers and made.buffers["scaled.kept"].shape == (3, 3)
    assert made.buffers["weight_kl"].shape == (3,)  # a hyperparameter in which they differ
