"""The device of a run: its choice, its memory and its load."""

from __future__ import annotations

import contextlib
import gc
import resource
import sys

import torch

from gatesweep.core.errors import InputError, reason

MIB = 2**20


def choose(name: str = "auto") -> torch.device:
    """Return the device called `name`, e.g. "cuda:1"; "auto" takes cuda, else mps, else cpu.

    Raises InputError where this machine cannot use it.
    """
    if name != "auto":
        try:
            device = torch.empty(0, device=name).device
            if device.type == "meta":
                raise RuntimeError("it holds no numbers")
            return device
        except (RuntimeError, AssertionError) as error:
            raise InputError(
                f"device: got {name!r}, which this machine cannot use ({reason(error)}); expected auto"
            ) from error
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def peak_memory(device: torch.device) -> float:
    """Return the peak memory in MiB: on CUDA since `reset_peak_memory`, elsewhere the process's peak resident size."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MIB
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB on Linux, bytes on macOS
    return resident / MIB if sys.platform == "darwin" else resident / 1024


def reset_peak_memory(device: torch.device) -> None:
    """Start a new measurement of `peak_memory`. It does nothing but on CUDA."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def release_memory() -> None:
    """Free cached blocks of CUDA memory, so that the process can go on after an out-of-memory error."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def usage(device: torch.device, cores: float) -> dict[str, float]:
    """Return the load of the machine as metrics, in percent.

    `system/cpu_percent` is 100 times `cores`, the number of cores that this process kept busy. On CUDA,
    `system/gpu_memory_percent` and, where `nvidia-ml-py` is installed, `system/gpu_percent` count all processes.
    """
    metrics = {"system/cpu_percent": 100 * cores}
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        metrics["system/gpu_memory_percent"] = 100 * (1 - free / total)
        with contextlib.suppress(ModuleNotFoundError):
            metrics["system/gpu_percent"] = float(torch.cuda.utilization(device))
    return metrics
