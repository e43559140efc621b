"""Memory that ran out: what says so, how much there was, and what to try."""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path

import torch

from gatesweep.core.device import peak_memory
from gatesweep.sweeps.config.schema import Config

GIB = 2**30
PHRASES = ("out of memory", "can't allocate memory", "cannot allocate memory", "bad_alloc")  # of torch, libc and C++


def names_memory(text: str) -> bool:
    """Return True if an error's text says that memory ran out."""
    return any(phrase in text.lower() for phrase in PHRASES)


def is_memory_error(error: BaseException) -> bool:
    """Return True for an error of Python, numpy, torch or the system that says that memory ran out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError | OSError) and names_memory(str(error))


def memory_reason(error: BaseException, config: Config) -> str:
    """Return in one line that this process ran out of memory, how much it had at most, and what to try."""
    had = peak_memory(torch.device("cpu")) / 1024
    message = (str(error).strip().splitlines() or [""])[0]
    return f"out of memory: {type(error).__name__}: {message}; its process had {had:.1f} GiB; {memory_advice(config)}"


def memory_advice(config: Config) -> str:
    """Return the settings that need less memory on a machine."""
    batch_size = config.data.get("batch_size")
    options = ["smaller batches"]
    if isinstance(batch_size, int) and batch_size > 1:
        smaller = math.ceil(batch_size / 2)
        options = [f"data.batch_size={smaller} training.accumulate={2 * config.training.accumulate}"]
    if config.max_concurrent != 1:
        cpus = 2 * config.resources.cpus_per_worker
        options.append(f"fewer trials at once (a smaller max_concurrent, or resources.cpus_per_worker={cpus:g})")
    return f"try {', or '.join(options)}"


def resident_memory(pid: int) -> int:
    """Return the resident bytes of a process of this machine; 0 once it has ended, or where there is no /proc."""
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def kernel_kills() -> int:
    """Return the number of processes that this machine's kernel has killed for lack of memory; 0 where unknown."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0
