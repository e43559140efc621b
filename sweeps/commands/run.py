"""Run a sweep: `python sweeps/run.py experiment=walk_transformer training.max_epochs=30`.

Every KEY=VALUE is an override in Hydra's grammar; `--cfg` prints what they compose to, `--help` the choices.
Exit codes: 0 a trial passed, 3 none did, 2 bad input, 1 a fault of gatesweep, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from gatesweep.core.cache import cache_name, cache_scope
from gatesweep.core.errors import InputError
from gatesweep.core.files import try_lock, write_atomically
from gatesweep.core.record import append_event
from gatesweep.sweeps.commands.cli import (
    INTERRUPTED,
    NONE_PASSED,
    PASSED,
    check_results_folder,
    make_folder,
    make_parser,
    new_folder,
    point_link,
    print_config,
    run_command,
)
from gatesweep.sweeps.commands.preflight import check_machines, check_run, check_search, check_tracking
from gatesweep.sweeps.commands.publisher_process import start_publisher, stop_publisher
from gatesweep.sweeps.commands.resume import configure
from gatesweep.sweeps.config.schema import Config, make_gate
from gatesweep.sweeps.config.values import to_yaml
from gatesweep.sweeps.execution.cluster import start_ray
from gatesweep.sweeps.execution.recorder import Recorder
from gatesweep.sweeps.execution.stack import StackTrial, stack_size
from gatesweep.sweeps.execution.stopping import SweepStopper
from gatesweep.sweeps.execution.trial import DirectTrial, several_workers
from gatesweep.sweeps.execution.tune_loop import run_tune
from gatesweep.sweeps.records.layout import CONFIG, CONFIRM, EVENTS, LOCK
from gatesweep.sweeps.records.pareto import pareto_lines
from gatesweep.sweeps.records.provenance import provenance
from gatesweep.sweeps.records.summary import confirmation_lines, leaderboard, leaderboard_text, write_summary
from gatesweep.sweeps.schedulers.factory import make_scheduler
from gatesweep.sweeps.schedulers.history import recorded_scores
from gatesweep.sweeps.search.confirmation import Confirmation, confirmation_config
from gatesweep.sweeps.search.searcher import Search
from gatesweep.sweeps.search.space import Space, read_space
from gatesweep.sweeps.search.warm_start import warm_start_folders
from gatesweep.sweeps.storage.mirror import Mirror
from gatesweep.sweeps.storage.store import Store

TUNE_FOLDER = ".tune"  # in the sweep's folder: Tune's own files, of no use once the sweep has ended


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return run_command(make_parser(__doc__ or ""), sweep_command, argv)


def sweep_command(arguments: argparse.Namespace) -> int:
    """Compose the configuration, then print it or sweep; returns the exit code. Raises InputError."""
    config = configure(arguments.overrides)
    if arguments.cfg:
        return print_config(config)
    return run_sweep(config)


def run_sweep(config: Config) -> int:
    """Check everything, then sweep; returns the exit code. Raises InputError before there is any folder."""
    with cache_scope():  # the trials map the data that the checks have made
        space = read_space(config)
        config = config.replace(warm_start=warm_start_folders(config) or None)
        folder = Path(config.resume) if config.resume else new_folder(config)
        _check(folder, config, space)
        owns_ray = not ray.is_initialized()
        concurrent = start_ray(config.resources, config.max_concurrent)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell has it ignored
        signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
        try:
            return _sweep_in(folder, config, space, concurrent)
        finally:
            if owns_ray:
                ray.shutdown()


def _check(folder: Path, config: Config, space: Space) -> None:
    """Raise InputError for whatever can be known to be wrong before Ray starts."""
    check_results_folder(folder)
    check_search(config, space)
    if config.tracking.enabled:
        check_tracking(config.tracking.uri)
    if config.storage:
        Store(config.storage).check(folder)
    check_run(config, space)


def _sweep_in(folder: Path, config: Config, space: Space, concurrent: int) -> int:
    """Make the folder, lock it, and sweep in it; returns the exit code."""
    make_folder(folder)
    with try_lock(folder / LOCK) as locked:
        if not locked:
            raise InputError(f"resume: got {str(folder)!r}, which another sweep is running in")
        write_atomically(folder / CONFIG, to_yaml(config.replace(resume=None)))
        if config.storage is None:
            check_machines(folder, new=config.resume is None)
        point_link(folder.parent / "latest", folder)
        return _sweep(folder, config, space, concurrent)


def _sweep(folder: Path, config: Config, space: Space, concurrent: int) -> int:
    """Search, confirm, report; returns the exit code."""
    facts = provenance()
    append_event(folder / EVENTS, "start", overrides=sys.argv[1:], **facts)
    print(f"sweep {folder}", flush=True)
    publisher = start_publisher(folder) if config.tracking.enabled else None
    mirror = Mirror(config.storage, folder) if config.storage else None
    gate = make_gate(config.gate)
    stack = stack_size(config.resources.stack, config.num_samples, concurrent)
    search = Search(config, space, gate, folder, stack)
    if search.warm:
        print(f"warm start: {len(search.warm)} trials of earlier sweeps", flush=True)
    recorder = Recorder(folder, config, gate, search)
    seconds, interrupted = None, False
    try:
        train_trials(folder, config, space, recorder, concurrent)
        seconds = recorder.elapsed
        if config.confirm.seeds:
            winners = Confirmation(folder, config.confirm.seeds, config.confirm.trials)
            config = confirmation_config(config, winners)
            recorder = Recorder(folder, config, gate, winners, kind=CONFIRM)
            train_trials(folder, config, space, recorder, concurrent)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the rest takes a moment, and must not be cut short
        interrupted = True
        recorder.interrupted()
    finally:
        shutil.rmtree(folder / TUNE_FOLDER, ignore_errors=True)
    seconds = seconds or recorder.elapsed
    summary = write_summary(folder, seconds, facts)
    append_event(folder / EVENTS, "interrupted" if interrupted else "end", elapsed=seconds)
    print(leaderboard_text(leaderboard(folder)))
    _write_page(folder)
    if publisher:
        stop_publisher(publisher, folder)
    if mirror and not mirror.close():
        print(f"storage: not all of the record arrived; it is whole in {folder}", flush=True)
    if interrupted:
        print(f"interrupted; go on with: python sweeps/run.py resume={folder}", flush=True)
        return INTERRUPTED
    print("\n".join(_last_lines(summary)), flush=True)
    return PASSED if summary["passed"] else NONE_PASSED


def train_trials(folder: Path, config: Config, space: Space, recorder: Recorder, concurrent: int) -> None:
    """Hand the trials that are left to Tune, `concurrent` at a time."""
    search = recorder.search
    scheduler = make_scheduler(config.scheduler, config.training.max_epochs, space, recorded_scores(folder))
    recorder.finish_unended(getattr(scheduler, "stopped", set()))
    stopper = SweepStopper(recorder, config.stop_after_passes, config.time_budget)
    if search.is_over() or stopper.stop_all():
        return recorder.progress.close()
    shutil.rmtree(folder / TUNE_FOLDER, ignore_errors=True)  # of what ran before this
    trial, reservation, callbacks = _trial_class(config, space, folder)
    run_tune(
        trial,
        folder,
        search,
        scheduler,
        stop=stopper,
        callbacks=[recorder, *callbacks],
        concurrent=concurrent,
        resources=reservation,
        max_failures=config.resources.max_failures,
    )


def _trial_class(
    config: Config, space: Space, folder: Path
) -> tuple[Any, tune.PlacementGroupFactory, list[tune.Callback]]:
    """The class that Tune runs a trial as, its reservation, and the callbacks that clear up after it."""
    resources = config.resources
    parameters = {"base": config, "sweep": str(folder), "cache": cache_name()}
    if not several_workers(config, space):
        reservation = tune.PlacementGroupFactory([{"CPU": resources.cpus_per_worker, "GPU": resources.gpus_per_worker}])
        trial = DirectTrial if resources.stack == 1 else StackTrial
        return tune.with_parameters(trial, **parameters), reservation, []
    from gatesweep.sweeps.execution.coordinator import (  # here, for Ray Train takes two seconds to import
        OrphanCleanup,
        WorkerGroupCoordinator,
    )
    from gatesweep.sweeps.execution.group import TrainTrial

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    coordinator = ray.remote(num_cpus=0, scheduling_strategy=here)(WorkerGroupCoordinator).remote()
    # The workers reserve their own; a reservation of Tune's must not be empty, and every machine has memory.
    reservation = tune.PlacementGroupFactory([{"CPU": 0, "memory": 2**20}])
    return (
        tune.with_parameters(TrainTrial, coordinator=coordinator, **parameters),
        reservation,
        [OrphanCleanup(coordinator)],
    )


def _write_page(folder: Path) -> None:
    try:
        from gatesweep.sweeps.reports.page import write_page  # here, for plotly takes a second to import

        print(f"report {write_page(folder)}", flush=True)
    except Exception as fault:  # a page that cannot be drawn is no reason to lose the rest
        print(f"report: not written ({type(fault).__name__}: {fault}); the record is whole", flush=True)


def _last_lines(summary: dict[str, Any]) -> list[str]:
    best, count = summary["best"], f"{summary['passed']} of {summary['trials']} trials passed"
    line = f"{count} in {summary['seconds']:.0f} s"
    if summary["passed"]:
        line += (
            f", the first after {summary['first_pass_seconds']:.0f} s and {summary['first_pass_epochs']} epochs of all "
            f"trials; best: {best['trial']} {json.dumps(best['params'])}"
        )
    return [line, *confirmation_lines(summary.get("confirmed", {})), *pareto_lines(summary.get("front", []))]
