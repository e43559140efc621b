"""Windows of vibration as batches, with their machine's states where they are simulated; bearings are never shared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gatesweep.core.cache import machine_cache
from gatesweep.core.data import check_batch_size, generator, require, shuffled
from gatesweep.trainables.operators.faults import CLASSES, RATE, Windows, simulate
from gatesweep.trainables.operators.motor import Casing, Drive

Batch = dict[str, Tensor]
PARTS = ("train", "val", "test")


class BearingData:
    """Batches of windows: `vibration` (B, samples), `label` and `bearing` (B,), in parts that share no bearing.

    With `has_states` they also hold `inputs` (B, blocks, 2), `states` (B, blocks + 1, 3), `force` (B, samples),
    `casing` (B, samples + 1), `rate` (B,), the casing's velocity x'/W at the window's beginning, `frequency`, `damping`
    (B,), `taps` (B, 4) and `known` (B,), 1 where the states may be learned from; without, `speed` (B,) in rad/s.
    """

    has_states: bool

    def __init__(
        self,
        parts: dict[str, Batch],
        classes: tuple[str, ...],
        rate: int,
        *,
        device: torch.device,
        seed: int,
        batch_size: int,
    ) -> None:
        self.parts, self.classes, self.rate = parts, classes, rate
        self.device, self.seed, self.batch_size = torch.device(device), seed, batch_size
        check_batch_size(batch_size, len(self.part("train")["label"]))

    @property
    def samples(self) -> int:
        """Of a window."""
        return self.part("train")["vibration"].shape[1]

    def part(self, name: str) -> Batch:
        """`train`, `val` or `test`, whole."""
        return self.parts[name]

    def train(self, epoch: int) -> Sequence[Batch]:
        tensors = self.part("train")
        orders = shuffled(len(tensors["label"]), self.batch_size, seed=self.seed, epoch=epoch, device=self.device)
        return [{name: one[order] for name, one in tensors.items()} for order in orders]

    def val(self) -> Sequence[Batch]:
        return [self.part("val")]


@dataclass(frozen=True)
class Recipe:
    """All that simulated windows depend on."""

    bearings: tuple[int, int, int]
    windows: int
    labelled: float
    data_seed: int

    def __post_init__(self) -> None:
        for part, count in zip(PARTS, self.bearings, strict=True):
            require(count >= 1, f"data.{part}_bearings", count, "at least 1 of each class")
        require(self.windows >= 1, "data.windows", self.windows, "at least 1 of each bearing")
        require(0 < self.labelled <= 1, "data.labelled", self.labelled, "a fraction above 0, at most 1")


@machine_cache
def simulated(recipe: Recipe, device: torch.device) -> dict[str, Batch]:
    """The windows of a recipe, made once and kept on the device for every trial that asks."""
    parts = {}
    for number, (name, count) in enumerate(zip(PARTS, recipe.bearings, strict=True)):
        found = _tensors(simulate(count, recipe.windows, recipe.data_seed, number))
        found["bearing"] += sum(recipe.bearings[:number]) * len(CLASSES)
        order = torch.randperm(len(found["label"]), generator=generator(recipe.data_seed, number, 1))
        known = torch.zeros(len(order))
        known[order[: max(1, round(recipe.labelled * len(order)))]] = 1.0
        parts[name] = {key: one.to(device) for key, one in (found | {"known": known}).items()}
    return parts


def _tensors(windows: Windows) -> Batch:
    found = {
        "vibration": windows.vibration,
        "inputs": windows.inputs,
        "states": windows.states,
        "force": windows.force,
        "casing": windows.casing[..., 0],
        "rate": windows.casing[:, 0, 1],
        "frequency": windows.frequency,
        "damping": windows.damping,
        "taps": Casing(windows.frequency, windows.damping, 1 / RATE).taps,
    }
    return {name: one.float() for name, one in found.items()} | {
        "label": windows.label,
        "bearing": windows.bearing.clone(),
    }


def scales(part: Batch, drive: Drive) -> dict[str, Tensor]:
    """The units of inputs, states and energies, from the training windows."""
    states, inputs = part["states"], part["inputs"]
    drive = drive.to(states.device)
    size = [one.square().mean(dim=1).sqrt() for one in (part["casing"], part["force"])]
    return {
        "input_mean": inputs.mean(dim=(0, 1)),
        "input_std": inputs.std(dim=(0, 1)),
        "state_mean": states.mean(dim=(0, 1)),
        "state_std": states.std(dim=(0, 1)),
        "moved": (states[:, 1:] - states[:, :1]).square().mean(dim=(0, 1)).sqrt(),
        "change": (states[:, 1:] - states[:, :-1]).square().mean(dim=(0, 1)).sqrt(),
        "given": drive.flows(states[:, :-1], inputs)[..., 0].abs().mean(),
        "shaken": (size[0] / size[1]).square().mean().sqrt(),
    }


class SimulatedBearings(BearingData):
    """Windows of 85 ms at 12 kHz of simulated machines (see `faults.simulate`), as many of each of the ten classes.

    `labelled` is the fraction of the training windows whose states may be learned from; the equations hold for all of
    them. Bearings and windows depend on `data_seed`; `seed` orders the epochs.
    """

    has_states = True

    def __init__(
        self,
        *,
        device: torch.device,
        seed: int,
        batch_size: int = 32,
        train_bearings: int = 12,
        val_bearings: int = 4,
        test_bearings: int = 4,
        windows: int = 8,
        labelled: float = 0.25,
        data_seed: int = 42,
    ) -> None:
        recipe = Recipe((train_bearings, val_bearings, test_bearings), windows, labelled, data_seed)
        parts = simulated(recipe, torch.device(device))
        super().__init__(parts, CLASSES, RATE, device=device, seed=seed, batch_size=batch_size)
