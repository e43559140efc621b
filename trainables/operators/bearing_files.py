"""Recorded bearings from MATLAB files, as the bearing data centre of Case Western Reserve University lays them out.

`path` is a CSV index of recordings, one a line, beside which the files lie:

    file,label,bearing,load,rpm,split
    97.mat,normal,normal,0,1797,train
    105.mat,inner_1,inner_7mil,0,1797,train

`label` names the class, by custom `fault_severity`; `bearing` the specimen: in those recordings, one fault of one
diameter, whatever the load. `split` is train, val or test, the same for all recordings of a bearing. The recordings
hold neither voltage and current nor forces, and name no resonance: of the equations, none can be asked. What is kept of
the physics is the speed, over whose angle the vibration is analysed.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from gatesweep.core.cache import machine_cache
from gatesweep.core.data import require
from gatesweep.trainables.operators.bearing_data import PARTS, Batch, BearingData
from gatesweep.trainables.operators.bearing_model import DECIMATION

FIELDS = ("file", "label", "bearing", "load", "rpm", "split")


@dataclass(frozen=True)
class FileRecipe:
    """All that windows of recordings depend on."""

    path: str
    key: str
    samples: int
    overlap: float

    def __post_init__(self) -> None:
        good = self.samples >= 128 and self.samples % DECIMATION == 0
        require(good, "data.samples", self.samples, f"at least 128, a multiple of {DECIMATION}")
        require(0 <= self.overlap < 1, "data.overlap", self.overlap, "a fraction of a window below 1")


def read_index(path: str) -> list[dict[str, str]]:
    """The lines of an index; ValueError where one is no recording, or a bearing is in two parts."""
    file = Path(path)
    require(file.is_file(), "data.path", path, f"a CSV file with {','.join(FIELDS)}")
    with file.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    require(len(rows) > 0, "data.path", path, "at least one recording")
    missing = [field for field in FIELDS if field not in rows[0]]
    require(not missing, "data.path", path, f"the columns {','.join(FIELDS)}; it has no {', '.join(missing)}")
    home: dict[str, str] = {}
    for number, row in enumerate(rows, 2):
        where = f"data.path line {number}"
        require(row["split"] in PARTS, where, row["split"], f"a split of {', '.join(PARTS)}")
        require(_number(row["rpm"]) > 0, where, row["rpm"], "rpm above 0")
        first = home.setdefault(row["bearing"], row["split"])
        expected = f"split {first!r} as on its other lines: windows of one bearing tell one another apart from the rest"
        require(row["split"] == first, f"{where}, bearing {row['bearing']!r}", row["split"], expected)
    for part in PARTS:
        require(part in home.values(), "data.path", path, f"at least one bearing in split {part!r}")
    return rows


def read_vibration(file: Path, key: str) -> NDArray[np.float64]:
    """(samples,): the one signal of a MATLAB file whose name ends in `key`."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    require(file.is_file(), "data.path", str(file), "a file that exists, named relative to the index")
    try:
        found = loadmat(str(file))
    except (MatReadError, ValueError, NotImplementedError, TypeError) as error:  # the third: scipy's, of version 7.3
        raise ValueError(f"data.path: got {str(file)!r}, expected a MATLAB file up to version 7: {error}") from error
    names = [name for name in found if name.endswith(key)]
    here = ", ".join(name for name in found if not name.startswith("__"))
    require(len(names) == 1, "data.key", key, f"the end of one variable's name in {file.name}, which has {here}")
    signal = np.asarray(found[names[0]], dtype=np.float64).ravel()
    require(bool(np.isfinite(signal).all()), "data.path", str(file), "finite samples")
    return signal


def cut(signal: NDArray[np.float64], samples: int, overlap: float) -> NDArray[np.float64]:
    """(windows, samples): windows that share a fraction with the next; what is left at the end is left out."""
    step = max(1, round(samples * (1 - overlap)))
    return np.lib.stride_tricks.sliding_window_view(signal, samples)[::step]


@machine_cache
def recorded(recipe: FileRecipe, device: torch.device) -> tuple[dict[str, Batch], tuple[str, ...]]:
    """The windows of each part, on the device, and the classes by name; read once."""
    rows = read_index(recipe.path)
    classes = tuple(sorted({row["label"] for row in rows}, key=lambda name: (name != "normal", name)))
    bearings = sorted({row["bearing"] for row in rows})
    trained = {row["label"] for row in rows if row["split"] == "train"}
    for row in rows:
        expected = f"a class of some training bearing: {', '.join(sorted(trained))}"
        require(row["label"] in trained, f"data.path, {row['file']}, label", row["label"], expected)
    parts = {}
    for part in PARTS:
        mine = [row for row in rows if row["split"] == part]
        parts[part] = {key: one.to(device) for key, one in _windows(mine, recipe, classes, bearings).items()}
    # In units of the training recordings: accelerometers differ, and so would the level that a severity is told by.
    scale = parts["train"]["vibration"].square().mean().sqrt()
    require(bool(scale > 0), "data.path", recipe.path, "training recordings that are not all zero")
    for tensors in parts.values():
        tensors["vibration"] /= scale
    return parts, classes


def _windows(
    rows: Sequence[dict[str, str]], recipe: FileRecipe, classes: Sequence[str], bearings: Sequence[str]
) -> Batch:
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
    found = {"vibration": vibration, "label": label, "bearing": bearing, "speed": speed}
    return {name: torch.cat(one) for name, one in found.items()}


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


class RecordedBearings(BearingData):
    """Windows of recordings that an index names (see this file's beginning).

    `split` says what is kept apart: bearings. Windows drawn at random are refused: they come from the same specimens in
    training and validation, and a model that knows nothing of faults then tells them apart by the specimen.
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
