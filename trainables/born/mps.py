"""Born machine: p(x, c) is the normalised square of an amplitude psi(x, c), and a matrix product state gives psi."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from gatesweep.trainables.born.embedding import Kind, cell_masses, embed

CELLS = 200  # equal cells of each feature's range; a sample is drawn as a cell and a position inside it


class BornMachine(nn.Module):
    """Density p(x, c) = psi(x, c)^2 / Z of points x (B, n) in the unit cube and classes c, 0 to K - 1.

    The amplitude psi is a chain of tensors. Each of the `sites` (n, D, d, D) is contracted with the embedding (d,) of
    its feature; D is `bond`, d is `dim`. The class tensor `label` (D, K, D) stands in the middle of the chain, with
    `n_left` features on its left. Z is computed exactly, by contraction.

    All densities are per unit volume of 2 x - 1, which lies in [-1, 1]^n: the uniform density is 2^-n. Points outside
    the cube have no density; the caller keeps them out.

    Every partial product is scaled to norm one and the logarithms of the norms are added up, so hundreds of features
    neither overflow nor underflow. Where rounding loses the amplitude, its logarithm has a floor. Autocast is switched
    off inside: half precision would lose the logarithm of an amplitude near 0.

    Source: Stoudenmire and Schwab, arXiv:1605.05775; Han et al., arXiv:1709.01662.
    """

    cells: Tensor  # (CELLS, d * d): `cell_masses` of the embedding

    def __init__(
        self, *, n_features: int, n_classes: int, embedding: Kind, dim: int, bond: int, std: float = 0.05
    ) -> None:
        """Draw the tensors: normal numbers of standard deviation `std`, plus the identity for the lowest function."""
        super().__init__()
        self.n_features, self.embedding, self.dim, self.n_left = n_features, embedding, dim, n_features // 2
        sites = std * torch.randn(n_features, bond, dim, bond)
        sites[:, :, 0] += torch.eye(bond)  # the identity, for the lowest function of each feature
        self.sites = nn.Parameter(sites)
        self.label = nn.Parameter(torch.randn(bond, n_classes, bond) / math.sqrt(bond))
        masses = cell_masses(embedding, dim, CELLS).flatten(1).to(sites.dtype)
        self.register_buffer("cells", masses, persistent=False)

    def embed(self, x: Tensor) -> Tensor:
        """Embed numbers x (...) in [0, 1]; returns (..., d)."""
        return embed(self.embedding, 2 * x.to(self.label.dtype) - 1, self.dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return `log_weights`; for code that calls modules, such as activation checkpointing."""
        return self.log_weights(x)

    def log_weights(self, x: Tensor) -> Tensor:
        """Compute log psi(x, c)^2 of every class, (B, K); not normalised."""
        amplitude, log_scale = self.amplitudes(x)
        floor = torch.finfo(amplitude.dtype).eps ** 2
        return (amplitude.square() + floor).log() + log_scale

    def amplitudes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Compute psi(x, c) up to a positive factor for each point, (B, K), and the log of that factor squared, (B, 1).

        The true amplitude is the first result times exp(second / 2).
        """
        with torch.autocast(x.device.type, enabled=False):
            matrices = torch.einsum("naeg,bne->nbag", self.sites, self.embed(x))
            left, left_log_norm = self._chain(matrices[: self.n_left])
            right, right_log_norm = self._chain(matrices[self.n_left :].flip(0).transpose(-1, -2))
            norm = _constant_norm(self.label)
            amplitude = torch.einsum("bi,ikj,bj->bk", left, self.label / norm, right)
            return amplitude, 2 * (left_log_norm + right_log_norm + norm.log())[:, None]

    def log_partition(self) -> Tensor:
        """Compute log Z_c, (K,): the logarithm of the integral of psi(x, c)^2 over all x. Z is the sum of Z_c."""
        with torch.autocast(self.label.device.type, enabled=False):
            left, left_log_norm = self._environments(self.sites[: self.n_left])
            right, right_log_norm = self._environments(self._mirrored)
            norm = _constant_norm(self.label)
            label = self.label / norm
            total = torch.einsum("ij,ick,jcl,kl->c", left[-1], label, label, right[-1])
            floor = torch.finfo(total.dtype).tiny  # for a class whose amplitude is 0 everywhere
            return total.clamp(min=floor).log() + left_log_norm + right_log_norm + 2 * norm.log()

    def class_log_probabilities(self, x: Tensor) -> Tensor:
        """Compute log p(c|x), (B, K)."""
        return self.log_weights(x).log_softmax(dim=1)

    def log_densities(self, x: Tensor) -> Tensor:
        """Compute log p(x|c) for every class, (B, K)."""
        return self.log_weights(x) - self.log_partition()

    def log_likelihood(self, x: Tensor, labels: Tensor) -> Tensor:
        """Compute log p(x|c) for labels (B,); returns (B,)."""
        return self.log_densities(x).gather(1, labels[:, None])[:, 0]

    def joint_log_likelihood(self, x: Tensor, labels: Tensor) -> Tensor:
        """Compute log p(x, c) for labels (B,); returns (B,)."""
        return self.log_weights(x).gather(1, labels[:, None])[:, 0] - self.log_partition().logsumexp(0)

    def marginal_log_likelihood(self, x: Tensor) -> Tensor:
        """Compute log p(x), (B,)."""
        return self.log_weights(x).logsumexp(dim=1) - self.log_partition().logsumexp(0)

    def sample(self, labels: Tensor, uniforms: Tensor) -> Tensor:
        """Draw points of p(x|c) for labels (N,) from uniform numbers (N, n); returns (N, n) in [0, 1].

        Features are drawn one after the other, each conditioned on those before it. The conditional distribution is
        exact at the ends of CELLS equal cells and taken as linear between them; a sample is its inverse at the uniform
        number. Samples are differentiable with respect to the tensors at fixed uniforms.
        Source: Han et al., arXiv:1709.01662, section III.
        """
        with torch.autocast(self.label.device.type, enabled=False):
            uniforms = uniforms.to(self.label.dtype)
            right = self._environments(self._mirrored)[0][::-1]  # first that of the label, then of each site after it
            left_of_label = self._environments_of_classes(right[0])
            left = self.edge.expand(len(labels), -1)
            columns: list[Tensor] = []
            for position, site in enumerate(self.sites):
                if position == self.n_left:
                    left = (left[:, None] @ self.label.transpose(0, 1)[labels])[:, 0]
                in_left_half = position < self.n_left
                later = left_of_label[position][labels] if in_left_half else right[position - self.n_left + 1]
                so_far = torch.einsum("na,aeg->neg", left, site)
                density = (so_far @ later) @ so_far.transpose(1, 2)  # (N, d, d): a quadratic form in the embedding
                columns.append(_invert(density.flatten(1) @ self.cells.T, uniforms[:, position]))
                left = (self.embed(columns[-1])[:, None] @ so_far)[:, 0]
                left = left / _constant_norm(left, dim=-1)[:, None]
            return torch.stack(columns, dim=1)

    @torch.no_grad()
    def renormalise(self) -> None:
        """Scale all tensors by one common factor so that Z is 1; no probability changes."""
        factor = (-self.log_partition().logsumexp(0) / 2 / (len(self.sites) + 1)).exp()
        self.sites.mul_(factor)
        self.label.mul_(factor)

    @torch.no_grad()
    def canonical(self) -> None:
        """Bring the chain into canonical form: each half is an isometry towards the class tensor. psi does not change.

        QR decompositions run from the ends inwards. Afterwards Z_c is the squared norm of slice c of the class tensor.
        A bond that can hold fewer than D numbers (next to an end: d, then d^2, ...) is padded with zeros.
        """
        left, remainder = self._isometries(self.sites[: self.n_left])
        right, right_remainder = self._isometries(self._mirrored)
        self.sites.copy_(torch.cat([left, right.transpose(1, 3).flip(0)]))
        self.label.copy_(torch.einsum("ai,ikj,bj->akb", remainder, self.label, right_remainder))

    def _isometries(self, sites: Tensor) -> tuple[Tensor, Tensor]:
        """Isometries (m, D, d, D) and a remainder (D, D); isometries times remainder give the chain of `sites`."""
        start = remainder = self.edge[None]  # (rank, D): `rank` is how many numbers the bond can hold
        isometries: list[Tensor] = []
        for site in sites.unbind():
            merged = torch.einsum("sa,aeg->seg", remainder, site)
            isometry, remainder = torch.linalg.qr(merged.flatten(0, 1))
            isometry = torch.einsum("sa,seg->aeg", start, isometry.unflatten(0, merged.shape[:2]))
            isometries.append(nn.functional.pad(isometry, (0, site.shape[2] - isometry.shape[2])))
            start = torch.eye(len(remainder), site.shape[2]).to(site)
        return torch.stack(isometries) if isometries else sites, start.T @ remainder

    @property
    def edge(self) -> Tensor:
        """Vector (D,) that closes the chain at both ends; norm one, all entries equal, so every tensor entry counts."""
        bond = self.label.shape[0]
        return self.label.new_full((bond,), bond**-0.5)

    @property
    def _mirrored(self) -> Tensor:
        """Sites right of the class tensor, (n - n_left, D, d, D), from the end inwards, with their bonds swapped."""
        return self.sites[self.n_left :].flip(0).transpose(1, 3)

    def _chain(self, matrices: Tensor) -> tuple[Tensor, Tensor]:
        """Product of the edge and matrices (m, B, D, D), (B, D) at norm one, and the log of its norm, (B,)."""
        vector = self.edge.expand(matrices.shape[1], -1)
        log_norm = vector.new_zeros(matrices.shape[1])
        for matrix in matrices.unbind():
            vector = (vector[:, None] @ matrix)[:, 0]
            norm = _constant_norm(vector, dim=-1)
            vector, log_norm = vector / norm[:, None], log_norm + norm.log()
        return vector, log_norm

    def _environments(self, sites: Tensor) -> tuple[list[Tensor], Tensor]:
        """Integrals over the features of the first 0, 1, ..., m of `sites`, and the log norm () of the last one.

        The list has m + 1 matrices (D, D), each at norm one.
        """
        environments = [torch.outer(self.edge, self.edge)]
        log_norm = self.edge.new_zeros(())
        for site in sites.unbind():
            merged = torch.einsum("ab,beh->aeh", environments[-1], site)
            environment = torch.einsum("aeg,aeh->gh", site, merged)
            norm = _constant_norm(environment)
            environments.append(environment / norm)
            log_norm = log_norm + norm.log()
        return environments, log_norm

    def _environments_of_classes(self, right: Tensor) -> list[Tensor]:
        """Integrals over all features after each site of the left half: (K, D, D) a site, for every class.

        `right` (D, D) is the integral over the whole right half.
        """
        environments = [torch.einsum("ick,jcl,kl->cij", self.label, self.label, right)]
        for site in self.sites[1 : self.n_left].flip(0).unbind():
            environment = torch.einsum("aeg,cgh,beh->cab", site, environments[-1], site)
            environments.append(environment / _constant_norm(environment, dim=(-2, -1))[:, None, None])
        return environments[::-1]


def _constant_norm(values: Tensor, dim: int | tuple[int, int] | None = None) -> Tensor:
    """Norm without a gradient, above 0.

    Callers divide by it and add its logarithm back, so it cancels: the gradient is right although it is a constant.
    """
    return torch.linalg.vector_norm(values.detach(), dim=dim).clamp(min=torch.finfo(values.dtype).tiny)


def _invert(masses: Tensor, uniforms: Tensor) -> Tensor:
    """Invert distributions on [0, 1] at uniforms (N,); returns (N,). `masses` (N, CELLS) are those of equal cells."""
    below = masses.clamp(min=0).cumsum(dim=1)
    total = below[:, -1:].clamp(min=torch.finfo(masses.dtype).tiny)
    below = torch.cat([torch.zeros_like(total), below / total], dim=1)
    cell = torch.searchsorted(below.detach(), uniforms[:, None].contiguous(), right=True).clamp(1, masses.shape[1]) - 1
    start, end = below.gather(1, cell)[:, 0], below.gather(1, cell + 1)[:, 0]
    inside = (uniforms - start) / (end - start).clamp(min=torch.finfo(masses.dtype).tiny)
    return (cell[:, 0] + inside.clamp(0, 1)) / masses.shape[1]
