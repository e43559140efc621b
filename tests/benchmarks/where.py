"""Where the time of a sweep goes: `python -m tests.benchmarks.where [EXPERIMENT ...] [--seeds 0 1 2]`.

Each sweep runs as `python sweeps/run.py experiment=...` does, with timers around what its driver and its trials'
processes do. The time from the command's start to its end is cut, for each of these processes (two on two cores), into
parts that add up to it. `--runs FILE` adds to earlier runs; what is shown are the medians of all in it.
`--record FOLDER` tells what the record of any sweep says by itself, from the sweep's start to its last trial's end.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from gatesweep.core.record import read_events
from gatesweep.sweeps.records.layout import trial_folders

BEGAN = time.time()
SPANS = "GATESWEEP_SPANS"  # the file that all processes append to
DEFAULT = ["walk_transformer", "circuit_vae", "born_classifier", "mlp"]
STEPS, EVALUATION = "training: steps", "training: evaluation"
PARTS = [
    *("python and imports", "checks before the first trial", "start of Ray", "start of the trials' processes"),
    *("data and model of a trial", STEPS, EVALUATION, "checkpoint", "figures", "rest of an epoch"),
    *("from epoch to epoch", "from trial to trial", "idle at the end: another trial trains", "end of Tune"),
    *("summary and report.html", "publisher", "end of Ray and python"),
]
Span = dict[str, Any]


def log(name: str, began: float, **facts: Any) -> None:
    line = {"pid": os.getpid(), "name": name, "began": began, "ended": time.time(), **facts}
    with Path(os.environ[SPANS]).open("a") as file:
        file.write(json.dumps(line) + "\n")


def timed(owner: Any, name: str, part: str) -> None:
    """Log every call of a function or method as a span."""
    inner: Callable[..., Any] = getattr(owner, name)

    def call(*given: Any, **options: Any) -> Any:
        began = time.time()
        try:
            return inner(*given, **options)
        finally:
            log(part, began)

    setattr(owner, name, call)


def command(overrides: list[str]) -> int:
    """What `sweeps/run.py` does, with timers."""
    import gatesweep.sweeps  # sets Ray's environment  # noqa: F401  isort: skip
    from gatesweep.core import checkpoint
    from gatesweep.sweeps.commands import preflight, run, trials
    from gatesweep.sweeps.config.compose import compose_config
    from gatesweep.sweeps.execution import training
    from gatesweep.sweeps.execution.trial import DirectTrial
    from gatesweep.sweeps.reports import page

    class TimedTrial(DirectTrial):
        def setup(self, *given: Any, **options: Any) -> None:
            began = time.time()
            timed(training, "build_run", "build")
            timed(checkpoint, "save", "checkpoint")
            timed(checkpoint, "prune", "checkpoint")
            timed(training, "draw_figures", "figures")
            super().setup(*given, **options)
            log("setup", began)

        def step(self) -> dict[str, Any]:
            began = time.time()
            found = super().step()
            seconds = {key: found["metrics"].get(f"system/{key}", 0.0) for key in ("seconds", "train_seconds")}
            log("step", began, trial=self.trial["trial"], **seconds)
            return found

    trials.DirectTrial = TimedTrial  # type: ignore[misc]
    log("python and imports", BEGAN)
    timed(run, "start_ray", "start of Ray")
    timed(trials, "run_tune", "tune")
    timed(run, "write_summary", "summary and report.html")
    timed(page, "write_page", "summary and report.html")
    timed(run, "stop_publisher", "publisher")
    timed(preflight, "check_run", "check_run")
    return run.run_sweep(compose_config(overrides))


def measured(overrides: list[str]) -> tuple[float, list[Span]]:
    """The wall time of a sweep in a process of its own, and its spans."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        spans = Path(folder) / "spans.jsonl"
        began = time.time()
        line = [sys.executable, "-m", "tests.benchmarks.where", "--child", "--", f"results={folder}", *overrides]
        done = subprocess.run(line, env={**os.environ, SPANS: str(spans)}, capture_output=True, text=True)
        ended = time.time()
        assert done.returncode in (0, 3), done.stdout + done.stderr
        found = [json.loads(line) for line in spans.read_text().splitlines()]
    return ended - began, [{**one, "began": one["began"] - began, "ended": one["ended"] - began} for one in found]


def shares(wall: float, spans: list[Span]) -> dict[str, float]:
    """The seconds of all processes of trials, by part; they add up to `wall` times their number."""
    by_pid: dict[int, list[Span]] = defaultdict(list)
    for span in spans:
        by_pid[span["pid"]].append(span)
    driver = next(pid for pid, own in by_pid.items() if any(one["name"] == "tune" for one in own))
    tune = next(one for one in by_pid[driver] if one["name"] == "tune")
    workers = [own for pid, own in by_pid.items() if pid != driver]
    known = _of_driver(wall, by_pid[driver], tune)
    parts = defaultdict(float, {name: seconds * len(workers) for name, seconds in known.items()})
    last = max(one["ended"] for own in workers for one in own)
    for own in workers:
        for name, seconds in _of_worker(own, tune, last).items():
            parts[name] += seconds
    assert abs(sum(parts.values()) - wall * len(workers)) < 0.01 * wall, (parts, wall)
    return {**parts, "processes": len(workers), "tune": (tune["ended"] - tune["began"]) * len(workers)}


