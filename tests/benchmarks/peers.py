"""How soon does a first trial pass? `python -m tests.benchmarks.peers RESULTS.jsonl [--seconds 280] [--seeds 0 1 ...]`.

Every system searches the same space by the same core for a trial that passes, two trials at a time, a core each, until
one does or the time is up; in turns, seed by seed. What was run is in RESULTS.jsonl, and is not run again: with
--seconds no further run begins after so long, and the same line goes on. With --table nothing runs.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from tests.benchmarks.systems import OURS, prepare, start
from tests.benchmarks.trained import LOG
from tests.support.processes import await_end, descendants

SYSTEMS = ["gatesweep", "stacked", "tune", "optuna", "syne", "random"]
CAPS = {"walk_transformer": 120, "circuit_vae": 120, "born_strict": 120}  # seconds from the command on
STACKED = ("born_strict",)  # where `stacked` is run: stacks do not pay for the other two
MEASURES = {"wall": "seconds from the command", "training": "seconds from the first epoch's start", "epochs": "epochs"}
Row = dict[str, Any]


def overrides(experiment: str, seed: int) -> list[str]:
    budget = ["num_samples=10000", "max_concurrent=2", f"time_budget={CAPS[experiment]}", "stop_after_passes=1"]
    return [f"experiment={experiment}", f"seed={seed}", *budget, "tracking=none", "figures=none"]


def run(system: str, experiment: str, seed: int) -> Row:
    """One search, in processes of its own, which are gone when this returns."""
    with tempfile.TemporaryDirectory(prefix="peers-") as folder:
        place, given = Path(folder) / "sweep", overrides(experiment, seed)
        prepare(place, given)
        began = time.time()
        processes = start(system, place, given)
        try:
            while time.time() < began + CAPS[experiment] and any(one.poll() is None for one in processes):
                found = epochs(system, place)
                if any(epoch["outcome"] == "passed" for epoch in found):
                    break
                time.sleep(0.1)
        finally:
            end(processes)
        found = [epoch for epoch in epochs(system, place) if epoch["time"] <= began + CAPS[experiment]]
        assert found, (place / "output.txt").read_text()[-3000:]
        return {
            "system": system, "experiment": experiment, "seed": seed, **first_pass(found, began, CAPS[experiment])
        }  # fmt: skip


def epochs(system: str, place: Path) -> list[Row]:
    """Every epoch that was told of, in the order of time: when it ended, and how."""
    files = place.glob("[0-9]*/trial_*/events.jsonl") if system in OURS else [place / LOG]  # `latest` is a link
    told = [event for file in files for event in read_lines(file) if event.get("event", "epoch") == "epoch"]
    return sorted(told, key=lambda one: one["time"])


def read_lines(file: Path) -> list[Row]:
    """Whole lines of a file that is being written."""
    lines = file.read_bytes().rpartition(b"\n")[0].splitlines() if file.exists() else []
    return [json.loads(line) for line in lines]


def first_pass(found: list[Row], began: float, cap: float) -> Row:
    """When the first trial passed, and how many epochs all had trained by then; the cap and all epochs if none did."""
    passed = next((one["time"] for one in found if one["outcome"] == "passed"), None)
    until = passed or began + cap
    first = min(one["time"] - seconds(one) for one in found)
    return {
        "passed": passed is not None,
        "wall": until - began,
        "training": until - first,
        "epochs": sum(one["time"] <= until for one in found),
    }


def seconds(epoch: Row) -> float:
    """What an epoch took."""
    return epoch["seconds"] if "seconds" in epoch else epoch["metrics"]["system/seconds"]


def end(processes: list[subprocess.Popen]) -> None:
    """All that these started goes with them."""
    everything = [pid for one in processes for pid in (one.pid, *descendants(one.pid))]
    for pid in everything:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    for one in processes:
        one.wait()
    await_end(everything)


def table(rows: list[Row], experiment: str) -> Iterable[str]:
    """A line a system: medians and quartiles, and how many times gatesweep's, seed by seed."""
    rows = [row for row in rows if row["experiment"] == experiment]
    ours = {row["seed"]: row for row in rows if row["system"] == "gatesweep"}
    heads = [f"{title} | x gatesweep" for title in MEASURES.values()]
    yield f"| `{experiment}`, {CAPS[experiment]} s at most | passed | {' | '.join(heads)} |"
    yield "|---|---|" + "---|---|" * len(heads)
    for system in dict.fromkeys(row["system"] for row in rows):
        theirs = [row for row in rows if row["system"] == system]
        cells = [system, f"{sum(row['passed'] for row in theirs)} of {len(theirs)}"]
        for measure in MEASURES:
            cells.append(spread([row[measure] for row in theirs], [row["passed"] for row in theirs]))
            ratios = [row[measure] / ours[row["seed"]][measure] for row in theirs if row["seed"] in ours]
            cells.append("1" if system == "gatesweep" else interval(ratios))
        yield f"| {' | '.join(cells)} |"


def spread(values: list[float], passed: list[bool]) -> str:
    """Median (quartiles); > where it is of runs that did not pass in their time."""
    low, middle, high = quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    worst = math.inf if all(passed) else min(v for v, ok in zip(values, passed, strict=True) if not ok)
    return f"{'> ' if middle >= worst else ''}{middle:.0f} ({low:.0f} to {high:.0f})"


def interval(ratios: list[float], draws: int = 10_000) -> str:
    """The median, and where 95 % of the medians of resampled seeds lie."""
    if not ratios:
        return "-"
    generator = random.Random(0)
    drawn = sorted(median(generator.choices(ratios, k=len(ratios))) for _ in range(draws))
    return f"{median(ratios):.1f} ({drawn[draws // 40]:.1f} to {drawn[-draws // 40]:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--experiments", nargs="+", default=list(CAPS), choices=CAPS)
    parser.add_argument("--systems", nargs="+", default=SYSTEMS)
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(10)))
    parser.add_argument("--seconds", type=float, default=math.inf, help="begin no further run after so long")
    parser.add_argument("--table", action="store_true", help="only show what was measured")
    arguments = parser.parse_args()
    rows, began = read_lines(arguments.results), time.time()
    done = {(row["system"], row["experiment"], row["seed"]) for row in rows}
    turns = [(s, e, seed) for seed in arguments.seeds for e in arguments.experiments for s in arguments.systems]
    turns = [turn for turn in turns if turn[0] != "stacked" or turn[1] in STACKED]
    left = [turn for turn in turns if turn not in done and not arguments.table]
    while left and time.time() - began < arguments.seconds:
        rows.append(run(*left.pop(0)))
        with arguments.results.open("a") as stream:
            stream.write(json.dumps(rows[-1]) + "\n")
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    for experiment in arguments.experiments:
        print(*table(rows, experiment), "", sep="\n")
    print(f"{len(left)} runs are left")


if __name__ == "__main__":
    main()
