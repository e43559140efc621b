"""The diffusion autoencoder: a denoiser learns the distribution of the latents of each id, and generates new ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from gatesweep.core.data import check_size, require
from gatesweep.core.distributed import mean_count, sum_over_ranks
from gatesweep.core.trainable import Losses
from gatesweep.trainables.autoencoders.data import Batch, TokenData
from gatesweep.trainables.autoencoders.generative import GenerativeAutoencoder
from gatesweep.trainables.autoencoders.metrics import masked_mean, masked_mse
from gatesweep.trainables.autoencoders.model import TokenMLP

OFFSET = 0.008  # of the cosine schedule: keeps the noise near t = 0 from being too small
FREQUENCIES = 8  # time features are sin(k pi t / 2) and cos(k pi t / 2) for k = 1 to 8
DECAY = 0.99  # per batch, for the moving averages of the latents' moments


class DiffusionAutoencoder(GenerativeAutoencoder):
    """Autoencoder with a diffusion model of its latents; the loss is the sum of two mean squared errors.

    The first is the error of reconstructed tokens. In training the decoder gets latents with Gaussian noise of
    `latent_noise` standard deviations, so that similar latents decode to similar tokens. The second is the error of
    the velocities that the denoiser predicts. The denoiser learns latents that are standardised by moving averages and
    detached, so its gradient does not reach the encoder. New latents are drawn by DDIM in `sampling_steps` steps.
    Raises InputError if a hyperparameter is out of its range.

    Source: Salimans and Ho, arXiv:2202.00512 (velocities); Nichol and Dhariwal, arXiv:2102.09672 (cosine schedule);
    Song et al., arXiv:2010.02502 (DDIM).
    """

    stackable = frozenset({"lr", "weight_decay", "latent_noise"})

    latent_noise: Tensor
    latent_mean: Tensor
    latent_square: Tensor
    batches: Tensor

    def __init__(
        self,
        data: TokenData,
        *,
        latent_dim: int = 4,
        latent_noise: float = 0.02,
        denoiser_width: int = 128,
        denoiser_depth: int = 3,
        sampling_steps: int = 20,
        lr: float = 3e-3,
        **fields: Any,
    ) -> None:
        super().__init__(data, latent_dim=latent_dim, lr=lr, **fields)
        sizes = {"denoiser_width": denoiser_width, "denoiser_depth": denoiser_depth, "sampling_steps": sampling_steps}
        for field, size in sizes.items():
            check_size(f"trainable.{field}", size)
        require(latent_noise >= 0, "trainable.latent_noise", latent_noise, "at least 0")
        self.sampling_steps = sampling_steps
        self.register_stacked(latent_noise=latent_noise)
        self.denoiser = TokenMLP(
            latent_dim + 2 * FREQUENCIES,
            data.n_ids,
            width=denoiser_width,
            depth=denoiser_depth,
            n_out=latent_dim,
        )
        # Moving averages over batches of z and z^2, and the number of batches so far.
        self.register_buffer("latent_mean", torch.zeros(latent_dim))
        self.register_buffer("latent_square", torch.ones(latent_dim))
        self.register_buffer("batches", torch.zeros(()))

    def forward(self, batch: Batch) -> Losses:
        """Return `loss` and its terms `mse` and `diffusion`; in training, also update the latents' moments."""
        features, ids = batch
        z = self.recomputed(self.encoder, features, ids).float()
        detached = z.detach()
        if self.training:
            self._update_moments(detached, ids)
        mean, std = self.moments()
        if self.training:
            z = z + self.latent_noise * std * torch.randn_like(z)
        count = mean_count((ids > 0).float())
        mse = masked_mse(self.recomputed(self.decoder, z, ids), features, ids, count)
        diffusion = self.diffusion_loss((detached - mean) / std, ids, count)
        return {"loss": mse + diffusion, "mse": mse, "diffusion": diffusion}

    def diffusion_loss(self, x: Tensor, ids: Tensor, count: Tensor | None = None) -> Tensor:
        """Return the mean squared error of the denoiser's velocities for standardised latents x (B, T, D).

        Each token has its own time. In evaluation, times and noise are the same at every call. `count` is as in
        `masked_mean`.
        """
        t = self.times(ids)
        noise = torch.randn_like(x) if self.training else _randn(x.shape, torch.Generator().manual_seed(0), x.device)
        alpha, sigma = (factor[..., None] for factor in cosine(t))
        error = self.velocity(alpha * x + sigma * noise, t, ids) - (alpha * noise - sigma * x)
        return masked_mean(error.square().mean(dim=-1), ids > 0, count)

    def times(self, ids: Tensor) -> Tensor:
        """Return evenly spaced times (B, T) in [0, 1) with a random start; in evaluation the start is 0.

        Source: Kingma et al., arXiv:2107.00630, appendix I.1 (lower variance than independent times).
        """
        start = torch.rand((), device=ids.device) if self.training else torch.zeros((), device=ids.device)
        return (start + torch.arange(ids.numel(), device=ids.device).view_as(ids) / ids.numel()) % 1

    def velocity(self, noisy: Tensor, t: Tensor, ids: Tensor) -> Tensor:
        """Predict the velocities (B, T, D) of noisy latents (B, T, D) at times t (B, T)."""
        angles = t[..., None] * torch.arange(1, FREQUENCIES + 1, device=t.device) * (math.pi / 2)
        return self.denoiser(torch.cat([noisy, angles.sin(), angles.cos()], dim=-1), ids).float()

    def draw(self, ids: Tensor, generator: torch.Generator) -> Tensor:
        """Draw latents (B, T, D) for ids (B, T): noise of the generator, denoised by DDIM, in the latents' units."""
        noise = _randn((*ids.shape, self.latent_dim), generator, ids.device)
        mean, std = self.moments()
        return mean + std * ddim(lambda z, t: self.velocity(z, t.expand(ids.shape), ids), noise, self.sampling_steps)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return the moving mean (D,) and standard deviation (D,) of the latents; 0 and 1 before the first batch."""
        return self.latent_mean, (self.latent_square - self.latent_mean.square()).clamp(min=1e-8).sqrt()

    @torch.no_grad()
    def _update_moments(self, z: Tensor, ids: Tensor) -> None:
        """Update the moving averages with a batch's latents z (B, T, D); one collective over all ranks."""
        tokens = z * (ids > 0)[..., None]
        count, total, square = (ids > 0).sum().float(), tokens.sum(dim=(0, 1)), tokens.square().sum(dim=(0, 1))
        sum_over_ranks(count, total, square)
        self.batches += 1
        weight = (1 / self.batches).clamp(min=1 - DECAY)  # for the first 100 batches this is their plain mean
        self.latent_mean.add_(weight * (total / count - self.latent_mean))
        self.latent_square.add_(weight * (square / count - self.latent_square))


