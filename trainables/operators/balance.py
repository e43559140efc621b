"""A weighted sum of losses whose weights may adapt to the losses, so that no term dominates the others."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from gatesweep.core.distributed import sum_over_ranks, world_size

Mode = Literal["fixed", "running", "gradient", "uncertainty"]
SMALLEST, LARGEST = 1e-4, 1e4  # limits of an adaptive factor


class Balance(nn.Module):
    """Sum of named losses; the first one is the data term.

    Each term has its given weight times a factor that depends on `mode`:
    * fixed: 1.
    * running: the running mean of the data term's magnitude over that of this term.
    * gradient: the same ratio for the norms of their gradients with respect to the predicted `output`. Each term then
      changes the prediction in proportion to its weight. Sources: Chen et al., arXiv:1711.02257; Wang et al.,
      arXiv:2001.04536.
    * uncertainty: exp(-s), where s is a learned log variance that is added to the sum. The data term has an s too. The
      given weight is then only the starting value. Source: Kendall et al., arXiv:1705.07115.

    In the first three modes the data term keeps its weight. Running means take the fraction `momentum` of each batch in
    training mode. They are buffers and equal on all ranks, at the cost of one collective a batch. Terms of weight 0 add
    nothing.
    """

    weight: Tensor  # (terms,)
    running: Tensor  # (terms,)
    seen: Tensor  # scalar: 1 once `running` holds a batch, else 0

    def __init__(self, weights: dict[str, float], mode: Mode = "fixed", momentum: float = 0.1) -> None:
        super().__init__()
        self.names, self.mode, self.momentum = list(weights), mode, momentum
        # A buffer, because the members of a stack differ in it. Not part of the state: a trial that continues from
        # another trial's checkpoint keeps its own weights.
        self.register_buffer("weight", torch.tensor(list(weights.values()), dtype=torch.float32), persistent=False)
        if mode in ("running", "gradient"):
            self.register_buffer("running", torch.ones(len(weights)))
            self.register_buffer("seen", torch.zeros(()))
        if mode == "uncertainty":
            self.log_variance = nn.Parameter(torch.zeros(len(weights)))

    def forward(self, losses: dict[str, Tensor], *output: Tensor) -> Tensor:
        """Return the sum of scalar losses, one for each weight, a scalar.

        `output` holds the predicted tensors that the losses were computed from; only mode `gradient` needs them.
        """
        assert list(losses) == self.names, f"losses {list(losses)}, weights {self.names}"
        values = torch.stack([loss.float() for loss in losses.values()])
        if self.mode in ("running", "gradient") and self.training and torch.is_grad_enabled():
            magnitudes = self._magnitudes(values) if self.mode == "running" else self._gradient_norms(values, output)
            self._update_running(magnitudes)
        total = (self.factors() * self.weight * values).sum()
        if self.mode == "uncertainty":
            total = total + (self.log_variance * (self.weight > 0)).sum()
        return total

    def factors(self) -> Tensor:
        """Return the current factors of the given weights, (terms,)."""
        if self.mode == "fixed":
            return torch.ones_like(self.weight)
        if self.mode == "uncertainty":
            return (-self.log_variance).exp()
        # A term that does not depend on the output has no gradient there, and keeps its weight.
        reference = torch.where(self.running > 0, self.running, self.running[0])
        return (self.running[0] / reference.clamp(min=1e-30)).clamp(SMALLEST, LARGEST)

    @torch.no_grad()
    def weights(self) -> dict[str, Tensor]:
        """Return the current weight of each term by name, scalars on the device."""
        return dict(zip(self.names, self.factors() * self.weight, strict=True))

    def _magnitudes(self, values: Tensor) -> Tensor:
        """Return the magnitude of each loss, averaged over ranks, (terms,). One collective."""
        losses = values.detach().clone()
        sum_over_ranks(losses)
        return (losses / world_size()).abs()

    def _gradient_norms(self, values: Tensor, output: tuple[Tensor, ...]) -> Tensor:
        """Return the norm of each loss's gradient with respect to the output of the whole batch, (terms,).

        It costs one backward pass per term, as far as the output, and one collective: each rank has a part of the
        output, and the squares of the parts add up.
        """
        assert output, "mode gradient needs the predicted output"
        squared = []
        for value in values.unbind():
            gradients = torch.autograd.grad(value, output, retain_graph=True, allow_unused=True)
            squares = [gradient.detach().float().square().sum() for gradient in gradients if gradient is not None]
            squared.append(torch.stack(squares).sum() if squares else torch.zeros_like(value))
        squared_norms = torch.stack(squared)
        sum_over_ranks(squared_norms)
        return squared_norms.sqrt() / world_size()

    @torch.no_grad()
    def _update_running(self, magnitudes: Tensor) -> None:
        # The first batch counts in full. Copies are in place, because a stack's members see their part of the buffers.
        self.running.copy_(torch.where(self.seen > 0, torch.lerp(self.running, magnitudes, self.momentum), magnitudes))
        self.seen.fill_(1.0)
