"""Circuits as arrays of components and their values, the filter types, and circuits in a CSV file.

A circuit has five nodes (`NODES`), hence ten pairs of nodes (`PAIRS`), and at most one component of each kind (`KINDS`)
between two nodes. So there are 30 places for components, and arrays of circuits are (n, 10, 3).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gatesweep.core.data import require
from gatesweep.core.errors import InputError
from gatesweep.core.files import read_utf8

NODES = ("GND", "VIN", "VOUT", "N1", "N2")
KINDS = ("R", "C", "L")
PAIRS = tuple(combinations(range(len(NODES)), 2))
COLUMNS = ("circuit", "type", "kind", "from", "to", "value")

OMEGA_0 = 1e5  # rad/s
REFERENCE = (1e3, 1e-8, 1e-2)  # ohm, farad, henry: the values whose impedance at OMEGA_0 is 1 kilo-ohm
RANGES = ((1e2, 10**4.5), (1e-9, 1e-6), (1e-4, 1e-2))  # ohm, farad, henry: generated values are log-uniform in these

Component = tuple[str, str, str]  # kind, from, to
TYPES: dict[str, tuple[Component, ...]] = {
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

# The index of the pair that each pair becomes when N1 and N2 are exchanged.
_EXCHANGED = (0, 1, 2, 4, 3)
SWAP = [PAIRS.index((min(u, v), max(u, v))) for u, v in ((_EXCHANGED[a], _EXCHANGED[b]) for a, b in PAIRS)]


@dataclass(frozen=True)
class Circuits:
    """n circuits.

    `mask` (n, 10, 3) is true where a component of a kind lies between a pair of nodes. `values` (n, 10, 3) is log10 of
    its value over `REFERENCE`, and 0 where there is none. `types` (n,) holds indices into `names`.
    """

    mask: Mask
    values: Values
    types: NDArray[np.int64]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.mask)

    def __getitem__(self, rows: NDArray[np.int64]) -> Circuits:
        return Circuits(self.mask[rows], self.values[rows], self.types[rows], self.names)


def position(component: Component) -> tuple[int, int]:
    """Return the indices of a component's node pair and kind; ValueError for an unknown node or kind."""
    kind, *ends = component
    low, high = sorted(NODES.index(end) for end in ends)
    return PAIRS.index((low, high)), KINDS.index(kind)


def generate(types: Sequence[str], counts: Sequence[int], rng: np.random.Generator) -> Circuits:
    """Draw `counts[i]` circuits of the type `types[i]`, with values log-uniform in `RANGES`."""
    n = sum(counts)
    low, high = np.log10(np.array(RANGES) / np.array(REFERENCE)[:, None]).T
    values = rng.uniform(low, high, size=(n, len(PAIRS), len(KINDS)))
    kind = np.repeat(np.arange(len(types)), counts)
    shapes = np.zeros((len(types), len(PAIRS), len(KINDS)), dtype=bool)
    for index, name in enumerate(types):
        for component in TYPES[name]:
            shapes[index][position(component)] = True
    mask = shapes[kind]
    return Circuits(mask, values * mask, kind, tuple(types))


def load(path: str) -> Circuits:
    """Read circuits from a CSV file with the columns `circuit,type,kind,from,to,value`.

    Each row is one component, with its value in ohm, farad or henry. Parallel components of one kind are merged.
    Raises InputError with the file, the line and the column where there are such.
    """
    require(Path(path).is_file(), "data.path", path, f"a CSV file with the columns {','.join(COLUMNS)}")
    sums: dict[str, NDArray[np.float64]] = {}  # by circuit: sums of 1/R, C and 1/L in each place
    types: dict[str, str] = {}
    for line, row in _rows(path):
        place, amount = _place_and_amount(path, line, row)
        circuit, kind = row["circuit"], row["type"]
        if types.setdefault(circuit, kind) != kind:
            expected = f"{types[circuit]!r}, as in earlier rows of circuit {circuit!r}"
            raise InputError(f"{path}, line {line}, type: got {kind!r}, expected {expected}")
        sums.setdefault(circuit, np.zeros((len(PAIRS), len(KINDS))))[place] += amount
    require(bool(types), "data.path", path, "at least one circuit")
    merged = np.stack(list(sums.values()))
    mask = merged > 0
    values = np.where(mask, merged, 1.0)
    values[..., [0, 2]] = 1 / values[..., [0, 2]]
    names = tuple(dict.fromkeys(types.values()))
    index = np.array([names.index(kind) for kind in types.values()])
    return Circuits(mask, np.where(mask, np.log10(values / np.array(REFERENCE)), 0.0), index, names)


