"""A Fourier neural operator taught by few solutions and by the equations that all solutions obey."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gatesweep.core.data import require
from gatesweep.core.trainable import Data, Losses, Metrics, Trainable
from gatesweep.trainables.operators import figures, metrics
from gatesweep.trainables.operators.balance import Balance, Mode
from gatesweep.trainables.operators.data import Batch, OperatorData
from gatesweep.trainables.operators.derivatives import (
    Derivatives,
    OfField,
    OfNetwork,
    Residual,
    Stencils,
    interior,
    relative_l2,
)
from gatesweep.trainables.operators.fno import FNO, check_modes
from gatesweep.trainables.operators.resolution import Resolution
from gatesweep.trainables.operators.uncertainty import coverage_error, gaussian_nll, kl_standard_normal

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class PhysicsOperator(Trainable):
    """Relative L2 error on solved samples, and squared residuals of the equations on all of them.

    What is given (an initial condition, a boundary) is built in. `residual` says how the network is differentiated:
    `spectral` along periodic axes and by central differences along others, by differences everywhere, through the
    network's last layers (`autograd`), or not at all. `weight_conservation` is of the squared drift of what the problem
    conserves and of the squared growth of what can only fall; `weight_boundary` of boundary conditions that are not
    built in. With `variational`, each value has a variance of its own, taught by the likelihood of solved samples
    (`weight_likelihood`) and by its divergence from N(0, 1) in units of the solutions' spread (`weight_kl`).
    Residuals are in units of the rate of change in solved samples. Source: Li et al., arXiv:2111.03794.
    """

    stackable = frozenset(
        {
            *("lr", "weight_decay", "weight_physics", "weight_conservation", "weight_boundary"),
            *("weight_likelihood", "weight_kl"),
        }
    )
    input_mean: Tensor  # (inputs, 1, 1) and so is `input_std`
    input_std: Tensor
    spread: Tensor  # (fields, 1, 1): of what the network is to answer
    rate: Tensor  # (fields,): the unit of residuals

    def __init__(
        self,
        data: OperatorData,
        *,
        width: int = 16,
        layers: int = 3,
        modes_rows: int = 6,
        modes_columns: int = 8,
        residual: Residual = "spectral",
        weight_physics: float = 1.0,
        weight_conservation: float = 10.0,
        weight_boundary: float = 0.1,
        variational: bool = False,
        weight_likelihood: float = 0.01,
        weight_kl: float = 1e-3,
        balance: Mode = "fixed",
        double_every: int = 4,
        lr: float = 1e-2,
        weight_decay: float = 1e-5,
    ) -> None:
        super().__init__(lr=lr, weight_decay=weight_decay)
        problem, modes = data.problem, (modes_rows, modes_columns)
        for field, size in (("width", width), ("layers", layers), ("double_every", double_every)):
            require(size >= 1, f"trainable.{field}", size, "at least 1")
        for field, (mode, most) in check_modes(modes, data.grid).items():
            require(1 <= mode <= most, f"trainable.{field}", mode, f"1 to {most}, what the grid of the data resolves")
        expected = "spectral, finite_difference or none: the medium jumps, and only fluxes have derivatives there"
        require(problem.differentiable or residual != "autograd", "trainable.residual", residual, expected)
        weights = {
            "data": 1.0,
            "physics": weight_physics,
            "conservation": weight_conservation,
            "boundary": weight_boundary,
            "likelihood": weight_likelihood,
            "kl": weight_kl,
        }
        for term, weight in weights.items():
            require(weight >= 0, f"trainable.weight_{term}", weight, "at least 0")
        self.problem, self.residual, self.variational, self.double_every = problem, residual, variational, double_every
        self.fields, self.modes_columns = len(problem.fields), modes_columns
        self.coarse = Resolution(problem, data.grid, modes)
        self.fine = Resolution(problem, data.grid.refined(2), modes)  # only judged on
        self.stencils = Stencils(data.grid, residual)
        inputs, solutions = data.labelled
        self.network = FNO(
            inputs.shape[1],
            self.fields * (2 if variational else 1),
            coordinates=len(self.coarse.coordinates),
            width=width,
            modes=modes,
            layers=layers,
        )
        self._measure(inputs, solutions)
        absent = set() if variational else {"likelihood", "kl"}
        if residual == "none":
            absent |= {"physics"}
        if not problem.edged:
            absent |= {"boundary"}
        self.balance = Balance({term: weight for term, weight in weights.items() if term not in absent}, balance)

    @torch.no_grad()
    def _measure(self, inputs: Tensor, solutions: Tensor) -> None:
        """Scales, from the solved samples."""
        over = (0, 2, 3)
        self.to(inputs.device)
        rate = self.problem.rate(inputs, OfField(solutions, self.coarse.stencils))
        self.register_buffer("spread", torch.ones_like(solutions[0, :, :1, :1]))
        for name, value in {
            "input_mean": inputs.mean(dim=over)[:, None, None],
            "input_std": inputs.std(dim=over).clamp(min=1e-6)[:, None, None],
            "spread": self.answer(inputs, solutions).square().mean(dim=over).sqrt().clamp(min=1e-6)[:, None, None],
            "rate": rate.square().mean(dim=over).sqrt().clamp(min=1e-6),
        }.items():
            self.register_buffer(name, value)

    def answer(self, inputs: Tensor, fields: Tensor) -> Tensor:
        """What the network has to say for these fields, where they are not given: of spread 1."""
        free, problem = self.problem.free, self.problem
        return free(fields - problem.base(inputs)) / (free(self.coarse.envelope) * self.spread)

    def predict(
        self, inputs: Tensor, at: Resolution, stencils: Stencils | None = None
    ) -> tuple[Derivatives, Tensor | None]:
        """Fields (B, fields, rows, columns) that can be differentiated, and the log variances of `answer`, if any."""
        given, stencils = (inputs - self.input_mean) / self.input_std, stencils or at.stencils
        hidden = self.network.hidden(given, at.coordinates, at.transform, self.recomputed)
        with torch.autocast(inputs.device.type, enabled=False):  # differences of fields lose what bf16 has
            hidden, base = hidden.float(), self.problem.base(inputs)
            of: Derivatives
            if self.residual == "autograd":
                through = OfNetwork(hidden, self.network, base, at.envelope, self.spread, stencils)
                of, output = through, through.output
            else:
                output = self.network.project(hidden)
                of = OfField(base + at.envelope * self.spread * output[:, : self.fields], stencils)
            return of, self.problem.free(output[:, self.fields :]).clamp(-12, 4) if self.variational else None

    def forward(self, batch: Batch) -> Losses:
        solved, exact, unsolved = batch
        inputs = torch.cat([solved, unsolved])
        of, log_variance = self.predict(inputs, self.coarse, self.stencils)
        with torch.autocast(inputs.device.type, enabled=False):
            terms = {"data": relative_l2(of.values[: len(solved)], exact).mean()}
            if self.residual != "none":
                left = interior(self.problem.residual(inputs, of), self.coarse.grid) / self.rate[:, None, None]
                terms["physics"] = left.square().mean()
            terms["conservation"] = self._conservation(inputs, of)
            edge = self.problem.edge(of)
            if edge is not None:
                terms["boundary"] = edge.square().mean()
            if log_variance is not None:
                mean, known = self.answer(inputs, of.values), log_variance[: len(solved)]
                terms["likelihood"] = gaussian_nll(mean[: len(solved)], known, self.answer(solved, exact))
                terms["kl"] = kl_standard_normal(mean, log_variance)
            return {"loss": self.balance(terms, of.values), **terms}

    def _conservation(self, inputs: Tensor, of: Derivatives) -> Tensor:
        weights = self.coarse.weights
        broken = self.problem.drift(inputs, of, weights).square().mean()
        energy = self.problem.energy(of.values, weights)
        if energy is None:
            return broken
        return broken + (energy.diff(dim=1).clamp(min=0) / energy[:, :1]).square().mean()

    @torch.no_grad()
    def evaluate(self, data: Data, part: str = "val") -> Metrics:
        assert isinstance(data, OperatorData)
        inputs, exact = data.held_out(part)
        of, log_variance = self.predict(inputs, self.coarse)
        found = self._judged(self.coarse, inputs, of.values, exact)
        if log_variance is not None:
            mean, target = (self.answer(inputs, fields) for fields in (of.values, exact))
            found["coverage_error"] = coverage_error(mean, log_variance, target)
        if self.due(self.double_every):
            found |= self._doubled(data, part, lambda inputs: self.predict(inputs, self.fine)[0].values)
        return found

    def _judged(self, at: Resolution, inputs: Tensor, fields: Tensor, exact: Tensor) -> Metrics:
        with torch.autocast(inputs.device.type, enabled=False):
            return metrics.solution(self.problem, at, inputs, fields.float(), exact, self.rate)

    def _doubled(self, data: OperatorData, part: str, answer: Callable[[Tensor], Tensor]) -> Metrics:
        """The same on a grid of half the step, which training has never seen."""
        inputs, exact = data.held_out(part, refined=True)
        found = self._judged(self.fine, inputs, answer(inputs), exact)
        return {f"{name}_double": found[name] for name in ("rel_l2", "residual_ratio")}

    def oracle(self, data: Data) -> Metrics:
        """The exact solutions, with the residual that they have on the grid."""
        assert isinstance(data, OperatorData)
        inputs, exact = data.held_out()
        refined = data.held_out(refined=True)[1]
        return self._judged(self.coarse, inputs, exact, exact) | self._doubled(data, "val", lambda inputs: refined)

    def trivial(self, data: Data) -> Metrics:
        """Nothing happens: the initial condition for ever; where nothing evolves, the mean of the solved samples."""
        assert isinstance(data, OperatorData)
        inputs, exact = data.held_out()
        if self.problem.evolves:
            return self._judged(self.coarse, inputs, self.problem.base(inputs), exact) | self._doubled(
                data, "val", self.problem.base
            )
        mean = data.labelled[1].mean(dim=0)
        return self._judged(self.coarse, inputs, mean.expand_as(exact), exact) | self._doubled(
            data, "val", lambda inputs: _between(mean, self.fine.grid.shape).expand(len(inputs), -1, -1, -1)
        )

    def figures(self, data: Data) -> dict[str, Callable[[], Figure]]:
        assert isinstance(data, OperatorData)
        return {
            "fields": lambda: figures.draw_fields(self, data),
            "spectrum": lambda: figures.draw_spectrum(self, data),
        }


def _between(fields: Tensor, shape: tuple[int, int]) -> Tensor:
    """Fields (fields, rows, columns) with both ends on a finer grid, linearly."""
    return torch.nn.functional.interpolate(fields[None], size=shape, mode="bilinear", align_corners=True)[0]
