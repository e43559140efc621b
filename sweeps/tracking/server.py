"""MLflow's server: does it answer, does it let this user in, and with which credentials."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from gatesweep.core.errors import InputError
from gatesweep.core.files import full_path
from gatesweep.sweeps.config.secrets import SERVER_LOGINS, bare_address, learn_secrets, redact, redact_address

SQLITE = "sqlite:///"
DATABASE = re.compile(rf"{SQLITE}|postgresql(\+\w+)?://")  # MLflow opens it in the publisher; no server is asked
EXPECTED = "expected http://host:port, sqlite:///file or postgresql://..."
QUICK = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}  # seconds
REFUSED = (401, 403)


def check_tracking(uri: str | None) -> None:
    """Raise InputError unless an MLflow server at an http(s) `uri` answers, and lets this user in.

    MLflow's own client asks it, and so takes the credentials that the publisher will take.
    """
    if uri is None:
        return
    shown = redact_address(uri)
    if uri.startswith(SQLITE):
        path = Path(_sqlite_file(uri))
        if not path.name or path.name == ":memory:" or path.is_dir() or not path.parent.is_dir():
            raise InputError(f"tracking.uri: got {shown!r}, expected sqlite:///file, in a folder that is there")
    if DATABASE.match(uri):
        return
    if not uri.startswith(("http://", "https://")):
        raise InputError(f"tracking.uri: got {shown!r}, {EXPECTED}")
    with _environment({**QUICK, **login_variables(uri)}):
        from mlflow import MlflowClient, MlflowException  # here, for MLflow takes two seconds to import

        try:
            MlflowClient(bare_address(uri)).search_experiments(max_results=1)
        except (MlflowException, OSError, ValueError) as error:
            raise InputError(_refusal(shown, error)) from None  # the cause quotes what was sent


def full_uri(uri: str | None) -> str | None:
    """Return an address of MLflow; the file of an sqlite one is absolute, for publishers have other working folders."""
    if uri is None or not uri.startswith(SQLITE) or _sqlite_file(uri) in ("", ":memory:"):
        return uri
    file = _sqlite_file(uri)
    return f"{SQLITE}{full_path('tracking.uri', file)}{uri.removeprefix(SQLITE + file)}"


def login_variables(uri: str) -> dict[str, str]:
    """Return the login in a web address under the names of the variables from which MLflow's client takes one."""
    if not uri.startswith(("http://", "https://")):
        return {}
    try:
        parts = urlsplit(uri)
        if not parts.hostname or parts.port == 0:
            raise ValueError("it names no host and port")
    except ValueError as error:
        raise InputError(f"tracking.uri: got {redact_address(uri)!r}, {EXPECTED} ({error})") from error
    if not parts.username:
        return {}
    learn_secrets(uri)
    if not parts.password:
        return {SERVER_LOGINS[1][0]: unquote(parts.username)}
    return dict(zip(SERVER_LOGINS[0], (unquote(parts.username), unquote(parts.password)), strict=True))


def _sqlite_file(uri: str) -> str:
    return uri.removeprefix(SQLITE).partition("?")[0]


def _refusal(shown: str, error: Exception) -> str:
    """Return the message about a server that cannot be used."""
    reason = redact(" ".join(str(error).split())[:300])
    status = getattr(error, "get_http_status_code", int)()
    if status not in REFUSED and not re.search(r"unauthori[sz]ed|forbidden|not authenticated", reason, re.IGNORECASE):
        return f"tracking.uri: got {shown!r}, expected a running MLflow server ({reason})"
    user_and_password, token = " and ".join(SERVER_LOGINS[0]), SERVER_LOGINS[1][0]
    return (
        f"tracking.uri: got {shown!r}: the server answers, but does not let you in ({status}): "
        f"set {user_and_password}, or {token}, to what it takes"
    )


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for the time of a block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
