"""Private names of Ray and its Tune that running a sweep needs, as in the pinned ray 2.60.0.

tests/sweeps/execution/test_ray_private.py checks each of them. Those of Ray Train are in `train_private`, because
importing Ray Train takes two seconds.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import ray
from ray._private import ray_constants, services, utils
from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.autoscaler.v2.utils import is_autoscaler_v2
from ray.experimental.internal_kv import _internal_kv_get
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.search import SearchGenerator

FIXED_NODE_TYPE = "node_"  # start of the node types that machines outside an autoscaler's control get


def bootstrap_address(address: str) -> str | None:
    """Return `host:port` of the cluster that Ray would join for an address; None where it would start one."""
    return services.canonicalize_bootstrap_address(address)


def bind_to_loopback() -> None:
    """Make a Ray that this process starts bind to loopback, also where Ray was imported before gatesweep.

    `gatesweep.sweeps` sets the variable for it, but Ray reads that when it is imported.
    """
    ray_constants.ENABLE_RAY_CLUSTER = False  # Ray's name for: other machines may join


@contextlib.contextmanager
def started_apart() -> Iterator[list[subprocess.Popen]]:
    """Give each process that Ray starts here within the block a session of its own; yields them as they start.

    A signal to this process's group (`timeout`, a batch system, Ctrl-C) does not reach them then. They still die with
    this process, also by SIGKILL: the kernel sees to that (Ray's "fate sharing"). This process keeps its handler of
    SIGTERM, too.
    """
    started: list[subprocess.Popen] = []

    class OwnSession(services.ConsolePopen):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options, start_new_session=True)
            started.append(self)

    before = services.ConsolePopen, utils.set_sigterm_handler
    services.ConsolePopen, utils.set_sigterm_handler = OwnSession, lambda handler: None
    try:
        yield started
    finally:
        services.ConsolePopen, utils.set_sigterm_handler = before
        keep_sigterm_handler()


def shut_down() -> None:
    """Stop Ray, or leave the cluster, with this process's handler of SIGTERM kept."""
    ray.shutdown()
    keep_sigterm_handler()


def keep_sigterm_handler() -> None:
    """Put this process's handler of SIGTERM back, below Python too, where Ray's C++ part has replaced it.

    Its start installs a handler that ends the process 3 s after a SIGTERM, and its end the default one, which ends the
    process at once.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM) or signal.SIG_DFL)


def has_autoscaler() -> bool:
    """Return True where an autoscaler may add machines to the connected cluster."""
    if is_autoscaler_v2(fetch_from_server=True):
        status = get_cluster_status(ray.get_runtime_context().gcs_address)
        types = {node.ray_node_type_name for node in (*status.idle_nodes, *status.active_nodes)}
    else:
        report = json.loads(_internal_kv_get(DEBUG_AUTOSCALING_STATUS) or "{}").get("autoscaler_report", {})
        types = {*(report.get("active_nodes") or {}), *(report.get("idle_nodes") or {})}
    return any(not name.startswith(FIXED_NODE_TYPE) for name in types)


class CountingSearchGenerator(SearchGenerator):
    """Tune's search generator with a public way to count the trials that a subclass makes."""

    def count_trial(self) -> None:
        """Count a new trial; Tune compares the count with the number of samples."""
        self._counter += 1


class LeanTuneController(TuneController):
    """Tune's controller without snapshots of its state and without a list of ended trials: nobody would read them."""

    def checkpoint(self, force: bool = False, wait: bool = False) -> None:
        """Write nothing."""

    def on_step_end(self) -> None:
        """Forget the trials that ended, so that memory and time do not grow with their number."""
        super().on_step_end()
        for trial in [trial for trial in self._trials if trial.is_finished()]:
            self._trials.remove(trial)
            for trials in (self._live_trials, self._stopped_trials, self._failed_trials):
                trials.discard(trial)

    def _mark_trial_to_checkpoint(self, trial: Trial) -> None:
        pass
