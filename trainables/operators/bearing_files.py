"""Recorded bearings from MATLAB files, in the layout of the bearing data centre of Case Western Reserve University.

`path` is a CSV index with one recording per line. The files lie beside it:

    file,label,bearing,load,rpm,split
    97.mat,normal,normal,0,1797,train
    105.mat,inner_1,inner_7mil,0,1797,train

`label` names the class, usually `fault_severity`. `bearing` names the specimen: in those recordings, one fault of one
diameter, at any load. `split` is train, val or test, and the same for all recordings of a bearing. `load` is not used.
The recordings have no voltage, current, force or resonance frequency, so no equation can be checked. Only the speed is
used: the vibration is analysed over the angle of the shaft.
"""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from gatesweep.core.cache import machine_cache
from gatesweep.core.data import require
from gatesweep.core.errors import InputError
from gatesweep.core.files import read_utf8
from gatesweep.trainables.operators.bearing_data import PARTS, Batch, BearingData
from gatesweep.trainables.operators.bearing_model import DECIMATION

FIELDS = ("file", "label", "bearing", "load", "rpm", "split")


class RecordedBearings(BearingData):
    """Windows of the recordings in an index (see the beginning of this file).

    `key` is the end of the signal's name in each file, `sampling_rate` is in Hz, `samples` the length of a window, and
    `overlap` the fraction that it shares with the next window. `split` must be `bearing`: parts share no bearing.
    Windows drawn at random are refused, because training and validation would then share specimens, and a model could
    recognise the specimen instead of the fault.

    Raises InputError with the key or the file, the value and the expectation if a value or a file is wrong.
    """

    has_states = False

    def __init__(
        self,
        *,
        device: torch.device,
        seed: int,
        batch_size: int = 32,
        path: str,
        key: str = "_DE_time",
        sampling_rate: int = 12_000,
        samples: int = 1024,
        overlap: float = 0.0,
        split: Literal["bearing", "random"] = "bearing",
    ) -> None:
        require(split == "bearing", "data.split", split, "'bearing': windows of one bearing are no test of another")
        require(sampling_rate >= 1, "data.sampling_rate", sampling_rate, "at least 1 Hz")
        parts, classes = recorded(FileRecipe(path, key, samples, overlap), torch.device(device))
        super().__init__(parts, classes, sampling_rate, device=device, seed=seed, batch_size=batch_size)


@dataclass(frozen=True)
class FileRecipe:
    """Everything that windows of recordings depend on: the key of the machine-wide cache."""

    path: str  # of the index
    key: str  # end of the signal's name in each file
    samples: int  # of a window
    overlap: float  # fraction of a window that it shares with the next

    def __post_init__(self) -> None:
        good = self.samples >= 128 and self.samples % DECIMATION == 0
        require(good, "data.samples", self.samples, f"at least 128, a multiple of {DECIMATION}")
        require(0 <= self.overlap < 1, "data.overlap", self.overlap, "a fraction of a window below 1")


def read_index(path: str) -> list[dict[str, str]]:
    """Read the lines of an index, one dict per recording.

    Raises InputError with the line and the value if a line is incomplete or wrong, if a bearing is in two parts, or if
    a part has no bearing.
    """
    file = Path(path)
    require(file.is_file(), "data.path", path, f"a CSV file with {','.join(FIELDS)}")
    try:
        reader = csv.DictReader(io.StringIO(read_utf8(file), newline=""))
        reader.fieldnames = [name.strip() for name in reader.fieldnames or []]
        numbered = [(reader.line_num, row) for row in reader]
    except (InputError, csv.Error) as error:
        raise InputError(f"data.path: got {path!r}, expected a CSV file: {error}") from error
    require(len(numbered) > 0, "data.path", path, "at least one recording")
    missing = [field for field in FIELDS if field not in numbered[0][1]]
    require(not missing, "data.path", path, f"the columns {','.join(FIELDS)}; it has no {', '.join(missing)}")
    split_of: dict[str, str] = {}
    rows = []
    for number, row in numbered:
        where = f"data.path line {number}"
        require(None not in row, where, row.get(None), "no field beyond the columns of the header")
        rows.append({field: row[field] and row[field].strip() for field in FIELDS})
        _check_row(rows[-1], where, split_of)
    for part in PARTS:
        require(part in split_of.values(), "data.path", path, f"at least one bearing in split {part!r}")
    return rows


