"""Attacks: their limits, known answers, and a search of the whole ball.

`python -m tests.trainables.born.test_attacks` trains the machine of tests/golden/half_circles.pt again.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from gatesweep.trainables.born.attacks import ascend, fgsm, is_robust, pgd, random_start, robust_accuracy, surprise
from gatesweep.trainables.born.mps import BornMachine
from tests.conftest import GOLDEN


class Linear:
    """Two classes apart by a straight line: log odds of class 1 are w . x + b."""

    def __init__(self, weights: list[float], bias: float = 0.0) -> None:
        self.weights, self.bias = torch.tensor(weights, dtype=torch.float64), bias

    def class_log_probabilities(self, x: Tensor) -> Tensor:
        odds = x @ self.weights.to(x) + self.bias
        return torch.stack([nn.functional.logsigmoid(-odds), nn.functional.logsigmoid(odds)], dim=1)


class Rings:
    """Class 1 within radius 0.25 of the centre and beyond 0.45 of it: its attacker has two ways to go."""

    def class_log_probabilities(self, x: Tensor) -> Tensor:
        radius = ((x - 0.5).square().sum(dim=1) + 1e-12).sqrt()
        odds = 20 * (radius - 0.25) * (radius - 0.45)
        return torch.stack([nn.functional.logsigmoid(-odds), nn.functional.logsigmoid(odds)], dim=1)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def points(count: int, n: int = 2, seed: int = 0) -> Tensor:
    return torch.rand(count, n, generator=generator(seed), dtype=torch.float64)


def labels_of(machine: object, x: Tensor) -> Tensor:
    return machine.class_log_probabilities(x).argmax(dim=1)


# --- what an attack may do


@pytest.mark.parametrize("n", [1, 2, 7])
@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("eps", [0.01, 0.1, 0.7])
@pytest.mark.parametrize("drawn", [False, True])
def test_attacked_points_stay_in_the_ball_and_in_the_cube(n, norm, eps, drawn):
    x = torch.cat([points(50, n), torch.zeros(1, n), torch.ones(1, n)])
    machine = Linear([1.0, -2.0, 0.5, 0.1, -0.3, 1.0, 3.0][:n])
    found = pgd(machine, x, labels_of(machine, x), eps, norm=norm, steps=5, generator=generator() if drawn else None)
    lengths = (found - x).norm(dim=1) if norm == "l2" else (found - x).abs().amax(dim=1)
    assert lengths.max() <= eps * (1 + 1e-9)
    assert lengths.max() >= 0.9 * eps  # it does not stop halfway
    assert found.min() >= 0 and found.max() <= 1


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_random_starts_fill_the_ball(norm):
    x = torch.full((20_000, 3), 0.5)
    away = random_start(x, 0.2, norm, generator()) - x
    if norm == "l2":  # a third of a ball's volume lies beyond (2/3)^(1/3) of its radius
        radius = away.norm(dim=1)
        assert radius.max() <= 0.2 + 1e-6
        assert (radius > 0.2 * (2 / 3) ** (1 / 3)).double().mean().item() == pytest.approx(1 / 3, abs=0.02)
    else:
        assert away.abs().max() <= 0.2
        assert away.std(dim=0).tolist() == pytest.approx([0.2 / math.sqrt(3)] * 3, rel=0.03)
    assert away.mean(dim=0).abs().max() < 0.005
    assert torch.equal(away, random_start(x, 0.2, norm, generator()) - x)


def test_an_attack_of_size_nothing_changes_nothing():
    x, machine = points(50), Rings()
    labels = labels_of(machine, x)
    assert torch.equal(fgsm(machine, x, labels, 0.0), x)
    assert torch.equal(pgd(machine, x, labels, 0.0), x)
    assert torch.equal(pgd(machine, x, labels, torch.zeros(()), generator=generator()), x)
    assert robust_accuracy(machine, x, labels, 0.0) == 1.0


# --- where the answer is known


@pytest.mark.parametrize("size", [0.1, torch.tensor(0.1)])
def test_the_attack_on_a_straight_line_is_straight(size):
    weights = torch.tensor([3.0, -4.0], dtype=torch.float64)
    machine, x = Linear(weights.tolist()), 0.3 + 0.4 * points(50)
    labels = labels_of(machine, x)
    against = (1 - 2 * labels)[:, None]  # towards the other class
    torch.testing.assert_close(fgsm(machine, x, labels, size), x + 0.1 * against * weights.sign())
    torch.testing.assert_close(pgd(machine, x, labels, size), x + 0.1 * against * weights / 5)
    torch.testing.assert_close(pgd(machine, x, labels, size, norm="linf"), x + 0.1 * against * weights.sign())


def test_robust_accuracy_counts_the_points_further_from_the_line_than_eps():
    machine, x = Linear([3.0, 4.0], -3.5), points(4000)
    labels = labels_of(machine, x)
    labels[:100] = 1 - labels[:100]  # these are wrong as they are
    distance = (x @ machine.weights - 3.5).abs() / 5
    for eps in (0.02, 0.1, 0.2):
        inside = ((x - 0.5).abs() < 0.5 - eps).all(dim=1)  # so that the cube is in nobody's way
        expected = (distance > eps) & (torch.arange(4000) >= 100)
        assert torch.equal(is_robust(machine, x[inside], labels[inside], eps), expected[inside])
        share = expected[inside].double().mean().item()
        assert robust_accuracy(machine, x[inside], labels[inside], eps) == pytest.approx(share)


def test_the_best_point_on_the_way_counts_not_the_last():
    def objective(x: Tensor) -> Tensor:
        return -(x[:, 0] - 0.55).abs()

    x = torch.full((3, 1), 0.5)
    found = ascend(objective, x, 0.2, x, steps=4, step_size=0.06)  # to 0.56, then to and fro
    assert found[:, 0].tolist() == pytest.approx([0.56] * 3)
    found = ascend(objective, x, 0.2, x, steps=1, step_size=0.06)
    assert found[:, 0].tolist() == pytest.approx([0.56] * 3)
    found = ascend(objective, x, 0.2, x, steps=1, step_size=0.2)  # which overshoots, to worse than the start
    assert found[:, 0].tolist() == [0.5] * 3


# --- on a machine that learned

WEIGHTS = GOLDEN / "half_circles.pt"  # fixed: rounding in 300 steps of training gives another machine everywhere


def untrained() -> BornMachine:
    return BornMachine(n_features=2, n_classes=2, embedding="legendre", dim=10, bond=6)


def train_again() -> None:
    torch.manual_seed(3)
    machine = untrained()
    optimizer = torch.optim.Adam(machine.parameters(), lr=0.01)
    x, labels = half_circles(600)
    for _ in range(300):
        optimizer.zero_grad()
        surprise(machine, x, labels).mean().backward()
        optimizer.step()
    torch.save(machine.state_dict(), WEIGHTS)


@pytest.fixture(scope="module")
def learned() -> tuple[BornMachine, Tensor, Tensor]:
    """A Born machine that tells two interleaved half circles apart, and points of them."""
    machine = untrained()
    machine.load_state_dict(torch.load(WEIGHTS, weights_only=True))
    x, labels = half_circles(300, seed=1)
    assert (labels_of(machine, x) == labels).double().mean() > 0.97
    return machine, x, labels


def half_circles(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    angle = math.pi * torch.rand(count, generator=generator(seed))
    labels = torch.arange(count) % 2
    sign = (1 - 2 * labels).float()
    x = torch.stack([sign * angle.cos() + labels, sign * angle.sin() + 0.5 * labels], dim=1)
    x = x + 0.05 * torch.randn(count, 2, generator=generator(seed + 1))
    return ((x + torch.tensor([1.2, 0.7])) / torch.tensor([3.4, 1.9])).clamp(0, 1), labels


@pytest.mark.rounding
def test_more_steps_find_more_than_one(learned):
    machine, x, labels = learned
    for eps in (0.05, 0.1, 0.15):
        before = surprise(machine, x, labels)
        one = surprise(machine, fgsm(machine, x, labels, eps), labels)
        many = surprise(machine, pgd(machine, x, labels, eps, norm="linf"), labels)
        assert (many >= before - 1e-6).all()
        assert one.mean() > before.mean()
        assert many.mean() > 1.15 * torch.maximum(one, before).mean()  # also than the better of both ends of one step
        wrong = math.log(2)  # of two classes
        assert (many > wrong).sum() >= (one > wrong).sum() >= (before > wrong).sum()


@pytest.mark.rounding
@pytest.mark.parametrize("eps", [0.03, 0.04, 0.06])
def test_a_search_of_the_whole_ball_finds_hardly_more(learned, eps):
    """This machine is full of valleys of probability 0: ascent from the points alone misses most of what there is."""
    machine, x, labels = learned
    grid = torch.linspace(-1, 1, 61)
    offsets = torch.cartesian_prod(grid, grid)
    offsets = eps * offsets[offsets.norm(dim=1) <= 1]
    around = (x[:, None] + offsets).clamp(0, 1)
    with torch.no_grad():
        found = labels_of(machine, around.flatten(0, 1)).view(len(x), -1)
    truth = (found == labels[:, None]).all(dim=1)
    assert 0.2 < truth.double().mean() < 0.95  # there is something to find, and to miss
    for tries in (200, 500):
        claimed = is_robust(machine, x, labels, eps, tries=tries)
        assert (claimed & ~truth).double().mean() <= 0.02
        assert (truth & ~claimed).double().mean() <= 0.02  # between the grid's points
    ascended = labels_of(machine, pgd(machine, x, labels, eps)) == labels
    assert (ascended & ~truth).double().mean() > 0.04


def test_two_ways_out_of_a_ring_are_both_found():
    machine, x = Rings(), points(2000)
    radius = (x - 0.5).norm(dim=1)
    inside = (radius > 0.26) & (radius < 0.44)
    x, radius, labels = x[inside], radius[inside], torch.zeros(int(inside.sum()), dtype=torch.long)
    each = torch.tensor([0.03, 0.06, 0.09], dtype=x.dtype)[torch.arange(len(x)) % 3, None]  # every point its own size
    for eps in (0.03, 0.06, 0.09, each):
        reach = eps[:, 0] if isinstance(eps, Tensor) else eps
        truth = (radius - reach > 0.25) & (radius + reach < 0.45)
        assert (is_robust(machine, x, labels, eps) != truth).double().mean() < 0.02


@pytest.mark.rounding
def test_attacks_leave_no_gradients_and_no_random_state_behind(learned):
    machine, x, labels = learned
    before = torch.get_rng_state()
    x = x.clone().requires_grad_()
    for found in (fgsm(machine, x, labels, 0.1), pgd(machine, x, labels, 0.1, steps=3, generator=generator())):
        assert [name for name, param in machine.named_parameters() if param.grad is not None] == []
        assert x.grad is None
        assert not found.requires_grad
    assert torch.equal(before, torch.get_rng_state())
    with torch.no_grad():
        again = pgd(machine, x, labels, 0.1, steps=3, generator=generator())
    assert torch.equal(found, again)
    assert not torch.equal(found, pgd(machine, x, labels, 0.1, steps=3, generator=generator(1)))


@pytest.mark.rounding
def test_attacks_of_a_stack_are_those_of_its_members(learned):
    machine, x, labels = learned
    params = {name: torch.stack([value, 1.1 * value, value + 0.01]) for name, value in machine.named_parameters()}
    stacked = torch.vmap(lambda values: attacked(machine, values, x, labels))(params)
    for index in range(3):
        alone = attacked(machine, {name: value[index] for name, value in params.items()}, x, labels)
        torch.testing.assert_close(stacked[index], alone, rtol=1e-3, atol=1e-3)


class Attacked(nn.Module):
    """Its forward is an attack on a machine, so that functional_call reaches the machine's parameters."""

    def __init__(self, machine: BornMachine) -> None:
        super().__init__()
        self.machine = machine

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return pgd(self.machine, x, labels, 0.1, steps=3)


def attacked(machine: BornMachine, values: dict[str, Tensor], x: Tensor, labels: Tensor) -> Tensor:
    named = {f"machine.{name}": value for name, value in values.items()}
    return functional_call(Attacked(machine), named, (x, labels))


def test_an_attack_of_points_that_are_all_wrong_has_nothing_left_to_do():
    machine, x = Rings(), points(20)
    assert robust_accuracy(machine, x, 1 - labels_of(machine, x), 0.1) == 0.0


if __name__ == "__main__":
    torch.set_num_threads(1)
    train_again()
