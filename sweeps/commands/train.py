"""Train once, without Ray."""

from __future__ import annotations

import argparse
import contextlib
import copy
import os
import shlex
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from gatesweep.core.errors import InputError
from gatesweep.core.files import full_path
from gatesweep.core.function import RETURNED, Hung
from gatesweep.core.gate import Gate
from gatesweep.core.record import Record
from gatesweep.core.trainable import Batch, Data
from gatesweep.sweeps.commands.cli import NONE_PASSED, PASSED, print_config, run_command
from gatesweep.sweeps.commands.faults import describe_interruption, faults_kept_in
from gatesweep.sweeps.commands.folders import check_results_folder, make_folder, new_folder, point_link, write_config
from gatesweep.sweeps.commands.preflight_gate import check_gate
from gatesweep.sweeps.commands.preflight_step import build_checked, check_function_run
from gatesweep.sweeps.commands.signals import INTERRUPTED, hold_signals, leave_at_once
from gatesweep.sweeps.config.compose import compose_config, load_file
from gatesweep.sweeps.config.own import compose_own, read_own_file, split_own_file
from gatesweep.sweeps.config.recorded import read_values
from gatesweep.sweeps.config.schema import Config, check_config, make_gate
from gatesweep.sweeps.config.secrets import redact
from gatesweep.sweeps.config.trust import remember_record, trust_option
from gatesweep.sweeps.execution.figures import check_figures
from gatesweep.sweeps.execution.training import train_epochs
from gatesweep.sweeps.records.layout import CONFIG, ERROR, JOURNAL, check_entries, trial_folders


def main(argv: Sequence[str] | None = None) -> int:
    """The command `gatesweep train`; returns its exit code."""
    return run_command("train", argv)


def train_command(arguments: argparse.Namespace) -> int:
    """Train one run from its start or its last checkpoint; returns the exit code. Raises InputError."""
    with leave_at_once():
        config, folder = _run_of(arguments)
        config = config.replace(storage=None)  # one run leaves all of it in its folder
        if arguments.cfg:
            return print_config(config)
        check_results_folder(folder)
        if config.data:  # whatever is wrong is said before there is a folder
            check_figures(config.figures, *build_checked(config))
        else:
            check_function_run(config)
        config, gate_lines = check_gate(config) if arguments.resume is None else (config, [])
    folder = make_folder(folder, new=arguments.resume is None)
    with faults_kept_in(folder):
        write_config(folder, config)
        if arguments.resume is None and not arguments.config:
            remember_record(folder, config.to_dict())
        point_link(folder.parent / "latest_run", folder)
        print("\n".join([f"run {folder}", *gate_lines]), flush=True)
        return _train_in(folder, config)


def _train_in(folder: Path, config: Config) -> int:
    """Train in the folder of a run, and record it; returns the exit code."""
    gate, record = make_gate(config.gate), None
    bar = tqdm(total=config.training.max_epochs, disable=None, bar_format="{desc} {percentage:3.0f}%|{bar:24}| "
               "{elapsed} ETA {remaining}{postfix}", desc="epoch")  # fmt: skip
    try:
        record = Record(folder)
        bar.initial = bar.n = record.epochs
        with contextlib.suppress(Hung):  # its thread ends with this process
            _record_epochs(folder, config, record, bar)
        hold_signals()
        bar.close()
        assert record.last
        outcome, reason = record.last["outcome"], record.last["reason"]
        if outcome is None:  # a function returned
            outcome, reason = "finished", RETURNED
        result = record.end(outcome, reason, gate)
    except (KeyboardInterrupt, OSError) as end:
        hold_signals()
        bar.close()
        if record:
            with contextlib.suppress(OSError):
                record.append("interrupted")
        resume = f"gatesweep train --resume {shlex.quote(str(folder))}{trust_option(config.to_dict())}"
        print(f"{describe_interruption(end)}; go on with: {resume}", flush=True)
        return INTERRUPTED
    except Exception as fault:
        if config.data or isinstance(fault, InputError) or record is None:
            raise
        result = _end_failed(record, fault, gate)
    why = result["reason"] or "; ".join(result["missed"])
    print(f"{result['outcome']} after {result['epochs']} epochs{': ' if why else ''}{why}", flush=True)
    return PASSED if result["gate_passed"] else NONE_PASSED


