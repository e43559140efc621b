"""The last lines of a sweep: how it ended, and what to do next."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gatesweep.sweeps.commands.cli import FAULT, NONE_PASSED, PASSED
from gatesweep.sweeps.commands.faults import describe_interruption
from gatesweep.sweeps.commands.signals import INTERRUPTED
from gatesweep.sweeps.config.schema import Config
from gatesweep.sweeps.execution.alike import FailedAlike
from gatesweep.sweeps.execution.progress import say
from gatesweep.sweeps.records.pareto import pareto_lines
from gatesweep.sweeps.records.summary import result_lines
from gatesweep.sweeps.schedulers.pbt import Population

COMMAND = "gatesweep run "  # start of the words that resume a sweep from a shell


@dataclass(frozen=True)
class Ending:
    """The end of a sweep: the seconds of its search, the limits that ended it early, and the interruption of all of it.

    An interruption is Ctrl-C, SIGTERM or SIGHUP, a record that cannot be written, or trials that all fail alike.
    """

    seconds: float
    limits: list[str]
    interruption: KeyboardInterrupt | OSError | FailedAlike | None


def print_end(folder: Path, resume: str, config: Config, summary: dict[str, Any] | OSError, ending: Ending) -> int:
    """Print how the sweep ended and what to do next; returns the exit code. `resume` is what to type to go on."""
    interruption = ending.interruption or (summary if isinstance(summary, OSError) else None)
    if isinstance(summary, OSError) or interruption:
        assert interruption
        if not isinstance(summary, OSError):
            say(f"{summary['passed']} of {summary['trials']} trials passed; {_left(config, summary)}")
        if isinstance(interruption, FailedAlike):
            print(f"ended: {interruption}; once it is mended, go on with: {resume}", file=sys.stderr, flush=True)
            return FAULT
        say(f"{describe_interruption(interruption)}; go on with: {resume}", wrap=False)
        return INTERRUPTED
    say("\n".join(_outcome_lines(config, summary)))
    if ending.limits:
        say(_limits_line(resume, config, summary, ending.limits), wrap=False)
    else:
        say(
            "\n".join(
                [f"ended: all {summary['trials']} trials have ended", *next_lines(folder, resume, config, summary)]
            ),
            wrap=False,  # a command that is broken by a new line cannot be pasted
        )
    return PASSED if summary["passed"] else NONE_PASSED


def next_lines(folder: Path, resume: str, config: Config, summary: dict[str, Any]) -> list[str]:
    """Return the commands, three at most, that make sense after a sweep which ended by itself."""
    steps: list[tuple[str, str]] = []
    pbt = Population.__name__ in str(config.scheduler.get("_target_"))
    if summary["passed"] and not config.confirm.seeds and not pbt:
        steps.append(("does the best pass on fresh seeds, too?", f"{resume} confirm.seeds=5"))
    if not summary["passed"] and summary["finished"]:
        steps.append(("train longer", f"{resume} training.max_epochs={2 * config.training.max_epochs}"))
    if config.num_samples is not None:
        steps.append(("search on", f"{resume} num_samples={2 * config.num_samples}"))
    if config.tracking.enabled and not str(config.tracking.uri or "").startswith("http"):
        steps.append(("MLflow, at the address above", f"gatesweep ui {shlex.quote(str(folder.parent))}"))
    lines = [line for what, command in steps[:3] for line in (f"  # {what}", f"  {command}")]
    return ["next:", *lines] if lines and resume.startswith(COMMAND) else []  # from Python, other words go on


def _outcome_lines(config: Config, summary: dict[str, Any]) -> list[str]:
    best, line = summary["best"], f"{summary['passed']} of {summary['trials']} trials passed"
    line += f" in {summary['seconds']:.0f} s"
    lines = [line]
    if summary["passed"]:
        lines[0] += (
            f", the first at {summary['first_pass_seconds']:.0f} s, when all trials together had trained "
            f"{summary['first_pass_epochs']} epochs"
        )
        lines.append(f"best: {best['trial']} {json.dumps(best['params'])}")
    return [*lines, *result_lines(summary, config.gate.thresholds), *pareto_lines(summary.get("front", []))]


def _limits_line(resume: str, config: Config, summary: dict[str, Any], limits: list[str]) -> str:
    """The limits that ended a sweep, what is left of it, and the command that goes on."""
    reached = " and ".join(f"{key}={getattr(config, key):g}" for key in limits)
    lifted = " ".join(f"{key}=null" for key in limits)
    return f"ended by {reached}: {_left(config, summary)}; go on with: {resume} {lifted}"


def _left(config: Config, summary: dict[str, Any]) -> str:
    """The trials that have not ended."""
    left = "the rest of the grid" if config.num_samples is None else max(0, config.num_samples - summary["trials"])
    return f"interrupted {summary['interrupted']}, never began {left}"
