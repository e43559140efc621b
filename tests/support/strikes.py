"""Kills: of a sweep's driver, of a trial's process or of a cluster's node, once a number of epochs is recorded."""

from __future__ import annotations

import contextlib
import io
import json
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
from gatesweep.sweeps.records.layout import CONFIG, EVENTS, OUTCOMES, REPORT, SUMMARY, trial_folders
from tests.support.processes import await_end, descendants, kill, title
from tests.support.undisturbed import epochs

ROOT = Path(__file__).parents[2]
EPOCH = 0.3  # seconds, about
PATIENCE = 180  # seconds, for a sweep
NODE = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "include_dashboard": False}


@dataclass(frozen=True)
class Kind:
    """A kind of round: the overrides of its sweep, and its victims."""

    options: list[str]
    victims: tuple[str, ...] = ()  # first words of the titles of processes to kill; empty: the driver
    cluster: bool = False  # on three nodes; a victim's node is killed with it
    freeze: bool = False  # the victims are stopped by SIGSTOP, and the sweep must end them
    term: bool = False  # the driver's process group gets SIGTERM, twice, and the driver must end cleanly
    budget: bool = False  # `time_budget` ends the sweep


@dataclass
class Round:
    """One sweep with kills: their moments, in epochs of all trials, and the results."""

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
        """The folder of the sweep; None until there is one."""
        return next((path.parent for path in self.results.glob(f"*-{self.name}/{CONFIG}")), None)

    def wait(self, moment: float, over: threading.Event | subprocess.Popen) -> bool:
        """Wait for `moment` epochs and the fraction of one; return False where nothing is left to kill by then."""
        gone = over.is_set if isinstance(over, threading.Event) else lambda: over.poll() is not None
        while self.folder is None or recorded(self.folder) < int(moment):
            if gone():
                return False
            time.sleep(0.005)
        # Half of the kills come right after the report of an epoch, where most bookkeeping is.
        time.sleep(moment % 1 * self.draw.choice([0.05, EPOCH]))
        return not gone() and (not self.kind.victims or recorded(self.folder) < self.length)

    def hit(self, pids: list[int]) -> None:
        """Kill processes, all at once, and note the state of the sweep."""
        assert self.folder
        where = state(self.folder, self.length)
        names = dict.fromkeys(Path(title(pid).split(" ")[0]).name for pid in pids)
        if self.kind.freeze:
            os.kill(pids[0], signal.SIGSTOP)
        elif self.kind.term:
            os.killpg(pids[0], signal.SIGTERM)
            os.killpg(pids[0], signal.SIGTERM)
        else:
            kill(pids)
        self.hits.append(f"{where}: {' '.join(names)} ({pids[0]})")


def strike_driver(round: Round, cluster: Cluster | None) -> None:
    """Kill the driver at each moment, sometimes with its publisher, and resume; the last time in this process.

    A cluster outlives its drivers. There the next driver starts at once, while trials of the last may still train.
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


def end_driver(round: Round) -> None:
    """End the driver at each moment, by SIGTERM or by a time budget, and resume; the last time in this process."""
    for moment in round.moments:
        arguments = [f"resume={round.folder}"] if round.folder else round.arguments
        limit = [f"time_budget={moment * EPOCH:.3f}"] if round.kind.budget else []
        with driver(round, [*arguments, *limit]) as process:
            if round.kind.term:
                if not round.wait(moment, process):
                    break
                round.hit([process.pid])
            code = process.wait(PATIENCE)
        assert round.folder
        if not trial_folders(round.folder):  # it ended before the search began
            assert code == 130
            continue
        with (round.folder / SUMMARY).open() as file:
            summary = json.load(file)
        left = round.length - recorded(round.folder)
        if round.kind.budget and left:
            round.hits.append(f"{state(round.folder, round.length)}: budget")
        if code not in ((130,) if round.kind.term and left else (0, 3)):
            round.faults.append(f"exit code {code} with {left} epochs left")
        if left and (round.folder / REPORT).stat().st_mtime < (round.folder / SUMMARY).stat().st_mtime:
            round.faults.append("no page after the end")
        began = len(trial_folders(round.folder))
        ended = sum(summary[outcome] for outcome in OUTCOMES)
        if summary["interrupted"] != began - ended:
            round.faults.append(f"{began} trials began, {ended} ended, {summary['interrupted']} interrupted")
    if round.hits:
        sweep_here([f"resume={round.folder}", *(["time_budget=null"] if round.kind.budget else [])])


def strike_process(round: Round) -> None:
    """Kill a process of the trial at each moment, while this process runs the sweep."""
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
    """Kill a node that trains, with all its processes, at each moment, and add a new node; the driver goes on."""
    with driver(round, round.arguments, RAY_ADDRESS=cluster.address) as process:
        for moment in round.moments:
            if not round.wait(moment, process):
                break
            while not (
                busy := [node for node in cluster.worker_nodes if descendants(raylet(node), round.kind.victims)]
            ):
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
    """Run `python sweeps/run.py` in a process group of its own; kill it at the end of the block."""
    command = [sys.executable, str(ROOT / "sweeps" / "run.py"), *arguments]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore", **environment}
    with (round.results / f"{round.name}.log").open("a") as log:
        process = subprocess.Popen(command, env=variables, stdout=log, stderr=log, start_new_session=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def sweep_here(arguments: list[str]) -> None:
    """Run a sweep in this process; interrupt it after PATIENCE seconds."""
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
    """Return the number of epochs of all trials in the record."""
    return sum(path.read_bytes().count(b'{"event": "epoch"') for path in folder.glob(f"trial_*/{EVENTS}"))


def state(folder: Path, length: int) -> str:
    """Return the phase of a sweep of `length` epochs, and the epochs of its running trials."""
    trials = trial_folders(folder)
    running = [trial for trial in trials if all(event["event"] != "end" for event in read_events(trial / EVENTS))]
    where = (
        ", ".join(f"{trial.name} after epoch {len(epochs(trial))}" for trial in running) or f"{len(trials)} trials over"
    )
    if not trials:
        phase = "before the first trial"
    elif recorded(folder) == length:
        phase = "after the last epoch"
    elif not running:
        phase = "between trials"
    else:
        phase = "middle of a trial" if any(epochs(trial) for trial in running) else "first epoch"
    return f"{phase}: {where}"


def raylet(node: object) -> int:
    """Return the process number of a node's raylet."""
    return node.all_processes["raylet"][0].process.pid  # type: ignore[attr-defined]
