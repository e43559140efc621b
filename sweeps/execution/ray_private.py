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
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray._common.utils import get_system_memory
from ray._private import ray_constants, services, state, utils
from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
from ray._private.resource_and_label_spec import ResourceAndLabelSpec
from ray._private.utils import get_used_memory
from ray._private.worker import global_worker
from ray.air.execution import PlacementGroupResourceManager
from ray.air.execution._internal.actor_manager import RayActorManager
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


def machine_resources() -> dict[str, float]:
    """Return the CPUs and GPUs that a Ray which starts on this machine counts."""
    spec = ResourceAndLabelSpec()
    spec.resolve(is_head=True, node_ip_address="127.0.0.1")
    return {"CPU": spec.num_cpus or 0, "GPU": spec.num_gpus or 0}


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
    """Stop Ray, or leave the cluster, with this process's handler of SIGTERM kept.

    Ray's C++ part takes the handler away at its end, and Ray's processes need another second to end. So the handler is
    put back in between, where Ray forgets the cluster's state.
    """
    forget = state.state.disconnect

    def keep_handler_and_forget() -> None:
        keep_sigterm_handler()
        forget()

    state.state.disconnect = keep_handler_and_forget
    try:
        ray.shutdown()
    finally:
        state.state.disconnect = forget
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


@dataclass(frozen=True)
class ActorProcess:
    """An actor as Ray's control service knows it."""

    pid: int  # 0 until it has a process
    node: str  # identifier of its machine
    alive: bool
    death: str  # Ray's message; empty while it lives


class ActorTable:
    """Ray's table of actors at one moment; of those that live or begin, or `with_dead` of all."""

    def __init__(self, with_dead: bool = False) -> None:
        states = [None] if with_dead else ["ALIVE", "PENDING_CREATION"]
        self.actors = {key: actor for name in states for key, actor in state.actors(actor_state_name=name).items()}

    def family(self, actor_id: str) -> list[ActorProcess]:
        """Return an actor, found by its identifier in hexadecimal digits, the actors that it started, and so on."""
        members: list[dict[str, Any]] = []
        new = [self.actors[actor_id]] if actor_id in self.actors else []
        while new:
            members += new
            owners = {_port(actor["Address"]) for actor in new}
            others = [actor for actor in self.actors.values() if actor not in members]
            new = [actor for actor in others if _port(actor["OwnerAddress"]) in owners]
        return [_actor_process(actor) for actor in members]


def memory_of_machine() -> tuple[int, int]:
    """Return the bytes in use and the bytes that there are, on this machine or in this container."""
    return int(get_used_memory()), int(get_system_memory())


def process_errors(pid: int) -> str:
    """Return the standard error of a Ray worker process of this machine; empty where there is none."""
    if global_worker.node is None:
        return ""
    logs = Path(global_worker.node.get_logs_dir_path())
    return "".join(path.read_text(errors="replace") for path in logs.glob(f"worker-*-{pid}.err"))


class WorkerOutput:
    """Lines that the worker processes of this job print, on all machines, as Ray's log monitors find them in files.

    `batches` holds the newest, each a mapping with `ip`, `pid`, `is_err` and `lines`. Close it before Ray stops.
    """

    def __init__(self) -> None:
        self.batches: deque[dict[str, Any]] = deque(maxlen=5000)  # of up to a hundred lines
        self._job = global_worker.current_job_id.hex()
        self._subscriber = ray._raylet.GcsLogSubscriber(
            worker_id=global_worker.worker_id, address=global_worker.gcs_client.address
        )
        self._subscriber.subscribe()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Listen no longer."""
        self._closed.set()
        self._thread.join(timeout=2)

    def _listen(self) -> None:
        while not self._closed.is_set():
            try:
                batch = self._subscriber.poll(timeout=0.5)
            except (OSError, ray.exceptions.RpcError):
                break
            if batch and batch["job"] == self._job:
                self.batches.append(batch)
            elif not batch or not batch["lines"]:
                self._closed.wait(0.05)  # a Ray that has gone answers at once, with nothing
        self._subscriber.close()


def _port(address: dict[str, Any]) -> tuple[str, int]:
    return address["NodeID"], address["Port"]


def _actor_process(actor: dict[str, Any]) -> ActorProcess:
    cause, alive = actor["DeathCause"], actor["State"] != "DEAD"
    context = cause.WhichOneof("context") if cause and not alive else None
    death = getattr(getattr(cause, context), "error_message", context) if context else ""
    return ActorProcess(actor["Pid"], actor["Address"]["NodeID"], alive, death)


class LeanActorManager(RayActorManager):
    """Tune's manager of processes, for which every fault of Ray's own is the death of an actor.

    Ray reports a process that its memory monitor ended by an error that Tune does not expect.
    """

    def _actor_task_failed(self, tracked_actor_task: Any, exception: Exception) -> None:
        known = (ray.exceptions.RayActorError, ray.exceptions.RayTaskError)
        if isinstance(exception, ray.exceptions.RayError) and not isinstance(exception, known):
            exception = ray.exceptions.RayActorError(error_msg=f"{type(exception).__name__}: {exception}")
        super()._actor_task_failed(tracked_actor_task, exception)


class CountingSearchGenerator(SearchGenerator):
    """Tune's search generator with a public way to count the trials that a subclass makes."""

    def count_trial(self) -> None:
        """Count a new trial; Tune compares the count with the number of samples."""
        self._counter += 1


class LeanTuneController(TuneController):
    """Tune's controller without snapshots of its state and without a list of ended trials: nobody would read them."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._actor_manager: Any = LeanActorManager(resource_manager=PlacementGroupResourceManager())

    def awaited_actors(self) -> dict[tuple[str, str], tuple[Any, Trial | None]]:
        """Return the actors that owe Tune an answer, each with its trial; None for one that was asked to end.

        The keys are the identifiers of actor and trial. An actor that waits for resources is not among them.
        """
        started = self._actor_manager._live_actors_to_ray_actors_resources
        awaited: list[tuple[Any, Trial | None]] = [(actor, trial) for trial, actor in self._trial_to_actor.items()]
        awaited += [(actor, None) for actor in self._stopping_actors]
        handles = [(started[actor][0], trial) for actor, trial in awaited if actor in started]
        return {(handle._actor_id.hex(), trial.trial_id if trial else ""): (handle, trial) for handle, trial in handles}

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
