"""The cost of a report of a training function in a sweep, by the size of its checkpoint.

`python -m tests.benchmarks.reports` prints the table of reports.md: milliseconds from the call of `report` to its
return, and processor time of the trial's process, over the reports of one trial.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import torch

import gatesweep
from gatesweep import report
from gatesweep.core.reporting import Stop

REPORTS = {0.0: 300, 0.1: 200, 10.0: 60, 100.0: 20}  # by MiB


def train(config: dict[str, Any]) -> None:
    """Report as often as the sweep lets it, and write what each report took."""
    weights = torch.zeros(int(config["mib"] * 2**18))
    checkpoint = {"weights": weights} if config["mib"] else None
    taken: list[tuple[float, float]] = []
    try:
        while True:
            began, processor = perf_counter(), process_time()
            report({"val/accuracy": 0.1}, checkpoint=checkpoint)
            taken.append((perf_counter() - began, process_time() - processor))
    except Stop:
        Path(config["file"]).write_text(json.dumps(taken))
        raise


def measure(mib: float, every: int = 1) -> tuple[float, float, float]:
    """Return the median, the 90th percentile and the processor time of a report, in milliseconds."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "taken.json")
        gatesweep.sweep(
            train, space={"x": (0.0, 1.0)}, trainable={"mib": mib, "file": str(file)}, gate={"val/accuracy": "> 0.9"},
            max_epochs=REPORTS[mib], num_samples=1, max_concurrent=1, scheduler="none", search="random",
            tracking="none", figures="none", results=folder, verbose=0, training={"checkpoint_every": every},
        )  # fmt: skip
        taken = json.loads(file.read_text())[1:]
    walls = sorted(1e3 * wall for wall, _ in taken)
    return statistics.median(walls), walls[int(0.9 * len(walls))], 1e3 * statistics.mean(cpu for _, cpu in taken)


def main() -> None:
    """Print the table."""
    print("| checkpoint | reports | median ms | 90% ms | processor ms |\n|---|---|---|---|---|")
    for mib, every in ((0.0, 1), (0.1, 1), (10.0, 1), (10.0, 5), (100.0, 1)):
        median, high, processor = measure(mib, every)
        name = (f"{mib:g} MiB" if mib else "none") + (f", each {every}th" if every > 1 else "")
        print(f"| {name} | {REPORTS[mib]} | {median:.1f} | {high:.1f} | {processor:.1f} |", flush=True)


if __name__ == "__main__":
    main()
