"""A weighted sum of losses whose weights may follow the losses, so that no term drowns the others."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from gatesweep.core.distributed import sum_over_ranks, world_size

Mode = Literal["fixed", "running", "gradient", "uncertainty"]
SMALLEST, LARGEST = 1e-4, 1e4  # of an adaptive factor


class Balance(nn.Module):
    """Sums named losses; the first is the data term.

    Each term has the weight given, times a factor that depends on `mode`:
    * fixed: 1.
    * running: what the data term has been over what this term has been, in running means of magnitudes.
    * gradient: the same of the norms of their gradients with respect to the predicted `output`: each term then pulls
      at the prediction as hard as its weight says. After Chen et al., arXiv:1711.02257, and Wang et al.,
      arXiv:2001.04536.
    * uncertainty: exp(-s) with a learned log variance s, which is added to the sum. The data term has one too; a weight
      says where a term starts, not where it ends. Source: Kendall et al., arXiv:1705.07115.

    In the first three modes the data term keeps its weight. Running statistics take in `momentum` of each batch in
    training mode; they are buffers, and equal on all ranks. Terms of weight 0 are left out.
    """

    weight: Tensor  # (terms,) and so is `running`
    running: Tensor
    seen: Tensor

    def __init__(self, weights: dict[str, float], mode: Mode = "fixed", momentum: float = 0.1) -> None:
        super().__init__()
        self.names, self.mode, self.momentum = list(weights), mode, momentum
        # No part of the state: a copied trial's own weights win; a buffer, for a stack's members differ in it.
        self.register_buffer("weight", torch.tensor(list(weights.values()), dtype=torch.float32), persistent=False)
        if mode in ("running", "gradient"):
            self.register_buffer("running", torch.ones(len(weights)))
            self.register_buffer("seen", torch.zeros(()))  # 1 once `running` holds a batch
        if mode == "uncertainty":
            self.log_variance = nn.Parameter(torch.zeros(len(weights)))

    def forward(self, losses: dict[str, Tensor], *output: Tensor) -> Tensor:
        """The sum of scalar losses, one for each weight; `output` is what was predicted, for mode `gradient`."""
        assert list(losses) == self.names, f"losses {list(losses)}, weights {self.names}"
        values = torch.stack([loss.float() for loss in losses.values()])
        if self.mode in ("running", "gradient") and self.training and torch.is_grad_enabled():
            self._follow(self._size(values) if self.mode == "running" else self._pull(values, output))
        total = (self.factors() * self.weight * values).sum()
        if self.mode == "uncertainty":
            total = total + (self.log_variance * (self.weight > 0)).sum()
        return total

    def factors(self) -> Tensor:
        """(terms,): what multiplies the given weights now."""
        if self.mode == "fixed":
            return torch.ones_like(self.weight)
        if self.mode == "uncertainty":
            return (-self.log_variance).exp()
        # A term that does not touch the output has no gradient there, and keeps its weight.
        known = torch.where(self.running > 0, self.running, self.running[0])
        return (self.running[0] / known.clamp(min=1e-30)).clamp(SMALLEST, LARGEST)

    @torch.no_grad()
    def weights(self) -> dict[str, Tensor]:
        """By name, the weight that each term has now: scalars on the device."""
        return dict(zip(self.names, self.factors() * self.weight, strict=True))

    def _size(self, values: Tensor) -> Tensor:
        """(terms,): the magnitude of each loss, averaged over ranks."""
        found = values.detach().clone()
        sum_over_ranks(found)
        return (found / world_size()).abs()

    def _pull(self, values: Tensor, output: tuple[Tensor, ...]) -> Tensor:
        """(terms,): the norm of each loss's gradient with respect to the output: a backward pass to there for each.

        The output of the whole batch: of its parts on the ranks, squares add up.
        """
        assert output, "mode gradient needs the predicted output"
        squared = []
        for value in values.unbind():
            slopes = torch.autograd.grad(value, output, retain_graph=True, allow_unused=True)
            squares = [slope.detach().float().square().sum() for slope in slopes if slope is not None]
            squared.append(torch.stack(squares).sum() if squares else torch.zeros_like(value))
        found = torch.stack(squared)
        sum_over_ranks(found)
        return found.sqrt() / world_size()

    @torch.no_grad()
    def _follow(self, found: Tensor) -> None:
        # The first batch as it is; copies in place, for a stack's members see their own part of the buffers.
        self.running.copy_(torch.where(self.seen > 0, torch.lerp(self.running, found, self.momentum), found))
        self.seen.fill_(1.0)
