"""The Ray that a sweep runs on: started here, or the cluster of RAY_ADDRESS, and how many trials it holds."""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
import yaml
from ray._private import ray_constants, services
from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.autoscaler.v2.utils import is_autoscaler_v2
from ray.experimental.internal_kv import _internal_kv_get

from gatesweep.core.errors import InputError
from gatesweep.sweeps.config.schema import ResourcesConfig


def start_ray(resources: ResourcesConfig, max_concurrent: int | None) -> int:
    """Start Ray here, or join the cluster of RAY_ADDRESS; returns how many trials run at once.

    Raises InputError where the cluster holds no trial of these resources, or cannot be reached.
    """
    for name in ("ray", "ray.tune", "ray.air", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    address = os.environ.get("RAY_ADDRESS") or "local"  # None would join whatever runs on this machine
    if not ray.is_initialized():
        _check_address(address)
    local = _loopback_options() if address == "local" and not ray.is_initialized() else {}
    try:
        ray.init(
            address=address, log_to_driver=False, logging_level=logging.CRITICAL, ignore_reinit_error=True, **local
        )
    except ConnectionError as error:
        raise InputError(f"RAY_ADDRESS: got {address!r}, expected a running cluster ({error})") from error
    try:
        return concurrency(resources, max_concurrent)
    except ValueError:
        ray.shutdown()
        raise


def _loopback_options() -> dict[str, Any]:
    """Options of a Ray of this machine's own: it binds to loopback, and wants a token that this process passes on.

    Whoever imported Ray before gatesweep has it read its variables too early, so the binding is set here as well. The
    token is the user's own where there is one (RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token), else a new one
    that lives in the environment of this process and its children alone.
    """
    ray_constants.ENABLE_RAY_CLUSTER = False  # Ray's name for: other machines may connect
    named = os.environ.keys() & {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}
    if not named and not (Path.home() / ".ray" / "auth_token").is_file():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    return {"include_dashboard": False, "object_store_memory": 256 * 2**20}


def _check_address(address: str) -> None:
    """Raise InputError where nothing listens at the address of a cluster; Ray itself would try for minutes."""
    if address.startswith("ray://"):
        raise InputError(f"RAY_ADDRESS: got {address!r}: a sweep runs on its cluster: ray job submit ... (README)")
    try:
        found = services.canonicalize_bootstrap_address(address)
        if found:
            host, _, port = found.rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except (OSError, ValueError) as error:
        raise InputError(f"RAY_ADDRESS: got {address!r}, expected a running cluster ({error})") from error


def concurrency(resources: ResourcesConfig, max_concurrent: int | None) -> int:
    """How many trials run at once: `max_concurrent`, else as many as the cluster holds, or can grow to hold.

    Raises InputError where that is none, or not known.
    """
    wanted = {"CPU": resources.cpus_per_worker, "GPU": resources.gpus_per_worker}
    holds = sum(_places(node["Resources"], wanted) for node in ray.nodes() if node["Alive"]) // resources.workers
    each = f"{resources.workers} x ({wanted['CPU']} CPUs and {wanted['GPU']} GPUs) a trial"
    if _grows():
        most = _at_most(wanted)
        limit = max_concurrent if most is None else most // resources.workers
        if limit is None:
            raise InputError(
                "max_concurrent: got null, expected a number of trials: this cluster grows, to no known size"
            )
        holds = max(holds, limit)
    if holds < 1:
        cluster = ray.cluster_resources()
        has = f"{cluster.get('CPU', 0):g} CPUs and {cluster.get('GPU', 0):g} GPUs"
        raise InputError(f"resources: got {each}; the cluster has {has}")
    return max_concurrent or holds


def _places(has: Mapping[str, float], wanted: Mapping[str, float]) -> int:
    """How many workers a machine has room for."""
    return min(int(has.get(kind, 0) // amount) for kind, amount in wanted.items() if amount)


def _grows() -> bool:
    """Whether an autoscaler may add machines. On a cluster that does not, each has a node type of its own."""
    if is_autoscaler_v2(fetch_from_server=True):
        status = get_cluster_status(ray.get_runtime_context().gcs_address)
        types = {node.ray_node_type_name for node in (*status.idle_nodes, *status.active_nodes)}
    else:
        told = json.loads(_internal_kv_get(DEBUG_AUTOSCALING_STATUS) or "{}").get("autoscaler_report", {})
        types = {*(told.get("active_nodes") or {}), *(told.get("idle_nodes") or {})}
    return any(not name.startswith("node_") for name in types)


def _at_most(wanted: Mapping[str, float]) -> int | None:
    """How many workers there is room for on all machines that `ray up` may start; None where it left no word."""
    path = Path.home() / "ray_bootstrap_config.yaml"
    if not path.is_file():
        return None
    file = yaml.safe_load(path.read_text())
    machines = [
        _places(kind.get("resources", {}), wanted)
        for kind in file["available_node_types"].values()
        for _ in range(kind.get("max_workers", 0))
    ]
    return sum(sorted(machines, reverse=True)[: file.get("max_workers", len(machines))])
