"""From values to the words and pages that show them; `templates/` holds what they look like."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape
from plotly.offline import get_plotlyjs

from gatesweep.core.gate import WORST_SCORE
from gatesweep.core.record import json_safe


def render_template(template: str, values: Mapping[str, Any]) -> str:
    return _templates().get_template(template).render(plotlyjs=get_plotlyjs(), **values)


@cache
def _templates() -> jinja2.Environment:
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    made = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.filters |= {"as_json": as_json, "figures": format_value, "breakable": breakable}
    return made


def as_json(figure: Mapping[str, Any]) -> Markup:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(json_safe(figure), separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))


def breakable(name: str) -> Markup:
    """A name that may be broken where its parts meet."""
    return Markup(re.sub(r"([/_.])(?=\w)", r"\1<wbr>", str(escape(name))))


def format_value(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else "no number"
    return str(value)


def format_choice(value: Any) -> str:
    """A parameter's value, as YAML would have it."""
    return format_value(value) if isinstance(value, str | float) else json.dumps(value, default=str)


def format_score(value: float | None) -> str:
    return "no number" if value is not None and value <= WORST_SCORE else format_value(value)


def format_duration(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "not known"
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 120:
        return f"{seconds:.3g} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 600:
        return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def format_share(part: float, whole: float) -> str:
    return f"{part / whole:.0%}" if whole else ""


def format_time(at: float, after: float | None = None) -> str:
    """A time of this machine's; without its day if that is the day of `after`."""
    day, clock = (time.strftime(form, time.localtime(at)) for form in ("%d %B %Y", "%H:%M"))
    same = after is not None and time.strftime("%d %B %Y", time.localtime(after)) == day
    return clock if same else f"{day.removeprefix('0')}, {clock}"


def shown_path(folder: Path) -> str:
    """As one would type it where the sweep was started, if it lies there."""
    whole, here = folder.resolve(), Path.cwd()
    return str(whole.relative_to(here) if whole.is_relative_to(here) else whole)
