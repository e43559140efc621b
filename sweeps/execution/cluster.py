"""The Ray that a sweep runs on: started here, or the cluster of RAY_ADDRESS, and the number of trials it can hold."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
import yaml

from gatesweep.core.errors import InputError
from gatesweep.sweeps.config.schema import ResourcesConfig
from gatesweep.sweeps.execution.progress import say
from gatesweep.sweeps.execution.ray_private import (
    bind_to_loopback,
    bootstrap_address,
    has_autoscaler,
    machine_resources,
    shut_down,
    started_apart,
)

ATTEMPTS = 2  # to start Ray
MAX_TMPDIR = 38  # characters; a socket's path has 107 bytes at most, and Ray puts some 69 behind the folder

_folder: str | None = None  # of Ray's files, where it is not Ray's own choice


def start_ray(resources: ResourcesConfig, max_concurrent: int | None) -> int:
    """Start Ray here, or join the cluster of RAY_ADDRESS; return the number of trials that run at once.

    Raises InputError where the cluster cannot hold a trial of these resources, or cannot be reached.
    """
    for name in ("ray", "ray.tune", "ray.air", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if not ray.is_initialized():
        address = _address()
        _check_address(address)
        _init(address)
    return concurrency(resources, max_concurrent)


def check_machine(resources: ResourcesConfig) -> None:
    """Raise InputError where a Ray that starts on this machine could not hold a trial. Nothing is started."""
    if ray.is_initialized() or _address() != "local":
        return
    has = machine_resources()
    if _workers_on(has, _worker_resources(resources)) < resources.workers:
        raise _too_small(resources, f"this machine has {has['CPU']:g} CPUs and {has['GPU']:g} GPUs")


def stop_ray() -> None:
    """Stop the Ray that `start_ray` started, or leave the cluster that it joined."""
    global _folder
    shut_down()
    if _folder:
        shutil.rmtree(_folder, ignore_errors=True)
    _folder = None


def concurrency(resources: ResourcesConfig, max_concurrent: int | None) -> int:
    """Return the number of trials that run at once.

    It is `max_concurrent`, else the number that the connected cluster holds or can grow to hold.
    Raises InputError where that is zero or unknown.
    """
    wanted = _worker_resources(resources)
    workers = sum(_workers_on(node["Resources"], wanted) for node in ray.nodes() if node["Alive"])
    trials = workers // resources.workers
    if has_autoscaler():
        max_workers = _max_workers(wanted)
        limit = max_concurrent if max_workers is None else max_workers // resources.workers
        if limit is None:
            raise InputError(
                "max_concurrent: got null, expected a number of trials: this cluster grows, to no known size"
            )
        trials = max(trials, limit)
    if trials < 1:
        cluster = ray.cluster_resources()
        has = f"{cluster.get('CPU', 0):g} CPUs and {cluster.get('GPU', 0):g} GPUs"
        raise _too_small(resources, f"the cluster has {has}")
    return max_concurrent or trials


def _address() -> str:
    return os.environ.get("RAY_ADDRESS") or "local"  # with None, Ray would join any cluster of this machine


def _worker_resources(resources: ResourcesConfig) -> dict[str, float]:
    return {"CPU": resources.cpus_per_worker, "GPU": resources.gpus_per_worker}


def _too_small(resources: ResourcesConfig, has: str) -> InputError:
    each = f"{resources.cpus_per_worker} CPUs and {resources.gpus_per_worker} GPUs"
    return InputError(f"resources: got {resources.workers} x ({each}) a trial; {has}")


def _init(address: str) -> None:
    """Start Ray here, in up to ATTEMPTS attempts, or join the cluster at `address`. Raises InputError."""
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    if address != "local":
        try:
            with started_apart():
                ray.init(address=address, **options)
        except Exception as error:  # of several kinds: no answer, no token, a token that is refused
            raise InputError(f"RAY_ADDRESS: got {address!r}, expected a running cluster ({_reason(error)})") from error
        return
    options |= _loopback_options()
    for attempt in range(1, ATTEMPTS + 1):
        with started_apart() as processes:
            try:
                ray.init(address="local", **options)
                return
            except Exception as error:  # of several kinds: Ray gives its processes 30 s
                stop_ray()
                for process in processes:  # of a Ray that is half there
                    process.kill()
                    process.wait()
                if attempt == ATTEMPTS:
                    raise InputError(
                        f"Ray did not start on this machine in {ATTEMPTS} attempts ({_reason(error)}): "
                        "is it too busy, or short of memory, disk or processes?"
                    ) from error
                say(f"Ray did not start ({_reason(error)}); it is tried once more")


def _loopback_options() -> dict[str, Any]:
    """Return options for a Ray of this machine's own, which binds to loopback and wants a token.

    The token is the user's own where there is one (RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token). Else it is
    a new one, which only the environment of this process and its children holds. Ray turns tokens on by itself unless
    RAY_AUTH_MODE says otherwise.
    """
    bind_to_loopback()
    named = os.environ.keys() & {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}
    if not named and not (Path.home() / ".ray" / "auth_token").is_file():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    return {"include_dashboard": False, "object_store_memory": 256 * 2**20, "_temp_dir": _short_folder()}


def _short_folder() -> str | None:
    """A new folder for Ray's sockets, where those in its own would have paths that are too long, or not in ASCII."""
    global _folder
    usual = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    if usual.isascii() and len(usual) <= MAX_TMPDIR:
        return None
    for place in ("/tmp", "/var/tmp", "/dev/shm"):
        with contextlib.suppress(OSError):
            _folder = tempfile.mkdtemp(prefix="ray", dir=place)
            return _folder
    raise InputError(
        f"TMPDIR: got {usual!r}, expected at most {MAX_TMPDIR} characters of ASCII for Ray's sockets, "
        "where none of /tmp, /var/tmp and /dev/shm can be written"
    )


def _check_address(address: str) -> None:
    """Raise InputError where nothing listens at the address of a cluster; Ray itself would try for minutes."""
    if address.startswith("ray://"):
        raise InputError(f"RAY_ADDRESS: got {address!r}: a sweep runs on its cluster: ray job submit ... (README)")
    try:
        resolved = bootstrap_address(address)
        if resolved:
            host, _, port = resolved.rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except (OSError, ValueError) as error:
        raise InputError(f"RAY_ADDRESS: got {address!r}, expected a running cluster ({error})") from error


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _workers_on(has: Mapping[str, float], wanted: Mapping[str, float]) -> int:
    """The number of workers that a machine has room for."""
    return min(int(has.get(kind, 0) // amount) for kind, amount in wanted.items() if amount)


def _max_workers(wanted: Mapping[str, float]) -> int | None:
    """The number of workers on all machines that `ray up` may start; None where it left no file about them."""
    path = Path.home() / "ray_bootstrap_config.yaml"
    if not path.is_file():
        return None
    cluster = yaml.safe_load(path.read_text())
    machines = [
        _workers_on(kind.get("resources", {}), wanted)
        for kind in cluster["available_node_types"].values()
        for _ in range(kind.get("max_workers", 0))
    ]
    return sum(sorted(machines, reverse=True)[: cluster.get("max_workers", len(machines))])
