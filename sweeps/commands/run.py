"""Run a sweep, station by station: configuration, preflight, cluster, search, trials, record, report."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from gatesweep.core.cache import cache_scope
from gatesweep.core.errors import InputError
from gatesweep.core.files import try_lock
from gatesweep.core.record import append_event
from gatesweep.sweeps.commands.cli import print_config, run_command
from gatesweep.sweeps.commands.ending import Ending, print_end
from gatesweep.sweeps.commands.faults import describe_fault, faults_kept_in
from gatesweep.sweeps.commands.folders import make_folder, new_folder, point_link, write_config
from gatesweep.sweeps.commands.last_word import write_last_words
from gatesweep.sweeps.commands.preflight import check_machines, check_sweep
from gatesweep.sweeps.commands.preflight_gate import check_gate
from gatesweep.sweeps.commands.publisher_process import start_publisher, stop_publisher
from gatesweep.sweeps.commands.resume import configure
from gatesweep.sweeps.commands.signals import handle_signals, hold_signals, leave_at_once
from gatesweep.sweeps.commands.trials import TUNE_FOLDER, train_trials
from gatesweep.sweeps.config.own import split_own_file
from gatesweep.sweeps.config.schema import Config, make_gate
from gatesweep.sweeps.config.secrets import redact
from gatesweep.sweeps.config.trust import remember_record, trust_option
from gatesweep.sweeps.execution.alike import FailedAlike
from gatesweep.sweeps.execution.cluster import start_ray, stop_ray
from gatesweep.sweeps.execution.progress import say, say_stage, terminal_width
from gatesweep.sweeps.execution.recorder import Recorder
from gatesweep.sweeps.execution.stack import stack_size
from gatesweep.sweeps.records.layout import CONFIRM, EVENTS, LOCK
from gatesweep.sweeps.records.provenance import provenance
from gatesweep.sweeps.records.reader import read_sweep
from gatesweep.sweeps.records.summary import leaderboard, leaderboard_text, write_summary
from gatesweep.sweeps.search.confirmation import Confirmation, confirmation_config, data_seeds
from gatesweep.sweeps.search.rebuild import restore_study
from gatesweep.sweeps.search.reopen import left_line, reopen_trials
from gatesweep.sweeps.search.searcher import Search
from gatesweep.sweeps.search.space import Space, read_space
from gatesweep.sweeps.search.warm_start import warm_start_folders
from gatesweep.sweeps.storage.mirror import Mirror
from gatesweep.sweeps.storage.uploads import remember_storage
from gatesweep.sweeps.tracking.server import full_uri


def main(argv: Sequence[str] | None = None) -> int:
    """The command `gatesweep run`; returns its exit code."""
    return run_command("run", argv)


def sweep_command(arguments: argparse.Namespace) -> int:
    """Compose the configuration, then print it or sweep; returns the exit code. Raises InputError."""
    with leave_at_once():
        config = configure(arguments.overrides)
    if arguments.cfg:
        return print_config(config)
    return run_sweep(config, arguments.overrides)


def run_sweep(config: Config, words: Sequence[str] = ()) -> int:
    """Check everything, then sweep; returns the exit code. Raises InputError before there is any folder.

    `words` are those that were typed, for the record.
    """
    file = split_own_file(words)[0]
    start = f"gatesweep run {shlex.quote(str(file))}" if file else "gatesweep run"
    trust = "" if file else trust_option(config.to_dict())
    return sweep_to_end(config, lambda folder: f"{start} {shlex.quote(f'resume={folder}')}{trust}", words).code


@dataclass(frozen=True)
class SweepEnd:
    """The end of a sweep: its folder, the exit code, and what ended it early, if anything did."""

    folder: Path
    code: int
    interruption: KeyboardInterrupt | OSError | FailedAlike | None


def sweep_to_end(config: Config, resume: Callable[[Path], str], words: Sequence[str] = ()) -> SweepEnd:
    """Check everything, then sweep. Raises InputError before there is any folder.

    `resume` returns what to type to go on with a folder; `words` are those that were typed.
    """
    with handle_signals(), cache_scope():  # the trials map the data that the checks have made
        with leave_at_once():
            say_stage("checking the configuration, the data and the gate")
            space = read_space(config)
            tracking = config.tracking.replace(uri=full_uri(config.tracking.uri))
            config = config.replace(warm_start=warm_start_folders(config.warm_start) or None, tracking=tracking)
            folder = Path(config.resume) if config.resume else new_folder(config)
            if config.resume:
                read_sweep(folder)  # a damaged record is named before anything is written
            check_sweep(folder, config, space)
            config, gate_lines = check_gate(config)
        with _cluster(config) as cluster, _sweep_folder(folder, config, resume) as folder, faults_kept_in(folder):
            typed = [redact(word) for word in words]
            identity = {} if (folder / EVENTS).exists() else {"sweep_id": uuid.uuid4().hex}
            append_event(folder / EVENTS, "start", overrides=typed, **identity, **(facts := provenance(config, folder)))
            say("\n".join([f"sweep {folder}", *gate_lines]))
            with _followers(folder, config):
                ending = _train(folder, config, space, cluster)
                summary = _report(folder, config, ending, facts)
            code = print_end(folder, resume(folder), config, summary, ending)
            return SweepEnd(folder, code, summary if isinstance(summary, OSError) else ending.interruption)


@dataclass(frozen=True)
class _Cluster:
    concurrent: int  # trials at a time
    owned: bool  # started, or joined, by this sweep

    def stop(self) -> None:
        if self.owned:
            stop_ray()


@contextlib.contextmanager
def _cluster(config: Config) -> Iterator[_Cluster]:
    """The Ray that runs here, else one of this sweep's own."""
    owned = not ray.is_initialized()
    if owned:
        say_stage("starting Ray")
    try:
        with leave_at_once():  # nothing is written yet, and Ray's processes end with this one
            cluster = _Cluster(start_ray(config.resources, config.max_concurrent), owned)
        yield cluster
    finally:
        if owned:
            stop_ray()


@contextlib.contextmanager
def _sweep_folder(folder: Path, config: Config, resume: Callable[[Path], str]) -> Iterator[Path]:
    """Make the sweep's folder, hold its lock, and make it the newest; yields it, for its name may have been taken.

    Raises InputError where another sweep holds it, and where it cannot be written. A KeyboardInterrupt goes on with the
    command that resumes the sweep.
    """
    with contextlib.ExitStack() as stack:
        folder = make_folder(folder, new=config.resume is None)
        try:
            held = stack.enter_context(try_lock(folder / LOCK))
        except OSError as error:
            raise InputError(
                f"results: got {str(folder)!r}, expected a folder that can be written ({error.strerror})"
            ) from error
        if not held:
            raise InputError(f"resume: got {str(folder)!r}, which another sweep is running in")
        write_config(folder, config.replace(resume=None, retry=None))
        if config.resume is None:
            remember_record(folder, config.to_dict())
        if config.storage:
            remember_storage(folder, config.storage)
        try:
            if config.storage is None:
                check_machines(folder, new=config.resume is None)
            point_link(folder.parent / "latest", folder)
            yield folder
        except KeyboardInterrupt as end:
            raise KeyboardInterrupt(resume(folder)) from end


@contextlib.contextmanager
def _followers(folder: Path, config: Config) -> Iterator[None]:
    """The processes that copy the record while it grows, to MLflow and to storage; they get the rest at the end."""
    publisher = start_publisher(folder, config) if config.tracking.enabled else None
    mirror = Mirror(config.storage, folder) if config.storage else None
    try:
        yield
    finally:
        hold_signals()
        if publisher:
            stop_publisher(publisher, folder)
        if mirror and not mirror.close():
            say(f"storage: not all of the record arrived; it is whole in {folder}")


def _search(folder: Path, config: Config, space: Space, concurrent: int) -> Search:
    """The search of the sweep, which has heard of the trials that are recorded."""
    if config.resume:
        for line in [*reopen_trials(folder, config), *restore_study(folder, config, space)]:
            say(line)
    stack = stack_size(config.resources.stack, config.num_samples, concurrent)
    search = Search(config, space, make_gate(config.gate), folder, stack)
    if search.warm_start:
        say(f"warm start: {len(search.warm_start)} trials of earlier sweeps")
    return search


def _train(folder: Path, config: Config, space: Space, cluster: _Cluster) -> Ending:
    """Train what the search asks for, then winners on fresh seeds, and evaluate winners on test.

    Ray is stopped and signals are held at the end.

    What follows takes a moment and must not be cut short. A signal that reaches Ray's processes, too, ends them, and
    Ray ends a driver that has lost them; so Ray is stopped first.
    """
    gate, recorder, interruption = make_gate(config.gate), None, None
    seconds, limits = None, []
    try:
        search = _search(folder, config, space, cluster.concurrent)
        if config.resume:
            say(left_line(folder, config.num_samples))
        recorder = Recorder(folder, config, gate, search)
        limits = train_trials(folder, config, space, recorder, cluster.concurrent)
        seconds = recorder.elapsed
        if config.confirm.seeds:
            winners = Confirmation(folder, config.confirm.seeds, config.confirm.trials, data_seeds(config))
            recorder.close()
            config = confirmation_config(config, len(winners.unfinished))
            recorder = Recorder(folder, config, gate, winners, kind=CONFIRM)
            train_trials(folder, config, space, recorder, cluster.concurrent)
        write_last_words(folder, config)
        hold_signals()
        recorder.close()
    except (KeyboardInterrupt, OSError, FailedAlike) as end:
        hold_signals()
        say("interrupted: the end is being recorded" if isinstance(end, KeyboardInterrupt) else "ending the sweep")
        interruption = end
        if recorder:
            recorder.interrupted()
            recorder.close(wait=not isinstance(end, KeyboardInterrupt))
        cluster.stop()  # here: the collector would have Tune's objects wait for a Ray that may be dead
    finally:
        if recorder:
            recorder.close(wait=False)
        cluster.stop()
        shutil.rmtree(folder / TUNE_FOLDER, ignore_errors=True)
    elapsed = recorder.elapsed if recorder else 0.0
    return Ending(elapsed if seconds is None else seconds, limits, interruption)


def _report(folder: Path, config: Config, ending: Ending, facts: dict[str, Any]) -> dict[str, Any] | OSError:
    """Write summary, leaderboard and page, and print the leaderboard; returns the summary, or why there is none."""
    try:
        summary = write_summary(folder, ending.seconds, facts)
        append_event(folder / EVENTS, "interrupted" if ending.interruption else "end", elapsed=ending.seconds)
    except OSError as fault:
        return fault
    say(leaderboard_text(leaderboard(folder), terminal_width(), make_gate(config.gate).reads))
    try:
        from gatesweep.sweeps.reports.page import write_page  # here, for plotly takes a second to import

        say(f"report {write_page(folder)}")
    except OSError as fault:
        say(f"report: not written, the record is whole ({fault})")
    except Exception as fault:  # a page that cannot be drawn is no reason to lose the rest
        say(f"report: not written, the record is whole; {describe_fault(fault, folder)}")
    return summary
