"""The Born machine against slow, obvious definitions: embeddings, amplitudes, partition, samples, canonical form."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from gatesweep.trainables.born.embedding import HIGHEST, cell_masses, embed
from gatesweep.trainables.born.mps import BornMachine

KINDS = sorted(HIGHEST)
SHAPES = [(1, 3, 2), (2, 4, 3), (3, 3, 4), (4, 2, 3), (5, 2, 6)]  # features, functions, bond


def machine(n: int, dim: int, bond: int, *, kind="legendre", classes: int = 3, std: float = 0.4) -> BornMachine:
    torch.manual_seed(0)
    return BornMachine(n_features=n, n_classes=classes, embedding=kind, dim=dim, bond=bond, std=std).double()


def inputs(count: int, n: int, seed: int = 1) -> Tensor:
    return torch.rand(count, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def quadrature(n: int, nodes: int) -> tuple[Tensor, Tensor]:
    """(nodes^n, n) points of the unit cube and the weights (nodes^n,) of an integral over [-1, 1]^n."""
    u, w = (torch.from_numpy(one) for one in np.polynomial.legendre.leggauss(nodes))
    points = torch.stack([one.flatten() for one in torch.meshgrid(*[(u + 1) / 2] * n, indexing="ij")], dim=1)
    weights = torch.stack([one.flatten() for one in torch.meshgrid(*[w] * n, indexing="ij")], dim=1).prod(dim=1)
    return points, weights


def amplitudes(model: BornMachine, x: Tensor) -> Tensor:
    """(B, K): psi, by summing over every bond and every function of the whole tensor at once."""
    n, letters = model.n_features, "abcdefghij"
    edge, bonds = model.edge, letters[: n + 2]
    terms, operands = [bonds[0]], [edge]
    place = 0
    for site in range(n):
        if site == model.n_left:
            terms.append(bonds[place] + "k" + bonds[place + 1])
            operands.append(model.label)
            place += 1
        function = "qrstuv"[site]
        terms += [bonds[place] + function + bonds[place + 1], "z" + function]
        operands += [model.sites[site], embed(model.embedding, 2 * x[:, site] - 1, model.dim)]
        place += 1
    return torch.einsum(",".join([*terms, bonds[place]]) + "->zk", *operands, edge)


# --- embeddings


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dim", [1, 2, 5, 10, "highest"])
def test_functions_are_orthonormal_on_the_interval(kind, dim):
    dim = HIGHEST[kind] if dim == "highest" else dim
    nodes, weights = (torch.from_numpy(one) for one in np.polynomial.legendre.leggauss(300))
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-4)):
        features = embed(kind, nodes.to(dtype), dim).double()
        assert features.shape == (300, dim)
        gram = features.T @ (weights[:, None] * features)
        torch.testing.assert_close(gram, torch.eye(dim, dtype=torch.float64), rtol=0, atol=tolerance)


def test_functions_are_those_they_are_named_after():
    u = torch.linspace(-1, 1, 41, dtype=torch.float64)
    legendre = embed("legendre", u, 4)
    torch.testing.assert_close(legendre[:, 3], math.sqrt(3.5) * (5 * u**3 - 3 * u) / 2)
    fourier = embed("fourier", u, 5)
    torch.testing.assert_close(fourier[:, 3], torch.cos(2 * math.pi * u))
    torch.testing.assert_close(fourier[:, 4], torch.sin(2 * math.pi * u))
    hermite = embed("hermite", u, 3)  # low ones end before the interval does, and keep their form
    t = 4 * u
    exact = math.sqrt(4) * (4 * t**2 - 2) / math.sqrt(8) * torch.exp(-(t**2) / 2) / math.pi**0.25
    torch.testing.assert_close(hermite[:, 2], exact, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_cells_add_up_to_the_whole_interval(kind):
    cells = cell_masses(kind, 6, 40)
    torch.testing.assert_close(cells.sum(dim=0), torch.eye(6, dtype=torch.float64), rtol=0, atol=1e-10)
    assert cells[:, 0, 0].min() > 0


# --- amplitudes and what they add up to


@pytest.mark.parametrize(("n", "dim", "bond"), SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_amplitudes_are_the_whole_contraction(n, dim, bond, kind):
    model, x = machine(n, dim, bond, kind=kind), inputs(9, n)
    exact = amplitudes(model, x).square().log()
    torch.testing.assert_close(model.log_weights(x), exact)
    torch.testing.assert_close(model.class_log_probabilities(x), exact.log_softmax(dim=1))
    torch.testing.assert_close(model.class_log_probabilities(x).exp().sum(dim=1), torch.ones(9, dtype=torch.float64))


@pytest.mark.parametrize(("n", "dim", "bond"), SHAPES[:3])
@pytest.mark.parametrize("kind", KINDS)
def test_partition_is_the_integral_and_probabilities_add_up_to_one(n, dim, bond, kind):
    model = machine(n, dim, bond, kind=kind)
    points, weights = quadrature(n, 40)
    exact = (weights[:, None] * amplitudes(model, points).square()).sum(dim=0)
    torch.testing.assert_close(model.log_partition(), exact.log(), rtol=1e-9, atol=1e-9)
    labels = torch.arange(3)
    joint = torch.stack([model.joint_log_likelihood(points, one.expand(len(points))) for one in labels], dim=1)
    given = torch.stack([model.log_likelihood(points, one.expand(len(points))) for one in labels], dim=1)
    one = torch.ones((), dtype=torch.float64)
    torch.testing.assert_close((weights[:, None] * joint.exp()).sum(), one)
    torch.testing.assert_close((weights[:, None] * given.exp()).sum(dim=0), one.expand(3))
    torch.testing.assert_close((weights * model.marginal_log_likelihood(points).exp()).sum(), one)
    torch.testing.assert_close(given, model.log_densities(points))


def test_hundreds_of_features_neither_over_nor_underflow_in_single_precision():
    torch.manual_seed(0)
    narrow = BornMachine(n_features=200, n_classes=4, embedding="legendre", dim=3, bond=5, std=0.05)
    with torch.no_grad():
        narrow.sites[:100] *= 30  # psi itself would be of the order of 1e100 and more
    wide = copy.deepcopy(narrow).double()
    x = inputs(16, 200).float()
    for method in ("log_weights", "log_densities"):
        found, exact = getattr(narrow, method)(x), getattr(wide, method)(x)
        assert found.isfinite().all()
        torch.testing.assert_close(found.double(), exact, rtol=1e-3, atol=0.02)
    assert wide.log_weights(x).max() > 2 * math.log(torch.finfo(torch.float32).max)
    torch.testing.assert_close(narrow.log_partition().double(), wide.log_partition(), rtol=1e-5, atol=1e-3)
    (-narrow.joint_log_likelihood(x, torch.zeros(16, dtype=torch.long)).mean()).backward()
    assert all(param.grad.isfinite().all() and param.grad.norm() > 0 for param in narrow.parameters())


def test_where_the_amplitude_is_zero_the_gradient_is_finite():
    model = BornMachine(n_features=2, n_classes=2, embedding="legendre", dim=3, bond=2, std=0.1)
    with torch.no_grad():
        model.label[:, 1] = 0
    found = model.log_weights(inputs(5, 2).float())
    assert found.isfinite().all()
    assert (found[:, 1] < found[:, 0] - 10).all()
    found.sum().backward()
    assert all(param.grad.isfinite().all() for param in model.parameters())


def test_autocast_changes_nothing():
    narrow = machine(3, 4, 3).float()
    x, labels, uniforms = inputs(50, 3).float(), torch.arange(50) % 3, inputs(50, 3, seed=2).float()
    exact = narrow.log_weights(x), narrow.log_partition(), narrow.sample(labels, uniforms)
    with torch.autocast("cpu", torch.bfloat16):
        found = narrow.log_weights(x), narrow.log_partition(), narrow.sample(labels, uniforms)
    assert all(torch.equal(one, other) for one, other in zip(found, exact, strict=True))


@pytest.mark.parametrize("n", [1, 2, 4])
def test_gradients_are_those_of_finite_differences(n):
    model, x, labels = machine(n, 3, 2), inputs(3, n), torch.tensor([0, 1, 2])
    names = [name for name, _ in model.named_parameters()]

    def nll(x: Tensor, *params: Tensor) -> Tensor:
        state = dict(zip(names, params, strict=True))
        return torch.func.functional_call(
            _Joint(model), {f"model.{name}": one for name, one in state.items()}, (x, labels)
        )

    params = [param.detach().clone().requires_grad_() for param in model.parameters()]
    assert torch.autograd.gradcheck(nll, (x.requires_grad_(), *params))


class _Joint(torch.nn.Module):
    def __init__(self, model: BornMachine) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return self.model.joint_log_likelihood(x, labels)


def test_many_machines_at_once_are_each_what_they_are_alone():
    models = []
    for seed in range(3):
        torch.manual_seed(seed)
        models.append(_Joint(BornMachine(n_features=5, n_classes=3, embedding="legendre", dim=3, bond=4, std=0.3)))
    x, labels = inputs(6, 5).float(), torch.arange(6) % 3
    params, buffers = torch.func.stack_module_state(models)

    def call(params, buffers):
        return torch.func.functional_call(models[0], (params, buffers), (x, labels))

    together = torch.vmap(call)(params, buffers)
    torch.testing.assert_close(together, torch.stack([one(x, labels) for one in models]), rtol=1e-4, atol=1e-4)


# --- the canonical form


@pytest.mark.parametrize(("n", "dim", "bond"), [*SHAPES, (7, 3, 4)])
def test_the_canonical_form_is_isometric_and_changes_no_probability(n, dim, bond):
    model, x = machine(n, dim, bond), inputs(9, n)
    weights, partition = model.log_weights(x).detach(), model.log_partition().detach()
    model.canonical()
    torch.testing.assert_close(model.log_weights(x), weights)
    torch.testing.assert_close(model.log_partition(), partition)
    torch.testing.assert_close(model.label.square().sum(dim=(0, 2)).log(), partition)
    mirrored = model.sites[model.n_left :].flip(0).transpose(1, 3)
    for half in (model.sites[: model.n_left], mirrored):
        inside, held = torch.outer(model.edge, model.edge), 1
        for site in half:
            inside = torch.einsum("ab,aeg,beh->gh", inside, site, site)
            held = min(held * dim, bond)
            identity = torch.zeros(bond, bond, dtype=torch.float64)
            identity[:held, :held] = torch.eye(held)
            torch.testing.assert_close(inside, identity)


def test_renormalising_makes_the_partition_one_and_keeps_probabilities():
    model, x, labels = machine(5, 3, 4), inputs(9, 5), torch.arange(9) % 3
    before = model.joint_log_likelihood(x, labels).detach(), model.class_log_probabilities(x).detach()
    assert abs(model.log_partition().logsumexp(0).item()) > 0.1
    model.renormalise()
    assert model.log_partition().logsumexp(0).item() == pytest.approx(0, abs=1e-12)
    torch.testing.assert_close(model.joint_log_likelihood(x, labels), before[0])
    torch.testing.assert_close(model.class_log_probabilities(x), before[1])
