"""The diffusion autoencoder: a denoiser learns the latents of tokens of each id, so that it can generate."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from gatesweep.core.data import require
from gatesweep.core.distributed import mean_count, sum_over_ranks
from gatesweep.core.trainable import Losses
from gatesweep.trainables.autoencoders.data import Batch, TokenData
from gatesweep.trainables.autoencoders.generative import GenerativeAutoencoder
from gatesweep.trainables.autoencoders.metrics import masked_mean, masked_mse
from gatesweep.trainables.autoencoders.model import TokenMLP

OFFSET = 0.008  # of the cosine schedule, near t = 0
FREQUENCIES = 8  # of the time's features, sine and cosine of 1 to 8 quarter turns from t = 0 to 1
DECAY = 0.99  # of the moving averages of the latents' moments


class DiffusionAutoencoder(GenerativeAutoencoder):
    """Mean squared error of reconstructed tokens, and of a denoiser's velocities of their latents.

    The decoder sees latents with a little noise on them, `latent_noise` of their standard deviation, so that
    latents nearby decode alike. The denoiser learns latents that are standardised by moving averages and detached:
    no gradient of it reaches the encoder. Velocities after Salimans and Ho, arXiv:2202.00512; cosine schedule after
    Nichol and Dhariwal, arXiv:2102.09672; `sampling_steps` of DDIM, Song et al., arXiv:2010.02502.
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
            require(size >= 1, f"trainable.{field}", size, "at least 1")
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
        # Moving averages over batches of z and z^2, and how many batches there were.
        self.register_buffer("latent_mean", torch.zeros(latent_dim))
        self.register_buffer("latent_square", torch.ones(latent_dim))
        self.register_buffer("batches", torch.zeros(()))

    def forward(self, batch: Batch) -> Losses:
        features, ids = batch
        z = self.recomputed(self.encoder, features, ids).float()
        exact = z.detach()
        if self.training:
            self._follow(exact, ids)
        mean, std = self.moments()
        if self.training:
            z = z + self.latent_noise * std * torch.randn_like(z)
        count = mean_count((ids > 0).float())
        mse = masked_mse(self.recomputed(self.decoder, z, ids), features, ids, count)
        diffusion = self.diffusion_loss((exact - mean) / std, ids, count)
        return {"loss": mse + diffusion, "mse": mse, "diffusion": diffusion}

    def diffusion_loss(self, x: Tensor, ids: Tensor, count: Tensor | None = None) -> Tensor:
        """Mean squared error of the velocities of standardised latents (B, T, D), each token at a time of its own.

        In evaluation times and noise are the same at every call.
        """
        t = self.times(ids)
        noise = torch.randn_like(x) if self.training else _randn(x.shape, torch.Generator().manual_seed(0), x.device)
        alpha, sigma = (factor[..., None] for factor in cosine(t))
        error = self.velocity(alpha * x + sigma * noise, t, ids) - (alpha * noise - sigma * x)
        return masked_mean(error.square().mean(dim=-1), ids > 0, count)

    def times(self, ids: Tensor) -> Tensor:
        """(B, T): evenly spaced from a random start (Kingma et al., arXiv:2107.00630, appendix I.1)."""
        start = torch.rand((), device=ids.device) if self.training else torch.zeros((), device=ids.device)
        return (start + torch.arange(ids.numel(), device=ids.device).view_as(ids) / ids.numel()) % 1

    def velocity(self, noisy: Tensor, t: Tensor, ids: Tensor) -> Tensor:
        """(B, T, D): what the denoiser takes for the velocities of noisy latents (B, T, D) at times t (B, T)."""
        angles = t[..., None] * torch.arange(1, FREQUENCIES + 1, device=t.device) * (math.pi / 2)
        return self.denoiser(torch.cat([noisy, angles.sin(), angles.cos()], dim=-1), ids).float()

    def draw(self, ids: Tensor, generator: torch.Generator) -> Tensor:
        noise = _randn((*ids.shape, self.latent_dim), generator, ids.device)
        mean, std = self.moments()
        return mean + std * ddim(lambda z, t: self.velocity(z, t.expand(ids.shape), ids), noise, self.sampling_steps)

    def moments(self) -> tuple[Tensor, Tensor]:
        """(D,), (D,): mean and standard deviation of the latents of late; 0 and 1 before the first batch."""
        return self.latent_mean, (self.latent_square - self.latent_mean.square()).clamp(min=1e-8).sqrt()

    @torch.no_grad()
    def _follow(self, z: Tensor, ids: Tensor) -> None:
        """Take a batch's latents (B, T, D), of all ranks, into the moving averages."""
        tokens = z * (ids > 0)[..., None]
        count, total, square = (ids > 0).sum().float(), tokens.sum(dim=(0, 1)), tokens.square().sum(dim=(0, 1))
        sum_over_ranks(count, total, square)
        self.batches += 1
        fresh = (1 / self.batches).clamp(min=1 - DECAY)  # at first the plain mean of all batches
        self.latent_mean.add_(fresh * (total / count - self.latent_mean))
        self.latent_square.add_(fresh * (square / count - self.latent_square))


def cosine(t: Tensor) -> tuple[Tensor, Tensor]:
    """alpha and sigma of z = alpha x + sigma noise at times t from 0 (x alone) to 1 (noise alone)."""
    alpha = torch.cos((t + OFFSET) / (1 + OFFSET) * (math.pi / 2)) / math.cos(OFFSET / (1 + OFFSET) * math.pi / 2)
    alpha = alpha.clamp(0, 1)
    return alpha, (1 - alpha.square()).sqrt()


def ddim(velocity: Callable[[Tensor, Tensor], Tensor], noise: Tensor, steps: int) -> Tensor:
    """The x that deterministic DDIM reaches from noise at t = 1, given velocity(z, t) = alpha noise - sigma x."""
    times = torch.linspace(1, 0, steps + 1, dtype=noise.dtype, device=noise.device)
    z = noise
    for t, later in pairwise(times):
        (alpha, sigma), (next_alpha, next_sigma) = cosine(t), cosine(later)
        v = velocity(z, t)
        z = next_alpha * (alpha * z - sigma * v) + next_sigma * (sigma * z + alpha * v)
    return z


def _randn(shape: Sequence[int], generator: torch.Generator, device: torch.device) -> Tensor:
    """Numbers of a generator on the CPU, which are the same on every device."""
    return torch.randn(*shape, generator=generator).to(device)