def save(path: str | Path, circuits: Circuits) -> None:
    """Write the CSV file that `load` reads, with all digits of every value."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for number, pair, kind in np.argwhere(circuits.mask):
            low, high = (NODES[node] for node in PAIRS[pair])
            value = 10 ** circuits.values[number, pair, kind] * REFERENCE[kind]
            name = circuits.names[circuits.types[number]]
            writer.writerow([f"c{number:05d}", name, KINDS[kind], low, high, repr(float(value))])


def edit_distance(first: Mask, second: Mask) -> NDArray[np.int64]:
    """Return the exact graph edit distance (n,) of masks (n, 10, 3): the number of components to add or remove.

    N1 and N2 are interchangeable, and the other nodes keep their labels. Only two matchings of the nodes are left, and
    the distance is the smaller of the two.
    """
    straight = (first != second).sum(axis=(1, 2))
    return np.minimum(straight, (first != second[:, SWAP]).sum(axis=(1, 2)))


def keys(mask: Mask) -> list[bytes]:
    """Return one key for each topology of `mask` (n, 10, 3).

    Two keys are equal if the topologies are equal, or become equal when N1 and N2 are exchanged.
    """
    pairs = zip(mask, mask[:, SWAP], strict=True)
    return [min(straight.tobytes(), swapped.tobytes()) for straight, swapped in pairs]


def connected(mask: Mask) -> Mask:
    """Return (n,) true for the circuits of `mask` (n, 10, 3) that have the shape of a filter.

    VIN, VOUT, GND and every internal node in use are connected, and no internal node is a dead end.
    """
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


def _rows(path: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the line number and the fields of every row; blank lines are skipped."""
    reader = csv.reader(io.StringIO(read_utf8(Path(path)), newline=""))
    try:
        header = [field.strip() for field in next(reader, [])]
        if tuple(header) != COLUMNS:
            raise InputError(f"{path}, line 1: got {','.join(header)!r}, expected the columns {','.join(COLUMNS)}")
        for fields in reader:
            if fields and len(fields) != len(COLUMNS):
                expected = f"{len(COLUMNS)}, as in the header"
                raise InputError(f"{path}, line {reader.line_num}: got {len(fields)} fields, expected {expected}")
            if fields:
                yield reader.line_num, dict(zip(COLUMNS, (field.strip() for field in fields), strict=True))
    except csv.Error as error:  # e.g. a quote that is never closed
        raise InputError(f"{path}, line {reader.line_num}: {error}, expected {','.join(COLUMNS)}") from error


def _place_and_amount(path: str, line: int, row: dict[str, str]) -> tuple[tuple[int, int], float]:
    """Return the place of a row's component, and the quantity that adds up in parallel: 1/R, C or 1/L."""

    def fault(column: str, expected: str) -> InputError:
        return InputError(f"{path}, line {line}, {column}: got {row[column]!r}, expected {expected}")

    if row["kind"] not in KINDS:
        raise fault("kind", f"one of {', '.join(KINDS)}")
    for end in ("from", "to"):
        if row[end] not in NODES:
            raise fault(end, f"one of {', '.join(NODES)}")
    if row["from"] == row["to"]:
        raise fault("to", "another node than 'from'")
    try:
        value = float(row["value"])
    except ValueError:
        value = float("nan")
    # The reciprocal is what merging adds up, so it must be finite as well.
    if not (0 < value < float("inf") and 0 < 1 / value < float("inf")):
        raise fault("value", "a finite number above 0 in ohm, farad or henry")
    return position((row["kind"], row["from"], row["to"])), value if row["kind"] == "C" else 1 / value
