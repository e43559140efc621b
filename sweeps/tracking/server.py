"""MLflow's server: does it answer, does it let this user in, and with which credentials."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from urllib.parse import unquote, urlsplit

from gatesweep.core.errors import InputError
from gatesweep.sweeps.config.secrets import SERVER_LOGINS, bare_address, learn_secrets, redact, redact_address

DATABASES = ("sqlite:///", "postgresql")  # MLflow opens them in the publisher; no server is asked
QUICK = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}  # seconds
REFUSED = (401, 403)


def check_tracking(uri: str | None) -> None:
    """Raise InputError unless an MLflow server at an http(s) `uri` answers, and lets this user in.

    MLflow's own client asks it, and so takes the credentials that the publisher will take.
    """
    if uri is None or uri.startswith(DATABASES):
        return
    shown = redact_address(uri)
    if not uri.startswith(("http://", "https://")):
        raise InputError(f"tracking.uri: got {shown!r}, expected http://host:port, sqlite:///file or postgresql://...")
    with _environment({**QUICK, **login_variables(uri)}):
        from mlflow import MlflowClient, MlflowException  # here, for MLflow takes two seconds to import

        try:
            MlflowClient(bare_address(uri)).search_experiments(max_results=1)
        except MlflowException as error:
            raise InputError(_refusal(shown, error)) from None  # the cause quotes what was sent


def login_variables(uri: str) -> dict[str, str]:
    """Return the login in a web address under the names of the variables from which MLflow's client takes one."""
    if not uri.startswith(("http://", "https://")):
        return {}
    parts = urlsplit(uri)
    if not parts.username:
        return {}
    learn_secrets(uri)
    if not parts.password:
        return {SERVER_LOGINS[1][0]: unquote(parts.username)}
    return dict(zip(SERVER_LOGINS[0], (unquote(parts.username), unquote(parts.password)), strict=True))


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
