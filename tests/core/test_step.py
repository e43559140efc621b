"""One update: its rate, its accumulation, several optimizers, precision, recomputation, compilation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from gatesweep.core import rng
from gatesweep.core.errors import InputError
from gatesweep.core.loop import Epoch, fit
from gatesweep.core.settings import Settings
from gatesweep.core.trainable import Losses, Step, Trainable
from tests.support.examples import ONE, Batches, Pairs, Slope, critic, line, same, seen, weights
from tests.support.trivial import Points

# Accumulation


def cut(sizes: list[int], seed: int = 0) -> Pairs:
    data = Points(seed=seed, size=sum(sizes), batch_size=1)
    return list(zip(data.x.split(sizes), data.y.split(sizes), strict=True))


def grouped(batches: Pairs, count: int) -> Pairs:
    groups = [batches[start : start + count] for start in range(0, len(batches), count)]
    return [(torch.cat([x for x, _ in group]), torch.cat([y for _, y in group])) for group in groups]


@given(
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=8),
    accumulate=st.integers(1, 4),
    clip=st.sampled_from([None, 0.5]),
)
@settings(max_examples=30, deadline=None)
def test_accumulation_is_the_update_of_the_larger_batch(sizes: list[int], accumulate: int, clip: float | None) -> None:
    batches = cut(sizes)
    many, few = line(), line()
    options = {"max_epochs": 2, "clip_norm": clip}
    one = list(fit(many, Batches(batches), Settings(accumulate=accumulate, **options)))
    other = list(fit(few, Batches(grouped(batches, accumulate)), Settings(**options)))
    assert torch.allclose(many.layer.weight, few.layer.weight, atol=1e-5)
    for left, right in zip(one, other, strict=True):
        assert len(left.losses) == len(sizes)
        for name in ("train/loss", "train/grad_norm"):
            assert left.metrics[name] == pytest.approx(right.metrics[name], rel=1e-4, abs=1e-6)


def test_several_updates_in_a_step_each_take_their_own_gradient() -> None:
    class Often(Slope):
        def train_step(self, batch: Any, step: Step) -> Losses:
            return [self._update(step) for _ in range(3)][-1]

        def _update(self, step: Step) -> Losses:
            losses = self(None)
            step.update(losses["loss"])
            return losses

    trainable = Often()
    assert [epoch.losses for epoch in fit(trainable, ONE, Settings(max_epochs=2))] == [[-2.0], [-5.0]]
    assert trainable.weight.item() == -6.0


# A step of one's own


def test_the_loss_of_one_optimizer_leaves_nothing_in_the_gradients_of_another() -> None:
    trainable = critic()
    epochs = list(fit(trainable, Points(), Settings(max_epochs=2)))
    assert len(trainable.left_in_the_critic) == 2 * 4 * 4 and not any(trainable.left_in_the_critic)
    assert {"train/loss", "train/critic", "train/grad_norm", "train/grad_norm_critic"} <= set(epochs[0].metrics)


def test_gradient_norms_are_means_over_the_updates_of_their_own_optimizer() -> None:
    class Both(Slope):
        """Three updates along (3, 4), of norm 5, for each one along (6, 8), of norm 10."""

        def optimizers(self) -> dict[str, Optimizer]:
            return {name: SGD(self.parameters(), lr=self.lr) for name in ("main", "other")}

        def train_step(self, batch: Any, step: Step) -> Losses:
            for _ in range(3):
                step.update(self(None)["loss"], "other")
            losses = self(None)
            step.update(2 * losses["loss"])
            return losses

    (epoch,) = fit(Both(slope=(3.0, 4.0)), ONE, Settings(max_epochs=1))
    assert epoch.metrics["train/grad_norm"] == pytest.approx(10.0)
    assert epoch.metrics["train/grad_norm_other"] == pytest.approx(5.0)


def test_every_parameter_is_watched_every_so_many_updates() -> None:
    class Growing(Slope):
        """The gradient doubles with every update, from -1, but for the second parameter, where it is 1."""

        def __init__(self) -> None:
            super().__init__()
            self.other = nn.Parameter(torch.zeros(1))

        def forward(self, batch: Any) -> Losses:
            return {"loss": self.other.sum() - self.weight.square().sum() / 2 - self.weight.sum()}

    batches = Batches(ONE.batches * 5)
    watched = next(fit(Growing(), batches, Settings(max_epochs=1, log_grad_norm_every=2, clip_norm=1e-3))).metrics
    plain = next(fit(Growing(), batches, Settings(max_epochs=1))).metrics
    assert watched["train/grad_norm/other"] == pytest.approx(1.0)  # before clipping
    assert "train/grad_norm/weight" in watched and not any("grad_norm/" in name for name in plain)
    unclipped = next(fit(Growing(), batches, Settings(max_epochs=1, log_grad_norm_every=2))).metrics
    assert unclipped["train/grad_norm/weight"] == pytest.approx((1 + 4 + 16) / 3)  # of updates 1, 3 and 5


def test_each_optimizer_steps_on_its_own_loss() -> None:
    ours, theirs = critic(), critic()
    list(fit(ours, Points(), Settings(max_epochs=2)))
    main, judge = theirs.optimizers().values()
    for epoch in range(2):
        for x, _ in Points().train(epoch):
            judge.zero_grad()
            (theirs.critic(theirs.point.detach()).mean() - theirs.critic(x).mean()).backward()
            judge.step()
            main.zero_grad()
            (-theirs.critic(theirs.point).mean()).backward()
            main.step()
    assert torch.allclose(ours.point, theirs.point) and torch.allclose(ours.critic[0].weight, theirs.critic[0].weight)


def test_a_step_of_ones_own_cannot_accumulate() -> None:
    """Its generator would see, batch by batch, critics that the larger batch would not have shown it."""
    with pytest.raises(InputError, match=r"training.accumulate: got 2, expected 1: Critic owns its step"):
        next(fit(critic(), Points(), Settings(accumulate=2)))


# Precision, recomputation, compilation


class Deep(Trainable):
    """Two blocks with noise, written for recomputation; notes how often its blocks computed, and in what."""

    def __init__(self) -> None:
        super().__init__(lr=0.01)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 8)) for _ in range(2)
        )
        self.calls, self.dtypes = 0, set[torch.dtype]()
        for block in self.blocks:
            block.register_forward_pre_hook(self.count)
            block.register_forward_hook(self.note)

    def count(self, block: nn.Module, inputs: Any) -> None:
        self.calls += 1

    def note(self, block: nn.Module, inputs: Any, output: Tensor) -> None:
        self.dtypes.add(output.dtype)

    def forward(self, batch: Any) -> Losses:
        x, y = batch
        for block in self.blocks:
            x = x + self.recomputed(block, x)
        return {"loss": (x.sum(-1) - y).float().square().mean()}


def trained(**options: Any) -> tuple[Deep, list[Epoch]]:
    rng.seed_everything(0)  # the weights, and the noise
    model = Deep()
    return model, list(fit(model, Points(), Settings(**options)))


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_half_precision_trains(precision: Any, dtype: torch.dtype) -> None:
    half, epochs = trained(max_epochs=6, precision=precision, clip_norm=1.0)
    full, exact = trained(max_epochs=6, clip_norm=1.0)
    assert half.dtypes == {dtype} and full.dtypes == {torch.float32}
    assert {param.dtype for param in half.parameters()} == {torch.float32}
    assert epochs[-1].outcome == "finished" and epochs[-1].metrics["val/loss"] < 0.2 * epochs[0].metrics["val/loss"]
    assert epochs[0].losses != exact[0].losses


def test_fp16_meets_an_overflowing_gradient_by_skipping_the_step() -> None:
    class Steep(Slope):
        def forward(self, batch: Any) -> Losses:
            return {"loss": super().forward(batch)["loss"] * 1e34}  # times the first scale: beyond float32

    trainable = Steep()
    (epoch,) = fit(trainable, ONE, Settings(max_epochs=1, precision="fp16"))
    assert epoch.outcome == "finished" and trainable.weight.item() == 0.0
    assert epoch.state()["scaler"]["scale"] == 2**15


def test_fp16_still_notices_a_loss_that_is_not_a_number() -> None:
    epochs = list(fit(line(misbehave="nan"), Points(), Settings(max_epochs=3, precision="fp16")))
    assert [epoch.outcome for epoch in epochs] == ["diverged"]


def test_recomputed_activations_give_the_same_gradients() -> None:
    plain, one = trained(max_epochs=2)
    again, other = trained(max_epochs=2, activation_checkpointing=True)
    assert seen(one) == seen(other) and same(weights(plain), weights(again))  # the noise of the dropout included
    steps, evaluations = 2 * 2 * 4, 2 * 2  # epochs, blocks, batches
    assert plain.calls == steps + evaluations and again.calls == 2 * steps + evaluations


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # torch's own import
def test_a_compiled_model_trains_as_the_plain_one() -> None:
    plain, compiled, data = line(), line(), Points(size=16)
    one = list(fit(plain, data, Settings(max_epochs=2)))
    other = list(fit(compiled, data, Settings(max_epochs=2, compile=True)))
    for left, right in zip(one, other, strict=True):
        assert right.losses == pytest.approx(left.losses, rel=1e-4)
    assert torch.allclose(plain.layer.weight, compiled.layer.weight, rtol=1e-4)
    assert weights(compiled).keys() == weights(plain).keys()


def test_what_wraps_the_model_is_what_a_declared_loss_is_trained_through() -> None:
    class Wrapped(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module, self.calls = module, 0
            wrappers.append(self)

        def forward(self, batch: Any) -> Losses:
            self.calls += 1
            return self.module(batch)

    wrappers: list[Wrapped] = []
    list(fit(line(), Points(), Settings(max_epochs=2), wrap=Wrapped))
    assert [wrapper.calls for wrapper in wrappers] == [8]
    list(fit(critic(), Points(), Settings(max_epochs=1), wrap=Wrapped))  # owns its step, and calls its parts
    assert len(wrappers) == 1
