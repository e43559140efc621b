"""What lies between encoder and decoder: nothing, a linear bottleneck, or a codebook."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from gatesweep.core.data import require
from gatesweep.core.distributed import broadcast, sum_over_ranks
from gatesweep.trainables.autoencoders.metrics import masked_mean

Kind = Literal["none", "linear", "vq"]
Codebook = Literal["data", "random"]
EPSILON = 1e-5  # of the Laplace smoothing


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
    """A module (latents (B, T, D), mask (B, T)) -> latents (B, T, D) for the decoder, and weighted losses by name.

    A third input, `mean_count` of the mask, saves a codebook counting it again.
    `dims`, of `none` and `linear`, is how many real numbers it lets through for each token.
    """
    require(latent_dim >= 1, "trainable.latent_dim", latent_dim, "at least 1")
    if kind == "none":
        return Identity(latent_dim)
    if kind == "linear":
        return Linear(latent_dim, rank)
    return VectorQuantizer(latent_dim, n_codes, commitment, decay, revive_below, codebook)


class Identity(nn.Module):
    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.dims = latent_dim

    def forward(self, z: Tensor, mask: Tensor, count: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        return z, {}


class Linear(nn.Module):
    """A projection to `rank` dimensions and back."""

    def __init__(self, latent_dim: int, rank: int) -> None:
        super().__init__()
        expected = f"1 to trainable.latent_dim = {latent_dim}"
        require(1 <= rank <= latent_dim, "trainable.latent_rank", rank, expected)
        self.dims = rank
        self.down = nn.Linear(latent_dim, rank, bias=False)
        self.up = nn.Linear(rank, latent_dim, bias=False)

    def forward(self, z: Tensor, mask: Tensor, count: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        return self.up(self.down(z)), {}


class VectorQuantizer(nn.Module):
    """The nearest of `n_codes` codes in the place of each latent; the codes follow the latents by moving averages.

    Source: van den Oord et al., arXiv:1711.00937, appendix A.1, with Laplace smoothing of the counts (Razavi et al.,
    arXiv:1906.00446). A code whose moving count falls below `revive_below` times the average code's starts again from
    a latent of the batch (Dhariwal et al., arXiv:2005.00341, section 3.1); 0 turns that off. `codebook` says where
    the codes start: from latents of the data (`begin`), or from random numbers.
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
        self.register_buffer("codes", torch.randn(n_codes, latent_dim))  # (K, D)
        self.register_buffer("counts", torch.ones(n_codes))  # moving averages over batches: latents of each code,
        self.register_buffer("sums", self.codes.clone())  # and their sum

    @torch.no_grad()
    def begin(self, z: Tensor, mask: Tensor) -> None:
        """Start the codes from different latents of the data, where they are to; rank 0's choice holds everywhere."""
        if not self.from_data:
            return
        found = z[mask].float()
        expected = f"at most {len(found)}, the training tokens"
        require(self.n_codes <= len(found), "trainable.n_codes", self.n_codes, expected)
        self.codes.copy_(found[torch.randperm(len(found))[: self.n_codes].to(z.device)])
        broadcast([self.codes])
        self.counts.fill_(1.0)
        self.sums.copy_(self.codes)

    def forward(self, z: Tensor, mask: Tensor, count: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.autocast(z.device.type, enabled=False):
            exact = z.float()
            index = self.nearest(exact)
            quantised = self.codes[index]
            loss = self.commitment * masked_mean((exact - quantised).square().mean(dim=-1), mask, count)
            if self.training:
                self._follow(exact.detach().flatten(0, 1), index.flatten(), mask.float().flatten())
        return z + (quantised - z).detach(), {"commitment": loss}  # straight through: the decoder's gradient as it is

    @torch.no_grad()
    def nearest(self, z: Tensor) -> Tensor:
        """(...,): the index of the code nearest to each latent (..., D)."""
        square = self.codes.square().sum(dim=-1) - 2 * (z @ self.codes.T)  # without |z|^2, the same for all codes
        return square.argmin(dim=-1)

    @torch.no_grad()
    def usage(self, z: Tensor, mask: Tensor) -> Tensor:
        """(K,): how many latents each code stands for."""
        return torch.bincount(self.nearest(z.float())[mask], minlength=self.n_codes)

    @torch.no_grad()
    def _follow(self, z: Tensor, index: Tensor, present: Tensor) -> None:
        """Move the codes towards the latents (n, D) that chose them; no host sync, one collective for all ranks."""
        # A product with one-hot vectors adds in the same order every time; scattered additions do not on a GPU.
        chosen = (index[:, None] == torch.arange(self.n_codes, device=z.device)) * present[:, None]
        counts, sums = chosen.sum(dim=0), chosen.T @ z
        sum_over_ranks(counts, sums)
        self.counts.mul_(self.decay).add_(counts, alpha=1 - self.decay)  # vmap has no rule for lerp_
        self.sums.mul_(self.decay).add_(sums, alpha=1 - self.decay)
        if self.revive_below > 0:
            self._revive(z, present)
        total = self.counts.sum()
        smoothed = (self.counts + EPSILON) / (total + self.n_codes * EPSILON) * total
        self.codes.copy_(self.sums / smoothed[:, None])

    def _revive(self, z: Tensor, present: Tensor) -> None:
        drawn = torch.multinomial(present + 1e-12, self.n_codes, replacement=True)
        candidates = z[drawn]
        broadcast([candidates])
        average = self.counts.mean()
        dead = self.counts < self.revive_below * average
        self.counts.copy_(torch.where(dead, average, self.counts))
        self.sums.copy_(torch.where(dead[:, None], average * candidates, self.sums))


def codebook_use(counts: Tensor) -> dict[str, float]:
    """How evenly latents use the codes, from their counts (K,).

    `perplexity` is exp of the entropy of the codes' shares: K if all are used alike, 1 if one is used alone;
    `perplexity_share` is that over K, `codes_used` the share of codes used at all, `dead_codes` how many are not.
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