def cosine(t: Tensor) -> tuple[Tensor, Tensor]:
    """Return alpha and sigma of z = alpha x + sigma noise at times t in [0, 1], in the shape of t.

    At t = 0 z is x, at t = 1 it is noise. Source: Nichol and Dhariwal, arXiv:2102.09672, equation 17.
    """
    alpha = torch.cos((t + OFFSET) / (1 + OFFSET) * (math.pi / 2)) / math.cos(OFFSET / (1 + OFFSET) * math.pi / 2)
    alpha = alpha.clamp(0, 1)
    return alpha, (1 - alpha.square()).sqrt()


def ddim(velocity: Callable[[Tensor, Tensor], Tensor], noise: Tensor, steps: int) -> Tensor:
    """Integrate from noise at t = 1 to x at t = 0 by deterministic DDIM in equal steps; return x in the noise's shape.

    `velocity(z, t)` predicts alpha noise - sigma x, where t is a scalar. Source: Song et al., arXiv:2010.02502.
    """
    times = torch.linspace(1, 0, steps + 1, dtype=noise.dtype, device=noise.device)
    z = noise
    for t, next_t in pairwise(times):
        (alpha, sigma), (next_alpha, next_sigma) = cosine(t), cosine(next_t)
        v = velocity(z, t)
        z = next_alpha * (alpha * z - sigma * v) + next_sigma * (sigma * z + alpha * v)
    return z


def _randn(shape: Sequence[int], generator: torch.Generator, device: torch.device) -> Tensor:
    """Draw standard normal numbers on the CPU, so that they are the same for every device."""
    return torch.randn(*shape, generator=generator).to(device)
