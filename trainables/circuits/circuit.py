"""Circuits as arrays: which parts lie between which nodes, with what values; the filter types; the CSV of a user."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gatesweep.core.data import require

NODES = ("GND", "VIN", "VOUT", "N1", "N2")
KINDS = ("R", "C", "L")
PAIRS = tuple(combinations(range(len(NODES)), 2))
COLUMNS = ("circuit", "type", "kind", "from", "to", "value")

# Angular frequency in rad/s and the values (ohm, farad, henry) whose impedance there is 1 kilo-ohm.
OMEGA_0 = 1e5
REFERENCE = (1e3, 1e-8, 1e-2)
RANGES = ((1e2, 10**4.5), (1e-9, 1e-6), (1e-4, 1e-2))  # of generated values, by kind, log-uniform

Part = tuple[str, str, str]  # kind, from, to
TYPES: dict[str, tuple[Part, ...]] = {
    "low_pass": (("R", "VIN", "VOUT"), ("C", "VOUT", "GND")),
    "high_pass": (("C", "VIN", "VOUT"), ("R", "VOUT", "GND")),
    "band_pass": (("L", "VIN", "N1"), ("C", "N1", "VOUT"), ("R", "VOUT", "GND")),
    "band_stop": (("R", "VIN", "VOUT"), ("L", "VOUT", "N1"), ("C", "N1", "GND")),
    "rlc_series": (("R", "VIN", "N1"), ("L", "N1", "N2"), ("C", "N2", "VOUT"), ("R", "VOUT", "GND")),
    "rlc_parallel": (("R", "VIN", "VOUT"), ("R", "VOUT", "GND"), ("C", "VOUT", "GND"), ("L", "VOUT", "GND")),
    "rlc_low_pass": (("R", "VIN", "N1"), ("L", "N1", "VOUT"), ("C", "VOUT", "GND")),
    "rlc_high_pass": (("R", "VIN", "N1"), ("C", "N1", "VOUT"), ("L", "VOUT", "GND")),
    "rl_low_pass": (("L", "VIN", "VOUT"), ("R", "VOUT", "GND")),
    "rl_high_pass": (("R", "VIN", "VOUT"), ("L", "VOUT", "GND")),
}

Mask = NDArray[np.bool_]
Values = NDArray[np.float64]

# Where each pair goes when N1 and N2 change names.
_RENAMED = (0, 1, 2, 4, 3)
SWAP = [PAIRS.index((min(u, v), max(u, v))) for u, v in ((_RENAMED[a], _RENAMED[b]) for a, b in PAIRS)]


@dataclass(frozen=True)
class Circuits:
    """`mask` (n, 10, 3): whether a part of a kind lies between a pair of nodes; `values` (n, 10, 3): log10 of its
    value over `REFERENCE`, 0 where there is none; `types` (n,): index into `names`."""

    mask: Mask
    values: Values
    types: NDArray[np.int64]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.mask)

    def __getitem__(self, chosen: NDArray[np.int64]) -> Circuits:
        return Circuits(self.mask[chosen], self.values[chosen], self.types[chosen], self.names)


def position(part: Part) -> tuple[int, int]:
    """The pair and the kind of a part; ValueError for what is no node or kind."""
    kind, *ends = part
    low, high = sorted(NODES.index(end) for end in ends)
    return PAIRS.index((low, high)), KINDS.index(kind)


def generate(types: Sequence[str], counts: Sequence[int], rng: np.random.Generator) -> Circuits:
    """`counts[i]` circuits of `types[i]` with log-uniform values over `RANGES`."""
    n = sum(counts)
    low, high = np.log10(np.array(RANGES) / np.array(REFERENCE)[:, None]).T
    values = rng.uniform(low, high, size=(n, len(PAIRS), len(KINDS)))
    kind = np.repeat(np.arange(len(types)), counts)
    shapes = np.zeros((len(types), len(PAIRS), len(KINDS)), dtype=bool)
    for index, name in enumerate(types):
        for part in TYPES[name]:
            shapes[index][position(part)] = True
    mask = shapes[kind]
    return Circuits(mask, values * mask, kind, tuple(types))


def load(path: str) -> Circuits:
    """The circuits of a CSV with the columns `circuit,type,kind,from,to,value`, one part a row, values in SI units.

    Parallel parts of one kind merge. Raises ValueError, in one line, for whatever is not so.
    """
    require(Path(path).is_file(), "data.path", path, f"a CSV file with the columns {','.join(COLUMNS)}")
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        header = tuple(reader.fieldnames or ())
        require(header == COLUMNS, "data.path", ",".join(header), f"the columns {','.join(COLUMNS)}")
        merged: dict[str, NDArray[np.float64]] = {}  # by circuit: sums of 1/R, C and 1/L
        types: dict[str, str] = {}
        for line, row in enumerate(reader, start=2):
            require(None not in row, f"data.path, line {line}", "more fields", f"{len(COLUMNS)}, as the header has")
            where, conductance = _part(line, row)
            name, kind = row["circuit"], row["type"]
            require(types.setdefault(name, kind) == kind, f"data.path, line {line}, type", kind, repr(types[name]))
            merged.setdefault(name, np.zeros((len(PAIRS), len(KINDS))))[where] += conductance
    require(bool(types), "data.path", path, "at least one circuit")
    sums = np.stack(list(merged.values()))
    mask = sums > 0
    values = np.where(mask, sums, 1.0)
    values[..., [0, 2]] = 1 / values[..., [0, 2]]
    names = tuple(dict.fromkeys(types.values()))
    index = np.array([names.index(kind) for kind in types.values()])
    return Circuits(mask, np.where(mask, np.log10(values / np.array(REFERENCE)), 0.0), index, names)


def _part(line: int, row: dict[str, str]) -> tuple[tuple[int, int], float]:
    """Where the part of a row lies, and what adds up when it merges: 1/R, C or 1/L."""
    key = f"data.path, line {line}, "
    require(row["kind"] in KINDS, f"{key}kind", row["kind"], f"one of {', '.join(KINDS)}")
    for end in ("from", "to"):
        require(row[end] in NODES, f"{key}{end}", row[end], f"one of {', '.join(NODES)}")
    require(row["from"] != row["to"], f"{key}to", row["to"], "another node than 'from'")
    try:
        value = float(row["value"])
    except (TypeError, ValueError):
        value = float("nan")
    # What is not finite after merging is no value either.
    positive = 0 < value < float("inf") and 0 < 1 / value < float("inf")
    require(positive, f"{key}value", row["value"], "a finite number above 0 in ohm, farad or henry")
    return position((row["kind"], row["from"], row["to"])), value if row["kind"] == "C" else 1 / value


def save(path: str | Path, circuits: Circuits) -> None:
    """Write the CSV that `load` reads, with every value to its last digit."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for number, pair, kind in np.argwhere(circuits.mask):
            low, high = (NODES[node] for node in PAIRS[pair])
            value = 10 ** circuits.values[number, pair, kind] * REFERENCE[kind]
            name = circuits.names[circuits.types[number]]
            writer.writerow([f"c{number:05d}", name, KINDS[kind], low, high, repr(float(value))])


