"""A Born machine: p(x, c) is the normalised square of an amplitude psi(x, c) that a matrix product state gives."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from gatesweep.trainables.born.embedding import Kind, cell_masses, embed

CELLS = 200  # of each feature's range, in which samples are drawn


class BornMachine(nn.Module):
    """Points x (B, n) in the unit cube and classes c of K: p(x, c) = psi(x, c)^2 / Z, with Z exact.

    A chain of `sites` (n, D, d, D), each of which meets the embedding (d,) of its feature, with the class tensor
    `label` (D, K, D) in its middle: `n_left` of the features lie to its left. Densities are those of 2 x - 1, in
    [-1, 1]^n: a uniform one is 2^-n. Products are kept at norm one and their logarithms added up, so that hundreds of
    features neither over- nor underflow; where the amplitude is lost in rounding, its logarithm is floored there.
    Autocast changes nothing: where psi is near 0, half precision leaves nothing of its logarithm. Points outside the
    cube have no density.
    Source: Stoudenmire and Schwab, arXiv:1605.05775; Han et al., arXiv:1709.01662.
    """

    cells: Tensor  # (CELLS, d * d)

    def __init__(
        self, *, n_features: int, n_classes: int, embedding: Kind, dim: int, bond: int, std: float = 0.05
    ) -> None:
        super().__init__()
        self.n_features, self.embedding, self.dim, self.n_left = n_features, embedding, dim, n_features // 2
        sites = std * torch.randn(n_features, bond, dim, bond)
        sites[:, :, 0] += torch.eye(bond)  # the lowest function, whatever the feature
        self.sites = nn.Parameter(sites)
        self.label = nn.Parameter(torch.randn(bond, n_classes, bond) / math.sqrt(bond))
        masses = cell_masses(embedding, dim, CELLS).flatten(1).to(sites.dtype)
        self.register_buffer("cells", masses, persistent=False)

    def embed(self, x: Tensor) -> Tensor:
        """(..., d): the features of numbers x (...) in [0, 1]."""
        return embed(self.embedding, 2 * x.to(self.label.dtype) - 1, self.dim)

    def forward(self, x: Tensor) -> Tensor:
        """`log_weights`, for who calls modules, e.g. to compute activations again."""
        return self.log_weights(x)

    def log_weights(self, x: Tensor) -> Tensor:
        """(B, K): log psi(x, c)^2."""
        amplitude, size = self.amplitudes(x)
        floor = torch.finfo(amplitude.dtype).eps ** 2
        return (amplitude.square() + floor).log() + size

    def amplitudes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, K), (B, 1): psi(x, c) but for a positive factor of each point, and the logarithm of its square."""
        with torch.autocast(x.device.type, enabled=False):
            matrices = torch.einsum("naeg,bne->nbag", self.sites, self.embed(x))
            left, left_size = self._chain(matrices[: self.n_left])
            right, right_size = self._chain(matrices[self.n_left :].flip(0).transpose(-1, -2))
            size = _size(self.label)
            amplitude = torch.einsum("bi,ikj,bj->bk", left, self.label / size, right)
            return amplitude, 2 * (left_size + right_size + size.log())[:, None]

    def log_partition(self) -> Tensor:
        """(K,): log Z_c, the logarithm of the integral of psi(x, c)^2 over all x."""
        with torch.autocast(self.label.device.type, enabled=False):
            left, left_size = self._environments(self.sites[: self.n_left])
            right, right_size = self._environments(self._mirrored)
            size = _size(self.label)
            label = self.label / size
            total = torch.einsum("ij,ick,jcl,kl->c", left[-1], label, label, right[-1])
            floor = torch.finfo(total.dtype).tiny  # a class that no point has
            return total.clamp(min=floor).log() + left_size + right_size + 2 * size.log()

    def class_log_probabilities(self, x: Tensor) -> Tensor:
        """(B, K): log p(c|x)."""
        return self.log_weights(x).log_softmax(dim=1)

    def log_densities(self, x: Tensor) -> Tensor:
        """(B, K): log p(x|c) of every class."""
        return self.log_weights(x) - self.log_partition()

    def log_likelihood(self, x: Tensor, labels: Tensor) -> Tensor:
        """(B,): log p(x|c) of labels (B,)."""
        return self.log_densities(x).gather(1, labels[:, None])[:, 0]

    def joint_log_likelihood(self, x: Tensor, labels: Tensor) -> Tensor:
        """(B,): log p(x, c) of labels (B,)."""
        return self.log_weights(x).gather(1, labels[:, None])[:, 0] - self.log_partition().logsumexp(0)

    def marginal_log_likelihood(self, x: Tensor) -> Tensor:
        """(B,): log p(x)."""
        return self.log_weights(x).logsumexp(dim=1) - self.log_partition().logsumexp(0)

    def sample(self, labels: Tensor, uniforms: Tensor) -> Tensor:
        """(N, n): points of p(x|c) for labels (N,), feature after feature, from uniform numbers (N, n).

        Each feature is drawn given those before it, by inverting its exact distribution at the ends of CELLS cells,
        between which it is taken as linear. Differentiable in the tensors, at fixed uniforms.
        Source: Han et al., arXiv:1709.01662, section III.
        """
        with torch.autocast(self.label.device.type, enabled=False):
            uniforms = uniforms.to(self.label.dtype)
            right = self._environments(self._mirrored)[0][::-1]  # of the label, and of each site right of it
            given = self._environments_of_classes(right[0])
            left = self.edge.expand(len(labels), -1)
            drawn = []
            for place, site in enumerate(self.sites):
                if place == self.n_left:
                    left = (left[:, None] @ self.label.transpose(0, 1)[labels])[:, 0]
                beyond = given[place][labels] if place < self.n_left else right[place - self.n_left + 1]
                ahead = torch.einsum("na,aeg->neg", left, site)
                density = (ahead @ beyond) @ ahead.transpose(1, 2)  # (N, d, d), of the feature's embedding
                drawn.append(_invert(density.flatten(1) @ self.cells.T, uniforms[:, place]))
                left = (self.embed(drawn[-1])[:, None] @ ahead)[:, 0]
                left = left / _size(left, dim=-1)[:, None]
            return torch.stack(drawn, dim=1)

    @torch.no_grad()
    def renormalise(self) -> None:
        """Make Z one, by a factor that all tensors share: no probability changes."""
        share = (-self.log_partition().logsumexp(0) / 2 / (len(self.sites) + 1)).exp()
        self.sites.mul_(share)
        self.label.mul_(share)

    @torch.no_grad()
    def canonical(self) -> None:
        """Make each half of the chain an isometry towards the class tensor, by QR; psi stays what it is.

        Then Z_c is the squared norm of the class tensor's slice. A bond that holds fewer than D numbers (next to an
        end: d, then d^2) is padded with zeros.
        """
        left, carried = self._isometries(self.sites[: self.n_left])
        right, carried_right = self._isometries(self._mirrored)
        self.sites.copy_(torch.cat([left, right.transpose(1, 3).flip(0)]))
        self.label.copy_(torch.einsum("ai,ikj,bj->akb", carried, self.label, carried_right))

    def _isometries(self, sites: Tensor) -> tuple[Tensor, Tensor]:
        """Sites (m, D, d, D) whose product is an isometry, and the matrix (D, D) that times it makes the old one."""
        start = carried = self.edge[None]  # (held, D), where a bond holds so many numbers
        made = []
        for site in sites.unbind():
            ahead = torch.einsum("sa,aeg->seg", carried, site)
            isometry, carried = torch.linalg.qr(ahead.flatten(0, 1))
            isometry = torch.einsum("sa,seg->aeg", start, isometry.unflatten(0, ahead.shape[:2]))
            made.append(nn.functional.pad(isometry, (0, site.shape[2] - isometry.shape[2])))
            start = torch.eye(len(carried), site.shape[2]).to(site)
        return torch.stack(made) if made else sites, start.T @ carried

    @property
    def edge(self) -> Tensor:
        """(D,): what the chain ends in on both sides, of norm one; no entry of a tensor is out of its sight."""
        bond = self.label.shape[0]
        return self.label.new_full((bond,), bond**-0.5)

    @property
    def _mirrored(self) -> Tensor:
        """(n - n_left, D, d, D): the sites right of the class tensor, from the end inwards, each seen from behind."""
        return self.sites[self.n_left :].flip(0).transpose(1, 3)

    def _chain(self, matrices: Tensor) -> tuple[Tensor, Tensor]:
        """(B, D), (B,): the edge times matrices (m, B, D, D) one after the other, at norm one, and the log norm."""
        vector = self.edge.expand(matrices.shape[1], -1)
        sizes = vector.new_zeros(matrices.shape[1])
        for matrix in matrices.unbind():
            vector = (vector[:, None] @ matrix)[:, 0]
            size = _size(vector, dim=-1)
            vector, sizes = vector / size[:, None], sizes + size.log()
        return vector, sizes

    def _environments(self, sites: Tensor) -> tuple[list[Tensor], Tensor]:
        """The integral over all features up to each of `sites`, m + 1 times (D, D) at norm one; the last's log norm."""
        found = [torch.outer(self.edge, self.edge)]
        total = self.edge.new_zeros(())
        for site in sites.unbind():
            ahead = torch.einsum("ab,beh->aeh", found[-1], site)
            grown = torch.einsum("aeg,aeh->gh", site, ahead)
            size = _size(grown)
            found.append(grown / size)
            total = total + size.log()
        return found, total

    def _environments_of_classes(self, right: Tensor) -> list[Tensor]:
        """(K, D, D) for each site left of the class tensor: the integral over all features after it, of each class."""
        found = [torch.einsum("ick,jcl,kl->cij", self.label, self.label, right)]
        for site in self.sites[1 : self.n_left].flip(0).unbind():
            grown = torch.einsum("aeg,cgh,beh->cab", site, found[-1], site)
            found.append(grown / _size(grown, dim=(-2, -1))[:, None, None])
        return found[::-1]


def _size(values: Tensor, dim: int | tuple[int, int] | None = None) -> Tensor:
    """The norm, as a constant: what is divided by it and added back as its logarithm has the same gradient."""
    return torch.linalg.vector_norm(values.detach(), dim=dim).clamp(min=torch.finfo(values.dtype).tiny)


def _invert(masses: Tensor, uniforms: Tensor) -> Tensor:
    """(N,): where in [0, 1] the distribution with these masses (N, CELLS), in equal cells, reaches uniforms (N,)."""
    below = masses.clamp(min=0).cumsum(dim=1)
    total = below[:, -1:].clamp(min=torch.finfo(masses.dtype).tiny)
    below = torch.cat([torch.zeros_like(total), below / total], dim=1)
    cell = torch.searchsorted(below.detach(), uniforms[:, None].contiguous(), right=True).clamp(1, masses.shape[1]) - 1
    start, end = below.gather(1, cell)[:, 0], below.gather(1, cell + 1)[:, 0]
    inside = (uniforms - start) / (end - start).clamp(min=torch.finfo(masses.dtype).tiny)
    return (cell[:, 0] + inside.clamp(0, 1)) / masses.shape[1]
