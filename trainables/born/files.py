"""Labelled series of one length from files, as the UCR archive lays them out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gatesweep.core.data import require


def read_series(
    path: str, key: str = "data.path", names: tuple[str, ...] | None = None, length: int | None = None
) -> tuple[NDArray[np.float64], NDArray[np.int64], tuple[str, ...]]:
    """Series (N, n), classes (N,) and the names of the classes, in order, of a file.

    `.ts`: lines `v1,v2,...:name` after the one that says @data (@ and # start what is passed over). Others, `.tsv` and
    `.txt`: lines `name v1 v2 ...`, between tabs, commas or spaces. `names` and `length`, where given, are those of the
    training file, which this one is to share. Raises ValueError, which starts with `key`, for anything else.
    """
    file = Path(path)
    require(file.is_file(), key, path, "a file that exists")
    try:
        lines = [line.strip() for line in file.read_text().splitlines()]
    except UnicodeDecodeError:
        require(False, key, path, "a text file")
    rows = [(place, line) for place, line in enumerate(lines, 1) if line and line[0] not in "@#"]
    require(len(rows) > 0, key, path, "at least one series")
    split = _of_ts if file.suffix == ".ts" else _of_tsv
    labels, series = zip(*(split(line, f"{path}, line {place}", key) for place, line in rows), strict=True)
    size = len(series[0]) if length is None else length
    for (place, _), label, one in zip(rows, labels, series, strict=True):
        here = f"{path}, line {place}"
        require(len(one) == size, key, f"{here}: {len(one)} values", f"{size}, as the others have")
        require(bool(np.isfinite(one).all()), key, f"{here}: a value that is missing or not finite", "numbers")
        require(names is None or label in names, key, f"{here}: class {label}", f"one of {', '.join(names or ())}")
    known = tuple(sorted(set(labels))) if names is None else names
    require(len(known) >= 2, key, f"{path}: the class {known[0]} alone", "at least two classes")
    return np.array(series), np.array([known.index(label) for label in labels]), known


def _of_ts(line: str, here: str, key: str) -> tuple[str, list[float]]:
    parts = line.split(":")
    require(len(parts) == 2, key, f"{here}: {len(parts)} parts between colons", "one series and its class")
    return parts[1].strip(), _numbers(parts[0].split(","), here, key)


def _of_tsv(line: str, here: str, key: str) -> tuple[str, list[float]]:
    label, *values = line.replace(",", " ").split()
    # Archives of different ages write the same class 1 and 1.0000000e+00.
    return label.removesuffix(".0"), _numbers(values, here, key)


def _numbers(values: list[str], here: str, key: str) -> list[float]:
    try:
        return [float("nan") if value.strip() == "?" else float(value) for value in values]
    except ValueError as error:
        require(False, key, f"{here}: {error}", "numbers between commas, tabs or spaces")
        raise AssertionError from error  # `require` has raised
