"""What a trial costs the driver, by how many there are: `python -m tests.benchmarks.scale [--trials 100 1000]`.

Sweeps of the trivial trainable, two trials at a time, each sweep in a process of its own: one epoch a trial without a
scheduler, up to three under ASHA. Trials have processes of their own, so the driver's processor time is that of Tune's
loop, the study, the recorder, the scheduler and Ray's core, all threads together; `main` is its main thread alone.
`end` is the summary, the leaderboard and the page; `resume` is what a sweep that is complete needs to find that out.

`--after 1000 10000` shows growth in minutes: a folder of so many trials is written as a sweep writes it, without
training, and the sweep is resumed for 350 real ones, of which the last 300 count.
`--profile` prints where the main thread's time goes, and no table.
"""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import io
import math
import multiprocessing
import os
import pstats
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import gatesweep.sweeps  # sets Ray's environment before anything imports it  # noqa: F401  isort: skip

import ray

from gatesweep.core.record import Record
from gatesweep.sweeps.commands import run
from gatesweep.sweeps.commands.resume import configure
from gatesweep.sweeps.commands.run import run_sweep
from gatesweep.sweeps.config.compose import compose_config
from gatesweep.sweeps.config.schema import Config, make_gate
from gatesweep.sweeps.config.values import to_yaml
from gatesweep.sweeps.execution.cluster import start_ray
from gatesweep.sweeps.execution.recorder import Recorder
from gatesweep.sweeps.search.searcher import Search
from gatesweep.sweeps.search.space import read_space
from tests.conftest import trivial

COLUMNS = "search | scheduler | trials | epochs | wall | CPU | main | start s | end s | resume s | peak MB"
Moment = tuple[float, float, float]  # seconds of the wall, of this process, of this thread
train_trials = run.train_trials


def now() -> Moment:
    return time.perf_counter(), time.process_time(), time.thread_time()


def timed(config: Config, profiler: cProfile.Profile | None = None) -> list[Moment]:
    """Run a sweep; when it began, when its trials did, when they had ended, and when it had."""
    moments = [now()]

    def tuned(*arguments: Any) -> None:
        moments.append(now())
        profiler.runcall(train_trials, *arguments) if profiler else train_trials(*arguments)
        moments.append(now())

    run.train_trials = tuned  # type: ignore[assignment]
    with contextlib.redirect_stdout(io.StringIO()):
        run_sweep(config)
    return [*moments, now()]


def measure(trials: int, search: str, scheduler: str, options: list[str], profile: bool) -> str:
    """A row of the table, or a profile."""
    profiler = cProfile.Profile(time.thread_time) if profile else None
    chosen = [f"num_samples={trials}", f"search={search}", f"scheduler={scheduler}", "max_concurrent=2"]
    chosen += ["grace_period=1", f"training.max_epochs={3 if scheduler == 'asha' else 1}", *options]
    with tempfile.TemporaryDirectory() as results:
        config = compose_config(trivial(Path(results), None, *chosen))
        start_ray(config.resources, config.max_concurrent)
        began, first, last, ended = timed(config, profiler)
        folder = (Path(results) / "latest").resolve()
        epochs = sum(1 for file in folder.glob("trial_*/scalars.csv") for _ in file.open()) - trials
        again, _, found, _ = timed(configure([f"resume={folder}"]))
        ray.shutdown()
    if profiler:
        text = io.StringIO()
        pstats.Stats(profiler, stream=text).sort_stats("tottime").print_stats(40)
        return text.getvalue()
    each = [f"{1000 * (after - before) / trials:.1f}" for before, after in zip(first, last, strict=True)]
    seconds = [f"{first[0] - began[0]:.1f}", f"{ended[0] - last[0]:.1f}", f"{found[0] - again[0]:.1f}"]
    peak = f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f}"
    return f"| {' | '.join([search, scheduler, f'{trials:,}', f'{epochs:,}', *each, *seconds, peak])} |"


