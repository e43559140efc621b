"""A Born machine and its critic: who updates what, and phases that end, return and survive a checkpoint."""

from __future__ import annotations

import functools
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from gatesweep.core import checkpoint
from gatesweep.core.loop import Epoch, fit
from gatesweep.core.schedule import schedule
from gatesweep.core.step import TrainStep
from gatesweep.sweeps.config.build import build_run
from gatesweep.sweeps.config.schema import make_settings
from gatesweep.sweeps.config.values import with_values
from gatesweep.trainables.born.critic import PENALTY, Critic, gradient_penalty, loss_of_critic, loss_of_drawn
from gatesweep.trainables.born.data import BornData
from gatesweep.trainables.born.gan import ADVERSARIAL, PRETRAINING, RETRAINING, BornGAN
from tests.conftest import tiny
from tests.support.examples import CPU, seen

SMALL: dict[str, Any] = {"critic_width": 16, "critic_depth": 2, "generated": 64, "robustness": [], "attacked": 32}


def moons(**fields: Any) -> BornData:
    return BornData(**({"device": CPU, "seed": 0, "per_class": 200, "batch_size": 50} | fields))


def points(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 2, generator=torch.Generator().manual_seed(seed))


# --- the critic


class Slope(nn.Module):
    """A critic whose slope is w everywhere, and steeper for class 1 by a factor."""

    def __init__(self, *weights: float, factor: float = 1.0) -> None:
        super().__init__()
        self.weights, self.factor = nn.Parameter(torch.tensor(weights)), factor

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return (x @ self.weights) * self.factor**labels


def test_gradient_penalty_of_a_straight_critic():
    labels = torch.tensor([0, 1]).repeat(10)
    critic = Slope(3.0, 4.0)
    assert gradient_penalty(critic, points(20), labels).item() == pytest.approx((5 - 1) ** 2)
    penalty = gradient_penalty(Slope(3.0, 4.0, factor=2.0), points(20), labels)
    assert penalty.item() == pytest.approx(((5 - 1) ** 2 + (10 - 1) ** 2) / 2)
    gradient_penalty(critic, points(20), labels).backward()  # d (|w| - 1)^2 / dw = 2 (|w| - 1) w / |w|
    assert critic.weights.grad.tolist() == pytest.approx([2 * 4 * 3 / 5, 2 * 4 * 4 / 5])


