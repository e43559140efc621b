"""The contract of a trainable as checks: one function a promise, for trainables and, where it applies, for functions.

Each returns a few words on what it saw. It raises BrokenPromise where the promise does not hold, and NotPromised where
there is none.
"""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Callable, Generator
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch.multiprocessing.spawn import ProcessRaisedException

from gatesweep.core import checkpoint
from gatesweep.core.checkpoint import Checkpoint
from gatesweep.core.errors import InputError
from gatesweep.core.function import fit_function
from gatesweep.core.loop import Epoch, fit
from gatesweep.core.trainable import Batch, Data, Trainable
from gatesweep.sweeps.commands.contract_ranks import (
    RANKS,
    BrokenPromise,
    compare_ranks,
    compare_states,
    train_on_ranks,
)
from gatesweep.sweeps.commands.preflight_gate import check_gate
from gatesweep.sweeps.config.build import build_run
from gatesweep.sweeps.config.functions import bind_function
from gatesweep.sweeps.config.schema import Config, make_gate, make_settings
from gatesweep.sweeps.config.values import with_values
from gatesweep.sweeps.execution.training import write_checkpoint

LOSS = "train/loss"
ERROR_LENGTH = 160  # characters of another process's error
OF_A_FUNCTION = "a function is one process, which builds its own model"


class NotPromised(Exception):
    """The reason why a promise does not apply, in a few words."""


class Contract:
    """The checks of one configuration. They share one run from start to end.

    Raises InputError, and whatever the user's code raises.
    """

    def __init__(self, config: Config) -> None:
        gate = config.gate.replace(thresholds={}, objective=None, scales={}, baseline={})
        self.config, self.run = config, config.replace(gate=gate)  # a gate that passes would end the run

    @cached_property
    def whole(self) -> tuple[Trainable | None, list[Epoch]]:
        """The trainable, None for a function, and the epochs of a run from start to end."""
        trainable, running = _begin(self.run)
        with closing(running):
            return trainable, list(running)

    def trains(self) -> str:
        """A run comes to its end."""
        return f"{self.whole[1][-1].index} epochs"

    def learns(self) -> str:
        """The last epoch's training loss is below the first one's."""
        epochs = self.whole[1]
        if not self.run.data and (LOSS not in epochs[0].metrics or epochs[-1].index == 1):
            raise NotPromised(f"it reports no {LOSS}" if LOSS not in epochs[0].metrics else "it ended after one epoch")
        first, last = (epoch.metrics.get(LOSS, math.nan) for epoch in (epochs[0], epochs[-1]))
        words = f"{LOSS} {first:.4g} in the first epoch, {last:.4g} in epoch {epochs[-1].index}"
        if not last < first:
            why = f": {epochs[-1].reason}" if epochs[-1].reason else "; more epochs: max_epochs=10"
            raise BrokenPromise(words + why)
        return words

    def reports_what_its_gate_reads(self) -> str:
        """Every metric of the gate comes with the first epoch."""
        gate = make_gate(self.config.gate)
        if not gate.reads:
            raise NotPromised("there is no gate; type 'gate.thresholds={val/accuracy: \"> 0.9\"}'")
        try:
            gate.require(self.whole[1][0].metrics)
        except InputError as missing:
            raise BrokenPromise(str(missing)) from missing
        return ", ".join(dict.fromkeys(gate.reads))

    def resumes_bitwise(self) -> str:
        """A run that goes on from its first checkpoint has the curves and weights of one without interruption."""
        trainable, epochs = self.whole
        if epochs[-1].index == 1:
            raise NotPromised("it ended after one epoch")
        if not epochs[0].is_resumable:
            raise NotPromised("its first epoch has no checkpoint")
        with tempfile.TemporaryDirectory(prefix="gatesweep-") as folder:
            _, running = _begin(self.run)
            with closing(running):
                first = next(running)
                write_checkpoint(Path(folder, "epoch"), first)
            # The seed that the checkpoint holds must win.
            other_seed = with_values(self.run, {"seed": self.run.seed + 99})
            resumed, running = _begin(other_seed, checkpoint.read(Path(folder, "epoch")))
            with closing(running):
                rest = list(running)
        _compare_curves(epochs, [first, *rest])
        if trainable is not None and resumed is not None:
            compare_states(trainable.state_dict(), resumed.state_dict(), "differs after the resume")
        return f"{epochs[-1].index} epochs, cut after the first"

    def uses_every_parameter(self) -> str:
        """Every parameter has had a gradient."""
        trainable = self.whole[0]
        if trainable is None:
            raise NotPromised(OF_A_FUNCTION)
        named = dict(trainable.named_parameters())
        unused = [name for name, parameter in named.items() if parameter.grad is None]
        if unused:
            raise BrokenPromise(f"no gradient reaches {', '.join(unused)}")
        return f"{len(named)} tensors"

    def has_data_of_the_epoch(self) -> str:
        """Training batches are a pure function of the epoch, and validation batches are always the same."""
        if not self.run.data:
            raise NotPromised("a function loads its own")
        _, data = build_run(self.run)
        if not _equal_batches(data, lambda: data.train(0)):
            raise BrokenPromise("data.train(0) differs from call to call: shuffle by (seed, epoch)")
        if not _equal_batches(data, data.val):
            raise BrokenPromise("data.val() differs from call to call")
        return "train(epoch), val()"

    def replicates(self) -> str:
        """Two ranks that begin with different weights, and see different samples, end with equal ones."""
        if not self.run.data:
            raise NotPromised(OF_A_FUNCTION)
        with tempfile.TemporaryDirectory(prefix="gatesweep-") as folder:
            try:
                train_on_ranks({"run": self.run}, Path(folder))
            except ProcessRaisedException as fault:
                errors = [line for line in str(fault).splitlines() if re.match(r"[A-Za-z_][\w.]*: ", line)]
                raise BrokenPromise(f"a rank raised {(errors or [str(fault)])[-1][:ERROR_LENGTH]}") from fault
            compare_ranks("run", Path(folder))
        return f"{RANKS} ranks"

    def gate_tells_oracle_from_trivial(self) -> str:
        """The exact answer passes the gate, and the baseline that has learned nothing does not."""
        if not self.config.data:
            raise NotPromised("a function has neither")
        if not make_gate(self.config.gate).rules:
            raise NotPromised("there is no gate")
        try:
            tested, lines = check_gate(self.config)
        except InputError as fault:
            raise BrokenPromise(str(fault)) from fault
        if any(line.startswith("gate: warning: not tested") for line in lines):
            raise NotPromised("it has neither oracle nor trivial")
        return ", ".join(tested.gate.thresholds)


