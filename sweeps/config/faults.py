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
    fault = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in fault["loc"] if not str(part).startswith(("constrained-", "function-")))
    key = ".".join(part for part in (prefix, where) if part)
    if fault["type"] == "extra_forbidden":
        nearest = difflib.get_close_matches(key, list(keys), n=1)
        if renamed and key in renamed:
            nearest = [f"{key.rpartition('.')[0]}.{renamed[key]}"]
        remedy = f"did you mean {nearest[0]}?" if nearest else "expected one of those that --cfg prints"
        return f"{key}: unknown key, {remedy}"
    if fault["type"] == "missing":
        return f"{key}: missing"
    expected = fault["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    return f"{key}: got {fault['input']!r}, expected {expected}"


def hydra_message(error: BaseException) -> str:
    """Return in one line the sentences of a Hydra or OmegaConf error that help a person."""
    message = str(error).partition("Config search path")[0].removeprefix("In 'config': ")
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return " ".join(line for line in lines if not line.startswith(("full_key", "object_type")))
