"""What a trial costs beside its training, and how long it waits for a decision: `python -m tests.benchmarks.overhead`.

The same trivial trial (three epochs; with --work, so many seconds of sleep in all) under gatesweep and under its peers,
each in a process of its own, one trial at a time, in turns. `optuna_alone` is in one process, without storage.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks.peers import end, read_lines
from tests.benchmarks.systems import DECISIONS, SYSTEMS, prepare, start
from tests.benchmarks.trained import LOG
from tests.conftest import trivial

EPOCHS = 3
Row = dict[str, Any]


def run(system: str, trials: int, work: float) -> Row:
    """One sweep, timed by its trials: when each ended, and how long it stood between two epochs, in seconds."""
    with tempfile.TemporaryDirectory(prefix="overhead-") as folder:
        place, log = Path(folder) / "sweep", Path(folder) / "timed.jsonl"
        fields = {"_target_": "tests.benchmarks.timed.Timed", "log": str(log), "epoch_seconds": work / EPOCHS}
        options = [f"num_samples={trials}", f"training.max_epochs={EPOCHS}", "scheduler=none", "max_concurrent=1"]
        # out of reach, so that every trial trains its three epochs
        given = [*trivial(Path(folder), None, **fields), *options, "gate.thresholds={val/closeness:'> 2'}"]
        prepare(place, given)
        began = time.time()
        processes = start(system, place, given)
        try:
            for one in processes:
                one.wait(600)
        finally:
            end(processes)
        ends = [line["time"] for line in read_lines(log) if line["epoch"] == EPOCHS][:trials]
        assert len(ends) == trials, (place / "output.txt").read_text()[-3000:]
        between = [later - earlier - work for earlier, later in pairwise(ends)]
        waits = [
            later["began"] - earlier["time"]
            for earlier, later in pairwise(read_lines(log))
            if later["run"] == earlier["run"]
        ]
        return {"first": ends[0] - began - work, "between": between, "waits": waits, "decided": decided(place)}


def decided(place: Path) -> list[float]:
    """How long after an epoch its decision came, of systems whose trials do not wait for it."""
    told = {(line["trial"], line["epoch"]): line["time"] for line in read_lines(place / LOG)}
    return [line["time"] - told[line["trial"], line["epoch"]] for line in read_lines(place / DECISIONS)]


def cell(values: list[float]) -> str:
    """Median and 95th percentile, in milliseconds."""
    ordered = sorted(values)
    if not ordered:
        return "-"
    return f"{1000 * median(ordered):.1f} / {1000 * ordered[int(0.95 * (len(ordered) - 1))]:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", nargs="+", default=["gatesweep", *SYSTEMS], choices=["gatesweep", *SYSTEMS])
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--slow", type=int, default=8, help="trials of train_in_tune, at some 25 s each")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=float, default=0.0, help="seconds of sleep in each trial")
    arguments = parser.parse_args()
    rows: dict[str, list[Row]] = {system: [] for system in arguments.systems}
    for _ in range(arguments.rounds):
        for system in arguments.systems:
            trials = arguments.slow if system == "train_in_tune" else arguments.trials
            rows[system].append(run(system, trials, arguments.work))
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "ray", "optuna"))
    print(
        f"{arguments.rounds} x {arguments.trials} trials of {EPOCHS} epochs, {arguments.work:g} s of work; {packages}"
    )
    print("| | first trial's end s | a trial ms: median of rounds (of each) | waits ms: median / 95 % | decided ms |")
    print("|---|---|---|---|---|")
    for system, found in rows.items():
        each = [1000 * median(row["between"]) for row in found]
        first = f"{median(row['first'] for row in found):.1f}"
        cost = f"{median(each):.1f} ({', '.join(f'{one:.1f}' for one in each)})"
        waits, late = (cell([value for row in found for value in row[name]]) for name in ("waits", "decided"))
        print(f"| {system} | {first} | {cost} | {waits} | {late} |")


if __name__ == "__main__":
    main()
