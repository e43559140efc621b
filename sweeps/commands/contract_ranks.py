"""Training of one configuration as two ranks, for the contract. Its processes import no more than they need."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from gatesweep.core.distributed import DDP_OPTIONS
from gatesweep.core.loop import fit
from gatesweep.sweeps.config.build import build_run
from gatesweep.sweeps.config.schema import Config, make_settings
from gatesweep.sweeps.config.trust import Trust, adopt_trust, current_trust
from gatesweep.sweeps.config.values import with_values

RANKS = 2


class BrokenPromise(Exception):
    """A promise that does not hold, in one line."""


def train_on_ranks(configs: Mapping[str, Config], folder: Path) -> None:
    """Train each configuration for one epoch on RANKS processes, which start once; `compare_ranks` reads the weights.

    Raises torch's ProcessRaisedException, with the traceback of the rank.
    """
    one_epoch = {name: with_values(config, {"training.max_epochs": 1}) for name, config in configs.items()}
    work = functools.partial(_train_rank, configs=one_epoch, folder=str(folder), trust=current_trust())
    spawn(work, nprocs=RANKS)


def compare_ranks(name: str, folder: Path) -> None:
    """Raise BrokenPromise where the ranks of `train_on_ranks` have ended with different weights."""
    first, second = (torch.load(folder / f"{name}-{rank}.pt", weights_only=True) for rank in range(RANKS))
    compare_states(first, second, "differs between ranks: several workers would save another model than they evaluate")


def _train_rank(rank: int, *, configs: Mapping[str, Config], folder: str, trust: Trust) -> None:
    """Train the configurations as one rank, and save their weights."""
    torch.set_num_threads(1)
    adopt_trust(trust)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=RANKS)
    for name, config in configs.items():
        trainable, data = build_run(with_values(config, {"seed": rank}))
        for _ in fit(
            trainable, data, make_settings(config), wrap=functools.partial(DistributedDataParallel, **DDP_OPTIONS)
        ):
            pass
        torch.save(trainable.state_dict(), f"{folder}/{name}-{rank}.pt")
    dist.destroy_process_group()
    os._exit(0)  # torch's threads outlive the interpreter's end now and then, and abort a process that is done


def compare_states(first: Mapping[str, Any], second: Mapping[str, Any], words: str) -> None:
    """Raise BrokenPromise for the first tensor that differs."""
    for key, value in first.items():
        if isinstance(value, torch.Tensor) and not torch.equal(value, second[key]):
            raise BrokenPromise(f"{key} {words}")
