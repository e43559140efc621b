"""The device of a run: how it is chosen, and how much memory was used on it."""

from __future__ import annotations

import contextlib
import gc
import resource
import sys

import torch

from gatesweep.core.errors import InputError

MIB = 2**20


def choose(name: str = "auto") -> torch.device:
    """`cuda`, else `mps`, else `cpu` for "auto"; any other name is taken at its word."""
    if name != "auto":
        try:
            return torch.empty(0, device=name).device
        except (RuntimeError, AssertionError) as error:
            raise InputError(f"device: got {name!r}, which this machine cannot use ({error}); expected auto") from error
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def peak_memory(device: torch.device) -> float:
    """MiB: on CUDA since `reset_peak_memory`; elsewhere the process's highest resident size so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MIB
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB on Linux, bytes on macOS
    return resident / MIB if sys.platform == "darwin" else resident / 1024


def usage(device: torch.device, cores: float) -> dict[str, float]:
    """How busy the machine is: `cores` of this process; on CUDA the device, whoever uses it.

    The device's own load is there where `nvidia-ml-py` is installed.
    """
    found = {"system/cpu_percent": 100 * cores}
    if device.type == "cuda":
        free, whole = torch.cuda.mem_get_info(device)
        found["system/gpu_memory_percent"] = 100 * (1 - free / whole)
        with contextlib.suppress(ModuleNotFoundError):
            found["system/gpu_percent"] = float(torch.cuda.utilization(device))
    return found


def reset_peak_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def release_memory() -> None:
    """Give cached blocks back, so that the process is usable after it ran out of memory."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
