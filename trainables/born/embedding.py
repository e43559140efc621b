"""Features of one number: functions on [-1, 1] that are orthonormal there, the lowest first."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Kind = Literal["legendre", "fourier", "hermite"]
HIGHEST: dict[Kind, int] = {"legendre": 30, "fourier": 30, "hermite": 20}  # beyond: less than 4 digits
HERMITE = 4.0  # what [-1, 1] is stretched to before Hermite functions are taken
NODES = 400  # of the quadrature that makes those orthonormal on a bounded interval


def embed(kind: Kind, u: Tensor, dim: int) -> Tensor:
    """(..., dim): the first `dim` functions at points u (...) of [-1, 1].

    `legendre`: sqrt(k + 1/2) P_k. `fourier`: 1/sqrt(2), cos(pi u), sin(pi u), cos(2 pi u), ..., which meet again at
    the ends. `hermite`: Hermite functions of 4 u, which fade towards the ends; high ones do not end there, so they are
    made orthonormal on [-1, 1] one after the other. (Chebyshev's polynomials, made so, are Legendre's.)
    """
    if kind == "legendre":
        return _legendre(u, dim)
    if kind == "fourier":
        waves = [torch.full_like(u, math.sqrt(0.5))]
        for k in range(1, dim):
            waves.append((torch.cos if k % 2 else torch.sin)(math.pi * ((k + 1) // 2) * u))
        return torch.stack(waves, dim=-1)
    return _hermite(HERMITE * u, dim) @ _orthonormal(dim).to(u)


def cell_masses(kind: Kind, dim: int, count: int) -> Tensor:
    """(count, dim, dim): the integrals of products of two functions over each of `count` equal cells of [-1, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(8)
    edges = np.linspace(-1, 1, count + 1)
    inside = torch.from_numpy(edges[:-1, None] + (nodes + 1) / count)  # (count, 8)
    features = embed(kind, inside, dim)
    return torch.einsum("w,cwe,cwf->cef", torch.from_numpy(weights / count), features, features)


def _legendre(u: Tensor, dim: int) -> Tensor:
    found = [torch.ones_like(u), u]
    for k in range(1, dim - 1):
        found.append(((2 * k + 1) * u * found[k] - k * found[k - 1]) / (k + 1))
    return torch.stack([math.sqrt(k + 0.5) * one for k, one in enumerate(found[:dim])], dim=-1)


def _hermite(t: Tensor, dim: int) -> Tensor:
    found = [math.pi**-0.25 * (-t.square() / 2).exp()]
    found.append(math.sqrt(2) * t * found[0])
    for k in range(1, dim - 1):
        found.append(math.sqrt(2 / (k + 1)) * t * found[k] - math.sqrt(k / (k + 1)) * found[k - 1])
    return torch.stack(found[:dim], dim=-1)


@torch.compiler.assume_constant_result  # or a compiled step would make it again each time
def _orthonormal(dim: int) -> Tensor:
    return _orthonormalised(dim)


@lru_cache(maxsize=32)
def _orthonormalised(dim: int) -> Tensor:
    """(dim, dim), triangular: Hermite functions times it are orthonormal on [-1, 1], by Gram and Schmidt."""
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    features = _hermite(HERMITE * torch.from_numpy(nodes), dim)
    _, upper = torch.linalg.qr(features * torch.from_numpy(np.sqrt(weights))[:, None])
    return torch.linalg.inv(upper * upper.diagonal().sign()[:, None])
