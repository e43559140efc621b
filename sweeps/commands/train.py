"""Train once, without Ray."""

from __future__ import annotations

import argparse
import contextlib
import copy
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from gatesweep.core.errors import InputError
from gatesweep.core.files import write_atomically
from gatesweep.core.record import Record
from gatesweep.core.trainable import Batch, Data
from gatesweep.sweeps.commands.cli import NONE_PASSED, PASSED, print_config, run_command
from gatesweep.sweeps.commands.faults import describe_interruption, faults_kept_in
from gatesweep.sweeps.commands.folders import check_results_folder, make_folder, new_folder, point_link
from gatesweep.sweeps.commands.signals import INTERRUPTED, hold_signals
from gatesweep.sweeps.config.build import build_run
from gatesweep.sweeps.config.compose import compose_config, load_file
from gatesweep.sweeps.config.recorded import read_values
from gatesweep.sweeps.config.schema import Config, check_config, make_gate
from gatesweep.sweeps.config.trust import trust_option
from gatesweep.sweeps.config.values import to_yaml
from gatesweep.sweeps.execution.figures import check_figures
from gatesweep.sweeps.execution.training import train_epochs
from gatesweep.sweeps.records.layout import CONFIG, refuse_links


def main(argv: Sequence[str] | None = None) -> int:
    """The command `gatesweep train`; returns its exit code."""
    return run_command("train", argv)


def train_command(arguments: argparse.Namespace) -> int:
    """Train one run from its start or its last checkpoint; returns the exit code. Raises InputError."""
    config, folder = _run_of(arguments)
    config = config.replace(storage=None)  # one run leaves all of it in its folder
    if arguments.cfg:
        return print_config(config)
    check_results_folder(folder)
    check_figures(config.figures, *build_run(config))  # whatever is wrong with it is said before there is a folder
    folder = make_folder(folder, new=arguments.resume is None)
    with faults_kept_in(folder):
        write_atomically(folder / CONFIG, to_yaml(config))
        point_link(folder.parent / "latest_run", folder)
        return _train_in(folder, config)


def _train_in(folder: Path, config: Config) -> int:
    """Train in the folder of a run, and record it; returns the exit code."""
    gate, record = make_gate(config.gate), Record(folder)
    print(f"run {folder}", flush=True)
    bar = tqdm(total=config.training.max_epochs, disable=None, bar_format="{desc} {percentage:3.0f}%|{bar:24}| "
               "{elapsed} ETA {remaining}{postfix}", desc="epoch", initial=record.epochs)  # fmt: skip
    try:
        for epoch in train_epochs(config, folder, recorded=record.epochs, wrap_data=lambda data: _watched(data, bar)):
            facts = {"score": epoch.score, "outcome": epoch.outcome, "reason": epoch.reason}
            record.epoch(epoch.index, epoch.metrics, epoch.losses, **facts)
            bar.n = epoch.index
            bar.set_postfix_str(f"{epoch.index}/{bar.total} {_shown(epoch.metrics, gate.reads)}")
            with tqdm.external_write_mode():
                print(f"epoch {epoch.index:3}  {_shown(epoch.metrics, gate.reads)}", flush=True)
        hold_signals()
        bar.close()
        assert record.last
        result = record.end(record.last["outcome"], record.last["reason"], gate)
    except (KeyboardInterrupt, OSError) as end:
        hold_signals()
        bar.close()
        with contextlib.suppress(OSError):
            record.append("interrupted")
        options = trust_option(config.to_dict())
        print(f"{describe_interruption(end)}; go on with: gatesweep train --resume {folder}{options}", flush=True)
        return INTERRUPTED
    why = result["reason"] or "; ".join(result["missed"])
    print(f"{result['outcome']} after {result['epochs']} epochs{': ' if why else ''}{why}", flush=True)
    return PASSED if result["gate_passed"] else NONE_PASSED


def _run_of(arguments: argparse.Namespace) -> tuple[Config, Path]:
    """The configuration of the run and its folder."""
    if arguments.resume is not None:
        typed = [item.removeprefix("results=") for item in arguments.overrides if item.startswith("results=")]
        results = typed[0] if typed else os.environ.get("GATESWEEP_RESULTS", "results")
        folder = Path(arguments.resume or f"{results}/latest_run").resolve()
        if not (folder / CONFIG).is_file():
            raise InputError(f"--resume: got {str(folder)!r}, expected the folder of a run (it has no {CONFIG})")
        refuse_links(folder, "--resume")
        return check_config(read_values(folder / CONFIG)), folder
    if arguments.config:
        if not arguments.config.is_file():
            raise InputError(f"--config: got {str(arguments.config)!r}, expected a config.yaml")
        config = load_file(arguments.config, arguments.overrides)
    else:
        config = compose_config(arguments.overrides)
    return config, new_folder(config, "run")


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
