"""What it saves to make data once on a machine: `python -m tests.benchmarks.shared_data [DATA ...] [--processes 2 4]`.

So many processes start together and build the data of a file in configs/data: each its own, or all from those that the
driver's checks made. Seconds are those of building them, torch and the family imported, the median of the processes;
MiB are what that and an epoch's batches added to all of them together, pages that they share counted once (PSS).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
import yaml

from gatesweep.core.cache import cache_name, cache_scope, join_cache
from gatesweep.sweeps.config.groups import CONFIGS
from gatesweep.sweeps.config.targets import locate

DEFAULT = [
    "planar",
    "circuits",
    "events",
    "walks_small",
    "bearings",
    "magneto_thermal",
    "digits",
    "darcy",
    "walks_repaired",
]


def fields(kind: str) -> dict[str, Any]:
    return yaml.safe_load((CONFIGS / "data" / f"{kind}.yaml").read_text())


def build(kind: str) -> Any:
    node = fields(kind)
    return locate("data", {"_target_": node.pop("_target_")})(device="cpu", seed=0, **node)


def proportional() -> float:
    """MiB of this process, of each shared page its part."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def child(kind: str, name: str | None) -> None:
    """Build when told, say so, and weigh when told."""
    torch.set_num_threads(1)
    join_cache(name)
    locate("data", fields(kind))
    print("ready", flush=True)
    sys.stdin.readline()
    before = proportional()
    print("weighed", flush=True)
    sys.stdin.readline()
    began = time.perf_counter()
    data = build(kind)
    seconds = time.perf_counter() - began
    batches = [*data.train(0), *data.val()]
    del batches
    print("built", flush=True)
    sys.stdin.readline()
    print(json.dumps({"seconds": seconds, "mib": proportional() - before}), flush=True)
    sys.stdin.readline()  # all stay until all are weighed


def together(kind: str, processes: int, name: str | None) -> tuple[float, float]:
    """Median seconds of building, and MiB of all."""
    line = [sys.executable, "-m", "tests.benchmarks.shared_data", kind, "--child", name or ""]
    pipe = subprocess.PIPE
    running = [subprocess.Popen(line, stdin=pipe, stdout=pipe, text=True) for _ in range(processes)]
    found = []
    for _ in range(4):
        found = [one.stdout.readline() for one in running]  # type: ignore[union-attr]
        for one in running:
            one.stdin.write("\n")  # type: ignore[union-attr]
            one.stdin.flush()  # type: ignore[union-attr]
    for one in running:
        assert one.wait() == 0
    told = [json.loads(one) for one in found]
    return median(one["seconds"] for one in told), sum(one["mib"] for one in told)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", default=DEFAULT)
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child is not None:
        return child(arguments.kinds[0], arguments.child or None)
    print("| data | processes | each its own: s | shared: s | each its own: MiB | shared: MiB |")
    print("|---|---|---|---|---|---|")
    for kind in arguments.kinds:
        with cache_scope():
            build(kind)  # as the driver does
            for processes in arguments.processes:
                own, ours = together(kind, processes, None), together(kind, processes, cache_name())
                row = f"{own[0]:.3f} | {ours[0]:.3f} | {own[1]:.0f} | {ours[1]:.0f}"
                print(f"| {kind} | {processes} | {row} |", flush=True)


if __name__ == "__main__":
    main()
