"""Values as text, and pages from the templates in `templates/`."""

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
    """Return the HTML of a template filled with `values`; plotly.js is part of it."""
    return _templates().get_template(template).render(plotlyjs=get_plotlyjs(), **values)


@cache
def _templates() -> jinja2.Environment:
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"as_json": as_json, "figures": format_value, "breakable": breakable}
    return environment


def as_json(figure: Mapping[str, Any]) -> Markup:
    """Return JSON that cannot end the script element around it."""
    text = json.dumps(json_safe(figure), separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))


def breakable(name: str) -> Markup:
    """Return a name with permitted line breaks between its parts."""
    return Markup(re.sub(r"([/_.])(?=\w)", r"\1<wbr>", str(escape(name))))


def format_value(value: Any) -> str:
    """Return a value as text: floats with four digits, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else "no number"
    return str(value)


def format_choice(value: Any) -> str:
    """Return a parameter's value as text, in the notation of YAML."""
    return format_value(value) if isinstance(value, str | float) else json.dumps(value, default=str)


def format_score(value: float | None) -> str:
    """Return a score as text; `no number` for the score of NaN metrics."""
    return "no number" if value is not None and value <= WORST_SCORE else format_value(value)


def format_duration(seconds: float) -> str:
    """Return seconds as text, in a unit that suits their size."""
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
    """Return a share as a percentage; nothing where the whole is zero."""
    return f"{part / whole:.0%}" if whole else ""


def format_time(at: float, after: float | None = None) -> str:
    """Return a time (seconds since the epoch) in local time; without the day if `after` is on the same day."""
    day, clock = (time.strftime(form, time.localtime(at)) for form in ("%d %B %Y", "%H:%M"))
    same = after is not None and time.strftime("%d %B %Y", time.localtime(after)) == day
    return clock if same else f"{day.removeprefix('0')}, {clock}"


def shown_path(folder: Path) -> str:
    """Return a folder's path: relative where it lies in the working directory, else absolute."""
    path, here = folder.resolve(), Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
