"""What a trial costs the driver, by how many there are: `python -m tests.benchmarks.scale [--trials 100 1000]`.

Sweeps of the trivial trainable, two trials at a time, each sweep in a process of its own: one epoch a trial without a
scheduler, up to three under ASHA. Trials have processes of their own, so the driver's processor time is that of Tune's
loop, the study, the recorder, the scheduler and Ray's core, all threads together; `main` is its main thread alone.
`end` is the summary, the leaderboard and the page; `resume` is what a sweep that is complete needs to find that out.
`--profile` prints where the main thread's time goes, and no table.
"""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import io
import multiprocessing
import pstats
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import sweeps  # sets Ray's environment before anything imports it  # noqa: F401  isort: skip

import ray

from sweeps import run
from sweeps.cluster import start_ray
from sweeps.config import load
from tests.conftest import trivial

COLUMNS = "search | scheduler | trials | epochs | wall | CPU | main | start s | end s | resume s | peak MB"
Moment = tuple[float, float, float]  # seconds of the wall, of this process, of this thread
tune_sweep = run.tune_sweep


def now() -> Moment:
    return time.perf_counter(), time.process_time(), time.thread_time()


def timed(config: dict[str, Any], profiler: cProfile.Profile | None = None) -> list[Moment]:
    """Run a sweep; when it began, when its trials did, when they had ended, and when it had."""
    moments = [now()]

    def tuned(*arguments: Any) -> None:
        moments.append(now())
        profiler.runcall(tune_sweep, *arguments) if profiler else tune_sweep(*arguments)
        moments.append(now())

    run.tune_sweep = tuned
    with contextlib.redirect_stdout(io.StringIO()):
        run.sweep(config)
    return [*moments, now()]


def measure(trials: int, search: str, scheduler: str, options: list[str], profile: bool) -> str:
    """A row of the table, or a profile."""
    profiler = cProfile.Profile(time.thread_time) if profile else None
    chosen = [f"num_samples={trials}", f"search={search}", f"scheduler={scheduler}", "max_concurrent=2"]
    chosen += ["grace_period=1", f"training.max_epochs={3 if scheduler == 'asha' else 1}", *options]
    with tempfile.TemporaryDirectory() as results:
        config = load(trivial(Path(results), None, *chosen))
        start_ray(config)
        began, first, last, ended = timed(config, profiler)
        folder = (Path(results) / "latest").resolve()
        epochs = sum(1 for file in folder.glob("trial_*/scalars.csv") for _ in file.open()) - trials
        again, _, found, _ = timed(load([f"resume={folder}"]))
        ray.shutdown()
    if profiler:
        text = io.StringIO()
        pstats.Stats(profiler, stream=text).sort_stats("tottime").print_stats(40)
        return text.getvalue()
    each = [f"{1000 * (after - before) / trials:.1f}" for before, after in zip(first, last, strict=True)]
    seconds = [f"{first[0] - began[0]:.1f}", f"{ended[0] - last[0]:.1f}", f"{found[0] - again[0]:.1f}"]
    peak = f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f}"
    return f"| {' | '.join([search, scheduler, f'{trials:,}', f'{epochs:,}', *each, *seconds, peak])} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=[100, 300, 1000, 3000, 10000])
    parser.add_argument("--search", nargs="+", default=["random", "tpe"])
    parser.add_argument("--scheduler", nargs="+", default=["none", "asha"])
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("options", nargs="*", metavar="KEY=VALUE", help="of the sweeps' configuration")
    given = parser.parse_args()
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "ray", "optuna"))
    print(f"milliseconds a trial; {packages}\n| {COLUMNS} |\n|{'---|' * len(COLUMNS.split('|'))}", flush=True)
    alone = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=alone, max_tasks_per_child=1) as one_by_one:
        for search, scheduler, trials in product(given.search, given.scheduler, given.trials):
            found = one_by_one.submit(measure, trials, search, scheduler, given.options, given.profile)
            print(found.result(), flush=True)


if __name__ == "__main__":
    main()
