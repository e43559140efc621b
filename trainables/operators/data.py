"""Data of operators: few solved samples, many unsolved ones, and held-out ones on two grids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gatesweep.core.cache import machine_cache
from gatesweep.core.data import check_batch_size, generator, require, shuffled
from gatesweep.core.trainable import Split
from gatesweep.trainables.operators.darcy import Darcy, Medium
from gatesweep.trainables.operators.grid import Grid
from gatesweep.trainables.operators.magneto_thermal import MagnetoThermal
from gatesweep.trainables.operators.problems import AdvectionDiffusion, Boundary, Burgers, InsulatedHeat, Name, Problem

Batch = tuple[Tensor, Tensor, Tensor]  # inputs of solved samples, their solutions, inputs of unsolved ones
Samples = tuple[Tensor, Tensor]  # inputs (n, inputs, rows, columns), solutions (n, fields, rows, columns)
HELD_OUT = ("val", "test")
MOST = 1_000_000  # samples: each is solved by itself
PROBLEM_KEYS: dict[Name, tuple[str, ...]] = {  # configuration keys that a problem needs; it refuses the others
    "heat": ("diffusion", "boundary"),
    "burgers": ("diffusion",),
    "advection_diffusion": ("diffusion", "speed"),
    "darcy": ("medium",),
    "magneto_thermal": ("diffusion",),
}


class OperatorData:
    """Batches of (inputs, solutions, inputs without solutions) of a problem, see `Batch`.

    Tensors are (B, inputs or fields, rows, columns), float32, on the device. Rows are times or x; lengths and times run
    from 0 to 1. An epoch passes once over the unsolved samples, `batch_size` at a time. Each batch has as many solved
    samples beside them, or all solved samples if there are fewer. Without unsolved samples, an epoch passes over the
    solved ones. The samples depend on `data_seed`; `seed` orders the epochs.

    `diffusion` (viscosity, conductivity) belongs to all problems but Darcy flow, `speed` to advection, `boundary` to
    heat, `medium` to Darcy flow. A key must be null where it does not belong. Raises InputError with the key, the
    value and the expectation if a value is wrong.
    """

    def __init__(
        self,
        *,
        device: torch.device,
        seed: int,
        batch_size: int = 8,
        problem: Name = "burgers",
        diffusion: float | None = 0.05,
        speed: float | None = None,
        boundary: Boundary | None = None,
        medium: Medium | None = None,
        rows: int = 17,
        columns: int = 32,
        n_labelled: int = 20,
        n_unlabelled: int = 300,
        n_val: int = 50,
        n_test: int = 50,
        data_seed: int = 42,
    ) -> None:
        for key, count, least in (
            ("rows", rows, 5),
            ("columns", columns, 5),
            ("n_labelled", n_labelled, 1),
            ("n_unlabelled", n_unlabelled, 0),
            ("n_val", n_val, 1),
            ("n_test", n_test, 1),
        ):
            require(least <= count <= MOST, f"data.{key}", count, f"at least {least} and at most {MOST}")
        self.device, self.seed, self.batch_size = torch.device(device), seed, batch_size
        self.problem = make_problem(problem, diffusion, speed, boundary, medium)
        self.grid = self.problem.grid(rows, columns)
        check_batch_size(batch_size, n_unlabelled or n_labelled)
        check_batch_size(1, n_labelled)
        recipe = Recipe(self.problem, self.grid, n_labelled, n_unlabelled, n_val, n_test, data_seed)
        self.samples = solved(recipe, self.device)

    @property
    def labelled(self) -> Samples:
        """Inputs (n_labelled, inputs, rows, columns) and solutions (n_labelled, fields, rows, columns)."""
        return self.samples.labelled

    def held_out(self, part: str = "val", *, refined: bool = False) -> Samples:
        """Return inputs and solutions of `val` or `test`, on the grid or, if `refined`, on a grid of half its step."""
        return (self.samples.refined if refined else self.samples.held_out)[part]

    def solved(self, split: Split) -> Samples:
        """Return inputs and solutions of a split on the grid; of train, the samples that have solutions."""
        return self.labelled if split == "train" else self.held_out(split)

    def train(self, epoch: int) -> Sequence[Batch]:
        """Return the batches of an epoch, in an order that depends on `seed` and `epoch`."""
        (inputs, fields), unlabelled = self.samples.labelled, self.samples.unlabelled
        if len(unlabelled) == 0:
            orders = self._orders(len(inputs), self.batch_size, epoch)
            return [(inputs[rows], fields[rows], unlabelled) for rows in orders]
        orders = self._orders(len(unlabelled), self.batch_size, epoch)
        cycle = self._cycle(len(inputs), len(orders), epoch)
        return [(inputs[rows], fields[rows], unlabelled[order]) for rows, order in zip(cycle, orders, strict=True)]

    def val(self) -> Sequence[Batch]:
        """Return the validation samples as one batch without unsolved samples."""
        return self._unsolved_left_out("val")

    def test(self) -> Sequence[Batch]:
        """Return the test samples as one batch without unsolved samples."""
        return self._unsolved_left_out("test")

    def _unsolved_left_out(self, part: str) -> Sequence[Batch]:
        inputs, fields = self.held_out(part)
        return [(inputs, fields, inputs[:0])]

    def _orders(self, count: int, batch_size: int, epoch: int, salt: int = 0) -> list[Tensor]:
        return shuffled(count, batch_size, seed=self.seed + salt, epoch=epoch, device=self.device)

    def _cycle(self, count: int, batches: int, epoch: int) -> list[Tensor]:
        """Return indices into the `count` solved samples, one tensor a batch.

        Each pass over the samples has a new order. A last batch that is not full is left out: its samples would weigh
        more than others, and some ranks might get none of them.
        """
        size = min(self.batch_size, count)
        indices: list[Tensor] = []
        turn = 0
        while len(indices) < batches:
            orders = self._orders(count, size, epoch * batches + turn, salt=1 << 20)
            indices += [rows for rows in orders if len(rows) == size]
            turn += 1
        return indices[:batches]


def make_problem(
    name: Name, diffusion: float | None, speed: float | None, boundary: Boundary | None, medium: Medium | None
) -> Problem:
    """Return the problem of a configuration.

    Raises InputError with the key if a value is missing, wrong, or given to a problem that does not use it.
    """
    given_values = {"diffusion": diffusion, "speed": speed, "boundary": boundary, "medium": medium}
    for key, value in given_values.items():
        needed = key in PROBLEM_KEYS[name]
        require(needed or value is None, f"data.{key}", value, f"null: data.problem={name} has none")
        require(not needed or value is not None, f"data.{key}", value, f"a value: data.problem={name} needs one")
    if name == "darcy":
        assert medium
        return Darcy(medium)
    assert diffusion is not None
    require(diffusion > 0, "data.diffusion", diffusion, "above 0")
    if name == "heat":
        return InsulatedHeat(diffusion) if boundary == "insulated" else AdvectionDiffusion(diffusion)
    if name == "advection_diffusion":
        return AdvectionDiffusion(diffusion, speed=speed or 0.0)
    return Burgers(diffusion) if name == "burgers" else MagnetoThermal(diffusion)


@dataclass(frozen=True)
class Recipe:
    """Everything that the samples depend on: the key of the machine-wide cache."""

    problem: Problem
    grid: Grid
    n_labelled: int
    n_unlabelled: int
    n_val: int
    n_test: int
    data_seed: int


@dataclass(frozen=True)
class Solved:
    """Samples of a recipe, float32: training samples with and without solutions, and held-out ones by part."""

    labelled: Samples
    unlabelled: Tensor  # inputs (n_unlabelled, inputs, rows, columns)
    held_out: dict[str, Samples]
    refined: dict[str, Samples]  # the held-out samples on a grid of half the step


@machine_cache
def solved(recipe: Recipe, device: torch.device) -> Solved:
    """Draw and solve the samples of a recipe, once, and keep them on the device.

    Each kind of sample has its own random numbers. A larger number of solved samples begins with the smaller set, and
    does not change the held-out samples.
    """
    problem, grid = recipe.problem, recipe.grid
    fine = grid.refined(2)

    def draw(kind: int, count: int) -> Tensor:
        """Draw the parameters of one kind of sample, (count, parameters)."""
        draws = generator(recipe.data_seed, kind)
        # One at a time, so that a larger set begins with the smaller one.
        parameters = [problem.draw(1, draws) for _ in range(count)]
        return torch.cat(parameters) if parameters else problem.draw(1, draws)[:0]

    def place(*parts: Tensor) -> tuple[Tensor, ...]:
        """Copy tensors to the device as float32."""
        return tuple(part.float().to(device) for part in parts)

    drawn = draw(0, recipe.n_labelled)
    inputs, fields, unlabelled = place(
        problem.inputs(drawn, grid), problem.solve(drawn, grid), problem.inputs(draw(1, recipe.n_unlabelled), grid)
    )
    held_out, refined = {}, {}
    for kind, name in enumerate(HELD_OUT, start=2):
        drawn = draw(kind, recipe.n_val if name == "val" else recipe.n_test)
        exact = problem.solve(drawn, fine)
        coarse = exact[..., ::2, ::2]
        held_inputs, fine_inputs, solutions, fine_solutions = place(
            problem.inputs(drawn, grid), problem.inputs(drawn, fine), coarse, exact
        )
        held_out[name], refined[name] = (held_inputs, solutions), (fine_inputs, fine_solutions)
    return Solved((inputs, fields), unlabelled, held_out, refined)
