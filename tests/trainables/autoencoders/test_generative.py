"""Autoencoders that generate: tests that tell two samples apart, diffusion against exact answers, a critic apart."""

from __future__ import annotations

import math
from inspect import signature
from typing import Any

import pytest
import torch
import yaml
from sklearn.metrics import r2_score
from torch import Tensor

from gatesweep.core.data import generator
from gatesweep.core.schedule import schedule
from gatesweep.core.step import TrainStep
from gatesweep.sweeps.config.groups import CONFIGS
from gatesweep.trainables.autoencoders.diffusion import DiffusionAutoencoder, cosine, ddim
from gatesweep.trainables.autoencoders.gan import GANAutoencoder
from gatesweep.trainables.autoencoders.linear_data import LinearData
from gatesweep.trainables.autoencoders.metrics import masked_mean
from gatesweep.trainables.autoencoders.mlp import MLP
from gatesweep.trainables.autoencoders.two_sample import classifier_auc, compare, sliced_wasserstein
from tests.support.examples import CPU, small_events

SMALL = {"encoder_width": 16, "decoder_width": 16, "generated": 40}


def line(**fields: Any) -> LinearData:
    return LinearData(**({"device": CPU, "seed": 0} | fields))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- a linear target under noise


@pytest.mark.parametrize("noise", [0.0, 0.1, 1.0, 4.0])
def test_the_exact_weights_reach_the_noise_floor_and_no_more(noise):
    sizes = {"noise": noise, "n_samples": 40_000, "held_out": 30_000}
    variance = torch.randn(16, generator=generator(42)).square().sum().item()  # the weights are drawn first
    regression, classes = line(**sizes), line(**sizes, task="classification")
    r2 = MLP(regression).oracle(regression)["r2"]
    accuracy = MLP(classes).oracle(classes)["accuracy"]
    assert r2 == pytest.approx(variance / (variance + noise**2), abs=0.005)
    assert accuracy == pytest.approx(1 - math.atan(noise / math.sqrt(variance)) / math.pi, abs=0.005)

    features, targets = regression.samples.train
    fitted = torch.linalg.lstsq(features, targets[:, None]).solution
    features, targets = regression.samples.val
    assert r2 == pytest.approx(1 - ((features @ fitted)[:, 0] - targets).square().mean().item(), abs=0.005)


def test_perceptrons_know_shapes_and_tasks_from_their_data():
    for task in ("regression", "classification"):
        data = line(task=task, n_features=3)
        trainable = MLP(data, width=8).eval()
        metrics, oracle = trainable.evaluate(data), trainable.oracle(data)
        assert metrics.keys() == {"loss", *oracle}
        if task == "classification":
            log_odds = trainable.model(data.val()[0][0])[:, 0]
            assert metrics["accuracy"] == ((log_odds > 0) == data.val()[0][1].bool()).double().mean().item()
        else:
            found, targets = trainable.model(data.val()[0][0])[:, 0].detach().numpy(), data.val()[0][1].numpy()
            assert metrics["r2"] == pytest.approx(r2_score(targets, found), abs=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n_samples": 2}, r"data\.n_samples: got 2, expected at least 3"),
        ({"n_features": 0}, r"data\.n_features: got 0, expected at least 1"),
        ({"noise": -0.1}, r"data\.noise: got -0\.1, expected at least 0"),
        ({"held_out": 4999}, r"data\.held_out: got 4999, expected 1 to 4998"),
        ({"batch_size": 4001}, r"data\.batch_size: got 4001, expected 1 to 4000"),
    ],
)
def test_wrong_values_of_linear_data_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        line(**fields)


# --- two-sample tests


def judged(one: Tensor, other: Tensor) -> float:
    names = [torch.ones(len(points), dtype=torch.long) for points in (one, other)]
    return classifier_auc(one, other, *names)


def test_equal_samples_cannot_be_told_apart_and_shifted_ones_can():
    real = normal(4000, 3)
    assert judged(real, normal(4000, 3, seed=1)) == pytest.approx(0.5, abs=0.03)
    shifted = judged(real, normal(4000, 3, seed=1) + torch.tensor([1.0, 0.0, 0.0]))
    best = 0.5 * (1 + math.erf(0.5))  # Phi(1 / sqrt(2)), of the exact likelihood ratio
    assert best - 0.06 < shifted < best + 0.02
    assert judged(real, normal(500, 3, seed=1) + 10) > 0.95
    assert judged(real, normal(4000, 3, seed=1) * torch.tensor([1.0, 1.0, 0.1])) > 0.8
    assert judged(real, real.flip(0)) == judged(real, real.flip(0))


