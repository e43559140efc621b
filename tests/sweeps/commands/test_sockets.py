"""Nobody gets in: whatever starts a sweep, no process of it listens off loopback, and Ray wants its token."""

from __future__ import annotations

import ipaddress
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from gatesweep.sweeps.tracking.database import create_database
from tests.conftest import trivial
from tests.support.processes import kill
from tests.support.servers import free_port

ROOT = Path(__file__).parents[3]
MARK = "GATESWEEP_TEST_FAMILY"  # an environment variable that every process of one sweep inherits
NOTEBOOK = """
import asyncio, sys
import ray, ray.tune
from gatesweep.sweeps.commands.run import run_sweep
from gatesweep.sweeps.config.compose import compose_config

async def cell():
    sys.exit(run_sweep(compose_config(sys.argv[1:])))

asyncio.run(cell())
"""
TWO_WORKERS = ["resources.workers=2", "resources.cpus_per_worker=0.5", "tracking=mlflow"]
ENTRY_POINTS = {  # how a sweep is started, and what it is asked for besides
    "script": ([sys.executable, str(ROOT / "sweeps" / "run.py")], []),
    "module, two workers, MLflow": ([sys.executable, "-m", "gatesweep", "run"], TWO_WORKERS),
    "installed command": ([str(Path(sys.executable).with_name("gatesweep")), "run"], []),
    # As a kernel runs a cell: the API, from standard input, within a running loop, and with Ray imported before.
    "notebook": ([sys.executable, "-"], []),
}


def family(mark: str) -> list[int]:
    """The processes that inherited a mark, by the kernel's table."""
    wanted = f"{MARK}={mark}".encode()
    pids = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if wanted in path.read_bytes().split(b"\0"):
                pids.append(int(path.parent.name))
        except OSError:  # it has ended, or is a kernel's
            continue
    return pids


def listening(pids: list[int]) -> Iterator[tuple[str, int]]:
    """Addresses and ports on which processes listen, by the kernel's tables of sockets."""
    inodes = set()
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                target = os.readlink(descriptor)
            except OSError:
                continue
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    waiting = {"tcp": "0A", "tcp6": "0A", "udp": "07", "udp6": "07"}  # TCP_LISTEN, and UDP that anybody may send to
    for table, state in waiting.items():
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == state and fields[9] in inodes:
                address, _, port = fields[1].partition(":")
                yield _address(address), int(port, 16)


def _address(text: str) -> str:
    """An address of the kernel's table: 32-bit words, each with its bytes in the machine's order."""
    words = [bytes.fromhex(text[start : start + 8])[::-1] for start in range(0, len(text), 8)]
    found = ipaddress.ip_address(b"".join(words))
    mapped = getattr(found, "ipv4_mapped", None)
    return str(mapped or found)


def test_the_table_of_sockets_is_read_right() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as here, socket.create_server(("0.0.0.0", 0)) as everywhere:
        seen = dict((port, address) for address, port in listening([os.getpid()]))
        assert seen[here.getsockname()[1]] == "127.0.0.1" and seen[everywhere.getsockname()[1]] == "0.0.0.0"


@pytest.mark.parametrize("entry", ENTRY_POINTS)
def test_no_socket_is_open_off_loopback_and_a_stranger_is_refused(entry: str, tmp_path: Path) -> None:
    mark = uuid.uuid4().hex
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {MARK: mark, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path / "home")}
    (tmp_path / "home").mkdir()
    command, more = ENTRY_POINTS[entry]
    options = ["num_samples=1", "scheduler=none", "training.max_epochs=1000", *more]
    overrides = trivial(tmp_path / "results", None, *options, epoch_seconds=1.0)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    process = subprocess.Popen([*command, *overrides], cwd=tmp_path, env=environment, text=True, **pipes)
    assert process.stdin
    process.stdin.write(NOTEBOOK)
    process.stdin.close()
    process.stdin = None
    try:
        pids = wait_for_epoch(process, mark, tmp_path / "results")
        servers = list(listening(pids))
        titles = " ".join(map(title, pids))
        assert not more or (titles.count("ray::RayTrainWorker") == 2 and "publish" in titles)
        assert {address for address, _ in servers} == {"127.0.0.1"}, servers
        assert knock(list(listening([pid for pid in pids if "gcs_server" in title(pid)])), environment) == {"refused"}
        assert list((tmp_path / "home").iterdir()) == []  # the token is nowhere on disk
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=90)


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


def title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


KNOCK = """
import sys
from ray._raylet import GcsClient
from ray.exceptions import AuthenticationError
for port in sys.argv[1:]:
    try:
        GcsClient(address=f"127.0.0.1:{port}")
        print("let in")
    except AuthenticationError:
        print("refused")
    except Exception:  # another protocol
        pass
"""


def knock(servers: list[tuple[str, int]], environment: dict[str, str]) -> set[str]:
    """What somebody hears who has another token: `refused`, or `let in`."""
    stranger = {**environment, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
    stranger["RAY_gcs_rpc_server_connect_timeout_s"] = "1"
    command = [sys.executable, "-c", KNOCK, *{str(port) for _, port in servers}]
    done = subprocess.run(command, env=stranger, capture_output=True, text=True, timeout=120)
    return set(done.stdout.split("\n")) - {""}
