"""Samples of a Born machine against its density, the data's own formulas and the metrics' closed forms."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from torch import Tensor

from gatesweep.trainables.born.mps import CELLS, BornMachine
from tests.trainables.born.test_born import KINDS, inputs, machine, quadrature

COUNT = 20_000


def draw(model: BornMachine, label: int, count: int = COUNT) -> Tensor:
    labels = torch.full((count,), label)
    with torch.no_grad():
        return model.sample(labels, inputs(count, model.n_features, seed=3))


@pytest.mark.parametrize(
    ("n", "kind"), [(1, "legendre"), (2, "legendre"), (2, "fourier"), (2, "hermite"), (3, "legendre")]
)
def test_samples_follow_the_density_of_their_class(n, kind):
    """Chi-square over a grid of boxes, whose masses come from quadrature of the density."""
    model, boxes = machine(n, 4, 3, kind=kind), 5
    points, weights = quadrature(n, 8)
    corners = torch.cartesian_prod(*[torch.arange(boxes)] * n).reshape(-1, n)
    for label in range(3):
        inside = ((corners[:, None] + points) / boxes).flatten(0, 1)
        density = model.log_likelihood(inside, torch.full((len(inside),), label)).exp().reshape(len(corners), -1)
        masses = (density * weights).sum(dim=1).detach() / boxes**n
        assert masses.sum().item() == pytest.approx(1, abs=1e-6)
        drawn = (draw(model, label) * boxes).long().clamp(max=boxes - 1)
        place = (drawn * boxes ** torch.arange(n - 1, -1, -1)).sum(dim=1)
        seen = place.bincount(minlength=len(corners)).numpy()
        expected = (masses * COUNT).numpy()
        common = expected > 5
        seen = [*seen[common], seen[~common].sum()]
        expected = [*expected[common], expected[~common].sum() + 1e-9]
        if expected[-1] < 5:
            seen[-2:], expected[-2:] = [sum(seen[-2:])], [sum(expected[-2:])]
        # Other uniforms would give other p-values, evenly; these are fixed. Of another class they are 0.
        total = sum(expected)
        assert stats.chisquare(seen, [one * sum(seen) / total for one in expected]).pvalue > 1e-3
        other = draw(model, (label + 1) % 3)
        assert stats.ks_2samp(draw(model, label)[:, 0], other[:, 0]).pvalue < 1e-6


def test_samples_of_a_long_chain_have_the_moments_of_its_density():
    """The mean of each feature and of neighbours' products, on both sides of the class tensor and across it, by
    transfer matrices with u put in."""
    model = machine(8, 3, 4, std=0.5)
    drawn = 2 * draw(model, 1) - 1
    nodes, weights = quadrature(1, 20)
    features = model.embed(nodes[:, 0])
    times_u = torch.einsum("q,q,qe,qf->ef", weights, 2 * nodes[:, 0] - 1, features, features)

    def expectation(places: set[int]) -> float:
        totals = []
        for chosen in (places, set()):
            inside = torch.outer(model.edge, model.edge)
            for place, site in enumerate(model.sites):
                if place == model.n_left:
                    inside = model.label[:, 1].T @ inside @ model.label[:, 1]
                middle = times_u if place in chosen else torch.eye(3, dtype=torch.float64)
                inside = torch.einsum("ab,aeg,ef,bfh->gh", inside, site, middle, site)
            totals.append(model.edge @ inside @ model.edge)
        return (totals[0] / totals[1]).item()

    for places in [*({one} for one in range(8)), *({one, one + 1} for one in range(7)), {0, 7}]:
        value = drawn[:, sorted(places)].prod(dim=1)
        error = 5 * value.std().item() / COUNT**0.5 + 1e-4
        assert value.mean().item() == pytest.approx(expectation(places), abs=error), places


def test_the_median_of_one_feature_is_where_half_of_its_density_lies():
    model = machine(1, 5, 3, classes=2)
    half = model.sample(torch.tensor([0, 1]), torch.full((2, 1), 0.5, dtype=torch.float64)).detach()
    points, weights = quadrature(1, 40)
    for label in range(2):
        below = half[label] * points
        density = model.log_likelihood(below, torch.full((40,), label)).exp()
        assert (weights * density).sum().item() * half[label].item() == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_samples_have_the_derivatives_of_finite_differences(kind):
    model = machine(4, 3, 3, kind=kind)
    labels, uniforms = torch.arange(6) % 3, inputs(6, 4, seed=5)
    directions = [
        torch.randn(one.shape, generator=torch.Generator().manual_seed(7)).double() for one in model.parameters()
    ]
    weights = torch.randn(6, 4, generator=torch.Generator().manual_seed(8)).double()
    model.sample(labels, uniforms).mul(weights).sum().backward()
    slope = sum((param.grad * way).sum().item() for param, way in zip(model.parameters(), directions, strict=True))
    values, step = [], 1e-6
    for sign in (1, -1):
        with torch.no_grad():
            for param, way in zip(model.parameters(), directions, strict=True):
                param += sign * step * way
            values.append(model.sample(labels, uniforms).mul(weights).sum().item())
            for param, way in zip(model.parameters(), directions, strict=True):
                param -= sign * step * way
    assert slope == pytest.approx((values[0] - values[1]) / 2 / step, rel=1e-4)
    assert all(param.grad.norm() > 0 for param in model.parameters())


def test_samples_lie_in_the_cube_whatever_the_uniforms():
    model = machine(3, 5, 4).float()
    edges = torch.tensor([0.0, 1.0, 1 - 2**-24])[:, None].expand(3, 3)
    found = model.sample(torch.tensor([0, 1, 2]), edges)
    assert found.min() >= 0
    assert found.max() <= 1
    assert (found[0] <= 1 / CELLS).all()
    assert (found[1] >= 1 - 1 / CELLS).all()
