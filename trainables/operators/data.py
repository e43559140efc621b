"""What operators learn from: few solved samples, many unsolved ones, and held-out ones on two grids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gatesweep.core.cache import machine_cache
from gatesweep.core.data import check_batch_size, generator, require, shuffled
from gatesweep.trainables.operators.darcy import Darcy, Medium
from gatesweep.trainables.operators.grid import Grid
from gatesweep.trainables.operators.magneto_thermal import MagnetoThermal
from gatesweep.trainables.operators.problems import AdvectionDiffusion, Boundary, Burgers, InsulatedHeat, Name, Problem

Batch = tuple[Tensor, Tensor, Tensor]  # inputs of solved samples, their solutions, inputs of unsolved ones
Samples = tuple[Tensor, Tensor]  # inputs (n, inputs, rows, columns), solutions (n, fields, rows, columns)
HELD_OUT = ("val", "test")


@dataclass(frozen=True)
class Recipe:
    """All that the samples depend on."""

    problem: Problem
    grid: Grid
    n_labelled: int
    n_unlabelled: int
    n_val: int
    n_test: int
    data_seed: int


@dataclass(frozen=True)
class Solved:
    labelled: Samples
    unlabelled: Tensor
    held_out: dict[str, Samples]
    refined: dict[str, Samples]  # the held-out samples on a grid of half the step


@machine_cache
def solved(recipe: Recipe, device: torch.device) -> Solved:
    """The samples of a recipe, drawn and solved once and kept on the device.

    Each kind of sample has random numbers of its own: more labelled ones leave the held-out ones as they are, and begin
    with the fewer.
    """
    problem, grid = recipe.problem, recipe.grid
    fine = grid.refined(2)

    def draw(kind: int, count: int) -> Tensor:
        draws = generator(recipe.data_seed, kind)
        one_by_one = [problem.draw(1, draws) for _ in range(count)]  # so that more samples begin with the fewer
        return torch.cat(one_by_one) if one_by_one else problem.draw(1, draws)[:0]

    def place(*parts: Tensor) -> tuple[Tensor, ...]:
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
        *given, known, known_fine = place(problem.inputs(drawn, grid), problem.inputs(drawn, fine), coarse, exact)
        held_out[name], refined[name] = (given[0], known), (given[1], known_fine)
    return Solved((inputs, fields), unlabelled, held_out, refined)


ASKED: dict[Name, tuple[str, ...]] = {  # what each problem needs to know
    "heat": ("diffusion", "boundary"),
    "burgers": ("diffusion",),
    "advection_diffusion": ("diffusion", "speed"),
    "darcy": ("medium",),
    "magneto_thermal": ("diffusion",),
}


def make_problem(
    name: Name, diffusion: float | None, speed: float | None, boundary: Boundary | None, medium: Medium | None
) -> Problem:
    """Raise ValueError where a problem lacks what it needs, or is given what it has not got."""
    given = {"diffusion": diffusion, "speed": speed, "boundary": boundary, "medium": medium}
    for field, value in given.items():
        asked = field in ASKED[name]
        require(asked or value is None, f"data.{field}", value, f"null: data.problem={name} has none")
        require(not asked or value is not None, f"data.{field}", value, f"a value: data.problem={name} needs one")
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


class OperatorData:
    """Batches of inputs and solutions (B, inputs or fields, rows, columns) of a problem, and of inputs alone.

    `diffusion` (viscosity, conductivity) is that of all problems but Darcy flow, `speed` that of advection, `boundary`
    that of heat, `medium` that of Darcy flow; elsewhere they are null. Rows are times, or x; lengths and times run from
    0 to 1. An epoch passes over the unsolved samples, `batch_size` of them at a time, beside as many solved ones, or
    all of them where there are fewer; without unsolved samples, over the solved ones. The samples depend on
    `data_seed`; `seed` orders the epochs.
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
        for field, count, least in (
            ("rows", rows, 5),
            ("columns", columns, 5),
            ("n_labelled", n_labelled, 1),
            ("n_unlabelled", n_unlabelled, 0),
            ("n_val", n_val, 1),
            ("n_test", n_test, 1),
        ):
            require(count >= least, f"data.{field}", count, f"at least {least}")
        self.device, self.seed, self.batch_size = torch.device(device), seed, batch_size
        self.problem = make_problem(problem, diffusion, speed, boundary, medium)
        self.grid = self.problem.grid(rows, columns)
        check_batch_size(batch_size, n_unlabelled or n_labelled)
        check_batch_size(1, n_labelled)
        recipe = Recipe(self.problem, self.grid, n_labelled, n_unlabelled, n_val, n_test, data_seed)
        self.samples = solved(recipe, self.device)

    @property
    def labelled(self) -> Samples:
        return self.samples.labelled

    def held_out(self, part: str = "val", *, refined: bool = False) -> Samples:
        """The samples of `val` or `test`, on the grid or on one of half its step."""
        return (self.samples.refined if refined else self.samples.held_out)[part]

    def train(self, epoch: int) -> Sequence[Batch]:
        (inputs, fields), unlabelled = self.samples.labelled, self.samples.unlabelled
        if len(unlabelled) == 0:
            orders = self._orders(len(inputs), self.batch_size, epoch)
            return [(inputs[rows], fields[rows], unlabelled) for rows in orders]
        orders = self._orders(len(unlabelled), self.batch_size, epoch)
        known = self._cycle(len(inputs), len(orders), epoch)
        return [(inputs[rows], fields[rows], unlabelled[more]) for rows, more in zip(known, orders, strict=True)]

    def val(self) -> Sequence[Batch]:
        inputs, fields = self.held_out()
        return [(inputs, fields, inputs[:0])]

    def _orders(self, count: int, batch_size: int, epoch: int, salt: int = 0) -> list[Tensor]:
        return shuffled(count, batch_size, seed=self.seed + salt, epoch=epoch, device=self.device)

    def _cycle(self, count: int, batches: int, epoch: int) -> list[Tensor]:
        """Indices into the solved samples for so many batches, in a new order each time they are through.

        What is left of an order is left out: a small batch would weigh as much as others, and have none for some ranks.
        """
        size = min(self.batch_size, count)
        found: list[Tensor] = []
        turn = 0
        while len(found) < batches:
            orders = self._orders(count, size, epoch * batches + turn, salt=1 << 20)
            found += [rows for rows in orders if len(rows) == size]
            turn += 1
        return found[:batches]
