"""Publish a sweep's run directories to MLflow, once or while the sweep runs."""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from gatesweep.core.errors import InputError
from gatesweep.sweeps.commands.cli import FAULT, PASSED, run_command
from gatesweep.sweeps.commands.signals import hold_signals
from gatesweep.sweeps.config.recorded import read_config
from gatesweep.sweeps.config.secrets import TRACKING_VARIABLE, bare_address, learn_secrets, redact, with_secrets
from gatesweep.sweeps.records.layout import CONFIG, require_sweep
from gatesweep.sweeps.records.reader import read_sweep
from gatesweep.sweeps.tracking.database import default_uri
from gatesweep.sweeps.tracking.publisher import Publisher
from gatesweep.sweeps.tracking.server import full_uri, login_variables

# Quiet, and quick to give up: whatever was not sent is sent at the next attempt.
MLFLOW_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",  # a database that is locked for a while is no news
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}


def follow_sweep(sweep: Path, uri: str, experiment: str, every: float = 2.0) -> bool:
    """Publish the record as it grows until standard input closes, then the rest; returns whether all was published.

    A tracking server may come and go meanwhile. The publisher outlives a driver that is killed, and marks its runs so.
    """
    publisher, warned, closing, attempts = None, False, False, 0
    while True:
        try:
            if publisher is None:
                publisher = Publisher(sweep, uri, experiment, follow=True)
                where = "" if uri.startswith("http") else " (gatesweep ui)"
                _say(f"compare in MLflow{where}: {publisher.url}", sys.stdout)
            publisher.sync(final=closing)
            if closing:
                return True
        except Exception as error:
            attempts += closing
            if not warned and "database is locked" not in str(error):  # that is no news: others write, too
                warned = True
                failure = redact(f"tracking: {uri}: {_reason(error)}")
                _say(f"{failure}; the sweep goes on, the record is kept", sys.stderr)
            if attempts >= 3:
                return False
        if closing:
            time.sleep(1)
        else:
            closing = bool(select.select([sys.stdin], [], [], every)[0])


def _say(line: str, stream: TextIO) -> None:
    with contextlib.suppress(OSError):  # the terminal may have gone with the driver
        print(line, file=stream, flush=True)


def _reason(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """The command `gatesweep publish`; returns its exit code."""
    return run_command("publish", argv)


def publish_command(arguments: argparse.Namespace) -> int:
    """Publish the sweep once, or with `--follow` as long as it runs; returns the exit code. Raises InputError."""
    sweep = require_sweep(arguments.sweep).resolve()
    tracking = read_config(sweep / CONFIG).tracking
    for override in arguments.overrides:
        key, _, value = override.partition("=")
        if key not in ("tracking.uri", "tracking.experiment"):
            raise InputError(f"got {override!r}, expected tracking.uri=... or tracking.experiment=...")
        tracking = tracking.replace(**{key.removeprefix("tracking."): value})
    uri = full_uri(with_secrets("tracking.uri", tracking.uri, TRACKING_VARIABLE)) or default_uri(sweep)
    for name, value in MLFLOW_ENVIRONMENT.items():
        os.environ.setdefault(name, value)  # MLflow reads them when it is imported, below
    if login := login_variables(uri):  # by the environment: MLflow quotes the address in messages
        os.environ.update(login)
        uri = bare_address(uri)
    learn_secrets(uri)
    if arguments.follow:
        if not sys.stdin.isatty():
            hold_signals(silently=True)  # its sweep got the signal too, records its end first, and then closes the pipe
        return PASSED if follow_sweep(sweep, uri, tracking.experiment) else FAULT
    read_sweep(sweep)  # a damaged record is named before anything is sent
    try:
        publisher = Publisher(sweep, uri, tracking.experiment)
        publisher.sync()
        print(publisher.url)
    except InputError:
        raise
    except Exception as error:  # of many kinds: of sqlite, of the network, of MLflow
        raise InputError(
            redact(f"tracking.uri: got {uri!r}, expected an MLflow that takes the sweep ({_reason(error)})")
        ) from error
    return PASSED
