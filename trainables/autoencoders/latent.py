"""Bottlenecks between encoder and decoder: none, a linear projection, or a codebook."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from gatesweep.core.data import check_size, require
from gatesweep.core.distributed import broadcast, sum_over_ranks
from gatesweep.trainables.autoencoders.metrics import masked_mean

Kind = Literal["none", "linear", "vq"]
Codebook = Literal["data", "random"]
EPSILON = 1e-5  # Laplace smoothing of the counts of a codebook


def make_latent(
    kind: Kind,
    latent_dim: int,
    *,
    rank: int = 3,
    n_codes: int = 512,
    commitment: float = 0.25,
    decay: float = 0.99,
    revive_below: float = 0.1,
    codebook: Codebook = "data",
) -> Identity | Linear | VectorQuantizer:
    """Build the bottleneck: `none` is an `Identity`, `linear` a `Linear` of this rank, `vq` a `VectorQuantizer`.

    Its `forward` takes latents z (B, T, D), a mask (B, T) that is true for tokens and false for padding, and, if the
    caller has it already, the mask's `mean_count`. It returns latents (B, T, D) for the decoder, and a dictionary of
    loss terms, which are scalars that already have their weights. `Identity` and `Linear` have `dims`, the number of
    real numbers that pass for each token. Raises InputError if a size or a rate is out of its range.
    """
    check_size("trainable.latent_dim", latent_dim)
    if kind == "none":
        return Identity(latent_dim)
    if kind == "linear":
        return Linear(latent_dim, rank)
    return VectorQuantizer(latent_dim, n_codes, commitment, decay, revive_below, codebook)


class Identity(nn.Module):
    """No bottleneck: the decoder gets the latents of the encoder."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.dims = latent_dim

    def forward(self, z: Tensor, mask: Tensor, count: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the latents z (B, T, D), and no loss term."""
        return z, {}


class Linear(nn.Module):
    """A linear projection to `rank` dimensions and back."""

    def __init__(self, latent_dim: int, rank: int) -> None:
        super().__init__()
        expected = f"1 to trainable.latent_dim = {latent_dim}"
        require(1 <= rank <= latent_dim, "trainable.latent_rank", rank, expected)
        self.dims = rank
        self.down = nn.Linear(latent_dim, rank, bias=False)
        self.up = nn.Linear(rank, latent_dim, bias=False)

    def forward(self, z: Tensor, mask: Tensor, count: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the projected latents (B, T, D), and no loss term."""
        return self.up(self.down(z)), {}


class VectorQuantizer(nn.Module):
    """A codebook: each latent is replaced by the nearest of `n_codes` codes, which follow the latents.

    The codes are moving averages over batches, with factor `decay` (van den Oord et al., arXiv:1711.00937, appendix
    A.1) and with Laplace smoothing of the counts (Razavi et al., arXiv:1906.00446). `commitment` is the weight of the
    squared distance between latents and their codes in the loss. A code whose count falls below `revive_below` times
    the mean count restarts from a latent of the batch (Dhariwal et al., arXiv:2005.00341, section 3.1); 0 turns that
    off. `codebook` says where the codes start: at latents of the training data (`begin`), or at random numbers.

    Buffers: `codes` (K, D); `counts` (K,) and `sums` (K, D), moving averages of the number of latents of each code and
    of their sum. Raises InputError if a value is out of its range.
    """

    codes: Tensor
    counts: Tensor
    sums: Tensor

    def __init__(
        self, latent_dim: int, n_codes: int, commitment: float, decay: float, revive_below: float, codebook: Codebook
    ) -> None:
        super().__init__()
        require(n_codes >= 2, "trainable.n_codes", n_codes, "at least 2")
        require(commitment >= 0, "trainable.commitment", commitment, "at least 0")
        require(0 <= decay < 1, "trainable.decay", decay, "0 or more, and below 1")
        require(0 <= revive_below < 1, "trainable.revive_below", revive_below, "0 (off) or more, and below 1")
        self.n_codes, self.commitment, self.decay, self.revive_below = n_codes, commitment, decay, revive_below
        self.from_data = codebook == "data"
        self.register_buffer("codes", torch.randn(n_codes, latent_dim))
        self.register_buffer("counts", torch.ones(n_codes))
        self.register_buffer("sums", self.codes.clone())

    @torch.no_grad()
    def begin(self, z: Tensor, mask: Tensor) -> None:
        """Start the codes at different latents of z (B, T, D), if `codebook` is `data`; all ranks use rank 0's draw.

        Raises InputError if there are more codes than tokens.
        """
        if not self.from_data:
            return
        latents = z[mask].float()
        expected = f"at most {len(latents)}, the tokens that the codes can start from"
        require(self.n_codes <= len(latents), "trainable.n_codes", self.n_codes, expected)
        self.codes.copy_(latents[torch.randperm(len(latents))[: self.n_codes].to(z.device)])
        broadcast([self.codes])
        self.counts.fill_(1.0)
        self.sums.copy_(self.codes)

    def forward(self, z: Tensor, mask: Tensor, count: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the codes (B, T, D) of latents z (B, T, D), and the commitment loss; in training, move the codes."""
        with torch.autocast(z.device.type, enabled=False):
            latents = z.float()
            index = self.nearest(latents)
            quantised = self.codes[index]
            loss = self.commitment * masked_mean((latents - quantised).square().mean(dim=-1), mask, count)
            if self.training:
                self._follow(latents.detach().flatten(0, 1), index.flatten(), mask.float().flatten())
        return z + (quantised - z).detach(), {"commitment": loss}  # straight-through: z gets the decoder's gradient

    @torch.no_grad()
    def nearest(self, z: Tensor) -> Tensor:
        """Return the index (...,) of the code nearest to each latent of z (..., D)."""
        square = self.codes.square().sum(dim=-1) - 2 * (z @ self.codes.T)  # |z|^2 is left out: all codes share it
        return square.argmin(dim=-1)

    @torch.no_grad()
    def usage(self, z: Tensor, mask: Tensor) -> Tensor:
        """Count the tokens (K,) that each code stands for, given latents (B, T, D) and their mask (B, T)."""
        return torch.bincount(self.nearest(z.float())[mask], minlength=self.n_codes)

    @torch.no_grad()
    def _follow(self, z: Tensor, index: Tensor, present: Tensor) -> None:
        """Move the codes towards their latents z (n, D), given the index of their codes (n,).

        `present` (n,) is 1 for tokens and 0 for padding. There is no host sync, and one collective over all ranks.
        """
        # A product with one-hot vectors always adds in the same order; scattered additions on a GPU do not.
        one_hot = (index[:, None] == torch.arange(self.n_codes, device=z.device)) * present[:, None]
        counts, sums = one_hot.sum(dim=0), one_hot.T @ z
        sum_over_ranks(counts, sums)
        self.counts.mul_(self.decay).add_(counts, alpha=1 - self.decay)  # not lerp_, which vmap does not support
        self.sums.mul_(self.decay).add_(sums, alpha=1 - self.decay)
        if self.revive_below > 0:
            self._revive(z, present)
        total = self.counts.sum()
        smoothed = (self.counts + EPSILON) / (total + self.n_codes * EPSILON) * total
        self.codes.copy_(self.sums / smoothed[:, None])

    def _revive(self, z: Tensor, present: Tensor) -> None:
        """Restart rarely used codes at latents of the batch, drawn from z (n, D) by rank 0 (a second collective)."""
        rows = torch.multinomial(present + 1e-12, self.n_codes, replacement=True)  # valid even if all is padding
        candidates = z[rows]
        broadcast([candidates])
        average = self.counts.mean()
        dead = self.counts < self.revive_below * average
        self.counts.copy_(torch.where(dead, average, self.counts))
        self.sums.copy_(torch.where(dead[:, None], average * candidates, self.sums))


def codebook_use(counts: Tensor) -> dict[str, float]:
    """Compute metrics of codebook use from the number of tokens of each code, `counts` (K,).

    `perplexity` is the exponential of the entropy of the codes' shares: K for equal use, 1 if only one code is used.
    `perplexity_share` is `perplexity` / K. `codes_used` is the share of codes that are used at all, and `dead_codes`
    the number of codes that are not.
    """
    shares = counts.double() / counts.sum().clamp(min=1)
    perplexity = math.exp(-torch.special.xlogy(shares, shares).sum().item())
    n_codes, used = len(counts), int((counts > 0).sum())
    return {
        "perplexity": perplexity,
        "perplexity_share": perplexity / n_codes,
        "codes_used": used / n_codes,
        "dead_codes": float(n_codes - used),
    }