CHECKS: dict[str, Callable[[Contract], str]] = {  # the others need the first
    "trains": Contract.trains,
    "learns": Contract.learns,
    "reports its gate's metrics": Contract.reports_what_its_gate_reads,
    "resumes bitwise": Contract.resumes_bitwise,
    "uses every parameter": Contract.uses_every_parameter,
    "data follow the epoch": Contract.has_data_of_the_epoch,
    "replicates on two ranks": Contract.replicates,
    "oracle and trivial": Contract.gate_tells_oracle_from_trivial,
}


def _begin(config: Config, saved: Checkpoint | None = None) -> tuple[Trainable | None, Generator[Epoch]]:
    """Return the trainable, None for a function, and its epochs, from a checkpoint or from the start."""
    settings, resume = make_settings(config), saved.state() if saved else None
    if not config.data:
        files = saved.folder if saved else None
        return None, fit_function(
            bind_function(config.trainable), settings, seed=config.seed, resume=resume, files=files
        )
    trainable, data = build_run(config)
    return trainable, fit(trainable, data, settings, resume=resume)


def _compare_curves(whole: list[Epoch], cut: list[Epoch]) -> None:
    """Raise BrokenPromise where anything that epochs report differs, but for clocks and memory."""
    if len(whole) != len(cut):
        raise BrokenPromise(f"{len(cut)} epochs, against {len(whole)} without the interruption")
    for one, other in zip(whole, cut, strict=True):
        if one.losses != other.losses:
            raise BrokenPromise(f"the losses of the steps of epoch {one.index} differ after the resume")
        for name in sorted(one.metrics.keys() | other.metrics.keys()):
            before, after = one.metrics.get(name), other.metrics.get(name)
            if not name.startswith("system/") and before != after and not (before != before and after != after):
                raise BrokenPromise(f"{name} of epoch {one.index} is {after} after the resume, {before} without it")


def _equal_batches(data: Data, load: Callable[[], Any]) -> bool:
    """Return True if two calls give the same batches."""
    first, second = load(), load()
    return len(first) == len(second) and all(same_batch(first[at], second[at]) for at in range(len(first)))


def same_batch(one: Batch, other: Batch) -> bool:
    """Return True if all tensors and values of two batches are equal."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same_batch(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(same_batch(*pair) for pair in zip(one, other, strict=True))
    return bool(one == other)
