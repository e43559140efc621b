"""Servers that tests start: MLflow and PostgreSQL, each on a free port of 127.0.0.1."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.support.processes import await_end, descendants, kill

QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
UNFORWARDED = ("host", "authorization", "content-length", "connection", "accept-encoding")


@dataclass
class Server:
    """An `mlflow server`: its address and its process."""

    uri: str
    process: subprocess.Popen

    def kill(self) -> None:
        """Send SIGKILL to all of its processes."""
        if self.process.poll() is None:
            kill([self.process.pid, *descendants(self.process.pid)])
            self.process.wait()


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def start_mlflow(store: str, artifacts: Path, port: int | None = None) -> Server:
    """Start a server as `make ui` does, over the backend `store`; it stores artifacts in the folder `artifacts`."""
    port = port or free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", store, "--artifacts-destination", str(artifacts)]
    log = artifacts.with_name(f"{artifacts.name}.log")
    with log.open("a") as stream:
        process = subprocess.Popen(
            command, stdout=stream, stderr=stream, env={**os.environ, **QUIET}, start_new_session=True
        )
    server = Server(f"http://127.0.0.1:{port}", process)
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{server.uri}/health", timeout=5):
                return server
        except OSError:
            time.sleep(0.2)
    server.kill()
    raise AssertionError(f"no MLflow server: {log.read_text()[-2000:]}")


@contextmanager
def mlflow_server(store: str, artifacts: Path) -> Iterator[Server]:
    """Run an MLflow server for the time of a block."""
    server = start_mlflow(store, artifacts)
    try:
        yield server
    finally:
        server.kill()


@contextmanager
def postgresql() -> Iterator[str]:
    """Yield the URI of an empty database in a new cluster; skip the test where PostgreSQL is not installed."""
    installed = shutil.which("initdb") or max(Path("/usr/lib/postgresql").glob("*/bin/initdb"), default=None)
    if installed is None:
        pytest.skip("no PostgreSQL here: apt-get install postgresql")
    pytest.importorskip("psycopg", reason='no driver of PostgreSQL here: pip install "psycopg[binary]"')
    programs, folder = (
        Path(installed).parent,
        Path(tempfile.mkdtemp(prefix="postgresql-")),
    )  # other users cannot read pytest's folders
    as_user: list[str] = []
    if os.getuid() == 0:  # PostgreSQL refuses to run as root
        shutil.chown(folder, "postgres", "postgres")
        as_user = [
            shutil.which("runuser", path=f"{os.environ['PATH']}:/usr/sbin:/sbin") or "runuser",
            "-u",
            "postgres",
            "--",
        ]
    data, password, port = folder / "data", folder / "password", free_port()
    secret = secrets.token_hex(16)
    password.write_text(secret)
    password.chmod(0o644)  # the folder is 0700
    initdb = [str(programs / "initdb"), "--username=mlflow", "--auth=scram-sha-256", f"--pwfile={password}"]
    control = [*as_user, str(programs / "pg_ctl"), f"--pgdata={data}", "--wait"]
    options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories=''"
    try:
        _run([*as_user, *initdb, "--encoding=UTF8", "--no-sync", str(data)])
        _run([*control, f"--log={folder / 'log'}", f"--options={options}", "start"])
        postmaster = int((data / "postmaster.pid").read_text().split()[0])
        try:
            yield f"postgresql+psycopg://mlflow:{secret}@127.0.0.1:{port}/postgres"
        finally:
            _run([*control, "--mode=immediate", "stop"])
            await_end([postmaster])
    finally:
        shutil.rmtree(folder)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd="/")
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"


@contextmanager
def guarded(uri: str, *allowed: str) -> Iterator[str]:
    """Yield the address of a server before `uri`: it passes requests on whose Authorization is among `allowed`.

    Any other request gets 401, one for /health too.
    """

    class Guard(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.headers.get("Authorization") not in allowed:
                return self.answer(401, b"You are not authenticated.")
            headers = {name: value for name, value in self.headers.items() if name.lower() not in UNFORWARDED}
            request = urllib.request.Request(uri + self.path, body or None, headers, method=self.command)
            try:
                with urllib.request.urlopen(request, timeout=60) as reply:
                    self.answer(reply.status, reply.read(), reply.headers.get("Content-Type", ""))
            except urllib.error.HTTPError as error:
                self.answer(error.code, error.read(), error.headers.get("Content-Type", ""))

        do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

        def answer(self, status: int, body: bytes, kind: str = "text/plain") -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Guard) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
