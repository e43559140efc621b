"""Batches of vibration windows, with the states of simulated machines. No bearing is in two parts."""

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
MOST = 1_000_000  # each window is simulated


class BearingData:
    """Batches of windows, in the parts train, val and test, which share no bearing.

    A batch is a dict of tensors on the device:
    * always: vibration (B, samples), label (B,) (int64, an index into `classes`), bearing (B,) (int64).
    * with `has_states`: inputs (B, blocks, 2), voltage in V and torque in N m; states (B, blocks + 1, 3), current in A,
      speed in rad/s and temperature in degrees C; force (B, samples); casing (B, samples + 1), x in units of force;
      rate (B,), x'/W at the beginning; frequency (B,), W in rad/s; damping (B,), zeta; taps (B, 4), see `Casing`;
      known (B,), 1 where the states may be learned from, else 0.
    * without `has_states`: speed (B,) in rad/s.

    The argument `rate` is the sampling rate in Hz. Raises InputError if `batch_size` is larger than the training part.
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
        """Number of samples of a window."""
        return self.part("train")["vibration"].shape[1]

    def part(self, name: str) -> Batch:
        """Return all windows of `train`, `val` or `test` as one batch."""
        return self.parts[name]

    def train(self, epoch: int) -> Sequence[Batch]:
        """Return the batches of an epoch, in an order that depends on `seed` and `epoch`."""
        tensors = self.part("train")
        orders = shuffled(len(tensors["label"]), self.batch_size, seed=self.seed, epoch=epoch, device=self.device)
        return [{name: tensor[order] for name, tensor in tensors.items()} for order in orders]

    def val(self) -> Sequence[Batch]:
        """Return the validation windows as one batch."""
        return [self.part("val")]

    def test(self) -> Sequence[Batch]:
        """Return all test windows as one batch."""
        return [self.part("test")]


class SimulatedBearings(BearingData):
    """Simulated windows of 85 ms at 12 kHz, the same number for each of the ten classes (see `faults.simulate`).

    `labelled` is the fraction of training windows whose states may be learned from; the equations hold for all windows.
    Bearings and windows depend on `data_seed`; `seed` orders the epochs.

    Raises InputError with the key, the value and the expectation if a value is wrong.
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


@dataclass(frozen=True)
class Recipe:
    """Everything that simulated windows depend on: the key of the machine-wide cache."""

    bearings: tuple[int, int, int]  # of each class, in the order of PARTS
    windows: int  # of each bearing
    labelled: float  # fraction of the windows of each part whose states are known
    data_seed: int

    def __post_init__(self) -> None:
        for part, count in zip(PARTS, self.bearings, strict=True):
            require(1 <= count <= MOST, f"data.{part}_bearings", count, f"at least 1 of each class, at most {MOST}")
        require(1 <= self.windows <= MOST, "data.windows", self.windows, f"at least 1 of each bearing, at most {MOST}")
        require(0 < self.labelled <= 1, "data.labelled", self.labelled, "a fraction above 0, at most 1")


@machine_cache
def simulated(recipe: Recipe, device: torch.device) -> dict[str, Batch]:
    """Simulate the windows of each part, once, and keep them on the device."""
    parts = {}
    for number, (name, count) in enumerate(zip(PARTS, recipe.bearings, strict=True)):
        tensors = _tensors(simulate(count, recipe.windows, recipe.data_seed, number))
        tensors["bearing"] += sum(recipe.bearings[:number]) * len(CLASSES)
        order = torch.randperm(len(tensors["label"]), generator=generator(recipe.data_seed, number, 1))
        known = torch.zeros(len(order))
        known[order[: max(1, round(recipe.labelled * len(order)))]] = 1.0
        parts[name] = {key: tensor.to(device) for key, tensor in (tensors | {"known": known}).items()}
    return parts


def scales(part: Batch, drive: Drive) -> dict[str, Tensor]:
    """Return the units of inputs, states and energies, measured on a part, by name of the buffer.

    The shapes are those of the buffers of `BearingOperator`.
    """
    states, inputs = part["states"], part["inputs"]
    drive = drive.to(states.device)
    casing, force = (part[name].square().mean(dim=1).sqrt() for name in ("casing", "force"))
    return {
        "input_mean": inputs.mean(dim=(0, 1)),
        "input_std": inputs.std(dim=(0, 1)),
        "state_mean": states.mean(dim=(0, 1)),
        "state_std": states.std(dim=(0, 1)),
        "moved": (states[:, 1:] - states[:, :1]).square().mean(dim=(0, 1)).sqrt(),
        "change": (states[:, 1:] - states[:, :-1]).square().mean(dim=(0, 1)).sqrt(),
        "given": drive.flows(states[:, :-1], inputs)[..., 0].abs().mean(),
        "shaken": (casing / force).square().mean().sqrt(),
    }


def _tensors(windows: Windows) -> Batch:
    """Return simulated windows as a batch without `known`."""
    tensors = {
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
    return {name: tensor.float() for name, tensor in tensors.items()} | {
        "label": windows.label,
        "bearing": windows.bearing.clone(),
    }
