"""Messages of bad input: one line that names the key, the value and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

import pydantic


def first_fault(
    error: pydantic.ValidationError,
    prefix: str = "",
    keys: Iterable[str] = (),
    renamed: Mapping[str, str] | None = None,
) -> str:
    """Return the first fault of a validation in one line; its key begins with `prefix`.

    For an unknown key the line suggests its new name in `renamed` ("section.old": "new"), or the nearest of `keys`.
    """
    fault, known = error.errors(include_url=False)[0], list(keys)
    parts = (str(part) for part in fault["loc"])
    where = ".".join(part for part in parts if not part.startswith(("constrained-", "function-")) and part != "str")
    key = ".".join(part for part in (prefix, where) if part)
    if fault["type"] == "extra_forbidden":
        nearest = f"{key.rpartition('.')[0]}.{renamed[key]}" if renamed and key in renamed else nearest_key(key, known)
        remedy = f"did you mean {nearest}?" if nearest else "expected one of those that --cfg prints"
        return f"{key}: unknown key, {remedy}"
    if fault["type"] == "missing":
        return f"{key}: missing"
    expected = fault["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    if inner := [name.removeprefix(f"{key}.") for name in known if name.startswith(f"{key}.")]:
        expected = f"keys: {', '.join(name for name in inner if '.' not in name)}"
    return f"{key}: got {fault['input']!r}, expected {expected}"


def nearest_key(key: str, keys: Iterable[str]) -> str | None:
    """Return the one of `keys` that `key` may stand for: of another section, in other case, or misspelt."""
    known = sorted(keys, key=lambda other: other.count("."))
    section, _, name = key.lower().rpartition(".")
    names = {other.rpartition(".")[2].lower(): other for other in reversed(known) if other.count(".") < 2}
    siblings = {other.rpartition(".")[2]: other for other in known if section and other.rpartition(".")[0] == section}
    if close := difflib.get_close_matches(name, siblings, n=1):
        return siblings[close[0]]
    if close := [name] if name in names else difflib.get_close_matches(name, names, n=1):
        return names[close[0]]
    return next(iter(difflib.get_close_matches(key, known, n=1)), None)


def hydra_message(error: BaseException) -> str:
    """Return in one line the sentences of a Hydra or OmegaConf error that help a person."""
    message = str(error).partition("Config search path")[0].removeprefix("In 'config': ")
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return " ".join(line for line in lines if not line.startswith(("full_key", "object_type")))