def test_the_classifier_sees_the_ids():
    tokens, half = normal(4000, 2), torch.arange(4000) % 2
    other = normal(4000, 2, seed=1)
    sign = 4.0 * half[:, None] - 2.0
    assert classifier_auc(tokens + sign, other + sign, half + 1, half + 1) == pytest.approx(0.5, abs=0.03)
    assert classifier_auc(tokens + sign, other - sign, half + 1, half + 1) > 0.95  # the same cloud but for the ids


def test_sliced_wasserstein_of_a_known_shift():
    points, shift = normal(3000, 3).double(), torch.tensor([3.0, 0.0, 4.0])
    points = points / points.std(dim=0)
    assert sliced_wasserstein(points, points) == 0.0
    # Along a direction u the distance is |u . shift|, whose mean over the sphere in three dimensions is |shift| / 2.
    assert sliced_wasserstein(points, points + shift) == pytest.approx(2.5, rel=0.15)
    # Distances are in units of the real points' spread.
    assert sliced_wasserstein(10 * points, 10 * (points + shift)) == pytest.approx(
        sliced_wasserstein(points, points + shift)
    )


def test_wasserstein_distance_of_samples_of_unequal_size():
    one, other = normal(301, 1).double(), 2 * normal(200, 1, seed=1).double() + 1
    from scipy.stats import wasserstein_distance

    expected = wasserstein_distance(one[:, 0], other[:, 0]) / one.std().item()
    found = sliced_wasserstein(one, other)  # in one dimension every direction is 1 or -1, but for its length
    assert found == pytest.approx(expected, rel=1e-9)


def test_padding_and_the_length_of_cos_and_sin_do_not_count():
    data = small_events()
    real = data.val()[0]
    features, ids = data.train_all()
    other = features[:40], ids[:40]
    once = compare(data, other, real)
    raw = data.raw(other[0])
    raw[..., 2:] *= 1.5
    raw = (raw - data.mean) / data.std
    stretched = torch.where((ids[:40] > 0)[..., None], raw, 99.0)
    again = compare(data, (stretched, ids[:40]), real)
    assert again["two_sample_auc"] == pytest.approx(once["two_sample_auc"], abs=0.02)
    assert again["sliced_w1"] == pytest.approx(once["sliced_w1"], abs=1e-4)
    assert once["sample_closure"] == pytest.approx(0.0, abs=1e-6)
    assert again["sample_closure"] == pytest.approx(0.5, abs=1e-4)


# --- diffusion


def test_the_cosine_schedule_keeps_the_variance_and_runs_from_data_to_noise():
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    alpha, sigma = cosine(t)
    torch.testing.assert_close(alpha.square() + sigma.square(), torch.ones_like(t))
    assert (alpha[0].item(), sigma[0].item()) == (1.0, 0.0)
    assert alpha[-1] == pytest.approx(0.0, abs=1e-12)
    assert (alpha.diff() < 0).all()
    # Equation 17 of arXiv:2102.09672, at t = 1/2: the share of the signal's power that is left.
    expected = math.cos(0.508 / 1.008 * math.pi / 2) ** 2 / math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    assert alpha[50].item() ** 2 == pytest.approx(expected)


def gaussian_velocity(mean: float, std: float):
    """The exact velocity of a Gaussian x: the posterior mean of alpha noise - sigma x."""

    def velocity(z: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = cosine(t)
        variance = alpha**2 * std**2 + sigma**2
        x = mean + alpha * std**2 / variance * (z - alpha * mean)
        noise = sigma / variance * (z - alpha * mean)
        return alpha * noise - sigma * x

    return velocity


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (2.0, 0.5), (-1.0, 3.0)])
def test_ddim_with_the_exact_denoiser_of_a_gaussian_draws_that_gaussian(mean, std):
    noise = normal(20_000).double()
    exact = gaussian_velocity(mean, std)
    found = ddim(exact, noise, 400)
    torch.testing.assert_close(found, mean + std * noise, rtol=0.02, atol=0.02)  # the flow keeps each point's quantile
    few, many = ((ddim(exact, noise, steps) - (mean + std * noise)).abs().mean().item() for steps in (10, 40))
    assert many <= few or few < 1e-9


