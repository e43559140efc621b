"""Nobody gets in: whatever starts a sweep, no process of it listens off loopback, and Ray wants its token."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

from gatesweep.sweeps.tracking.database import create_database
from tests.conftest import trivial
from tests.support.processes import await_end, kill, title
from tests.support.servers import free_port
from tests.support.sockets import MARK, check_closed, family, listening

ROOT = Path(__file__).parents[3]
NOTEBOOK = """
import asyncio, sys
import ray, ray.tune
from gatesweep.sweeps.commands.run import run_sweep
from gatesweep.sweeps.config.compose import compose_config

async def cell():
    sys.exit(run_sweep(compose_config(sys.argv[1:])))

asyncio.run(cell())
"""


def test_the_table_of_sockets_is_read_right() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as here, socket.create_server(("0.0.0.0", 0)) as everywhere:
        seen = dict((port, address) for address, port in listening([os.getpid()]))
        assert seen[here.getsockname()[1]] == "127.0.0.1" and seen[everywhere.getsockname()[1]] == "0.0.0.0"


def test_no_socket_is_open_off_loopback_a_stranger_is_refused_and_a_killed_driver_leaves_no_ray(tmp_path: Path) -> None:
    """As a kernel runs a cell: the API, from standard input, within a running loop, and with Ray imported before.

    Other entries check their sweep too: test_sweep.py starts the module, tests/test_places.py the installed command.
    """
    mark = uuid.uuid4().hex
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {MARK: mark, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path / "home")}
    (tmp_path / "home").mkdir()
    options = ["num_samples=1", "scheduler=none", "training.max_epochs=1000", "tracking=mlflow"]
    options += ["resources.workers=2", "resources.cpus_per_worker=0.5"]
    overrides = trivial(tmp_path / "results", None, *options, epoch_seconds=1.0)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    command = [sys.executable, "-", *overrides]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, text=True, **pipes)
    assert process.stdin
    process.stdin.write(NOTEBOOK)
    process.stdin.close()
    process.stdin = None
    try:
        pids = wait_for_epoch(process, mark, tmp_path / "results")
        titles = {pid: title(pid) for pid in pids}
        shown = " ".join(titles.values())
        assert shown.count("ray::RayTrainWorker") == 2 and "publish" in shown
        check_closed(pids, environment)
        assert list((tmp_path / "home").iterdir()) == []  # the token is nowhere on disk
        process.kill()
        await_end([pid for pid in pids if "Agent" not in titles[pid]])  # Ray's agents take minutes, and write nothing
    finally:
        kill([process.pid, *family(mark)])
        process.communicate()


def test_the_ui_of_a_results_folder_is_open_on_loopback_alone(tmp_path: Path) -> None:
    create_database(tmp_path / "mlflow.db")
    mark, port = uuid.uuid4().hex, free_port()
    command = [sys.executable, "-m", "gatesweep", "ui", str(tmp_path), "--port", str(port)]
    log = (tmp_path / "log").open("w")
    process = subprocess.Popen(command, env={**os.environ, MARK: mark}, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 90
        while port not in dict(map(reversed, listening(family(mark)))):
            assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.2)
        time.sleep(2)  # for what it starts after that
        assert {address for address, _ in listening(family(mark))} == {"127.0.0.1"}
    finally:
        kill(family(mark))
        process.wait()


def wait_for_epoch(process: subprocess.Popen, mark: str, results: Path) -> list[int]:
    """The processes of a sweep, once a trial has trained an epoch."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, process.stdout and process.stdout.read()
        if any('"epoch"' in path.read_text() for path in results.glob("2*/trial_0000/events.jsonl")):
            return family(mark)
        time.sleep(0.5)
    raise AssertionError("the sweep did not get that far")
