"""Run a sweep: `python sweeps/run.py experiment=walk_transformer training.max_epochs=30`.

Every KEY=VALUE is an override in Hydra's grammar; `--cfg` prints what they compose to, `--help` the choices.
Exit codes: 0 a trial passed, 3 none did, 2 bad input, 1 a fault of gatesweep, 130 interrupted.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import ray
import yaml
from ray import tune
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from gatesweep.core import shared
from gatesweep.core.record import append_event, write_atomically
from gatesweep.sweeps import cli, comparison, confirm, preflight, report, scheduler, stacked, tuning, warm
from gatesweep.sweeps import config as configuration
from gatesweep.sweeps.cluster import start_ray
from gatesweep.sweeps.confirm import Confirmation
from gatesweep.sweeps.recording import Enough, Recorder, rungs_seen
from gatesweep.sweeps.schema import make_gate
from gatesweep.sweeps.search import Search
from gatesweep.sweeps.space import Space, read
from gatesweep.sweeps.storage import Mirror, Store
from gatesweep.sweeps.trial import DirectTrial, several_workers


def main() -> None:
    cli.run(cli.parser(__doc__ or ""), command)


def command(arguments: argparse.Namespace) -> int:
    config = configuration.load(arguments.overrides)
    if arguments.cfg:
        print(yaml.safe_dump(config, sort_keys=False), end="")
        return cli.PASSED
    return sweep(config)


def sweep(config: dict[str, Any]) -> int:
    """Check everything, then sweep; returns the exit code. Raises ValueError before there is any folder."""
    with shared.place():  # the data that the checks make are those of the trials
        return _sweep(config)


def _sweep(config: dict[str, Any]) -> int:
    points = read(config)
    config = {**config, "warm_start": warm.folders(config) or None}
    folder = Path(config["resume"]) if config["resume"] else cli.new_folder(config)
    cli.check_folder(folder)
    preflight.check_search(config, points)
    if config["tracking"]["enabled"]:
        preflight.check_tracking(config["tracking"]["uri"])
    if config["storage"]:
        Store(config["storage"]).check(folder)
    preflight.check_run(config, points)
    ours = not ray.is_initialized()
    concurrent = start_ray(config)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell has it ignored
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        cli.make_folder(folder)
        with (folder / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ValueError(f"resume: got {str(folder)!r}, which another sweep is running in") from error
            write_atomically(folder / "config.yaml", yaml.safe_dump({**config, "resume": None}, sort_keys=False))
            if config["storage"] is None:
                preflight.check_machines(folder, new=config["resume"] is None)
            cli.point(folder.parent / "latest", folder)
            return _run(folder, config, points, concurrent)
    finally:
        if ours:
            ray.shutdown()


def _run(folder: Path, config: dict[str, Any], points: Space, concurrent: int) -> int:
    """Sweep in a folder that is ours; returns the exit code."""
    facts = cli.facts()
    append_event(folder / "events.jsonl", "start", overrides=sys.argv[1:], **facts)
    print(f"sweep {folder}", flush=True)
    publisher = _start_publisher(folder, config)
    mirror = Mirror(config["storage"], folder) if config["storage"] else None
    gate = make_gate(config)
    search = Search(config, points, gate, folder, stacked.size(config, concurrent))
    if search.warm:
        print(f"warm start: {len(search.warm)} trials of earlier sweeps", flush=True)
    recorder = Recorder(folder, config, gate, search)
    seconds, interrupted = None, False
    try:
        tune_sweep(folder, config, points, recorder, concurrent)
        seconds = recorder.elapsed
        if config["confirm"]["seeds"]:
            winners = Confirmation(folder, **config["confirm"])
            again = confirm.settings(config, winners)
            recorder = Recorder(folder, again, gate, winners, kind=report.CONFIRM)
            tune_sweep(folder, again, points, recorder, concurrent)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the rest takes a moment, and must not be cut short
        interrupted = True
        recorder.interrupted()
    finally:
        shutil.rmtree(folder / ".tune", ignore_errors=True)
    seconds = seconds or recorder.elapsed
    summary = report.write(folder, seconds, facts)
    append_event(folder / "events.jsonl", "interrupted" if interrupted else "end", elapsed=seconds)
    print(report.to_text(report.leaderboard(folder)))
    _write_page(folder)
    _stop_publisher(publisher, folder)
    if mirror and not mirror.close():
        print(f"storage: not all of the record arrived; it is whole in {folder}", flush=True)
    if interrupted:
        print(f"interrupted; go on with: python sweeps/run.py resume={folder}", flush=True)
        return cli.INTERRUPTED
    more = [*report.confirmed_lines(summary.get("confirmed", {})), *report.pareto_lines(summary.get("front", []))]
    print("\n".join([_verdict(summary), *more]), flush=True)
    return cli.PASSED if summary["passed"] else cli.NONE_PASSED


def tune_sweep(folder: Path, config: dict[str, Any], points: Space, recorder: Recorder, concurrent: int) -> None:
    """Hand the trials that are left to Tune, `concurrent` at a time."""
    search, chosen = recorder.search, scheduler.make(config, points, rungs_seen(folder))
    trial, resources, callbacks = _shape(config, points, folder)
    recorder.finish_unended(getattr(chosen, "stopped", set()))
    enough = Enough(recorder, config)
    if search.is_over() or enough.stop_all():
        return recorder.progress.close()
    shutil.rmtree(folder / ".tune", ignore_errors=True)  # of what ran before this
    tuning.run(
        trial,
        folder,
        search,
        chosen,
        stop=enough,
        callbacks=[recorder, *callbacks],
        concurrent=concurrent,
        resources=resources,
        max_failures=config["resources"]["max_failures"],
    )


def _shape(
    config: dict[str, Any], points: Space, folder: Path
) -> tuple[Any, tune.PlacementGroupFactory, list[tune.Callback]]:
    """What Tune runs a trial as, what it reserves for one, and who clears up after it."""
    resources = config["resources"]
    config = {**config, "shared": shared.name()}  # what the trials' processes are told, and no record holds
    if not several_workers(config, points):
        bundle = {"CPU": resources["cpus_per_worker"], "GPU": resources["gpus_per_worker"]}
        reserved = tune.PlacementGroupFactory([bundle])
        trial = DirectTrial if resources["stack"] == 1 else stacked.StackTrial
        return tune.with_parameters(trial, base=config, sweep=str(folder)), reserved, []
    from gatesweep.sweeps.group import TrainTrial  # here, for Ray Train takes two seconds to import
    from gatesweep.sweeps.office import Janitor, Office

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    office = ray.remote(num_cpus=0, scheduling_strategy=here)(Office).remote()  # it lives as long as the driver
    # The workers reserve their own; a reservation of Tune's must not be empty, and every machine has memory.
    reserved = tune.PlacementGroupFactory([{"CPU": 0, "memory": 2**20}])
    trial = tune.with_parameters(TrainTrial, base=config, sweep=str(folder), office=office)
    return trial, reserved, [Janitor(office)]


def _write_page(folder: Path) -> None:
    try:
        from gatesweep.sweeps.pages import page  # here, for plotly takes a second to import

        print(f"report {page.write(folder)}", flush=True)
    except Exception as fault:  # a page that cannot be drawn is no reason to lose the rest
        print(f"report: not written ({type(fault).__name__}: {fault}); the record is whole", flush=True)


def _start_publisher(folder: Path, config: dict[str, Any]) -> subprocess.Popen | None:
    """MLflow in a process of its own, so that it can neither slow the sweep down nor end it."""
    if not config["tracking"]["enabled"]:
        return None
    command = [sys.executable, "-m", "gatesweep.sweeps.publish", str(folder), "--follow"]
    root = configuration.CONFIGS.parent
    publisher = subprocess.Popen(command, stdin=subprocess.PIPE, cwd=root, start_new_session=True)
    # The trials come first, from its imports on: two seconds of processor time while their processes start.
    os.setpriority(os.PRIO_PROCESS, publisher.pid, min(19, os.getpriority(os.PRIO_PROCESS, 0) + 10))
    return publisher


def _stop_publisher(publisher: subprocess.Popen | None, folder: Path) -> None:
    if publisher is None:
        return
    assert publisher.stdin
    publisher.stdin.close()
    try:
        done = publisher.wait(timeout=60) == 0
    except subprocess.TimeoutExpired:
        publisher.kill()
        done = False
    if not done:
        print(f"tracking: not all was published; later: python sweeps/publish.py {folder}", flush=True)
    if (pointer := folder / comparison.POINTER).exists():
        print(f"compare {json.loads(pointer.read_text())['compare']}", flush=True)


def _verdict(summary: dict[str, Any]) -> str:
    best, count = summary["best"], f"{summary['passed']} of {summary['trials']} trials passed"
    if not summary["passed"]:
        return f"{count} in {summary['seconds']:.0f} s"
    first = (
        f"the first after {summary['first_pass_seconds']:.0f} s and {summary['first_pass_epochs']} epochs of all trials"
    )
    return f"{count} in {summary['seconds']:.0f} s, {first}; best: {best['trial']} {json.dumps(best['params'])}"


if __name__ == "__main__":
    main()
