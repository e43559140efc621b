"""Trials that train as one stack, inside one process: `core.stack.fit_stack`, an epoch of all of them a step."""

from __future__ import annotations

from collections.abc import Collection, Generator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import torch

from gatesweep.core import checkpoint, rng
from gatesweep.core.loop import Epoch
from gatesweep.core.stack import Member, Unstackable, fit_stack
from gatesweep.sweeps.config.build import build_run
from gatesweep.sweeps.config.schema import Config, make_settings
from gatesweep.sweeps.execution.training import save_epoch
from gatesweep.sweeps.execution.trial import DirectTrial, epoch_report, trial_config
from gatesweep.sweeps.records.layout import CHECKPOINTS
from gatesweep.sweeps.storage.uploads import TrialStorage

TrialSpec = dict[str, Any]  # its name, number and values
StackedEpochs = Generator[list[tuple[int, Epoch]], Collection[int] | None, None]
MAX_STACK = 16  # members of a stack, where nobody says how many


def stack_size(stack: int | Literal["auto"], num_samples: int | None, concurrent: int) -> int | None:
    """How many trials `resources.stack` puts into one stack; None where each is by itself.

    With `auto`, no more than leave each of the `concurrent` places two stacks: a search learns from one to the next.
    """
    if stack == 1:
        return None
    if stack != "auto":
        return stack
    return MAX_STACK if num_samples is None else max(1, min(MAX_STACK, num_samples // (2 * concurrent)))


def stacked_epochs(configs: Sequence[Config], folders: Sequence[Path]) -> StackedEpochs:
    """`sweeps.train.epochs` of several trials, as `fit_stack` yields them. Raises Unstackable before the first."""
    settings, resources = make_settings(configs[0]), configs[0].resources
    torch.set_num_threads(resources.threads)
    members = []
    with ExitStack() as opened:
        places = [TrialStorage(config.storage, folder) for config, folder in zip(configs, folders, strict=True)]
        for config, place in zip(configs, places, strict=True):
            opened.callback(place.close)
            trainable, data = build_run(config)
            found = checkpoint.newest(place.folder / CHECKPOINTS)
            members.append(Member(trainable, rng.state(), found[1] if found else None))
        known = [member.resume["epoch"] if member.resume else 0 for member in members]
        running = fit_stack(members, data, settings, measure=resources.stack == "auto", recorded=0)
        opened.callback(running.close)
        stopped: Collection[int] | None = None
        while True:
            try:
                epochs = running.send(stopped)
            except StopIteration:
                return
            for position, epoch in epochs:
                if epoch.index > known[position]:
                    save_epoch(places[position], members[position].trainable, data, configs[position], epoch)
            stopped = yield epochs


class StackTrial(DirectTrial):
    """What Tune runs where trials may be stacked: several of them, each with a name and an outcome of its own.

    Each step reports `reports`, pairs of a trial's configuration and what it has to say, and `declined`, trials that
    cannot join the first one in a stack and never began. A fault within a stack is one trial's own or nobody's: they
    go on from their checkpoints, one after the other.
    """

    stack: StackedEpochs | None = None

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.cleanup()
        self.members: list[TrialSpec] = list(new_config["members"])
        self.order = list(self.members)  # positions in the stack
        self.alone = len(self.members) == 1
        self.trial: TrialSpec = {}
        return True

    def step(self) -> dict[str, Any]:
        reports, declined = [], []
        if not self.alone:
            try:
                reports = self._together()
            except torch.AcceleratorError:
                raise
            except Exception as fault:
                self.cleanup()
                self.alone = True
                if isinstance(fault, Unstackable):
                    declined, self.members = self.members[1:], self.members[:1]
        if self.alone:
            reports = [self._by_itself()]
        ended = [member["trial"] for member, told in reports if told["done"]]
        self.drop(ended)
        return {"reports": reports, "declined": declined, "done": not self.members}

    def drop(self, names: Collection[str]) -> None:
        """Stop trials; called between two steps."""
        self.members = [member for member in self.members if member["trial"] not in names]

    def cleanup(self) -> None:
        super().cleanup()
        if self.stack:
            self.stack.close()
        self.stack = None

    def _together(self) -> list[tuple[TrialSpec, dict[str, Any]]]:
        if self.stack is None:
            configs = [trial_config(self.base, member) for member in self.order]
            self.stack = stacked_epochs(configs, [self.sweep / member["trial"] for member in self.order])
            epochs = next(self.stack)
        else:
            stopped = [position for position, member in enumerate(self.order) if member not in self.members]
            epochs = self.stack.send(stopped)
        return [(self.order[position], epoch_report(epoch)) for position, epoch in epochs]

    def _by_itself(self) -> tuple[TrialSpec, dict[str, Any]]:
        """The next epoch of the first one."""
        if self.trial is not self.members[0]:
            super().reset_config(self.members[0])
        return self.trial, super().step()