def _of_driver(wall: float, spans: list[Span], tune: Span) -> dict[str, float]:
    """Before and after the trials."""
    found = defaultdict(float)
    for one in spans:
        if one["name"] in PARTS:
            found[one["name"]] += one["ended"] - one["began"]
    found["python and imports"] = next(one["ended"] for one in spans if one["name"] == "python and imports")
    before = found["python and imports"] + found["start of Ray"]
    found["checks before the first trial"] = tune["began"] - before
    found["end of Ray and python"] = wall - tune["ended"] - found["summary and report.html"] - found["publisher"]
    return found


def _of_worker(spans: list[Span], tune: Span, last: float) -> dict[str, float]:
    """While there are trials."""
    found: dict[str, float] = defaultdict(float)
    steps = [one for one in spans if one["name"] == "step"]
    found["start of the trials' processes"] = steps[0]["began"] - tune["began"]
    for one in steps:
        inside = {"build": 0.0, "checkpoint": 0.0, "figures": 0.0}
        for span in spans:
            if span["name"] in inside and one["began"] <= span["began"] and span["ended"] <= one["ended"]:
                inside[span["name"]] += span["ended"] - span["began"]
        found[STEPS] += one["train_seconds"]
        found[EVALUATION] += one["seconds"] - one["train_seconds"]
        found["data and model of a trial"] += inside["build"]
        found["checkpoint"] += inside["checkpoint"]
        found["figures"] += inside["figures"]
        found["rest of an epoch"] += one["ended"] - one["began"] - one["seconds"] - sum(inside.values())
    for one, other in pairwise(steps):
        kind = "from epoch to epoch" if one["trial"] == other["trial"] else "from trial to trial"
        found[kind] += other["began"] - one["ended"]
    found["idle at the end: another trial trains"] = last - steps[-1]["ended"]
    found["end of Tune"] = tune["ended"] - last
    return found


def recorded(folder: Path, processes: int = 2) -> dict[str, float]:
    """The same from a sweep's record: what lies between two epochs of a trial is checkpoint, report and decision."""
    began = read_events(folder / "events.jsonl")[0]["time"]
    trials = [read_events(trial / "events.jsonl") for trial in trial_folders(folder)]
    found: dict[str, float] = defaultdict(float)
    for events in trials:
        before = next(event["time"] for event in events if event["event"] == "start")
        for event in (one for one in events if one["event"] == "epoch"):
            seconds, steps = (event["metrics"][f"system/{key}"] for key in ("seconds", "train_seconds"))
            rest = event["time"] - before - seconds
            place = "last epoch: figures" if event["outcome"] else "from epoch to epoch"
            found["first epoch: data, model, imports" if event["epoch"] == 1 else place] += rest
            found[STEPS], found[EVALUATION] = found[STEPS] + steps, found[EVALUATION] + seconds - steps
            before = event["time"]
    ends = sorted(events[-1]["time"] for events in trials)[-processes:]
    starts = sorted(events[0]["time"] for events in trials)[:processes]
    found["start of the trials' processes"] = sum(starts) - processes * began
    found["idle at the end: another trial trains"] = sum(ends[-1] - end for end in ends)
    whole = processes * (ends[-1] - began)
    found["from trial to trial, and what was told of none of these"] = whole - sum(found.values())
    return {name: 100 * seconds / whole for name, seconds in found.items()} | {"seconds": whole / processes}


def show(experiment: str, runs: list[dict[str, float]]) -> None:
    processes, walls = int(runs[0]["processes"]), [one["wall"] for one in runs]
    shown = ", ".join(f"{one:.0f}" for one in walls)
    print(f"\n{experiment}: {len(runs)} sweeps, {processes} processes, wall s {shown}\n")
    print("| part | s of a process | % | least | most |\n|---|---|---|---|---|")
    for name in PARTS:
        percent = [100 * one.get(name, 0.0) / processes / wall for one, wall in zip(runs, walls, strict=True)]
        seconds = median(one.get(name, 0.0) / processes for one in runs)
        print(f"| {name} | {seconds:.2f} | {median(percent):.1f} | {min(percent):.1f} | {max(percent):.1f} |")
    for label, names in (("steps", [STEPS]), ("steps and evaluation", [STEPS, EVALUATION])):
        done = [sum(one[name] for name in names) for one in runs]
        whole = [100 * part / processes / wall for part, wall in zip(done, walls, strict=True)]
        trials = [100 * part / one["tune"] for part, one in zip(done, runs, strict=True)]
        for part, of in ((whole, "the command"), (trials, "the trials' time")):
            print(f"{label}: {median(part):.1f} % of {of} ({min(part):.1f} to {max(part):.1f})")


def main() -> None:
    if "--child" in sys.argv:
        sys.exit(command(sys.argv[sys.argv.index("--") + 1 :]))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # `subprocess` then ends the sweep, too
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="*", default=DEFAULT)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--record", type=Path, metavar="FOLDER", help="of a sweep of two trials at a time")
    parser.add_argument("--runs", type=Path, default=Path(tempfile.mkdtemp()) / "runs.jsonl", help="add to these runs")
    parser.add_argument("--override", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    if arguments.record:
        for name, percent in sorted(recorded(arguments.record.resolve()).items(), key=lambda one: -one[1]):
            print(f"| {name} | {percent:.1f} |")
        return
    for experiment in arguments.experiments:
        for seed in arguments.seeds:
            wall, spans = measured([f"experiment={experiment}", *arguments.override, f"seed={seed}"])
            with arguments.runs.open("a") as file:
                file.write(json.dumps({"experiment": experiment, "wall": wall, **shares(wall, spans)}) + "\n")
        runs = [json.loads(line) for line in arguments.runs.read_text().splitlines()]
        show(experiment, [one for one in runs if one["experiment"] == experiment])


if __name__ == "__main__":
    main()