def edit_distance(one: Mask, other: Mask) -> NDArray[np.int64]:
    """Exact graph edit distance (n,) of masks (n, 10, 3): parts to add or remove, N1 and N2 being interchangeable.

    Nodes keep their labels, so that only two node matchings are left, and the cheaper one is the distance.
    """
    straight = (one != other).sum(axis=(1, 2))
    return np.minimum(straight, (one != other[:, SWAP]).sum(axis=(1, 2)))


def keys(mask: Mask) -> list[bytes]:
    """One key a topology: equal for masks that differ by the names of N1 and N2 alone."""
    pairs = zip(mask, mask[:, SWAP], strict=True)
    return [min(straight.tobytes(), swapped.tobytes()) for straight, swapped in pairs]


def connected(mask: Mask) -> Mask:
    """Whether (n,) circuits are filters by their shape: VIN, VOUT and GND are in one piece with every node that is
    used, and no internal node is a dead end."""
    edges = np.asarray(mask.any(axis=2))
    adjacency = np.zeros((len(mask), len(NODES), len(NODES)), dtype=bool)
    for pair, (u, v) in enumerate(PAIRS):
        adjacency[:, u, v] = adjacency[:, v, u] = edges[:, pair]
    degree: NDArray[np.int64] = adjacency.sum(axis=2)
    reached = np.zeros((len(mask), len(NODES)), dtype=bool)
    reached[:, 0] = True
    for _ in NODES:
        reached |= (reached[:, :, None] & adjacency).any(axis=1)
    whole = np.all(reached | (degree == 0), axis=1) & np.all(degree[:, :3] > 0, axis=1)
    return np.asarray(whole & np.all(degree[:, 3:] != 1, axis=1))
