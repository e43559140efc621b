"""Sockets on which a sweep's processes listen, by the kernel's tables, and the answer that a stranger gets there."""

from __future__ import annotations

import ipaddress
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.support.processes import title

MARK = "GATESWEEP_TEST_FAMILY"  # an environment variable that every process of one sweep inherits


def check_closed(pids: list[int], environment: dict[str, str]) -> None:
    """Check that processes of a sweep listen on loopback alone, and that its Ray refuses whoever has no token."""
    servers = list(listening(pids))
    assert {address for address, _ in servers} == {"127.0.0.1"}, servers
    assert knock(list(listening([pid for pid in pids if "gcs_server" in title(pid)])), environment) == {"refused"}


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
