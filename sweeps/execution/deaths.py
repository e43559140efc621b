"""Causes of death: what ended the process of a trial, as far as this machine can tell."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping

import ray

from gatesweep.sweeps.config.schema import Config
from gatesweep.sweeps.execution.memory import (
    GIB,
    kernel_kills,
    memory_advice,
    names_memory,
    resident_memory,
)
from gatesweep.sweeps.execution.ray_private import ActorProcess, ActorTable, memory_of_machine, process_errors

SAMPLED_EVERY = 1.0  # seconds between two readings of the processes' memory
NEARLY_FULL = 0.9  # share of the machine's memory in use above which a killed process was probably out of memory
MONITOR = "running low on memory"  # in the message of Ray's memory monitor
SIGNAL = re.compile(r"\*\*\* (SIG\w+) ")  # in the standard error of a process that a signal ended


class Deaths:
    """Notes about living processes, from which the death of one is explained.

    Trials are named by Tune's identifiers. Memory is known of this machine's processes only.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.notes: dict[str, str] = {}  # by trial: why its process was ended from here
        self.actors: dict[str, str] = {}  # by trial: its last actor
        self.memory: dict[str, int] = {}  # by trial: the resident bytes of its largest process
        self.machine = (0, 0)  # bytes in use, and in all
        self.kernel_kills = kernel_kills()
        self.here = ""  # identifier of this machine, once it is known
        self.sampled = 0.0
        self.known_dead: set[int] = set()  # workers of a group whose deaths have been explained

    def note(self, trial: str, reason: str) -> None:
        """Note why the process of a trial is about to be ended."""
        self.notes[trial] = reason

    def watch(self, actors: Mapping[str, str]) -> None:
        """Note the actors of all running trials, by trial, and now and then the memory of their processes."""
        self.actors |= actors
        if time.monotonic() - self.sampled < SAMPLED_EVERY:
            return
        self.sampled, self.machine = time.monotonic(), memory_of_machine()
        self.actors, table = dict(actors), ActorTable()
        self.here = ray.get_runtime_context().get_node_id()
        for trial, actor in actors.items():
            pids = [process.pid for process in table.family(actor) if process.node == self.here and process.pid]
            if size := max(map(resident_memory, pids), default=0):
                self.memory[trial] = size

    def explain(self, trial: str, error: str, config: Config | None = None) -> str:
        """Return in one line what ended the process of a trial; `error` is the text that Ray has about it."""
        if noted := self.notes.pop(trial, None):
            return noted
        family = ActorTable(with_dead=True).family(self.actors.get(trial, ""))
        process = next((process for process in family if not process.alive), None)
        return self._explain(process, error, self.memory.pop(trial, 0), config or self.config)

    def explain_workers(self, trial: str, reason: str, config: Config | None = None) -> str:
        """Return the reason of a trial whose workers died, with a lack of memory among their deaths.

        Other causes are added only where no rank has reported a fault: Ray kills the ranks that wait for a faulty one.
        """
        family = ActorTable(with_dead=True).family(self.actors.get(trial, ""))
        dead = [process for process in family if not process.alive and process.pid not in self.known_dead]
        self.known_dead |= {process.pid for process in dead}
        causes = [self._explain(process, "", self.memory.get(trial, 0), config or self.config) for process in dead]
        memory = [cause for cause in causes if cause.startswith("out of memory")]
        others = [] if ": " in reason else [cause for cause in causes if cause]
        return f"{reason}; {(memory or others)[-1]}" if memory or others else reason

    def _explain(self, process: ActorProcess | None, error: str, size: int, config: Config) -> str:
        message = process.death if process and process.death else error
        if MONITOR in message or MONITOR in error:
            return _by_monitor(message, process, size, config)
        killed_by_kernel = (kills := kernel_kills()) > self.kernel_kills
        self.kernel_kills = kills
        lines = error.strip().splitlines() or [""]
        if "worker process has died" not in message:
            advice = f"; {memory_advice(config)}" if names_memory(lines[-1]) else ""
            return f"{'out of memory: ' if advice else ''}{lines[-1]}{advice}"
        errors = process_errors(process.pid) if process and process.node == self.here else ""
        used, total = (amount / GIB for amount in self.machine)
        had = f"it had {size / GIB:.1f} GiB, " if size else ""
        amounts = f"{had}the machine {used:.1f} of {total:.1f} GiB in use"
        if names_memory(errors):
            return f"out of memory: its process could allocate no more; {amounts}; {memory_advice(config)}"
        if signals := SIGNAL.findall(errors):
            return f"its process crashed by {signals[-1]}"
        if killed_by_kernel:
            return f"out of memory: the kernel killed its process (SIGKILL); {amounts}; {memory_advice(config)}"
        if total and used > NEARLY_FULL * total:
            return f"killed by SIGKILL, probably for lack of memory; {amounts}; {memory_advice(config)}"
        return f"killed by SIGKILL, or it ended itself; {amounts}"


def _by_monitor(message: str, process: ActorProcess | None, size: int, config: Config) -> str:
    """Return the death by Ray's memory monitor in one line; Ray's GB are GiB."""
    usage = re.search(r"was ([\d.]+)GB used / ([\d.]+)GB", message)
    machine = f" when the machine had {usage[1]} of {usage[2]} GiB in use" if usage else ""
    pid = str(process.pid) if process else r"\d+"
    own = re.search(rf"pid={pid}, actual memory used=([\d.]+)GB", message)
    had = own[1] if own else f"{size / GIB:.2f}" if size else ""
    which = f" its process, which had {had} GiB," if had else " its process"
    return f"out of memory: Ray's memory monitor ended{which}{machine}; {memory_advice(config)}"
