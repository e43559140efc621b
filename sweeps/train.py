"""Train once, without Ray: `python sweeps/train.py experiment=walk_transformer trainable.lr=0.003`.

The record is that of a sweep's trial, under `results/latest_run`. `--resume` goes on with it, or with another
FOLDER; `--config results/latest/trial_0003/config.yaml` trains that trial again. Exit codes as of a sweep.
"""

from __future__ import annotations

import argparse
import copy
import signal
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn
from tqdm import tqdm

from gatesweep.core import checkpoint
from gatesweep.core.data import layout
from gatesweep.core.loop import CUT_SHORT, Epoch, fit
from gatesweep.core.record import Record, write_atomically
from gatesweep.core.trainable import Batch, Data, Trainable
from gatesweep.sweeps import cli, figures
from gatesweep.sweeps import config as configuration
from gatesweep.sweeps.schema import check, make_gate, make_settings, read_config
from gatesweep.sweeps.storage import Workplace

CHECKPOINTS = "checkpoints"


def epochs(
    config: dict[str, Any],
    folder: Path,
    resume: dict[str, Any] | None = None,
    *,
    recorded: int = 0,
    rank: int = 0,
    wrap: Callable[[nn.Module], nn.Module] = lambda module: module,
    watch: Callable[[Data], Data] = lambda data: data,
) -> Generator[Epoch]:
    """Train in `folder`, or from its newest whole checkpoint on; rank 0 saves one every epoch.

    The epochs before that checkpoint, from the one after `recorded` on, are yielded again: a run may have been killed
    between a checkpoint and the record of it. `resume` is a state to go on from instead.
    """
    torch.set_num_threads(config["resources"]["threads"])
    settings = make_settings(config)
    trainable, data = configuration.build(config)
    place = Workplace(config["storage"], folder)
    known = None if resume else recorded
    try:
        if resume is None and (found := checkpoint.newest(place.folder / CHECKPOINTS)):
            resume = found[1]
        at = resume["epoch"] if resume else 0
        for epoch in fit(trainable, watch(data), settings, resume=resume, recorded=known, wrap=wrap):
            if epoch.index > at and rank == 0:
                keep(place, trainable, data, config, epoch)
            yield epoch
    finally:
        place.close()


def keep(place: Workplace, trainable: Trainable, data: Data, config: dict[str, Any], epoch: Epoch) -> None:
    """Draw and save what an epoch left."""
    checkpoints = place.folder / CHECKPOINTS
    place.settle()
    if figures.due(config["figures"], epoch):
        figures.draw(place.folder, trainable, data, config, epoch)
    if epoch.outcome not in CUT_SHORT:
        sync = place.sync_is_due() or epoch.outcome is not None
        save(checkpoints / f"epoch_{epoch.index:04d}", epoch, sync, batch=layout(next(iter(data.val()), ())))
        checkpoint.prune(checkpoints, config["training"]["keep_checkpoints"])
    place.push()
    if epoch.outcome:
        place.arrived()


def save(directory: Path, epoch: Epoch, sync: bool = True, **facts: Any) -> None:
    meta = {"epoch": epoch.index, "outcome": epoch.outcome, "score": epoch.score, "metrics": epoch.metrics}
    checkpoint.save(directory, epoch.state(), meta | facts, sync)


def main() -> None:
    parser = cli.parser(__doc__ or "")
    parser.add_argument("--resume", nargs="?", const="", metavar="FOLDER", help="default: results/latest_run")
    parser.add_argument("--config", type=Path, metavar="FILE", help="a config.yaml to start from")
    cli.run(parser, train)


def train(arguments: argparse.Namespace) -> int:
    """One run from its start or its last checkpoint; returns the exit code."""
    config, folder = _where(arguments)
    config = {**config, "storage": None}  # one run leaves all of it in its folder
    if arguments.cfg:
        print(yaml.safe_dump(config, sort_keys=False), end="")
        return cli.PASSED
    cli.check_folder(folder)
    figures.check(
        config["figures"], *configuration.build(config)
    )  # whatever is wrong with it is said before there is a folder
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    gate = make_gate(config)
    cli.make_folder(folder)
    write_atomically(folder / "config.yaml", yaml.safe_dump(config, sort_keys=False))
    record = Record(folder)
    cli.point(folder.parent / "latest_run", folder)
    print(f"run {folder}", flush=True)
    bar = tqdm(total=config["training"]["max_epochs"], disable=None, bar_format="{desc} {percentage:3.0f}%|{bar:24}| "
               "{elapsed} ETA {remaining}{postfix}", desc="epoch", initial=record.epochs)  # fmt: skip
    try:
        for epoch in epochs(config, folder, recorded=record.epochs, watch=lambda data: _watched(data, bar)):
            facts = {"score": epoch.score, "outcome": epoch.outcome, "reason": epoch.reason}
            record.epoch(epoch.index, epoch.metrics, epoch.losses, **facts)
            bar.n = epoch.index
            bar.set_postfix_str(f"{epoch.index}/{bar.total} {_shown(epoch.metrics, gate.reads)}")
            with tqdm.external_write_mode():
                print(f"epoch {epoch.index:3}  {_shown(epoch.metrics, gate.reads)}", flush=True)
    except KeyboardInterrupt:
        bar.close()
        record.append("interrupted")
        print(f"interrupted; go on with: python sweeps/train.py --resume {folder}", flush=True)
        return cli.INTERRUPTED
    bar.close()
    assert record.last
    result = record.end(record.last["outcome"], record.last["reason"], gate)
    why = result["reason"] or "; ".join(result["missed"])
    print(f"{result['outcome']} after {result['epochs']} epochs{': ' if why else ''}{why}", flush=True)
    return cli.PASSED if result["gate_passed"] else cli.NONE_PASSED


def _where(arguments: argparse.Namespace) -> tuple[dict[str, Any], Path]:
    """The configuration of the run and its folder."""
    if arguments.resume is not None:
        results = next(
            (one.removeprefix("results=") for one in arguments.overrides if one[:8] == "results="), "results"
        )
        folder = Path(arguments.resume or f"{results}/latest_run").resolve()
        if not (folder / "config.yaml").is_file():
            raise ValueError(f"--resume: got {str(folder)!r}, expected the folder of a run (it has no config.yaml)")
        return check(read_config(folder / "config.yaml")), folder
    if arguments.config:
        if not arguments.config.is_file():
            raise ValueError(f"--config: got {str(arguments.config)!r}, expected a config.yaml")
        config = configuration.load_file(arguments.config, arguments.overrides)
    else:
        config = configuration.load(arguments.overrides)
    return config, cli.new_folder(config, "run")


def _shown(metrics: dict[str, float], names: Sequence[str]) -> str:
    wanted = dict.fromkeys(["train/loss", "val/loss", *names])
    return "  ".join(f"{name} {metrics[name]:.4f}" for name in wanted if name in metrics)


def _watched(data: Data, bar: tqdm) -> Data:
    """The same data, moving a bar, in epochs, as its batches are taken."""
    seen = copy.copy(data)
    seen.train = lambda epoch: _Counted(data.train(epoch), bar)  # type: ignore[method-assign]
    return seen


class _Counted(Sequence[Batch]):
    def __init__(self, batches: Sequence[Batch], bar: tqdm) -> None:
        self.batches, self.bar = batches, bar

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, position: Any) -> Batch:
        self.bar.update(1 / len(self))
        return self.batches[position]


if __name__ == "__main__":
    main()
