"""Nodal analysis of circuits: the transfer function over frequency, and its poles and zeros.

Frequencies are angular and in units of `OMEGA_0` = 1e5 rad/s, so that s = 1j stands for 1e5 rad/s. Admittances are in
millisiemens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gatesweep.trainables.circuits.circuit import NODES, PAIRS, Mask, Values

FREQUENCIES = 61  # log-spaced from 1e2 to 1e8 rad/s
FLOOR_DB = -80.0  # smaller magnitudes are raised to this one


def grid(device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return the angular frequencies (61,) at which responses are compared, in units of OMEGA_0."""
    return torch.logspace(-3, 3, FREQUENCIES, dtype=dtype, device=device)


def response(mask: Tensor, values: Tensor, omega: Tensor) -> Tensor:
    """Return the voltage transfer function VOUT/VIN, complex (n, len(omega)), of circuits (n, 10, 3).

    `omega` is in units of OMEGA_0. The result is differentiable in `values` and is 0 where VOUT is not connected.
    The internal nodes are eliminated from the nodal equations one by one. For branch admittances this is the star-mesh
    transformation y_ab += y_an y_bn / sum_m y_nm. Nothing is subtracted, so float32 is accurate enough over twelve
    decades of admittance. Source: Kron, Tensor Analysis of Networks (1939).
    """
    size = 10.0 ** values.clamp(-9, 9) * mask
    inverse = 10.0 ** -values.clamp(-9, 9) * mask
    resistor, capacitor, inductor = inverse[..., 0, None], size[..., 1, None], inverse[..., 2, None]
    admittance = torch.complex(resistor.expand(*resistor.shape[:-1], len(omega)), capacitor * omega - inductor / omega)
    y = {pair: admittance[..., index, :] for index, pair in enumerate(PAIRS)}
    for inner in (4, 3):
        star = [y[node, inner] for node in range(inner)]
        total = _nonzero(torch.stack(star).sum(dim=0))
        for a, b in combinations(range(inner), 2):
            y[a, b] = y[a, b] + star[a] * star[b] / total
    return y[1, 2] / _nonzero(y[0, 2] + y[1, 2])


def decibels(transfer: Tensor) -> Tensor:
    """Return 20 log10 |H| of a complex transfer function H, at least -80 dB."""
    squared = transfer.real.square() + transfer.imag.square()
    return 10 * squared.clamp(min=10 ** (FLOOR_DB / 10)).log10()


@dataclass(frozen=True)
class Roots:
    """Poles and zeros of n circuits, in units of OMEGA_0 (1e5 rad/s).

    `poles` and `zeros` (n, 6) are complex, in the order of their magnitude, and NaN where a row has no more. Roots at
    the origin are left out of them: `at_origin` (n,) is the number of zeros there minus the number of poles there.
    `defined` (n,) is true where the transfer function exists and is not 0 everywhere.
    """

    poles: NDArray[np.complex128]
    zeros: NDArray[np.complex128]
    at_origin: NDArray[np.int64]
    defined: Mask

    @property
    def stable(self) -> Mask:
        """True (n,) for defined circuits without a pole right of the imaginary axis and without a double pole at 0."""
        with np.errstate(invalid="ignore"):
            right = self.poles.real > 1e-6 * np.abs(self.poles)
        return self.defined & ~right.any(axis=1) & (self.at_origin >= -1)


def roots(mask: Mask, values: Values) -> Roots:
    """Return the poles and zeros of circuits (n, 10, 3), computed in float64.

    By the matrix-tree theorem the determinant of the nodal matrix is a sum over spanning trees of products of branch
    admittances, here s Y = s G + s^2 C + 1/L. All terms are positive and cannot cancel, so a coefficient is exactly 0
    where it should be. Source: Maxwell's rule, e.g. Chen, Applied Graph Theory (1976), ch. 4.
    """
    numerator, denominator = _polynomials(_pruned(mask), values)
    defined: Mask = np.any(numerator, axis=1) & np.any(denominator, axis=1)
    numerator[~defined] = denominator[~defined] = np.eye(1, numerator.shape[1])
    at_origin = (numerator != 0).argmax(axis=1) - (denominator != 0).argmax(axis=1)
    return Roots(_solve(denominator), _solve(numerator), at_origin, defined)


def _nonzero(total: Tensor) -> Tensor:
    """Replace 0 by 1: where a sum of admittances is 0, nothing is connected, and the numerator above it is 0 too."""
    return torch.where(total.abs() > 1e-30, total, torch.ones_like(total))


