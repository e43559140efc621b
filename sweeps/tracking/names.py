"""Names and texts as MLflow takes them: keys of metrics, parameters and tags, names of runs, models and experiments."""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache

from gatesweep.core.record import STEP_LOSS

MAX_KEY, MAX_RUN_NAME, MAX_EXPERIMENT = 250, 250, 500  # characters: MLflow's limits
ID_TAG = "sweep.id"  # of a run: the identifier of its sweep
MAX_PARAM, MAX_TAG = 6000, 5000  # characters of a value
OWN_METRICS = ("score", "epoch", STEP_LOSS)  # which the publisher adds
EMPTY = ":00:"  # the key of the empty name; the code of a character never begins with a zero
REFUSED_IN_KEYS = re.compile(r"[^/\w.\- :]")
ESCAPED_IN_KEYS = re.compile(r"[^/\w.\- ]")  # and colons: they mark what is escaped
REFUSED_IN_MODELS = re.compile(r"[/:.%\"'~]")
LOOKS_ESCAPED = re.compile(r":[0-9a-f]+:")
STRAY_SLASH = re.compile(r"^/|/(?=/|$)")  # MLflow takes keys for paths, and refuses those that a path would shorten
DOTS_ALONE = re.compile(r"^\.\.|(?<![^/])\.{1,2}(?![^/])")  # a part `.` or `..`, and a beginning `..`


@lru_cache(maxsize=10_000)
def mlflow_key(name: str) -> str:
    """Return the key of a metric, a parameter or a tag for a recorded name: the name itself where MLflow takes it.

    Otherwise each character that MLflow refuses becomes its code in hexadecimal digits between colons, `acc@1` thus
    `acc:40:1`, and a key that is too long ends in its hash. Two different names have two different keys.
    """
    troubles = (REFUSED_IN_KEYS, STRAY_SLASH, DOTS_ALONE, LOOKS_ESCAPED)
    if any(trouble.search(name) for trouble in troubles):
        for pattern in (ESCAPED_IN_KEYS, STRAY_SLASH, DOTS_ALONE):
            name = pattern.sub(_codes, name)
    return _cut(name or EMPTY, MAX_KEY, ":")


def metric_key(name: str) -> str:
    """Return the key of a metric that a trainable reports: it is none of the publisher's own."""
    return f":{ord(name[0]):x}:{name[1:]}" if name in OWN_METRICS else mlflow_key(name)


def run_name(name: str) -> str:
    """Return the name of a run, cut to MLflow's limit. It is for show: runs are found by their tags."""
    return name[:MAX_RUN_NAME]


def model_name(name: str) -> str:
    """Return the name of a logged model, without the characters that MLflow refuses there."""
    return _cut(REFUSED_IN_MODELS.sub(lambda match: f"~{ord(match[0]):x}~", name), MAX_KEY, "~")


def experiment_name(name: str) -> str:
    """Return the name of an experiment, of MLflow's length."""
    return _cut(name, MAX_EXPERIMENT, ":")


def text_value(value: object, limit: int) -> str:
    """Return a value as text that every store of MLflow takes: cut, and without NUL and halves of characters."""
    return str(value).encode(errors="backslashreplace").decode().replace("\0", "\\0")[:limit]


def runs_query(sweep: str, identity: str | None) -> str:
    """Return the search for the runs of a sweep: by its identifier, else by the name of its folder, as of old.

    A name with both kinds of quotes cannot be written in MLflow's search language: then all sweeps' runs are found.
    """
    if identity:
        return f"tags.`{ID_TAG}` = '{identity}'"
    quotes = [quote for quote in "'\"" if quote not in sweep]
    return f"tags.sweep = {quotes[0]}{sweep}{quotes[0]}" if quotes else "tags.`sweep.kind` != ''"


def _codes(match: re.Match[str]) -> str:
    return "".join(f":{ord(character):x}:" for character in match[0])


def _cut(name: str, limit: int, mark: str) -> str:
    """Return a name of at most `limit` characters: a longer one ends in the hash of all of it, between marks."""
    if len(name) <= limit:
        return name
    end = f"{mark}{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:16]}{mark}"
    return name[: limit - len(end)] + end