def test_gradient_penalty_is_in_full_precision():
    critic, labels = Critic(2, 2, width=8, depth=2), torch.zeros(20, dtype=torch.long)
    exact = gradient_penalty(critic, points(20), labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(gradient_penalty(critic, points(20), labels), exact)


def test_losses_of_a_critic_by_hand():
    critic, x, labels = Slope(3.0, 4.0), torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.zeros(2, dtype=torch.long)
    drawn, of = torch.zeros(3, 2), torch.zeros(3, dtype=torch.long)
    bce = (math.log1p(math.exp(-3)) + math.log1p(math.exp(-4))) / 2 + math.log(2)
    assert loss_of_critic("bce", critic, x, labels, drawn, of).item() == pytest.approx(bce)
    wasserstein = 0 - 3.5 + PENALTY * 16
    assert loss_of_critic("wasserstein", critic, x, labels, drawn, of).item() == pytest.approx(wasserstein)
    assert loss_of_drawn("bce", critic, x, labels).item() == pytest.approx(bce - math.log(2))
    assert loss_of_drawn("wasserstein", critic, x, labels).item() == pytest.approx(-3.5)


@pytest.mark.parametrize("kind", ["bce", "wasserstein"])
def test_a_critic_learns_which_class_a_point_was_drawn_for(kind):
    """Real and drawn points are the same cloud; only the drawn ones' classes are swapped."""
    torch.manual_seed(0)
    labels = torch.arange(400) % 2
    x = 0.5 * points(400) + 0.5 * labels[:, None]
    critic = Critic(2, 2, width=32, depth=2)
    optimizer = torch.optim.Adam(critic.parameters(), lr=0.01)
    for _ in range(150):
        optimizer.zero_grad()
        loss_of_critic(kind, critic, x, labels, x, 1 - labels).backward()
        optimizer.step()
    real, fake = critic(x, labels), critic(x, 1 - labels)
    assert (real.mean() - fake.mean()) > 0.5
    assert (real > fake).double().mean() > 0.85
    if kind == "wasserstein":
        assert gradient_penalty(critic, x, labels).item() < 0.1


# --- who updates what


class Watched:
    """A step that notes which parameters each of its updates changed."""

    def __init__(self, trainable: BornGAN) -> None:
        self.model, self.seen = trainable, []
        self.step = TrainStep(trainable, trainable, clip_norm=1.0, precision="fp32", schedule=schedule("constant"))

    def update(self, loss: Tensor, optimizer: str = "main") -> Tensor:
        before = {name: param.detach().clone() for name, param in self.model.named_parameters()}
        norm = self.step.update(loss, optimizer)
        changed = {
            name.split(".")[0] for name, param in self.model.named_parameters() if not torch.equal(param, before[name])
        }
        self.seen.append((optimizer, changed))
        return norm


@pytest.mark.parametrize("kind", ["bce", "wasserstein"])
@pytest.mark.parametrize("critic_steps", [1, 3])
def test_each_phase_updates_its_own(kind, critic_steps):
    data = moons()
    torch.manual_seed(0)
    trainable = BornGAN(data, **SMALL, critic_loss=kind, critic_steps=critic_steps)
    for phase in (PRETRAINING, ADVERSARIAL, RETRAINING):
        trainable.phase.fill_(phase)
        watched = Watched(trainable)
        with watched.step.batch(1.0, first=True, last=True):
            losses = trainable.train_step(data.train(0)[0], watched)
        if phase == ADVERSARIAL:
            assert watched.seen == [("critic", {"critic"})] * critic_steps + [("main", {"machine"})]
            assert losses.keys() == {"loss", "critic_loss"}
        else:
            assert watched.seen == [("classifier", {"machine"})]
            assert losses.keys() == {"loss"}


@pytest.mark.parametrize(("ratio", "expected"), [(1.0, 50), (0.5, 100), (2.0, 25), (100.0, 1)])
def test_so_many_points_are_drawn_for_the_real_ones_and_of_their_classes(ratio, expected, monkeypatch):
    data = moons()
    trainable = BornGAN(data, **SMALL, r_real=ratio, critic_steps=1)
    trainable.phase.fill_(ADVERSARIAL)
    batch = data.train(0)[0]
    asked = []
    drawn = trainable._draw
    monkeypatch.setattr(trainable, "_draw", lambda labels: asked.append(labels) or drawn(labels))
    watched = Watched(trainable)
    with watched.step.batch(1.0, first=True, last=True):
        trainable.train_step(batch, watched)
    assert [len(labels) for labels in asked] == [expected, expected]
    assert torch.equal(asked[0], batch[1].repeat(2)[:expected])


# --- phases


def follow(trainable: BornGAN, data: BornData, *accuracies: float) -> list[tuple[int, int]]:
    """The phase and the number of retrainings after epochs that end with these accuracies."""
    found = []
    for accuracy in accuracies:
        trainable.end_epoch(data, {"val/accuracy": accuracy})
        found.append((int(trainable.phase), int(trainable.retrained)))
    return found


def test_phases_follow_the_accuracy():
    data = moons()
    trainable = BornGAN(data, **SMALL, pretrain_epochs=3, tolerance=0.1, retrain_epochs=2)
    assert int(trainable.phase) == PRETRAINING
    assert follow(trainable, data, 0.7, 0.9, 0.8) == [(0, 0), (0, 0), (1, 0)]  # the goal is 0.9, the best
    assert follow(trainable, data, 0.95, 0.81, 0.79) == [(1, 0), (1, 0), (2, 1)]
    assert follow(trainable, data, 0.84, 0.86) == [(2, 1), (1, 1)]  # back within half the tolerance
    assert follow(trainable, data, 0.5, 0.6, 0.6) == [(2, 2), (2, 2), (1, 2)]  # or the epochs are used up
    assert trainable.goal.item() == pytest.approx(0.9)


def test_a_goal_ends_pretraining_early_or_stands_in_for_it():
    data = moons()
    early = BornGAN(data, **SMALL, pretrain_epochs=9, pretrain_goal=0.8)
    assert follow(early, data, 0.7, 0.8) == [(0, 0), (1, 0)]
    none = BornGAN(data, **SMALL, pretrain_epochs=0, goal=0.9)
    assert int(none.phase) == ADVERSARIAL
    assert follow(none, data, 0.86, 0.84, 0.88) == [(1, 0), (2, 1), (1, 1)]
    fixed = BornGAN(data, **SMALL, pretrain_epochs=1, goal=0.7)
    assert follow(fixed, data, 0.99, 0.66) == [(1, 0), (1, 0)]


def test_metrics_say_which_phase_an_epoch_was_trained_in():
    data = moons()
    trainable = BornGAN(data, **SMALL, pretrain_epochs=1)
    found: list[dict[str, float]] = [{"val/accuracy": value} for value in (0.9, 0.5, 0.9, 0.9)]
    for metrics in found:
        trainable.end_epoch(data, metrics)
    assert [one["val/phase"] for one in found] == [0, 1, 2, 1]
    assert [one["val/retrained"] for one in found] == [0, 0, 1, 1]


# --- runs that forget and learn again

FORGETFUL = [
    "trainable.pretrain_epochs=6",
    "trainable.goal=null",
    "trainable.tolerance=0.1",
    "trainable.retrain_epochs=16",
    "trainable.classifier_lr=0.03",
    "trainable.lr=0.05",  # at which a fresh critic's advice is harmful
    "trainable.critic_steps=1",
    "trainable.robustness=[]",
    "trainable.frechet_every=99",
    "data.per_class=400",
    "gate.thresholds={}",
    "gate.objective=null",
    "training.max_epochs=24",
    "training.schedule={shape:constant,warmup:0.0,floor:1.0}",
]


@functools.cache
def forgetful() -> tuple[list[Epoch], BornGAN]:
    trainable, data = build_run(tiny("born_gan", *FORGETFUL))
    assert isinstance(trainable, BornGAN)
    return list(fit(trainable, data, make_settings(tiny("born_gan", *FORGETFUL)))), trainable


def test_a_machine_that_forgets_its_classes_is_taught_again():
    found, trainable = forgetful()
    phases = [int(one.metrics["val/phase"]) for one in found]
    accuracies = [one.metrics["val/accuracy"] for one in found]
    goal = trainable.goal.item()
    assert phases[:7] == [PRETRAINING] * 6 + [ADVERSARIAL]
    assert goal == pytest.approx(max(accuracies[:6])) and goal > 0.95
    fired = phases.index(RETRAINING)
    assert goal - accuracies[fired - 1] > 0.1  # it was needed
    recovered = phases.index(ADVERSARIAL, fired)
    assert recovered - fired < 16  # the accuracy ended it, not the epochs
    assert accuracies[recovered - 1] >= goal - 0.05 > accuracies[fired - 1] + 0.1
    assert found[-1].metrics["val/retrained"] >= 1
    for one in found:
        critic = "train/grad_norm_critic" in one.metrics
        assert critic == ("train/grad_norm" in one.metrics) == (one.metrics["val/phase"] == ADVERSARIAL)
        assert critic != ("train/grad_norm_classifier" in one.metrics)


def test_a_run_resumes_bitwise_in_the_middle_of_retraining(tmp_path: Path):
    whole, whole_model = forgetful()
    config = tiny("born_gan", *FORGETFUL)
    phases = [int(one.metrics["val/phase"]) for one in whole]
    stop = phases.index(RETRAINING) + 1  # an epoch of it is over
    assert phases[stop] == RETRAINING  # and another is to come
    trainable, data = build_run(config)
    run = fit(trainable, data, make_settings(config))
    before = [next(run) for _ in range(stop)]
    checkpoint.save(tmp_path / "epoch", before[-1].state(), {"epoch": stop})
    run.close()

    resumed, data = build_run(with_values(config, {"seed": 99}))
    rest = list(fit(resumed, data, make_settings(config), resume=checkpoint.read(tmp_path / "epoch").state()))
    assert seen([*before, *rest]) == seen(whole)
    for key, value in whole_model.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key


def test_two_ranks_forget_and_learn_again_together(tmp_path: Path):
    spawn(functools.partial(_rank, folder=str(tmp_path)), nprocs=2)
    (first, phases), (second, others) = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert phases == others
    assert set(phases) == {PRETRAINING, ADVERSARIAL, RETRAINING}
    for key, value in first.items():
        assert torch.equal(value, second[key]), key


def _rank(rank: int, *, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    config = with_values(tiny("born_gan", *FORGETFUL), {"seed": rank, "training.max_epochs": 9})
    trainable, data = build_run(config)
    found = list(fit(trainable, data, make_settings(config), wrap=DistributedDataParallel))
    phases = [int(one.metrics["val/phase"]) for one in found]
    torch.save((trainable.state_dict(), phases), f"{folder}/{rank}.pt")
    dist.destroy_process_group()
    os._exit(0)  # torch's threads outlive the interpreter's end now and then, and abort a process that is done


# --- fields


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("pretrain_epochs", -1, "at least 0"),
        ("pretrain_epochs", 0, "at least 1, or a trainable.goal"),
        ("retrain_epochs", 0, "at least 1"),
        ("critic_steps", 0, "at least 1"),
        ("critic_depth", 0, "at least 1"),
        ("critic_lr", 0.0, "above 0"),
        ("classifier_lr", -1.0, "above 0"),
        ("r_real", 0.0, "above 0"),
        ("tolerance", 1.5, "a share, 0 to 1"),
        ("goal", 98.0, "a share, 0 to 1"),
    ],
)
def test_wrong_values_are_named(field, value, expected):
    with pytest.raises(ValueError, match=rf"trainable\.{field}: got {value}, expected {expected}"):
        BornGAN(moons(), **(SMALL | {field: value}))