def _pruned(mask: Mask) -> Mask:
    """Remove dead ends at internal nodes: no current flows there, and their poles would cancel with zeros."""
    mask = mask.copy()
    for _ in range(2):
        for node in (3, 4):
            around = [index for index, pair in enumerate(PAIRS) if node in pair]
            dead = mask[:, around].any(axis=2).sum(axis=1) == 1
            mask[np.ix_(dead.nonzero()[0], around)] = False
    return mask


def _polynomials(mask: Mask, values: Values) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the coefficients (n, 7), from s^0 on, of numerator and denominator of the transfer function."""
    size = np.where(mask, 10.0**values, 0.0)
    inverse = np.where(mask, 10.0**-values, 0.0)
    branch = np.stack([inverse[..., 2], inverse[..., 0], size[..., 1]], axis=-1)  # (n, 10, 3): s^0, s^1, s^2
    y = {pair: branch[:, index] for index, pair in enumerate(PAIRS)}
    for node in (3, 4):  # an unused node is tied to ground: a factor s in numerator and denominator alike
        loose = ~np.any([coefficients.any(axis=1) for pair, coefficients in y.items() if node in pair], axis=0)
        y[0, node] = np.where(loose[:, None], [0.0, 1.0, 0.0], y[0, node])
    numerator = np.zeros((len(mask), 7))
    denominator = np.zeros((len(mask), 7))
    for tree, last in TREES:
        driven = _product([y[1, edge[1]] if edge == last else _admittance(y, edge) for edge in tree])
        numerator += driven
        denominator += _product([_admittance(y, edge) for edge in tree])
    return numerator, denominator


def _admittance(y: dict[tuple[int, int], NDArray[np.float64]], edge: tuple[int, int]) -> NDArray[np.float64]:
    """Return the admittance of an edge after VIN, an ideal source, has been merged with ground into one vertex."""
    return y[edge] + y[1, edge[1]] if edge[0] == 0 else y[edge]


def _product(factors: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Multiply k polynomials (n, 3) to one (n, 2 k + 1)."""
    product = factors[0]
    for factor in factors[1:]:
        longer = np.zeros((len(product), product.shape[1] + 2))
        for power in range(3):
            longer[:, power : power + product.shape[1]] += product * factor[:, power, None]
        product = longer
    return product


def _trees() -> Iterator[tuple[tuple[tuple[int, int], ...], tuple[int, int]]]:
    """Yield the spanning trees of {ground, VOUT, N1, N2}, each with the last edge of its path from VOUT to ground.

    Ground and VIN are one vertex here. A tree contributes to the numerator with the part of its last edge that leads to
    VIN.
    """
    vertices = (0, 2, 3, 4)
    for tree in combinations(combinations(vertices, 2), len(vertices) - 1):
        parent: dict[int, tuple[int, int]] = {}
        reached = {0}
        for _ in tree:
            for a, b in tree:
                if (a in reached) != (b in reached):
                    inside, outside = (a, b) if a in reached else (b, a)
                    parent[outside] = (inside, outside)
                    reached.add(outside)
        if len(reached) == len(vertices):
            node = 2
            while parent[node][0] != 0:
                node = parent[node][0]
            yield tree, (0, node)


TREES = list(_trees())
assert len(TREES) == 16 and len(NODES) == 5  # Cayley's formula: 4 ** 2 trees


def _solve(polynomials: NDArray[np.float64]) -> NDArray[np.complex128]:
    """Return the nonzero roots (n, 6) of polynomials (n, 7), in the order of magnitude, NaN where there are no more.

    They are the eigenvalues of companion matrices.
    """
    n, width = polynomials.shape
    padded = np.full((n, width - 1), np.nan, dtype=complex)
    nonzero = polynomials != 0
    first, last = nonzero.argmax(axis=1), width - 1 - nonzero[:, ::-1].argmax(axis=1)
    for low, high in set(zip(first.tolist(), last.tolist(), strict=True)):
        rows, degree = np.nonzero((first == low) & (last == high))[0], high - low
        if degree == 0:
            continue
        companion = np.zeros((len(rows), degree, degree))
        companion[:, np.arange(1, degree), np.arange(degree - 1)] = 1
        companion[:, :, -1] = -polynomials[rows, low:high] / polynomials[rows, high, None]
        values = np.linalg.eigvals(companion).astype(complex)
        order = np.lexsort((values.imag, np.abs(values).round(12)), axis=1)
        padded[rows, :degree] = np.take_along_axis(values, order, axis=1)
    return padded
