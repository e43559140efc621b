"""Run a sweep, station by station: configuration, preflight, cluster, search, trials, record, report."""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ray

from gatesweep.core.cache import cache_scope
from gatesweep.core.errors import InputError
from gatesweep.core.files import try_lock, write_atomically
from gatesweep.core.record import append_event
from gatesweep.sweeps.commands.cli import FAULT, INTERRUPTED, NONE_PASSED, PASSED, print_config, run_command
from gatesweep.sweeps.commands.faults import describe_fault, faults_kept_in
from gatesweep.sweeps.commands.folders import make_folder, new_folder, point_link
from gatesweep.sweeps.commands.preflight import check_machines, check_sweep
from gatesweep.sweeps.commands.publisher_process import start_publisher, stop_publisher
from gatesweep.sweeps.commands.resume import configure
from gatesweep.sweeps.commands.trials import TUNE_FOLDER, train_trials
from gatesweep.sweeps.config.schema import Config, make_gate
from gatesweep.sweeps.config.secrets import redact
from gatesweep.sweeps.config.trust import trust_option
from gatesweep.sweeps.config.values import to_yaml
from gatesweep.sweeps.execution.alike import FailedAlike
from gatesweep.sweeps.execution.cluster import start_ray
from gatesweep.sweeps.execution.recorder import Recorder
from gatesweep.sweeps.execution.stack import stack_size
from gatesweep.sweeps.records.layout import CONFIG, CONFIRM, EVENTS, LOCK
from gatesweep.sweeps.records.pareto import pareto_lines
from gatesweep.sweeps.records.provenance import provenance
from gatesweep.sweeps.records.reader import read_sweep
from gatesweep.sweeps.records.summary import confirmation_lines, leaderboard, leaderboard_text, write_summary
from gatesweep.sweeps.search.confirmation import Confirmation, confirmation_config
from gatesweep.sweeps.search.searcher import Search
from gatesweep.sweeps.search.space import Space, read_space
from gatesweep.sweeps.search.warm_start import warm_start_folders
from gatesweep.sweeps.storage.mirror import Mirror


def main(argv: Sequence[str] | None = None) -> int:
    """The command `gatesweep run`; returns its exit code."""
    return run_command("run", argv)


def sweep_command(arguments: argparse.Namespace) -> int:
    """Compose the configuration, then print it or sweep; returns the exit code. Raises InputError."""
    config = configure(arguments.overrides)
    if arguments.cfg:
        return print_config(config)
    return run_sweep(config, arguments.overrides)


def run_sweep(config: Config, overrides: Sequence[str] = ()) -> int:
    """Check everything, then sweep; returns the exit code. Raises InputError before there is any folder.

    `overrides` is what was typed, for the record.
    """
    with cache_scope():  # the trials map the data that the checks have made
        space = read_space(config)
        config = config.replace(warm_start=warm_start_folders(config.warm_start) or None)
        folder = Path(config.resume) if config.resume else new_folder(config)
        if config.resume:
            read_sweep(folder)  # a damaged record is named before anything is written
        check_sweep(folder, config, space)
        with _cluster(config) as concurrent, _sweep_folder(folder, config), faults_kept_in(folder):
            typed = [redact(override) for override in overrides]
            append_event(folder / EVENTS, "start", overrides=typed, **(facts := provenance()))
            print(f"sweep {folder}", flush=True)
            with _followers(folder, config):
                search = _search(folder, config, space, concurrent)
                seconds, interrupted, fault = _train(folder, config, space, search, concurrent)
                summary = _report(folder, seconds, facts, interrupted)
            resume = f"gatesweep run resume={folder}{trust_option(config.to_dict())}"
            return _end(folder, summary, interrupted, fault, resume)


@contextlib.contextmanager
def _cluster(config: Config) -> Iterator[int]:
    """The Ray that runs here, else one of this sweep's own; yields how many trials it trains at a time."""
    owns_ray = not ray.is_initialized()
    try:
        concurrent = start_ray(config.resources, config.max_concurrent)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell has it ignored
        signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
        yield concurrent
    finally:
        if owns_ray:
            ray.shutdown()


