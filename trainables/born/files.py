"""Reader of labelled series of one length, from files of the UCR archive."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gatesweep.core.errors import InputError
from gatesweep.core.files import read_utf8


def read_series(
    path: str, key: str = "data.path", names: tuple[str, ...] | None = None, length: int | None = None
) -> tuple[NDArray[np.float64], NDArray[np.int64], tuple[str, ...]]:
    """Read series (N, n), their classes (N,) as numbers from 0, and the K names of the classes, in that order.

    A `.ts` file has lines `v1,v2,...:name`. Other files (`.tsv`, `.txt`) have lines `name v1 v2 ...`, separated by
    tabs, commas or spaces. Empty lines and lines that start with @ or # are skipped.

    `names` and `length` are those of the training file, which a second file must share; without them the file decides,
    and names are sorted. Raises InputError, with `key`, file and line, for a file that does not fit.
    """
    lines = _lines(path, key)
    parse = _parse_ts if Path(path).suffix == ".ts" else _parse_tsv
    labels: list[str] = []
    series: list[list[float]] = []
    for number, line in lines:
        here = f"{path}, line {number}"
        label, values = parse(line, here, key)
        size = length if length is not None else len(series[0] if series else values)
        if len(values) != size:
            raise _error(key, f"{here}: {len(values)} values", f"{size}, as the others have")
        for position, value in enumerate(values, 1):
            if not np.isfinite(value):
                got = f"{here}: a value that is missing or not finite"
                raise _error(key, got, f"finite numbers, but value {position} of {size} is {value}")
        if names is not None and label not in names:
            raise _error(key, f"{here}: class {label}", f"one of {', '.join(names)}")
        labels.append(label)
        series.append(values)
    classes = tuple(sorted(set(labels))) if names is None else names
    if len(classes) < 2:
        raise _error(key, f"{path}: the class {classes[0]} alone", "at least two classes")
    return np.array(series), np.array([classes.index(label) for label in labels]), classes


def _lines(path: str, key: str) -> list[tuple[int, str]]:
    """Lines of a file that hold a series, stripped, with their numbers from 1; at least one."""
    file = Path(path)
    if not file.is_file():
        raise _error(key, path, "a file that exists")
    try:
        lines = [line.strip() for line in read_utf8(file).splitlines()]
    except InputError as error:
        raise _error(key, path, f"a text file: {error}") from error
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line and line[0] not in "@#"]
    if not numbered:
        raise _error(key, path, "at least one series")
    return numbered


def _parse_ts(line: str, here: str, key: str) -> tuple[str, list[float]]:
    """Class name and values of a line `v1,v2,...:name`."""
    parts = line.split(":")
    if len(parts) != 2:
        raise _error(key, f"{here}: {len(parts)} parts between colons", "one series and its class")
    return parts[1].strip(), _numbers(parts[0].split(","), here, key)


def _parse_tsv(line: str, here: str, key: str) -> tuple[str, list[float]]:
    """Class name and values of a line `name v1 v2 ...`."""
    fields = line.replace(",", " ").split()
    if len(fields) < 2:
        raise _error(key, f"{here}: {len(fields)} fields", "a class and at least one number")
    # Archives of different ages write the same class as 1 and as 1.0.
    return fields[0].removesuffix(".0"), _numbers(fields[1:], here, key)


def _numbers(texts: list[str], here: str, key: str) -> list[float]:
    """Texts as numbers; ? is a missing value, NaN."""
    try:
        return [float("nan") if text.strip() == "?" else float(text) for text in texts]
    except ValueError as error:
        raise _error(key, f"{here}: {error}", "numbers between commas, tabs or spaces") from error


def _error(key: str, got: str, expected: str) -> InputError:
    """Error in one line, in the form of `core.data.require`."""
    return InputError(f"{key}: got {got!r}, expected {expected}")
