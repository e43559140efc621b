"""Weights that follow the losses, and uncertainties: against their definitions, and against known distributions."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap
from torch.multiprocessing.spawn import spawn

from gatesweep.trainables.operators.balance import Balance
from gatesweep.trainables.operators.uncertainty import (
    coverage,
    coverage_error,
    expected_calibration_error,
    gaussian_nll,
    kl_standard_normal,
    reliability,
)

WEIGHTS = {"data": 1.0, "physics": 0.1, "energy": 0.0}


def losses(*values: float) -> dict[str, Tensor]:
    return dict(zip(WEIGHTS, torch.tensor(values, requires_grad=True).unbind(), strict=True))


def test_fixed_weights_are_those_given():
    balance = Balance(WEIGHTS)
    assert balance(losses(2.0, 30.0, 1e6)).item() == pytest.approx(2.0 + 0.1 * 30)
    assert {name: one.item() for name, one in balance.weights().items()} == pytest.approx(WEIGHTS)
    assert balance.state_dict() == {} and list(balance.parameters()) == []


def test_running_weights_make_terms_as_large_as_the_data_term():
    balance = Balance({"data": 1.0, "physics": 0.1, "energy": 0.5}, "running", momentum=0.25)
    assert balance(losses(2.0, 50.0, 0.01)).item() == pytest.approx(2 + 0.1 * 2 + 0.5 * 2)
    assert balance.weights()["data"].item() == 1.0
    balance(losses(1.0, 10.0, 0.01))
    running = [0.75 * 2 + 0.25 * 1, 0.75 * 50 + 0.25 * 10, 0.01]
    torch.testing.assert_close(balance.running, torch.tensor(running))
    assert balance.weights()["physics"].item() == pytest.approx(0.1 * running[0] / running[1])
    balance(losses(1.0, 0.0, 0.01))
    for _ in range(200):
        balance(losses(1.0, 0.0, 0.01))  # solved: its weight stays finite
    assert balance.weights()["physics"].item() == pytest.approx(0.1 * 1e4)


@pytest.mark.parametrize("mode", ["running", "gradient"])
def test_running_weights_hold_still_outside_training(mode):
    balance = Balance(WEIGHTS, mode)
    output = torch.ones(3, requires_grad=True)

    def terms(scale: float) -> dict[str, Tensor]:
        square = output.square().mean()
        return {"data": square, "physics": scale * square, "energy": square}

    balance(terms(4.0), output)
    before = {name: value.clone() for name, value in balance.state_dict().items()}
    balance.eval()(terms(9.0), output)
    with torch.no_grad():
        balance.train()(terms(9.0), output)
    for name, value in balance.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert before["running"][1].item() == pytest.approx(4 * before["running"][0].item())
    restored = Balance(WEIGHTS, mode)
    restored.load_state_dict(before)
    assert torch.equal(restored.factors(), balance.factors())


def test_weights_of_gradients_pull_alike_at_the_output():
    balance = Balance({"data": 1.0, "physics": 0.3, "kl": 0.2}, "gradient")
    theta = torch.tensor([0.5, -2.0], requires_grad=True)
    output = torch.stack([theta[0] * 3, theta[1] ** 2])
    data, physics = (output - 1).square().sum(), 40 * output.sin().sum()
    kl = theta.square().sum()  # not by way of the output
    total = balance({"data": data, "physics": physics, "kl": kl}, output)
    factor = torch.autograd.grad(data, output, retain_graph=True)[0].norm()
    factor = factor / torch.autograd.grad(physics, output, retain_graph=True)[0].norm()
    assert total.item() == pytest.approx((data + 0.3 * factor * physics + 0.2 * kl).item(), rel=1e-5)
    found = torch.autograd.grad(total, theta, retain_graph=True)[0]
    exact = torch.autograd.grad(data + 0.3 * factor * physics + 0.2 * kl, theta)[0]
    torch.testing.assert_close(found, exact)


def test_learned_weights_end_where_each_term_counts_one():
    balance = Balance({"data": 1.0, "physics": 10.0, "off": 0.0}, "uncertainty")
    optimizer = torch.optim.Adam(balance.parameters(), lr=0.05)
    for _ in range(500):
        optimizer.zero_grad()
        balance(dict(zip(balance.names, torch.tensor([0.2, 3.0, 1.0]), strict=True))).backward()
        optimizer.step()
    # d/ds (exp(-s) w L + s) = 0 where exp(-s) w L = 1, whatever w was.
    torch.testing.assert_close(balance.factors() * balance.weight, torch.tensor([5.0, 1 / 3, 0.0]), rtol=0.02, atol=0)
    assert balance.log_variance.grad is not None and balance.log_variance[2].item() == 0


def test_terms_must_be_those_weighted():
    with pytest.raises(AssertionError, match=r"losses \['data'\], weights \['data', 'physics', 'energy'\]"):
        Balance(WEIGHTS)({"data": torch.ones(())})


@pytest.mark.parametrize("mode", ["fixed", "running", "uncertainty"])
def test_members_of_a_stack_keep_statistics_of_their_own(mode):
    members = [Balance({"data": 1.0, "physics": weight}, mode) for weight in (0.1, 3.0)]
    batches = torch.tensor([[[2.0, 7.0], [5.0, 1.0]], [[1.0, 1.0], [0.5, 8.0]]])  # (steps, members, terms)
    params, buffers = stack_module_state(members)

    def one(p: dict[str, Tensor], b: dict[str, Tensor], values: Tensor) -> Tensor:
        terms = dict(zip(("data", "physics"), values.unbind(), strict=True))
        return functional_call(members[0], (p, b), (terms,))

    solo = [Balance({"data": 1.0, "physics": weight}, mode) for weight in (0.1, 3.0)]
    for step in batches:
        together = vmap(one)(params, buffers, step)
        for position, alone in enumerate(solo):
            terms = dict(zip(("data", "physics"), step[position].unbind(), strict=True))
            torch.testing.assert_close(together[position], alone(terms))
    for name, value in buffers.items():
        for position, alone in enumerate(solo):
            torch.testing.assert_close(value[position], dict(alone.named_buffers())[name])


def test_running_weights_are_equal_on_all_ranks(tmp_path: Path):
    spawn(functools.partial(_rank, folder=str(tmp_path)), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert torch.equal(first, second)
    torch.testing.assert_close(first, torch.tensor([1.5, 15.0, 1.0]))


def _rank(rank: int, *, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    balance = Balance(WEIGHTS, "running")
    balance(losses(1.0 + rank, 10.0 + 10 * rank, 1.0))
    torch.save(balance.running, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


# --- uncertainty


def test_likelihood_and_divergence_are_those_of_the_distributions():
    generator = torch.Generator().manual_seed(0)
    mean, log_var, target = torch.randn(3, 500, generator=generator, dtype=torch.float64)
    normal = torch.distributions.Normal(mean, (0.5 * log_var).exp())
    exact = -normal.log_prob(target).mean() - 0.5 * np.log(2 * np.pi)
    torch.testing.assert_close(gaussian_nll(mean, log_var, target), exact)
    some = torch.arange(500) % 3 == 0
    chosen = gaussian_nll(mean[some], log_var[some], target[some])
    torch.testing.assert_close(gaussian_nll(mean, log_var, target, some.double()), chosen)
    standard = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
    torch.testing.assert_close(
        kl_standard_normal(mean, log_var), torch.distributions.kl_divergence(normal, standard).mean()
    )


def test_coverage_tells_honest_uncertainty_from_pride_and_fear():
    generator = torch.Generator().manual_seed(0)
    mean, log_var, noise = torch.randn(3, 40_000, generator=generator)
    target = mean + (0.5 * log_var).exp() * noise
    assert coverage_error(mean, log_var, target) < 0.005
    assert coverage(mean, log_var, target) == pytest.approx({0.5: 0.5, 0.8: 0.8, 0.9: 0.9, 0.95: 0.95}, abs=0.01)
    proud, fearful = (coverage(mean, log_var + shift, target) for shift in (-2.0, 2.0))
    assert all(proud[share] < share < fearful[share] for share in proud)
    assert coverage_error(mean, log_var - 2, target) > 0.2


def test_calibration_error_is_its_definition():
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.softmax(2 * torch.randn(3000, 4, generator=generator), dim=1)
    labels = torch.multinomial(probabilities, 1, generator=generator)[:, 0]  # as likely as is said
    confidence, answer = (part.numpy() for part in probabilities.double().max(dim=1))
    right = answer == labels.numpy()
    slow = 0.0
    for low in range(15):
        inside = (confidence > low / 15) & (confidence <= (low + 1) / 15)
        if inside.any():
            slow += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    assert expected_calibration_error(probabilities, labels) == pytest.approx(slow, abs=1e-9)
    assert slow < 0.03
    assert expected_calibration_error(torch.eye(4)[answer], labels) == pytest.approx(1 - right.mean(), abs=1e-6)
    assert reliability(probabilities, labels)[0].sum() == 3000