def _record_epochs(folder: Path, config: Config, record: Record, bar: tqdm) -> None:
    """Train, record each epoch and show it. Raises what training raises."""
    names = make_gate(config.gate).reads
    for epoch in train_epochs(config, folder, recorded=record.epochs, wrap_data=lambda data: _watched(data, bar)):
        facts = {"score": epoch.score, "outcome": epoch.outcome, "reason": epoch.reason}
        if not record.epoch(epoch.index, epoch.metrics, epoch.losses, **facts):
            continue
        bar.n = epoch.index
        bar.set_postfix_str(f"{epoch.index}/{bar.total} {_shown(epoch.metrics, names)}")
        with tqdm.external_write_mode():
            print(f"epoch {epoch.index:3}  {_shown(epoch.metrics, names)}", flush=True)


def _end_failed(record: Record, fault: Exception, gate: Gate) -> dict[str, Any]:
    """Record that the user's function raised an error, with its traceback; returns the result of the run."""
    (record.directory / ERROR).write_text(redact("".join(traceback.format_exception(fault))))
    reason = redact(f"{type(fault).__name__}: {fault}; traceback in {record.directory / ERROR}")
    return record.end("failed", reason, gate)


def _run_of(arguments: argparse.Namespace) -> tuple[Config, Path]:
    """The configuration of the run and its folder."""
    if arguments.resume is not None:
        return _resumed(arguments)
    if arguments.config:
        if not arguments.config.is_file():
            raise InputError(f"--config: got {str(arguments.config)!r}, expected a config.yaml")
        config = load_file(arguments.config, arguments.overrides)
    else:
        file, overrides = split_own_file(arguments.overrides)
        config = compose_own(read_own_file(file), overrides) if file else compose_config(overrides)
    return config, new_folder(config, "run")


def _resumed(arguments: argparse.Namespace) -> tuple[Config, Path]:
    """The recorded configuration of a run that goes on, and its folder. Raises InputError for anything else."""
    typed = [item.removeprefix("results=") for item in arguments.overrides if item.startswith("results=")]
    others = [item for item in arguments.overrides if not item.startswith("results=")]
    if others or arguments.config:
        got = others[0] if others else f"--config {arguments.config}"
        raise InputError(f"--resume: got {got!r} beside it, expected nothing: a run goes on as it began")
    results = typed[0] if typed else os.environ.get("GATESWEEP_RESULTS", "results")
    folder = full_path("--resume", arguments.resume or f"{results}/latest_run")
    got, expected = f"--resume: got {str(folder)!r}", "expected the folder of a run"
    if not (folder / CONFIG).is_file():
        raise InputError(f"{got}, {expected} (it has no {CONFIG})")
    sweep = next((place for place in (folder, folder.parent) if (place / JOURNAL).exists()), None)
    if sweep or trial_folders(folder):
        raise InputError(f"{got}, {expected}, not of a sweep or of its trial: gatesweep run resume={sweep or folder}")
    check_entries(folder, "--resume")
    return check_config(read_values(folder / CONFIG)), folder


def _shown(metrics: dict[str, float], names: Sequence[str]) -> str:
    wanted = dict.fromkeys(["train/loss", "val/loss", *names])
    return "  ".join(f"{name} {metrics[name]:.4f}" for name in wanted if name in metrics)


def _watched(data: Data, bar: tqdm) -> Data:
    """A copy of the data that moves a bar, in epochs, as its batches are taken."""
    watched = copy.copy(data)
    watched.train = lambda epoch: _Counted(data.train(epoch), bar)  # type: ignore[method-assign]
    return watched


class _Counted(Sequence[Batch]):
    def __init__(self, batches: Sequence[Batch], bar: tqdm) -> None:
        self.batches, self.bar = batches, bar

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, position: Any) -> Batch:
        self.bar.update(1 / len(self))
        return self.batches[position]
