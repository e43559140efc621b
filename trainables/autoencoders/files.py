"""Reader of your own events from an HDF5 or a ROOT file; it needs `pip install "gatesweep[events]"`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from gatesweep.core.errors import InputError
from gatesweep.trainables.autoencoders.events import PAD, Events, Floats, Ints

MAX_ID = 255  # an id is a row of an embedding table, so a larger number is surely a mistake
BRANCHES = ("id", "pt", "eta", "phi")


def read(path: Path, dataset: str, n_events: int | None) -> Events:
    """Read the first `n_events` events of a file, or all of them if it is None.

    HDF5 (`.h5`, `.hdf5`): a table named `dataset` with one row of 5 T + 2 numbers for each event. These are the ids of
    T objects, size and phi of the missing transverse momentum, then E, pT, eta and phi of each object. They are all 0
    for an object that does not exist. T = 18 gives 92 numbers.

    ROOT (`.root`): a tree named `dataset` with one entry for each event and the jagged branches id, pt, eta and phi.
    The branches met and met_phi, size and phi of the missing transverse momentum, are read if both exist.

    Ids are whole numbers from 1 to 255; 0 means no object. pT is above 0 and phi is in radians. Energies may have any
    unit, but the axes of figures say GeV. E is not used: objects count as massless.

    Raises InputError, in one line, if the file cannot be used; it names the file and, for a bad number, the event: its
    row or entry, counted from 0.
    """
    readers: dict[str, Callable[[Path, str, int | None], Events]]
    readers = {".h5": _read_hdf5, ".hdf5": _read_hdf5, ".root": _read_root}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise _error(path, f"expected a file whose name ends in {', '.join(readers)}")
    if not path.is_file():
        raise _error(path, "no such file")
    events = reader(path, dataset, n_events)
    _check(path, events)
    return events


def write_hdf5(path: Path, events: Events, dataset: str = "events") -> None:
    """Write events to a table that `read` can read, as float32. Raises InputError if h5py is not installed."""
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
        raise _error(path, "not an HDF5 file") from error
    with file:
        table = file.get(dataset)
        if not isinstance(table, h5py.Dataset):
            raise _error(path, f"has no dataset {dataset!r} (data.dataset); at its top are {_listed(file.keys())}")
        if table.ndim != 2 or table.shape[1] < 7 or table.shape[1] % 5 != 2 or table.dtype.kind not in "fiu":
            shape = f"{table.dtype} of shape {tuple(table.shape)}"
            raise _error(path, f"{dataset} is {shape}, expected numbers (events, 5 T + 2), 92 for 18 objects")
        rows = table[:n_events].astype(np.float64)
    tokens = rows.shape[1] // 5
    ids, met, objects = np.split(rows, [tokens, tokens + 2], axis=1)
    return Events(_whole_ids(path, ids), objects.reshape(len(rows), tokens, 4)[..., 1:], met)


def _read_root(path: Path, dataset: str, n_events: int | None) -> Events:
    uproot, awkward = _package("uproot", path), _package("awkward", path)
    try:
        file = uproot.open(path)
    except Exception as error:  # uproot has no error class of its own for a file that is not ROOT
        raise _error(path, "not a ROOT file") from error
    with file:
        if dataset not in file.keys(cycle=False) or not hasattr(file[dataset], "arrays"):
            raise _error(path, f"has no tree {dataset!r} (data.dataset); it has {_listed(file.keys(cycle=False))}")
        tree = file[dataset]
        missing = [name for name in BRANCHES if name not in tree]
        if missing:
            branches = _listed(tree.keys())
            raise _error(path, f"{dataset} has no branch {', '.join(missing)}; its branches are {branches}")
        met_branches = [name for name in ("met", "met_phi") if name in tree]
        arrays = tree.arrays([*BRANCHES, *met_branches], entry_stop=n_events)
    flat = [name for name in BRANCHES if arrays[name].ndim != 2]
    if flat:
        expected = f"expected a list of numbers for each event in {', '.join(BRANCHES)}"
        raise _error(path, f"{expected}; not so in {', '.join(flat)}")
    lengths = np.stack([awkward.to_numpy(awkward.num(arrays[name])) for name in BRANCHES])
    unequal = (lengths != lengths[0]).any(axis=0)
    if unequal.any():
        event = int(np.argmax(unequal))
        expected = f"expected as many numbers in each of {', '.join(BRANCHES)} of an event"
        raise _error(path, f"event {event} (from 0): {expected}, got {_listed(map(str, lengths[:, event]))}")
    tokens = max(1, int(lengths[0].max(initial=0)))
    padded = [awkward.fill_none(awkward.pad_none(arrays[name], tokens, clip=True), 0) for name in BRANCHES]
    ids, *objects = (awkward.to_numpy(branch).astype(np.float64) for branch in padded)
    met_columns = [awkward.to_numpy(arrays[name]).astype(np.float64) for name in met_branches]
    met = np.stack(met_columns, axis=-1) if len(met_columns) == 2 else np.zeros((len(ids), 2))
    return Events(_whole_ids(path, ids), np.stack(objects, axis=-1), met)


def _whole_ids(path: Path, ids: Floats) -> Ints:
    """Convert ids (n, T) to integers; raise InputError at the first event with an id that is not allowed."""
    allowed = (ids >= 0) & (ids <= MAX_ID) & (ids == np.round(ids))
    if not allowed.all():
        event, token = np.argwhere(~allowed)[0]
        expected = f"expected ids to be whole numbers, 0 (none) to {MAX_ID}"
        raise _error(path, f"event {event} (from 0): got id {ids[event, token]:.9g}, {expected}")
    return ids.astype(np.int64)


def _check(path: Path, events: Events) -> None:
    """Raise InputError unless there are objects, all numbers are finite, and every pT is above 0."""
    if len(events) == 0:
        raise _error(path, "has no events")
    if not (events.ids > PAD).any():
        raise _error(path, "has no objects: every id is 0")
    numbers = np.concatenate([events.objects.reshape(len(events), -1), events.met], axis=1)
    bad = np.argwhere(~np.isfinite(numbers))
    if len(bad):
        event, column = bad[0]
        raise _error(path, f"event {event} (from 0) has a number that is not finite: {numbers[event, column]}")
    lowest = np.where(events.ids > PAD, events.objects[..., 0], np.inf).min(axis=1)  # pT of each event's softest object
    if not (lowest > 0).all():
        event = int(np.argmin(lowest))
        expected = "expected every object's pT above 0"
        raise _error(path, f"event {event} (from 0): {expected}, the least is {lowest[event]:g}")


def _package(name: str, path: Path) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise _error(path, f'needs the package {name}: pip install "gatesweep[events]"') from error


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "nothing"


def _error(path: Path, message: str) -> InputError:
    return InputError(f"data.path: {path}: {message}")