@contextlib.contextmanager
def _sweep_folder(folder: Path, config: Config) -> Iterator[None]:
    """Make the sweep's folder, hold its lock, and make it the newest. Raises InputError where another holds it."""
    make_folder(folder)
    with try_lock(folder / LOCK) as locked:
        if not locked:
            raise InputError(f"resume: got {str(folder)!r}, which another sweep is running in")
        write_atomically(folder / CONFIG, to_yaml(config.replace(resume=None)))
        if config.storage is None:
            check_machines(folder, new=config.resume is None)
        point_link(folder.parent / "latest", folder)
        yield


@contextlib.contextmanager
def _followers(folder: Path, config: Config) -> Iterator[None]:
    """The processes that copy the record while it grows, to MLflow and to storage; they get the rest at the end."""
    publisher = start_publisher(folder, config) if config.tracking.enabled else None
    mirror = Mirror(config.storage, folder) if config.storage else None
    yield
    if publisher:
        stop_publisher(publisher, folder)
    if mirror and not mirror.close():
        print(f"storage: not all of the record arrived; it is whole in {folder}", flush=True)


def _search(folder: Path, config: Config, space: Space, concurrent: int) -> Search:
    """The search of the sweep, which has heard of the trials that are recorded."""
    stack = stack_size(config.resources.stack, config.num_samples, concurrent)
    search = Search(config, space, make_gate(config.gate), folder, stack)
    if search.warm_start:
        print(f"warm start: {len(search.warm_start)} trials of earlier sweeps", flush=True)
    return search


def _train(
    folder: Path, config: Config, space: Space, search: Search, concurrent: int
) -> tuple[float, bool, FailedAlike | None]:
    """Train what the search asks for, then winners on fresh seeds.

    Returns the seconds of the search, True where Ctrl-C, SIGTERM or failures interrupted it, and the failures.
    """
    gate = make_gate(config.gate)
    recorder = Recorder(folder, config, gate, search)
    seconds, interrupted, failed_alike = None, False, None
    try:
        train_trials(folder, config, space, recorder, concurrent)
        seconds = recorder.elapsed
        if config.confirm.seeds:
            winners = Confirmation(folder, config.confirm.seeds, config.confirm.trials)
            config = confirmation_config(config, len(winners.unfinished))
            recorder = Recorder(folder, config, gate, winners, kind=CONFIRM)
            train_trials(folder, config, space, recorder, concurrent)
    except FailedAlike as fault:
        interrupted, failed_alike = True, fault
        recorder.interrupted()
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the rest takes a moment, and must not be cut short
        interrupted = True
        recorder.interrupted()
    finally:
        shutil.rmtree(folder / TUNE_FOLDER, ignore_errors=True)
    return seconds or recorder.elapsed, interrupted, failed_alike


def _report(folder: Path, seconds: float, facts: dict[str, Any], interrupted: bool) -> dict[str, Any]:
    """Write summary, leaderboard and page, and print the leaderboard; returns the summary."""
    summary = write_summary(folder, seconds, facts)
    append_event(folder / EVENTS, "interrupted" if interrupted else "end", elapsed=seconds)
    print(leaderboard_text(leaderboard(folder)))
    try:
        from gatesweep.sweeps.reports.page import write_page  # here, for plotly takes a second to import

        print(f"report {write_page(folder)}", flush=True)
    except Exception as fault:  # a page that cannot be drawn is no reason to lose the rest
        print(f"report: not written, the record is whole; {describe_fault(fault, folder)}", flush=True)
    return summary


def _end(
    folder: Path, summary: dict[str, Any], interrupted: bool, failed_alike: FailedAlike | None, resume: str
) -> int:
    """Print how the sweep ended, with the command `resume` where it can go on; returns the exit code."""
    if failed_alike:
        print(f"ended: {failed_alike}; mended, go on with: {resume}", file=sys.stderr, flush=True)
        return FAULT
    if interrupted:
        print(f"interrupted; go on with: {resume}", flush=True)
        return INTERRUPTED
    best, line = summary["best"], f"{summary['passed']} of {summary['trials']} trials passed"
    line += f" in {summary['seconds']:.0f} s"
    if summary["passed"]:
        line += (
            f", the first after {summary['first_pass_seconds']:.0f} s and {summary['first_pass_epochs']} epochs of all "
            f"trials; best: {best['trial']} {json.dumps(best['params'])}"
        )
    lines = [line, *confirmation_lines(summary.get("confirmed", {})), *pareto_lines(summary.get("front", []))]
    print("\n".join(lines), flush=True)
    return PASSED if summary["passed"] else NONE_PASSED
