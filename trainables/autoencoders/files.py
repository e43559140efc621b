"""Events of one's own, from an HDF5 or a ROOT file; both need `pip install "gatesweep[events]"`."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from gatesweep.trainables.autoencoders.events import PAD, Events, Floats

MOST_IDS = 255  # an id is a row of an embedding: a larger number is a mistake
BRANCHES = ("id", "pt", "eta", "phi")


def read(path: Path, dataset: str, n_events: int | None) -> Events:
    """The first `n_events` events of a file, or all of them. Raises ValueError, in one line, on what cannot be used.

    HDF5 (`.h5`, `.hdf5`): a table named `dataset` with a row of 5 T + 2 numbers for each event: T ids, the missing
    transverse momentum's size and phi, then E, pT, eta and phi of each of the T objects, all zero where there is
    none (T = 18 makes 92). ROOT (`.root`): a tree named `dataset` with an entry for each event and the jagged
    branches id, pt, eta and phi; met and met_phi are read where they are. Ids are whole numbers from 1; any unit of
    energy will do. E is not read: the objects are taken as massless.
    """
    readers: dict[str, Callable[[Path, str, int | None], Events]]
    readers = {".h5": _read_hdf5, ".hdf5": _read_hdf5, ".root": _read_root}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise _fault(path, f"expected a file whose name ends in {', '.join(readers)}")
    if not path.is_file():
        raise _fault(path, "no such file")
    events = reader(path, dataset, n_events)
    _check(path, events)
    return events


def write_hdf5(path: Path, events: Events, dataset: str = "events") -> None:
    """Write events as `read` takes them."""
    pt, eta, phi = np.moveaxis(events.objects, -1, 0)
    objects = np.stack([pt * np.cosh(eta), pt, eta, phi], axis=-1) * (events.ids > PAD)[..., None]
    rows = np.concatenate([events.ids, events.met, objects.reshape(len(events), -1)], axis=1)
    with _package("h5py", path).File(path, "w") as file:
        file.create_dataset(dataset, data=rows.astype(np.float32))


def _read_hdf5(path: Path, dataset: str, n_events: int | None) -> Events:
    h5py = _package("h5py", path)
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise _fault(path, "not an HDF5 file") from error
    with file:
        table = file.get(dataset)
        if not isinstance(table, h5py.Dataset):
            raise _fault(path, f"has no dataset {dataset!r} (data.dataset); at its top are {_names(file.keys())}")
        if table.ndim != 2 or table.shape[1] < 7 or table.shape[1] % 5 != 2 or table.dtype.kind not in "fiu":
            shape = f"{table.dtype} of shape {tuple(table.shape)}"
            raise _fault(path, f"{dataset} is {shape}, expected numbers (events, 5 T + 2), 92 for 18 objects")
        rows = table[:n_events].astype(np.float64)
    tokens = rows.shape[1] // 5
    ids, met, objects = np.split(rows, [tokens, tokens + 2], axis=1)
    return Events(_whole(path, ids), objects.reshape(len(rows), tokens, 4)[..., 1:], met)


def _read_root(path: Path, dataset: str, n_events: int | None) -> Events:
    uproot, awkward = _package("uproot", path), _package("awkward", path)
    try:
        file = uproot.open(path)
    except Exception as error:  # uproot has no error of its own for what is not ROOT
        raise _fault(path, "not a ROOT file") from error
    with file:
        if dataset not in file.keys(cycle=False) or not hasattr(file[dataset], "arrays"):
            raise _fault(path, f"has no tree {dataset!r} (data.dataset); it has {_names(file.keys(cycle=False))}")
        tree = file[dataset]
        missing = [name for name in BRANCHES if name not in tree]
        if missing:
            found = _names(tree.keys())
            raise _fault(path, f"{dataset} has no branch {', '.join(missing)}; its branches are {found}")
        extra = [name for name in ("met", "met_phi") if name in tree]
        arrays = tree.arrays([*BRANCHES, *extra], entry_stop=n_events)
    if any(arrays[name].ndim != 2 for name in BRANCHES):
        raise _fault(path, f"expected a list of numbers for each event in {', '.join(BRANCHES)}")
    lengths = [awkward.to_numpy(awkward.num(arrays[name])) for name in BRANCHES]
    if any((one != lengths[0]).any() for one in lengths):
        raise _fault(path, f"expected as many numbers in each of {', '.join(BRANCHES)} of an event")
    tokens = max(1, int(lengths[0].max(initial=0)))
    padded = [awkward.fill_none(awkward.pad_none(arrays[name], tokens, clip=True), 0) for name in BRANCHES]
    ids, *objects = (awkward.to_numpy(one).astype(np.float64) for one in padded)
    met = [awkward.to_numpy(arrays[name]).astype(np.float64) for name in extra]
    both = np.stack(met, axis=-1) if len(met) == 2 else np.zeros((len(ids), 2))
    return Events(_whole(path, ids), np.stack(objects, axis=-1), both)


def _whole(path: Path, ids: Floats) -> Any:
    if not ((ids >= 0) & (ids <= MOST_IDS) & (ids == np.round(ids))).all():
        raise _fault(path, f"expected ids to be whole numbers, 0 (none) to {MOST_IDS}")
    return ids.astype(np.int64)


def _check(path: Path, events: Events) -> None:
    if len(events) == 0:
        raise _fault(path, "has no events")
    known = events.objects[events.ids > PAD]
    if len(known) == 0:
        raise _fault(path, "has no objects: every id is 0")
    finite = np.isfinite(events.objects).all(axis=(1, 2)) & np.isfinite(events.met).all(axis=1)
    if not finite.all():
        raise _fault(path, f"event {int(np.argmin(finite))} (from 0) has a number that is not finite")
    if not (known[:, 0] > 0).all():
        raise _fault(path, f"expected every object's pT above 0, the least is {known[:, 0].min():g}")


def _package(name: str, path: Path) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise _fault(path, f'needs the package {name}: pip install "gatesweep[events]"') from error


def _names(names: Any) -> str:
    return ", ".join(names) or "nothing"


def _fault(path: Path, what: str) -> ValueError:
    return ValueError(f"data.path: {path}: {what}")