def test_velocities_of_a_known_point_lead_back_to_it_at_once():
    x, noise = normal(50, 3).double(), normal(50, 3, seed=1).double()

    def velocity(z: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = cosine(t)
        torch.testing.assert_close(z, alpha * x + sigma * noise)  # every step stays on the path
        return alpha * noise - sigma * x

    torch.testing.assert_close(ddim(velocity, noise, 7), x)


class Exact(torch.nn.Module):
    """The denoiser of one known point, whatever the noise."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.x = x

    def forward(self, values: Tensor, ids: Tensor) -> Tensor:
        noisy, angle = values[..., : self.x.shape[-1]], values[..., self.x.shape[-1] :]
        t = torch.atan2(angle[..., :1], angle[..., angle.shape[-1] // 2 :][..., :1]) / (math.pi / 2)
        alpha, sigma = cosine(t)
        noise = torch.where(sigma > 1e-3, (noisy - alpha * self.x) / sigma, 0.0)
        return alpha * noise - sigma * self.x


def test_the_denoisers_loss_is_that_of_velocities_over_all_times():
    data = small_events()
    trainable = DiffusionAutoencoder(data, **SMALL).eval()
    _, ids = data.val()[0]
    x = normal(*ids.shape, 4, seed=1)
    wrong = trainable.diffusion_loss(x, ids).item()
    trainable.denoiser = Exact(x)
    assert trainable.diffusion_loss(x, ids).item() < 0.01 < 0.5 < wrong
    trainable.denoiser = Exact(0 * x)  # without x, the noise is misjudged too: by alpha x / sigma
    assert trainable.diffusion_loss(x, ids).item() > 0.5


def test_latents_are_standardised_by_their_own_moments_and_drawn_in_their_units():
    data = small_events(batch_size=220)
    torch.manual_seed(0)
    trainable = DiffusionAutoencoder(data, **SMALL, latent_noise=0.0).train()
    with torch.no_grad():
        trainable.encoder.layers[-1].weight *= 10
        trainable.encoder.layers[-1].bias += 5
    for epoch in range(3):
        for batch in data.train(epoch):
            trainable(batch)
    features, ids = data.train_all()
    z = trainable.encoder(features, ids)[ids > 0]
    mean, std = trainable.moments()
    torch.testing.assert_close(mean, z.mean(dim=0), rtol=0.1, atol=0.1)
    torch.testing.assert_close(std, z.std(dim=0, correction=0), rtol=0.1, atol=0.1)
    trainable.denoiser = Exact(torch.ones(4))
    found = trainable.draw(ids[:5], torch.Generator().manual_seed(0))
    torch.testing.assert_close(found, (mean + std).expand_as(found), rtol=1e-3, atol=1e-3)


def test_the_denoiser_moves_neither_encoder_nor_decoder():
    data = small_events()
    torch.manual_seed(0)
    trainable = DiffusionAutoencoder(data, **SMALL).train()
    trainable(data.train(0)[0])["diffusion"].backward()
    moved = {name.split(".")[0] for name, param in trainable.named_parameters() if param.grad is not None}
    assert moved == {"denoiser"}


# --- the critic


def snapshot(trainable: GANAutoencoder) -> dict[str, Tensor]:
    return {name: param.detach().clone() for name, param in trainable.named_parameters()}


def changed(before: dict[str, Tensor], trainable: GANAutoencoder) -> set[str]:
    """The parts of which a parameter is not what it was."""
    return {name.split(".")[0] for name, param in trainable.named_parameters() if not torch.equal(param, before[name])}


def test_critic_and_autoencoder_update_only_themselves():
    data = small_events()
    torch.manual_seed(0)
    trainable = GANAutoencoder(data, **SMALL)
    step = TrainStep(trainable, trainable, clip_norm=1.0, precision="fp32", schedule=schedule("constant"))
    batch = data.train(0)[0]
    start = snapshot(trainable)
    seen = []

    class Watched:
        model = trainable

        def update(self, loss: Tensor, optimizer: str = "main") -> Tensor:
            before = snapshot(trainable)
            norm = step.update(loss, optimizer)
            seen.append((optimizer, changed(before, trainable)))
            return norm

    with step.batch(1.0, first=True, last=True):
        losses = trainable.train_step(batch, Watched())
    assert seen == [("critic", {"critic"}), ("main", {"encoder", "decoder"})]
    assert changed(start, trainable) == {"critic", "encoder", "decoder"}
    assert losses.keys() == {"loss", "mse", "critic", "critic_loss"}


def test_critic_learns_to_tell_latents_from_the_prior_and_r1_holds_its_slope_down():
    data = small_events()
    ids = data.val()[0][1]
    z = normal(*ids.shape, 3) + 1.5
    slopes = []
    for r1 in (0.0, 10.0):
        torch.manual_seed(0)
        trainable = GANAutoencoder(data, **SMALL, r1=r1)
        optimizer = trainable.optimizers()["critic"]
        for _ in range(150):
            optimizer.zero_grad()
            trainable.critic_loss(z, ids).backward()
            optimizer.step()
        prior = normal(*ids.shape, 3, seed=1).requires_grad_()
        of_prior = trainable.critic(prior, ids)[..., 0]
        assert masked_mean(of_prior, ids > 0) > masked_mean(trainable.critic(z, ids)[..., 0], ids > 0)
        slope = torch.autograd.grad(of_prior.sum(), prior)[0]
        slopes.append(masked_mean(slope.square().sum(dim=-1), ids > 0).item())
    assert slopes[1] < 0.3 * slopes[0]


# --- both


@pytest.mark.parametrize("kind", [GANAutoencoder, DiffusionAutoencoder])
def test_evaluation_repeats_itself_draws_no_global_numbers_and_reports_what_the_oracle_does(kind):
    data = small_events()
    torch.manual_seed(0)
    trainable = kind(data, **SMALL).eval()
    before = torch.get_rng_state()
    metrics = trainable.evaluate(data)
    assert metrics == trainable.evaluate(data)
    assert torch.equal(before, torch.get_rng_state())
    assert trainable.oracle(data).keys() == trainable.trivial(data).keys() < metrics.keys()
    ids = data.val()[0][1]
    assert torch.equal(trainable.generate(ids)[0], trainable.generate(ids)[0])


@pytest.mark.parametrize("kind", [GANAutoencoder, DiffusionAutoencoder])
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"generated": 41}, r"trainable\.generated: got 41, expected 2 to 40, the held-out samples"),
        ({"latent_dim": 0}, r"trainable\.latent_dim: got 0, expected at least 1"),
    ],
)
def test_wrong_values_are_named(kind, fields, message):
    with pytest.raises(ValueError, match=message):
        kind(small_events(), **(SMALL | fields))


@pytest.mark.parametrize(
    ("kind", "field", "value", "expected"),
    [
        (GANAutoencoder, "critic_width", 0, "at least 1"),
        (GANAutoencoder, "critic_lr", 0.0, "above 0"),
        (GANAutoencoder, "r1", -1.0, "at least 0"),
        (GANAutoencoder, "weight_adversarial", -1.0, "at least 0"),
        (DiffusionAutoencoder, "denoiser_depth", 0, "at least 1"),
        (DiffusionAutoencoder, "sampling_steps", 0, "at least 1"),
        (DiffusionAutoencoder, "latent_noise", -0.1, "at least 0"),
    ],
)
def test_wrong_hyperparameters_are_named(kind, field, value, expected):
    with pytest.raises(ValueError, match=rf"trainable\.{field}: got {value}, expected {expected}"):
        kind(small_events(), **SMALL, **{field: value})


@pytest.mark.parametrize("task", ["regression", "classification"])
def test_linear_data_name_every_field(task):
    fields = yaml.safe_load((CONFIGS / "data" / f"{task}.yaml").read_text())
    assert fields.pop("_target_") == f"{LinearData.__module__}.LinearData"
    defaults = {key: one.default for key, one in signature(LinearData).parameters.items()}
    assert fields == {key: value for key, value in defaults.items() if key in fields} | {"task": task}
    assert fields.keys() == defaults.keys() - {"device", "seed"}
