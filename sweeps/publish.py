"""Publish a sweep's run directories to MLflow: `python sweeps/publish.py results/latest [tracking.uri=...]`.

MLflow is a projection of the run directories. Runs are found by their tags and points carry the time at which they
were recorded, so publishing again, or onto another server, changes nothing that is already there.
"""

from __future__ import annotations

import argparse
import os
import select
import sys
import time
from pathlib import Path

import yaml

from gatesweep.sweeps.database import default_uri
from gatesweep.sweeps.tracking import Publisher

# Quiet, and quick to give up: whatever was not sent is sent at the next attempt.
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}


def follow(sweep: Path, uri: str, experiment: str, every: float = 2.0) -> bool:
    """Publish what comes until standard input closes, then the rest; a tracking server may come and go meanwhile."""
    publisher, warned, closing, attempts = None, False, False, 0
    while True:
        try:
            if publisher is None:
                publisher = Publisher(sweep, uri, experiment)
                print(f"compare in MLflow{'' if uri.startswith('http') else ' (make ui)'}: {publisher.url}", flush=True)
            publisher.sync(final=closing)
            if closing:
                return True
        except Exception as error:
            attempts += closing
            if not warned:
                warned = True
                print(f"tracking: {uri}: {_reason(error)}; the sweep goes on, the record is kept", file=sys.stderr)
            if attempts >= 3:
                return False
        if closing:
            time.sleep(1)
        else:
            closing = bool(select.select([sys.stdin], [], [], every)[0])


def _reason(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path, help="folder of a sweep, e.g. results/latest")
    parser.add_argument("overrides", nargs="*", metavar="tracking.uri=URI", help="default: the sweep's own")
    parser.add_argument("--follow", action="store_true", help="go on until standard input closes")
    arguments = parser.parse_args()
    sweep = arguments.sweep.resolve()
    if not (sweep / "config.yaml").exists():
        parser.error(f"sweep: got {str(arguments.sweep)!r}, expected the folder of a sweep (it has no config.yaml)")
    tracking = yaml.safe_load((sweep / "config.yaml").read_text())["tracking"]
    for override in arguments.overrides:
        key, _, value = override.partition("=")
        if key not in ("tracking.uri", "tracking.experiment"):
            parser.error(f"got {override!r}, expected tracking.uri=... or tracking.experiment=...")
        tracking[key.removeprefix("tracking.")] = value
    uri = tracking["uri"] or default_uri(sweep)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)  # MLflow reads them when it is imported, below
    if arguments.follow:
        return 0 if follow(sweep, uri, tracking["experiment"]) else 1
    try:
        publisher = Publisher(sweep, uri, tracking["experiment"])
        publisher.sync()
        print(publisher.url)
    except Exception as error:
        print(f"tracking.uri: {uri}: {_reason(error)}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
