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
    """The first fault of a validation in one line.

    An unknown key is answered with its new name in `renamed` ("section.old": "new"), or with the nearest of `keys`.
    """
    fault = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in fault["loc"] if not str(part).startswith(("constrained-", "function-")))
    key = ".".join(part for part in (prefix, where) if part)
    if fault["type"] == "extra_forbidden":
        nearest = difflib.get_close_matches(key, list(keys), n=1)
        if renamed and key in renamed:
            nearest = [f"{key.rpartition('.')[0]}.{renamed[key]}"]
        return f"{key}: unknown key, " + (
            f"did you mean {nearest[0]}?" if nearest else "expected one of those that --cfg prints"
        )
    if fault["type"] == "missing":
        return f"{key}: missing"
    expected = fault["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    return f"{key}: got {fault['input']!r}, expected {expected}"


def hydra_message(error: BaseException) -> str:
    """The sentences of an error of Hydra's or OmegaConf's that help a person, in one line."""
    message = str(error).partition("Config search path")[0].removeprefix("In 'config': ")
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return " ".join(line for line in lines if not line.startswith(("full_key", "object_type")))
