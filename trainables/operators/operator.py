"""A Fourier neural operator that learns from few solutions and from the equations that all solutions obey."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gatesweep.core.data import check_size, require
from gatesweep.core.trainable import Data, Losses, Metrics, Split, Trainable
from gatesweep.trainables.operators import figures, metrics
from gatesweep.trainables.operators.balance import Balance, Mode
from gatesweep.trainables.operators.data import Batch, OperatorData
from gatesweep.trainables.operators.derivatives import (
    DifferentiableField,
    GridField,
    NetworkField,
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
    """Fourier neural operator trained on the relative L2 error of solved samples and on residuals of all samples.

    The loss has up to six terms, balanced by `balance` (see `Balance`):
    * data: relative L2 error of solved samples, weight 1.
    * physics (`weight_physics`): mean square residual of the equations, in units of the rms rate of change in solved
      samples.
    * conservation (`weight_conservation`): mean square drift of the conserved quantity, plus the mean square growth of
      a quantity that may only fall.
    * boundary (`weight_boundary`): mean square residual of boundary conditions that are not built in.
    * likelihood (`weight_likelihood`): negative log likelihood of solved samples. Only with `variational`, where the
      network predicts a variance for each value.
    * kl (`weight_kl`): divergence of the predictions from N(0, 1), in units of the solutions' spread. Only with
      `variational`.

    The initial condition, or the value 0 on the boundary, is built into the prediction. `residual` chooses the
    derivatives in the loss: `spectral` (on periodic axes, finite differences on others), `finite_difference`,
    `autograd` (through the network's last layers), or `none`. Every `double_every` epochs the evaluation adds metrics
    `*_double` on a grid of half the step, which training never uses. Source: Li et al., arXiv:2111.03794.

    Raises InputError with the key, the value and the expectation if a hyperparameter is wrong.
    """

    stackable = frozenset(
        {
            *("lr", "weight_decay", "weight_physics", "weight_conservation", "weight_boundary"),
            *("weight_likelihood", "weight_kl"),
        }
    )
    input_mean: Tensor  # (inputs, 1, 1)
    input_std: Tensor  # (inputs, 1, 1)
    spread: Tensor  # (fields, 1, 1): rms of the network's exact output
    rate: Tensor  # (fields,): rms rate of change, the unit of residuals

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
        for key, size in (("width", width), ("layers", layers), ("double_every", double_every)):
            check_size(f"trainable.{key}", size)
        for key, (mode, limit) in check_modes(modes, data.grid).items():
            require(1 <= mode <= limit, f"trainable.{key}", mode, f"1 to {limit}, what the grid of the data resolves")
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
        self.fine = Resolution(problem, data.grid.refined(2), modes)  # for evaluation only
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
        self._register_scales(inputs, solutions)
        absent = self._absent_terms()
        self.balance = Balance({term: weight for term, weight in weights.items() if term not in absent}, balance)

    def forward(self, batch: Batch) -> Losses:
        """Return the loss of a batch and its terms, scalars."""
        solved, exact, unsolved = batch
        inputs = torch.cat([solved, unsolved])
        field, log_variance = self.predict(inputs, self.coarse, self.stencils)
        with torch.autocast(inputs.device.type, enabled=False):
            terms = {"data": relative_l2(field.values[: len(solved)], exact).mean()}
            if self.residual != "none":
                terms["physics"] = self._residual(inputs, field).square().mean()
            terms["conservation"] = self._conservation(inputs, field)
            edge = self.problem.edge(field)
            if edge is not None:
                terms["boundary"] = edge.square().mean()
            if log_variance is not None:
                mean, solved_variance = self.answer(inputs, field.values), log_variance[: len(solved)]
                terms["likelihood"] = gaussian_nll(mean[: len(solved)], solved_variance, self.answer(solved, exact))
                terms["kl"] = kl_standard_normal(mean, log_variance)
            return {"loss": self.balance(terms, field.values), **terms}

    def answer(self, inputs: Tensor, fields: Tensor) -> Tensor:
        """Return the network output, in units of `spread`, that would predict these fields (B, fields, rows, columns).

        Points where the fields are given are left out, see `Problem.free`.
        """
        free, problem = self.problem.free, self.problem
        return free(fields - problem.base(inputs)) / (free(self.coarse.envelope) * self.spread)

    def predict(
        self, inputs: Tensor, at: Resolution, stencils: Stencils | None = None
    ) -> tuple[DifferentiableField, Tensor | None]:
        """Predict fields (B, fields, rows, columns) from inputs (B, inputs, rows, columns) on the grid of `at`.

        `stencils` differentiate the fields; those of `at` by default. With `variational` the second result has the log
        variances of `answer` of the fields; otherwise it is None.
        """
        normalised, stencils = (inputs - self.input_mean) / self.input_std, stencils or at.stencils
        hidden = self.network.hidden(normalised, at.coordinates, at.transform, self.recomputed)
        with torch.autocast(inputs.device.type, enabled=False):  # differences of fields need more bits than bf16 has
            hidden, base = hidden.float(), self.problem.base(inputs)
            field: DifferentiableField
            if self.residual == "autograd":
                through = NetworkField(hidden, self.network, base, at.envelope, self.spread, stencils)
                field, output = through, through.output
            else:
                output = self.network.project(hidden)
                field = GridField(base + at.envelope * self.spread * output[:, : self.fields], stencils)
            return field, self.problem.free(output[:, self.fields :]).clamp(-12, 4) if self.variational else None

    @torch.no_grad()
    def evaluate(self, data: Data, split: Split = "val") -> Metrics:
        """Return the metrics of a split, see `metrics.solution`; of train, on the samples with solutions.

        With `variational` there is also `coverage_error`. The metrics `*_double` on the finer grid are there only when
        they are due, every `double_every` epochs, and not for train.
        """
        assert isinstance(data, OperatorData)
        inputs, exact = data.solved(split)
        field, log_variance = self.predict(inputs, self.coarse)
        judged = self._judged(self.coarse, inputs, field.values, exact)
        if log_variance is not None:
            mean, target = (self.answer(inputs, fields) for fields in (field.values, exact))
            judged["coverage_error"] = coverage_error(mean, log_variance, target)
        if split != "train" and self.due(self.double_every):
            judged |= self._doubled(data, split, lambda inputs: self.predict(inputs, self.fine)[0].values)
        return judged

    def oracle(self, data: Data) -> Metrics:
        """Return the metrics of the exact solutions, which have a small residual on the grid."""
        assert isinstance(data, OperatorData)
        inputs, exact = data.held_out()
        refined = data.held_out(refined=True)[1]
        return self._judged(self.coarse, inputs, exact, exact) | self._doubled(data, "val", lambda inputs: refined)

    def trivial(self, data: Data) -> Metrics:
        """Return the metrics of the initial condition at all times, or for Darcy flow of the mean solved sample."""
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

    def figures(self, data: Data, split: Split = "val") -> dict[str, Callable[[], Figure]]:
        """Return the figures `fields` and `spectrum` of a split's samples, drawn when called."""
        assert isinstance(data, OperatorData)
        return {
            "fields": lambda: self._draw_fields(data, split),
            "spectrum": lambda: self._draw_spectrum(data, split),
        }

    def _absent_terms(self) -> set[str]:
        """Return the terms that the loss of this problem and these settings does not have."""
        absent = set() if self.variational else {"likelihood", "kl"}
        if self.residual == "none":
            absent |= {"physics"}
        if not self.problem.edged:
            absent |= {"boundary"}
        return absent

    @torch.no_grad()
    def _register_scales(self, inputs: Tensor, solutions: Tensor) -> None:
        """Register the units of inputs, outputs and residuals as buffers, measured on solved samples."""
        over = (0, 2, 3)
        self.to(inputs.device)
        rate = self.problem.rate(inputs, GridField(solutions, self.coarse.stencils))
        self.register_buffer("spread", torch.ones_like(solutions[0, :, :1, :1]))
        for name, value in {
            "input_mean": inputs.mean(dim=over)[:, None, None],
            "input_std": inputs.std(dim=over).clamp(min=1e-6)[:, None, None],
            "spread": self.answer(inputs, solutions).square().mean(dim=over).sqrt().clamp(min=1e-6)[:, None, None],
            "rate": rate.square().mean(dim=over).sqrt().clamp(min=1e-6),
        }.items():
            self.register_buffer(name, value)

    def _residual(self, inputs: Tensor, field: DifferentiableField) -> Tensor:
        """Return the residual at inner points of the coarse grid, in units of the rate of change."""
        return interior(self.problem.residual(inputs, field), self.coarse.grid) / self.rate[:, None, None]

    def _conservation(self, inputs: Tensor, field: DifferentiableField) -> Tensor:
        weights = self.coarse.weights
        broken = self.problem.drift(inputs, field, weights).square().mean()
        energy = self.problem.energy(field.values, weights)
        if energy is None:
            return broken
        return broken + (energy.diff(dim=1).clamp(min=0) / energy[:, :1]).square().mean()

    def _judged(self, at: Resolution, inputs: Tensor, fields: Tensor, exact: Tensor) -> Metrics:
        with torch.autocast(inputs.device.type, enabled=False):
            return metrics.solution(self.problem, at, inputs, fields.float(), exact, self.rate)

    def _doubled(self, data: OperatorData, part: str, answer: Callable[[Tensor], Tensor]) -> Metrics:
        """Return two of the metrics on a grid of half the step, which training has never seen."""
        inputs, exact = data.held_out(part, refined=True)
        judged = self._judged(self.fine, inputs, answer(inputs), exact)
        return {f"{name}_double": judged[name] for name in ("rel_l2", "residual_ratio")}

    @torch.no_grad()
    def _draw_fields(self, data: OperatorData, split: Split) -> Figure:
        inputs, exact = (part[: figures.SHOWN] for part in data.solved(split))
        field = GridField(self.predict(inputs, self.coarse)[0].values, self.coarse.stencils)
        return figures.draw_fields(data.problem, exact, field.values, self._residual(inputs, field))

    @torch.no_grad()
    def _draw_spectrum(self, data: OperatorData, split: Split) -> Figure:
        inputs, exact = data.solved(split)
        predicted = self.predict(inputs, self.coarse)[0].values
        return figures.draw_spectrum(data.problem, exact, predicted, self.modes_columns)


def _between(fields: Tensor, shape: tuple[int, int]) -> Tensor:
    """Interpolate fields (fields, rows, columns) linearly to a finer grid; both grids include the ends."""
    return torch.nn.functional.interpolate(fields[None], size=shape, mode="bilinear", align_corners=True)[0]