def read_vibration(file: Path, key: str) -> NDArray[np.float64]:
    """Read the signal of a MATLAB file whose name ends in `key`, (samples,), float64.

    Raises InputError with the file if it cannot be read, has no such signal or several, or has values that are not
    finite.
    """
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    require(os.path.isfile(file), "data.path", str(file)[-200:], "a file that exists, named relative to the index")
    try:
        variables = loadmat(str(file))
    except (MatReadError, ValueError, NotImplementedError, TypeError) as error:  # the third: scipy, version 7.3
        raise InputError(f"data.path: got {str(file)!r}, expected a MATLAB file up to version 7: {error}") from error
    names = [name for name in variables if name.endswith(key)]
    available = ", ".join(name for name in variables if not name.startswith("__"))
    require(len(names) == 1, "data.key", key, f"the end of one variable's name in {file.name}, which has {available}")
    values = np.asarray(variables[names[0]])
    is_real = np.issubdtype(values.dtype, np.integer) or np.issubdtype(values.dtype, np.floating)
    require(is_real, "data.key", key, f"a variable of real numbers; that in {file.name} is of {values.dtype}")
    signal = values.astype(np.float64).ravel()
    require(bool(np.isfinite(signal).all()), "data.path", str(file), "finite samples")
    return signal


def cut(signal: NDArray[np.float64], samples: int, overlap: float) -> NDArray[np.float64]:
    """Cut a signal into windows, (windows, samples); each shares the fraction `overlap` with the next.

    The remainder at the end is dropped. The result is a read-only view of the signal.
    """
    step = max(1, round(samples * (1 - overlap)))
    return np.lib.stride_tricks.sliding_window_view(signal, samples)[::step]


@machine_cache
def recorded(recipe: FileRecipe, device: torch.device) -> tuple[dict[str, Batch], tuple[str, ...]]:
    """Read the windows of each part, once, to the device. Returns them by part, and the names of the classes.

    Class `normal` comes first, the others in alphabetical order. Raises InputError with the file if a label occurs in
    no training recording, or if a recording is shorter than a window.
    """
    rows = read_index(recipe.path)
    classes = tuple(sorted({row["label"] for row in rows}, key=lambda name: (name != "normal", name)))
    bearings = sorted({row["bearing"] for row in rows})
    trained = {row["label"] for row in rows if row["split"] == "train"}
    for row in rows:
        expected = f"a class of some training bearing: {', '.join(sorted(trained))}"
        require(row["label"] in trained, f"data.path, {row['file']}, label", row["label"], expected)
    parts = {}
    for part in PARTS:
        members = [row for row in rows if row["split"] == part]
        tensors = _windows(members, recipe, classes, bearings)
        parts[part] = {name: tensor.to(device) for name, tensor in tensors.items()}
    # The unit is the rms of the training recordings. It removes the scale of the accelerometer, but keeps the level of
    # a window, which tells the severity.
    scale = parts["train"]["vibration"].square().mean().sqrt()
    require(bool(scale > 0), "data.path", recipe.path, "training recordings that are not all zero")
    for batch in parts.values():
        batch["vibration"] /= scale
    return parts, classes


def _windows(
    rows: Sequence[dict[str, str]], recipe: FileRecipe, classes: Sequence[str], bearings: Sequence[str]
) -> Batch:
    """Return the windows of recordings as one batch, with the mean of each recording removed."""
    vibration, label, bearing, speed = [], [], [], []
    for row in rows:
        file = Path(recipe.path).parent / row["file"]
        signal = read_vibration(file, recipe.key)
        require(len(signal) >= recipe.samples, "data.samples", recipe.samples, f"at most {len(signal)}, of {file.name}")
        windows = cut(signal, recipe.samples, recipe.overlap)
        vibration.append(torch.from_numpy(windows - signal.mean()).float())
        count = len(windows)
        label.append(torch.full((count,), classes.index(row["label"])))
        bearing.append(torch.full((count,), bearings.index(row["bearing"])))
        speed.append(torch.full((count,), _number(row["rpm"]) * 2 * math.pi / 60))
    columns = {"vibration": vibration, "label": label, "bearing": bearing, "speed": speed}
    return {name: torch.cat(tensors) for name, tensors in columns.items()}


def _check_row(row: dict[str, str], where: str, split_of: dict[str, str]) -> None:
    """Check a line of an index, and enter its bearing in `split_of`, the splits of earlier bearings."""
    for field in FIELDS:
        require(bool(row[field]) or field == "load", where, row[field], f"a value in column {field!r}")
    require(row["split"] in PARTS, where, row["split"], f"a split of {', '.join(PARTS)}")
    require(0 < _number(row["rpm"]) < math.inf, where, row["rpm"], "rpm above 0")
    first = split_of.setdefault(row["bearing"], row["split"])
    expected = f"split {first!r} as on its other lines: windows of one bearing reveal each other's class"
    require(row["split"] == first, f"{where}, bearing {row['bearing']!r}", row["split"], expected)


def _number(text: str) -> float:
    """Return the number in a text, NaN if there is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan
