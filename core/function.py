"""Functions as trainables: one that calls `report`, or a generator that yields, driven epoch by epoch as `fit` is.

The caller asks for an epoch, the function runs until it reports one, and waits there until the caller asks for the
next. A plain function waits in a thread of its own; a generator needs none. So nothing trains on past a stop.
"""

from __future__ import annotations

import contextlib
import inspect
import queue
import sys
import threading
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import torch

from gatesweep.core import device, rng
from gatesweep.core.judging import Epoch, JudgedRun
from gatesweep.core.reporting import Last, Report, Stop, checked_metrics, listen
from gatesweep.core.saved import Saved, prove_loadable, write_files
from gatesweep.core.settings import Settings
from gatesweep.core.trainable import Diverged

GRACE = 30.0  # seconds that a function has to clean up, once `report` has told it to stop
GRACE_AMID = 2.0  # seconds that it has where it is in the middle of an epoch, and may not report for hours
RETURNED = "the function returned"  # the reason of a run that ended by itself


class Hung(RuntimeError):
    """A function that does not end when it is told to. Its thread may do anything: the process must end."""


def fit_function(
    function: Callable[..., Any],
    settings: Settings,
    *,
    seed: int,
    resume: dict[str, Any] | None = None,
    files: Path | None = None,
    recorded: int | None = None,
) -> Generator[Epoch]:
    """Call `function`, without arguments, and yield an epoch for each of its reports, as `core.loop.fit` does.

    Args:
        seed: of the global random generators, when the function begins.
        resume: what `Epoch.state()` returned earlier; `last()` gives the function its part of it.
        files: the folder of the files of the checkpoint to resume from, if it has any.
        recorded: how many epochs the caller's record has, as for `fit`.

    A function that returns ends the run as finished: its last epoch is yielded again, with that outcome. Raises what
    the function raises; InputError where its first report lacks a metric that the gate reads; Hung, when the generator
    is closed.
    """
    run = FunctionRun(settings, seed)
    rng.seed_everything(seed)
    if resume is not None:
        run.load_state_dict(resume, files)
        yield from run.epochs_after(run.epoch if recorded is None else recorded)
    if run.outcome is not None:
        return
    is_generator = inspect.isgeneratorfunction(inspect.unwrap(getattr(function, "func", function)))
    reports = run.generator_reports(function) if is_generator else run.thread_reports(function)
    listen(run)
    try:
        with contextlib.closing(reports):
            while run.outcome is None:
                yield run.next_epoch(reports)
    finally:
        listen(None)


class FunctionRun(JudgedRun):
    """The state of one `fit_function`.

    Attributes:
        saved: the checkpoint of the last report.
        generators: the states of the random generators at that report.
        resumed: the checkpoint that the run goes on from.
        asked: True once the function has called `last`.
        closed: True once the function is told to stop.
    """

    def __init__(self, settings: Settings, seed: int) -> None:
        super().__init__(settings, seed)
        self.saved: Saved = None
        self.generators: dict[str, Any] | None = None
        self.resumed: Last | None = None
        self.asked = self.closed = self.is_proved = False
        self.thread: threading.Thread | None = None
        self.arrived: queue.SimpleQueue[Report | _Ended] = queue.SimpleQueue()
        self.answers: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def meet(self, report: Report) -> None:
        """Hand a report to the caller of `fit_function`, and wait; in the function's thread. Raises Stop."""
        if self.closed:  # the function has caught the first Stop
            raise Stop
        if self.thread is None:
            raise TypeError("report: a generator yields its metrics, it does not call report")
        self.arrived.put(report)
        if not self.answers.get():
            raise Stop

    def hand_over(self) -> Last | None:
        """Return the checkpoint that the run goes on from, and put the random generators back."""
        self.asked = True
        if self.resumed and self.generators and self.epoch == self.resumed.epoch:
            rng.restore(self.generators)
        return self.resumed

    def next_epoch(self, reports: Generator[Report]) -> Epoch:
        """Wait for the next report, judge it and return its epoch. Raises as `fit_function` does."""
        began, processor = perf_counter(), process_time()
        device.reset_peak_memory(_device())
        try:
            report = next(reports, None)
        except Diverged as why:
            self._end("diverged", str(why))
            self.saved = None
            return self._function_epoch(self._record_epoch({"system/seconds": perf_counter() - began}, []))
        if report is None:
            return self._returned()
        self.saved = report.checkpoint
        if isinstance(self.saved, Mapping) and not self.is_proved:
            prove_loadable(self.saved)
            self.is_proved = True
        self.generators = rng.state() if self.saved is not None else None
        seconds = perf_counter() - began
        metrics = {**report.metrics, "system/seconds": seconds, "system/peak_memory_mib": device.peak_memory(_device())}
        if self.settings.system_metrics:
            metrics |= device.usage(_device(), (process_time() - processor) / seconds)
        if not self.history and not metrics.keys() >= set(self.settings.gate.reads):
            self.settings.gate.require(report.metrics)
        self._decide_outcome(metrics)
        return self._function_epoch(self._record_epoch(metrics, []))

    def generator_reports(self, function: Callable[..., Any]) -> Generator[Report]:
        """Yield what a generator function yields, and what it returns, as reports."""
        running = function()
        try:
            while True:
                try:
                    value = next(running)
                except StopIteration as end:
                    if end.value is not None:
                        yield self._accepted(_read_report(end.value))
                    return
                except SystemExit as end:
                    raise _end_of_process(end) from end
                yield self._accepted(_read_report(value))
        finally:
            self.closed = True
            with contextlib.suppress(Exception):  # of its own clean-up: the run is over
                running.close()

    def thread_reports(self, function: Callable[..., Any]) -> Generator[Report]:
        """Yield the reports of a function that runs in a thread, and what it returns. Raises Hung when it is closed."""
        cuda = torch.cuda.current_device() if torch.cuda.is_available() else None
        self.thread = threading.Thread(target=self._run, args=(function, cuda), daemon=True, name="gatesweep function")
        self.thread.start()
        is_waiting = False
        try:
            while True:
                arrived = self.arrived.get()
                is_waiting = True
                if isinstance(arrived, Report):
                    yield self._accepted(arrived)
                    is_waiting = False
                    self.answers.put(True)
                    continue
                if arrived.fault:
                    is_exception = isinstance(arrived.fault, Exception)
                    raise arrived.fault if is_exception else _end_of_process(arrived.fault) from None
                if arrived.value is not None:
                    yield self._accepted(_read_report(arrived.value))
                return
        finally:
            self.closed = True
            self.answers.put(False)
            grace = GRACE if is_waiting else GRACE_AMID
            self.thread.join(grace)
            if self.thread.is_alive() and isinstance(sys.exception(), GeneratorExit | None):
                raise Hung(f"the function still runs {grace:.0f} s after it was told to stop")

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` takes; `trainable` is the dict that the function saved."""
        return {
            **super().state_dict(),
            "trainable": dict(self.saved) if isinstance(self.saved, Mapping) else None,
            "rng": self.generators,
        }

    def load_state_dict(self, state: dict[str, Any], folder: Path | None) -> None:
        """Go on from `state`, with the files in `folder`."""
        self._restore_judged(state)
        self.generators = state["rng"]
        self.resumed = Last(self.epoch, state["trainable"], folder)

    def _run(self, function: Callable[..., Any], cuda: int | None) -> None:
        """Run the function in its thread, and say how it ended."""
        try:
            if cuda is not None:
                torch.cuda.set_device(cuda)  # each thread has a current device of its own
            ended = _Ended(value=function())
        except BaseException as fault:  # it is raised again where the epoch is asked for
            ended = _Ended(fault=None if isinstance(fault, Stop) else fault)
        self.arrived.put(ended)

    def _accepted(self, report: Report) -> Report:
        """Return the report. Raises RuntimeError where its number would be wrong."""
        if self.resumed and not self.asked:
            raise RuntimeError(
                f"this trial goes on after epoch {self.resumed.epoch}, but its function reported before it called "
                "last(), so it began anew: call last() and go on from what it returns, or report without checkpoint="
            )
        return report

    def _returned(self) -> Epoch:
        """Return the last epoch again, with the end of the run."""
        if not self.history:
            raise RuntimeError("the function returned without a report: call report({...}) or return {...}")
        self._end("finished", RETURNED)
        self.saved = None  # it was saved with its report
        return self._function_epoch(self._make_epoch(self.history[-1]))

    def _function_epoch(self, epoch: Epoch) -> Epoch:
        """Return the epoch with what its checkpoint consists of."""
        saved = self.saved
        has_files = saved is not None and not isinstance(saved, Mapping)
        write = (lambda aside: write_files(saved, aside)) if has_files else None
        return replace(epoch, is_resumable=saved is not None, write_files=write)


@dataclass(frozen=True)
class _Ended:
    """The end of a function: the value that it returned, or what it raised."""

    value: Any = None
    fault: BaseException | None = None


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _read_report(value: Any) -> Report:
    """Return what a generator yielded, or a function returned, as a report. Raises TypeError and ValueError."""
    if isinstance(value, tuple) and len(value) == 2:
        return Report(checked_metrics(value[0]), value[1])
    return Report(checked_metrics(value))


def _end_of_process(end: BaseException) -> RuntimeError:
    return RuntimeError(f"the function raised {type(end).__name__}: {end}")
