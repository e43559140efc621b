"""Circuits small enough to follow by hand, and their descriptions in words."""

from __future__ import annotations

import math

import numpy as np
import torch

from gatesweep.trainables.circuits.circuit import (
    KINDS,
    NODES,
    PAIRS,
    REFERENCE,
    connected,
    position,
)
from gatesweep.trainables.circuits.data import CircuitData
from gatesweep.trainables.circuits.physics import grid, response, roots
from gatesweep.trainables.circuits.trainable import CircuitVAE

CPU = torch.device("cpu")
OMEGA = grid(CPU, torch.float64)
LATENT = {"topology": 2, "values": 3, "response": 2}


def few(**fields):
    """Return a data set of few circuits."""
    sizes = {"n_train": 120, "n_val": 24, "n_test": 24, "batch_size": 24}
    return CircuitData(device=CPU, seed=0, **(sizes | fields))


def small(data, **fields):
    """Return a small circuit VAE."""
    torch.manual_seed(0)
    sizes = {"latent": LATENT, "hidden": 12, "layers": 1, "decoder_hidden": 12, "samples": 50}
    return CircuitVAE(data, **(sizes | fields))


def circuit(*parts):
    """Return the mask and values of one circuit with parts (kind, from, to, value in SI units)."""
    mask, values = np.zeros((1, 10, 3), dtype=bool), np.zeros((1, 10, 3))
    for kind, start, end, value in parts:
        index = (0, *position((kind, start, end)))
        mask[index], values[index] = True, math.log10(value / REFERENCE[KINDS.index(kind)])
    return mask, values


def parts_of(mask, values):
    """Yield the parts of one circuit: (kind, from, to, value in SI units)."""
    for pair, kind in np.argwhere(mask):
        value = 10 ** values[pair, kind] * REFERENCE[kind]
        yield KINDS[kind], *(NODES[node] for node in PAIRS[pair]), value


def transfer(mask, values, omega=OMEGA):
    """Return the transfer functions of circuits at the frequencies `omega`."""
    return response(torch.from_numpy(mask), torch.from_numpy(values), omega).numpy()


def random_circuits(count, seed=0, density=0.3):
    """Return the masks and values of `count` random circuits that are connected and have a transfer function."""
    rng = np.random.default_rng(seed)
    mask = rng.random((8 * count, 10, 3)) < density
    values = rng.uniform(-2, 2, mask.shape) * mask
    proper = connected(mask)
    proper[proper] = roots(mask[proper], values[proper]).defined
    assert proper.sum() >= count
    return mask[proper][:count], values[proper][:count]
