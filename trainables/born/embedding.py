"""Embedding of one feature: functions on [-1, 1] that are orthonormal there, the lowest order first."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Kind = Literal["legendre", "fourier", "hermite"]
HIGHEST: dict[Kind, int] = {"legendre": 30, "fourier": 30, "hermite": 20}  # beyond: under 4 right digits in float32
HERMITE = 4.0  # half-width of the interval that [-1, 1] is stretched to before Hermite functions are taken
NODES = 400  # of the quadrature that makes Hermite functions orthonormal on a bounded interval


def embed(kind: Kind, u: Tensor, dim: int) -> Tensor:
    """Evaluate the first `dim` functions of a kind at points u (...) of [-1, 1]; returns (..., dim).

    * `legendre`: sqrt(k + 1/2) P_k(u).
    * `fourier`: 1/sqrt(2), cos(pi u), sin(pi u), cos(2 pi u), ...; each has the same value at both ends.
    * `hermite`: Hermite functions of 4 u, which decay towards the ends. High orders do not reach 0 there, so the
      functions are made orthonormal on [-1, 1], one after the other.

    Chebyshev polynomials are not offered: made orthonormal in the same way, they become Legendre polynomials.
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
    """Integrate each product of two functions over each of `count` equal cells of [-1, 1]; returns (count, dim, dim).

    Gauss-Legendre quadrature with 8 nodes a cell, in float64.
    """
    nodes, weights = np.polynomial.legendre.leggauss(8)
    edges = np.linspace(-1, 1, count + 1)
    inside = torch.from_numpy(edges[:-1, None] + (nodes + 1) / count)  # (count, 8)
    features = embed(kind, inside, dim)
    return torch.einsum("w,cwe,cwf->cef", torch.from_numpy(weights / count), features, features)


def _legendre(u: Tensor, dim: int) -> Tensor:
    """Normalised Legendre polynomials at u (...), by Bonnet's recursion; returns (..., dim)."""
    polynomials = [torch.ones_like(u), u]
    for k in range(1, dim - 1):
        polynomials.append(((2 * k + 1) * u * polynomials[k] - k * polynomials[k - 1]) / (k + 1))
    return torch.stack([math.sqrt(k + 0.5) * values for k, values in enumerate(polynomials[:dim])], dim=-1)


def _hermite(t: Tensor, dim: int) -> Tensor:
    """Hermite functions at t (...), orthonormal on the whole real line, by their recursion; returns (..., dim)."""
    functions = [math.pi**-0.25 * (-t.square() / 2).exp()]
    functions.append(math.sqrt(2) * t * functions[0])
    for k in range(1, dim - 1):
        functions.append(math.sqrt(2 / (k + 1)) * t * functions[k] - math.sqrt(k / (k + 1)) * functions[k - 1])
    return torch.stack(functions[:dim], dim=-1)


@torch.compiler.assume_constant_result  # without it, a compiled step would compute the matrix again each time
def _orthonormal(dim: int) -> Tensor:
    """Call `_orthonormalised`, whose cache torch.compile cannot trace."""
    return _orthonormalised(dim)


@lru_cache(maxsize=32)
def _orthonormalised(dim: int) -> Tensor:
    """Matrix (dim, dim) that makes Hermite functions orthonormal on [-1, 1]; triangular, as Gram-Schmidt gives it."""
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    features = _hermite(HERMITE * torch.from_numpy(nodes), dim)
    _, upper = torch.linalg.qr(features * torch.from_numpy(np.sqrt(weights))[:, None])
    return torch.linalg.inv(upper * upper.diagonal().sign()[:, None])
