"""Trials that train as one stack inside one process: an epoch of all members of `core.stack.fit_stack` a step."""

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
from gatesweep.sweeps.execution.trial import DirectTrial, epoch_report, mark_output, trial_config
from gatesweep.sweeps.records.layout import CHECKPOINTS
from gatesweep.sweeps.storage.uploads import TrialStorage

TrialSpec = dict[str, Any]  # name, number and values of a trial
StackedEpochs = Generator[list[tuple[int, Epoch]], Collection[int] | None, None]
MAX_STACK = 16  # members of a stack with resources.stack=auto


class StackTrial(DirectTrial):
    """Tune's side of stacked trials: several members, each with a name and an outcome of its own.

    Each step returns `reports`, pairs of a member and its report, and `declined`, the members that cannot join the
    first one in a stack and never began. After a fault in a stack, its members go on alone from their checkpoints, one
    after the other, so that a fault ends only the trial that causes it.
    """

    stack: StackedEpochs | None = None

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """End the current stack and take the next one."""
        self.cleanup()
        self.members: list[TrialSpec] = list(new_config["members"])
        self.order = list(self.members)  # by position in the stack
        self.alone = len(self.members) == 1
        self.trial: TrialSpec = {}
        mark_output([member["trial"] for member in self.members])
        return True

    def step(self) -> dict[str, Any]:
        """Train one epoch of all members that go on, and report it. Raises torch.AcceleratorError."""
        reports, declined = [], []
        if not self.alone:
            try:
                reports = self._step_stack()
            except torch.AcceleratorError:
                raise
            except Exception as fault:
                self.cleanup()
                self.alone = True
                if isinstance(fault, Unstackable):
                    declined, self.members = self.members[1:], self.members[:1]
        if self.alone:
            reports = [self._step_alone()]
        ended = [member["trial"] for member, report in reports if report["done"]]
        self.drop(ended)
        return {"reports": reports, "declined": declined, "done": not self.members}

    def drop(self, names: Collection[str]) -> None:
        """Stop members by name; called between two steps."""
        self.members = [member for member in self.members if member["trial"] not in names]

    def cleanup(self) -> None:
        """End the current stack, and the member that trains alone."""
        super().cleanup()
        if self.stack:
            self.stack.close()
        self.stack = None

    def _step_stack(self) -> list[tuple[TrialSpec, dict[str, Any]]]:
        if self.stack is None:
            configs = [trial_config(self.base, member) for member in self.order]
            self.stack = stacked_epochs(configs, [self.sweep / member["trial"] for member in self.order])
            epochs = next(self.stack)
        else:
            stopped = [position for position, member in enumerate(self.order) if member not in self.members]
            epochs = self.stack.send(stopped)
        return [(self.order[position], epoch_report(epoch)) for position, epoch in epochs]

    def _step_alone(self) -> tuple[TrialSpec, dict[str, Any]]:
        """Train the next epoch of the first member."""
        if self.trial is not self.members[0]:
            super().reset_config(self.members[0])
        return self.trial, super().step()


def stack_size(stack: int | Literal["auto"], num_samples: int | None, concurrent: int) -> int | None:
    """Return the number of trials that `resources.stack` puts into one stack; None where each trains alone.

    With `auto`, stacks are so small that each of the `concurrent` places trains at least two of them: the search learns
    from one stack to the next.
    """
    if stack == 1:
        return None
    if stack != "auto":
        return stack
    return MAX_STACK if num_samples is None else max(1, min(MAX_STACK, num_samples // (2 * concurrent)))


def stacked_epochs(configs: Sequence[Config], folders: Sequence[Path]) -> StackedEpochs:
    """Train several trials as one stack, as `train_epochs` trains one; yields lists of pairs (position, epoch).

    Positions that are sent to the generator are stopped. Each trial goes on from the newest intact checkpoint in its
    folder. Raises Unstackable before the first epoch, and OSError where a checkpoint or an upload cannot be written.
    """
    settings, resources = make_settings(configs[0]), configs[0].resources
    torch.set_num_threads(resources.threads)
    members = []
    with ExitStack() as opened:
        places = [TrialStorage(config.storage, folder) for config, folder in zip(configs, folders, strict=True)]
        for config, place in zip(configs, places, strict=True):
            opened.callback(place.close)
            trainable, data = build_run(config)
            newest = checkpoint.newest(place.folder / CHECKPOINTS)
            members.append(Member(trainable, rng.state(), newest[1] if newest else None))
        saved = [member.resume["epoch"] if member.resume else 0 for member in members]
        running = fit_stack(members, data, settings, measure=resources.stack == "auto", recorded=0)
        opened.callback(running.close)
        stopped: Collection[int] | None = None
        while True:
            try:
                epochs = running.send(stopped)
            except StopIteration:
                return
            for position, epoch in epochs:
                if epoch.index > saved[position]:
                    save_epoch(places[position], members[position].trainable, data, configs[position], epoch)
            stopped = yield epochs
