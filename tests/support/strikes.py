"""A sweep under fire: kill its driver, a process of its trials, or a node of its cluster, when so much is recorded."""

from __future__ import annotations

import contextlib
import io
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import gatesweep.sweeps  # sets Ray's environment before anything imports it  # noqa: F401  isort: skip

from ray.cluster_utils import Cluster

from gatesweep.core.record import read_events
from gatesweep.sweeps.commands.resume import configure
from gatesweep.sweeps.commands.run import run_sweep
from gatesweep.sweeps.records.layout import trial_folders
from tests.support.processes import await_end, descendants, kill, title
from tests.support.undisturbed import epochs

ROOT = Path(__file__).parents[2]
EPOCH = 0.3  # seconds, about
PATIENCE = 180  # seconds, for a sweep
NODE = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "include_dashboard": False}


@dataclass(frozen=True)
class Kind:
    options: list[str]
    victims: tuple[str, ...] = ()  # titles of the processes that are killed; none: the driver
    cluster: bool = False  # on three nodes; victims go with theirs


@dataclass
class Round:
    """One sweep under fire: when to strike, in epochs of all trials, and what came of it."""

    name: str
    kind: Kind
    arguments: list[str]
    results: Path
    length: int  # epochs of all trials
    moments: list[float]
    draw: random.Random
    hits: list[str] = field(default_factory=list)  # phase: where the trials were: what died
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def folder(self) -> Path | None:
        return next((path.parent for path in self.results.glob(f"*-{self.name}/config.yaml")), None)

    def wait(self, moment: float, over: threading.Event | subprocess.Popen) -> bool:
        """Wait for so many epochs, and the fraction of one; False where there is nothing left to kill by then."""
        gone = over.is_set if isinstance(over, threading.Event) else lambda: over.poll() is not None
        while self.folder is None or recorded(self.folder) < int(moment):
            if gone():
                return False
            time.sleep(0.005)
        # Half of the time right after an epoch was reported, where most of the bookkeeping is.
        time.sleep(moment % 1 * self.draw.choice([0.05, EPOCH]))
        return not gone() and (not self.kind.victims or recorded(self.folder) < self.length)

    def hit(self, pids: list[int]) -> None:
        """Kill processes that are there, all at once."""
        assert self.folder
        where = state(self.folder, self.length)
        names = dict.fromkeys(Path(title(pid).split(" ")[0]).name for pid in pids)
        kill(pids)
        self.hits.append(f"{where}: {' '.join(names)} ({pids[0]})")


def strike_driver(round: Round, cluster: Cluster | None) -> None:
    """Kill the driver at each moment, its publisher too now and then, and go on with `resume=`, the last time here.

    On a cluster, which outlives its drivers, the next one comes at once, while the trials of the last may still train.
    """
    where = {"RAY_ADDRESS": cluster.address} if cluster else {}
    for moment in round.moments:
        with driver(round, [f"resume={round.folder}"] if round.folder else round.arguments, **where) as process:
            if not round.wait(moment, process):
                break
            family = descendants(process.pid)
            publishers = [pid for pid in family if "gatesweep publish" in title(pid)]
            others = [pid for pid in family if pid not in publishers and "agent" not in title(pid).lower()]
            round.hit([process.pid, *(publishers if round.draw.random() < 0.25 else [])])
        await_end(others)  # Ray's agents take minutes, and write nothing
    if round.hits and not cluster:
        sweep_here([f"resume={round.folder}"])
    elif round.hits:
        with driver(round, [f"resume={round.folder}"], **where) as process:
            process.wait(PATIENCE)


def strike_process(round: Round) -> None:
    """Kill a process of the trial at each moment, while this process goes on with the sweep."""
    over = threading.Event()

    def strike() -> None:
        for moment in round.moments:
            if not round.wait(moment, over):
                return
            while not (victims := descendants(os.getpid(), round.kind.victims)):
                if over.wait(0.005):
                    return
            round.hit([round.draw.choice(victims)])

    striker = threading.Thread(target=strike)
    striker.start()
    try:
        sweep_here(round.arguments)
    finally:
        over.set()
        striker.join()


def strike_node(round: Round, cluster: Cluster) -> None:
    """Kill a node that trains, with all its processes, at each moment, and add another; the driver goes on."""
    with driver(round, round.arguments, RAY_ADDRESS=cluster.address) as process:
        for moment in round.moments:
            if not round.wait(moment, process):
                break
            while not (busy := [one for one in cluster.worker_nodes if descendants(raylet(one), round.kind.victims)]):
                if process.poll() is not None:
                    return
                time.sleep(0.005)
            node = round.draw.choice(sorted(busy, key=raylet))
            round.hit([raylet(node), *descendants(raylet(node))])
            cluster.remove_node(node, allow_graceful=False)
            cluster.add_node(**NODE)
        process.wait(PATIENCE)


@contextlib.contextmanager
def driver(round: Round, arguments: list[str], **environment: str) -> Iterator[subprocess.Popen]:
    """`python sweeps/run.py` in a session of its own."""
    command = [sys.executable, str(ROOT / "sweeps" / "run.py"), *arguments]
    given = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore", **environment}
    with (round.results / f"{round.name}.log").open("a") as log:
        process = subprocess.Popen(command, env=given, stdout=log, stderr=log, start_new_session=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def sweep_here(arguments: list[str]) -> None:
    """A sweep in this process; one that hangs is interrupted, and found wanting."""
    signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
    signal.alarm(PATIENCE)
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            run_sweep(configure(arguments))
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGTERM, before[1])


def recorded(folder: Path) -> int:
    """How many epochs of all trials are in the record."""
    return sum(path.read_bytes().count(b'{"event": "epoch"') for path in folder.glob("trial_*/events.jsonl"))


def state(folder: Path, length: int) -> str:
    """The phase that a sweep of so many epochs is in, and where its trials are."""
    trials = trial_folders(folder)
    running = [one for one in trials if all(event["event"] != "end" for event in read_events(one / "events.jsonl"))]
    where = ", ".join(f"{one.name} after epoch {len(epochs(one))}" for one in running) or f"{len(trials)} trials over"
    if not trials:
        phase = "before the first trial"
    elif recorded(folder) == length:
        phase = "after the last epoch"
    elif not running:
        phase = "between trials"
    else:
        phase = "middle of a trial" if any(epochs(one) for one in running) else "first epoch"
    return f"{phase}: {where}"


def raylet(node: object) -> int:
    return node.all_processes["raylet"][0].process.pid  # type: ignore[attr-defined]