def after(trials: int, search: str, scheduler: str, options: list[str], profile: bool) -> str:
    """The same of 300 trials of a sweep that has had so many."""
    profiler = cProfile.Profile(time.thread_time) if profile else None
    ends: list[Moment] = []
    asks: list[Moment] = []
    end, suggest = Recorder._end, Search.suggest

    def ended(*arguments: Any) -> None:
        end(*arguments)
        ends.append(now())

    def asked(*arguments: Any) -> Any:
        asks.append(now())
        return suggest(*arguments)

    with tempfile.TemporaryDirectory() as results:
        chosen = [f"num_samples={trials + 350}", f"search={search}", f"scheduler={scheduler}", "max_concurrent=2"]
        chosen += ["grace_period=1", f"training.max_epochs={3 if scheduler == 'asha' else 1}", *options]
        folder = Path(results) / "sweep"
        config = compose_config(trivial(Path(results), None, *chosen))
        grow(config, compose_config(trivial(Path(results), None, *chosen, "search=random")), folder, trials)
        Recorder._end, Search.suggest = ended, asked  # type: ignore[method-assign]
        start_ray(config.resources, config.max_concurrent)
        began, *_, last = timed(configure([f"resume={folder}"]), profiler)
        ray.shutdown()
    if profiler:
        text = io.StringIO()
        pstats.Stats(profiler, stream=text).sort_stats("tottime").print_stats(40)
        return text.getvalue()
    each = [f"{1000 * (then - before) / 300:.1f}" for before, then in zip(ends[49], ends[349], strict=True)]
    peak = f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f}"
    ready, over = f"{asks[0][0] - began[0]:.1f}", f"{last[0] - ends[349][0]:.1f}"
    return f"| {' | '.join([search, scheduler, f'after {trials:,}', '', *each, '', over, ready, peak])} |"


def grow(config: Config, drawn: Config, folder: Path, trials: int) -> None:
    """Write a sweep of so many trials that were drawn at random and missed the gate in their only epoch."""
    folder.mkdir()
    (folder / "config.yaml").write_text(to_yaml(config))
    gate, synced = make_gate(config.gate), os.fsync
    os.fsync = lambda file: None  # type: ignore[assignment]  # nothing here must survive a crash
    asked = Search(drawn, read_space(config), gate, folder)
    for index in range(trials):
        trial = asked.suggest("")
        assert isinstance(trial, dict)
        record = Record(folder / trial["trial"], values=trial["values"], elapsed=float(index))
        close = 0.8 * math.exp(-abs(math.log10(trial["values"]["trainable.lr"]) + 1))
        metrics = {"train/loss": 1 - close, "val/loss": 1 / close - 1, "val/closeness": close, "system/seconds": 0.01}
        facts = {"score": gate.score(metrics), "outcome": "finished", "reason": None, "elapsed": index + 0.5}
        record.epoch(1, metrics, [0.1] * 4, **facts)
        record.end("finished", None, gate)
        asked.tell(trial["trial"], "finished", 1, metrics)
    os.fsync = synced


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=[100, 300, 1000, 3000, 10000])
    parser.add_argument("--after", type=int, nargs="+", default=[])
    parser.add_argument("--search", nargs="+", default=["random", "tpe"])
    parser.add_argument("--scheduler", nargs="+", default=["none", "asha"])
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("options", nargs="*", metavar="KEY=VALUE", help="of the sweeps' configuration")
    given = parser.parse_args()
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "ray", "optuna"))
    print(f"milliseconds a trial; {packages}\n| {COLUMNS} |\n|{'---|' * len(COLUMNS.split('|'))}", flush=True)
    alone = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=alone, max_tasks_per_child=1) as one_by_one:
        act, sizes = (after, given.after) if given.after else (measure, given.trials)
        for search, scheduler, trials in product(given.search, given.scheduler, sizes):
            found = one_by_one.submit(act, trials, search, scheduler, given.options, given.profile)
            print(found.result(), flush=True)


if __name__ == "__main__":
    main()
