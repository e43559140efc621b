"""Overrides of a command line in Hydra's grammar: parse them, and check the choices of config groups."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from functools import cache

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException

from gatesweep.core.errors import InputError
from gatesweep.sweeps.config.groups import group_choices
from gatesweep.sweeps.config.secrets import learn_typed

LONGEST = 10_000  # characters: Hydra's parser takes seconds for more
EXPERIMENT = "experiment"  # the one group that may be left out
PLACES = ("resume", "results", "storage", "warm_start")
LOOKS_LIKE_PLACE = re.compile(r"(~|\.{1,2})?/|\w+://")


@cache
def parse_override(item: str) -> Override:
    """Parse one override of a command line: in Hydra's grammar, but for a path or an address.

    The result is shared, and must not be changed. Raises InputError.
    """
    expected = "expected KEY=VALUE; quote a text with special characters: KEY='...'"
    if len(item) > LONGEST:
        raise InputError(f"{item.partition('=')[0][:40]}: got {len(item)} characters, expected at most {LONGEST}")
    key, _, typed = item.partition("=")
    learn_typed(typed.strip("'\""), key.lstrip("+"))  # before any message can show it
    try:
        override = OverridesParser.create().parse_override(_quote_place(item))
    except (HydraException, RecursionError, ValueError) as error:  # the last: a number of 5,000 digits
        raise InputError(f"got {item!r}, {expected}") from error
    if not override.is_sweep_override():
        learn_typed(override.value(), override.key_or_group)
    if not override.key_or_group:
        raise InputError(f"got {item!r}, {expected}")
    if override.package is not None:
        raise InputError(f"got {item!r}, expected {override.key_or_group}=VALUE, without @{override.package}")
    return override


def _quote_place(item: str) -> str:
    """Return an override whose value is a path or an address with that in quotes: it may hold spaces and any sign."""
    key, equals, value = item.partition("=")
    named = key in PLACES and value not in ("", "null") and value[0] not in "'\"[{"
    place = named or LOOKS_LIKE_PLACE.match(value)
    if not place or not equals or "${" in value:
        return item
    return f"{key}={QuotedString(value, Quote.single).with_quotes()}"


def is_group_choice(override: Override) -> bool:
    """Return True if an override names a file of a config group. A dict as its value replaces the node instead."""
    return override.key_or_group in group_choices() and not isinstance(override.value(), dict)


def refuse_several_values(override: Override) -> None:
    """Raise InputError for an override with several values, as `lr=1,2` or `lr=range(1,3)`."""
    if override.is_sweep_override():
        key, _, value = str(override.input_line).partition("=")
        raise InputError(f"{key}: got {value!r}, expected one value; search.space holds the values of a sweep")


def check_choices(groups: Sequence[Override]) -> None:
    """Raise InputError for a choice that its group does not have, and for a second experiment."""
    experiments = [override.value() for override in groups if override.key_or_group == EXPERIMENT]
    if len(experiments) > 1:
        got = " and ".join(str(value) for value in experiments)
        raise InputError(f"{EXPERIMENT}: got {got}, expected one: a second would replace parts of the first")
    for override in groups:
        check_choice(override)


def check_choice(override: Override) -> None:
    """Raise InputError unless the override chooses a file of its group by `GROUP=NAME`."""
    refuse_several_values(override)
    group, value = override.key_or_group, override.value()
    choices = group_choices()[group]
    if override.is_delete():
        if group == EXPERIMENT:
            return
        raise InputError(f"~{group}: a sweep needs this group, expected {group}=<one of {', '.join(choices)}>")
    if override.is_add() or override.is_force_add():
        sign = "+" if override.is_add() else "++"
        raise InputError(f"{sign}{group}: got {value!r}, expected {group}={value}, without {sign}")
    if value in choices or (group == EXPERIMENT and value is None):
        return
    nearest = difflib.get_close_matches(value.lower(), choices, n=1) if isinstance(value, str) else []
    hint = f"; did you mean {nearest[0]}?" if nearest else ""
    empty = "; gate.thresholds={} is a gate without thresholds" if group == "gate" and value is None else ""
    raise InputError(f"{group}: got {value!r}, expected one of {', '.join(choices)}{hint}{empty}")
