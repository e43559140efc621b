"""MLflow's UI of a results folder: `gatesweep ui results --port 5001`."""

from __future__ import annotations

import argparse
import os
import socket
import sys
from pathlib import Path

from gatesweep.core.errors import InputError

HOST = "127.0.0.1"  # whoever reaches MLflow may change and delete: this machine alone
SERVER_ENVIRONMENT = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def ui_command(arguments: argparse.Namespace) -> int:
    """Become MLflow's server, which serves the folder's database until Ctrl-C. Raises InputError."""
    results = arguments.results or Path(os.environ.get("GATESWEEP_RESULTS", "results"))
    database = results.resolve() / "mlflow.db"
    if not database.is_file():
        raise InputError(f"ui: got {str(results)!r}, expected a results folder (it has no mlflow.db)")
    check_port(arguments.port)
    print(f"{database} on http://{HOST}:{arguments.port}; Ctrl-C ends it", flush=True)
    command = [sys.executable, "-P", "-m", "mlflow", "server", "--host", HOST, "--port", str(arguments.port)]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{database}"]
    os.execve(sys.executable, command, {**os.environ, **SERVER_ENVIRONMENT})


def check_port(port: int) -> None:
    """Raise InputError where something listens on a port of this machine already, or where it cannot be had."""
    try:
        socket.create_server((HOST, port)).close()
    except OSError as error:
        raise InputError(f"--port: got {port}, expected a free port of {HOST} ({error.strerror})") from error
