"""How well tokens are reconstructed, in units of their spread and in those that a person measures in."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gatesweep.core.distributed import mean_count
from gatesweep.core.trainable import Metrics, to_host
from gatesweep.trainables.autoencoders.data import EventData, TokenData


def masked_mse(reconstructed: Tensor, features: Tensor, ids: Tensor, count: Tensor | None = None) -> Tensor:
    """The mean squared error of standardised features (B, T, F) over the tokens that are none of the padding.

    The mean of every feature over the training tokens has 1. `count` is as for `masked_mean`.
    """
    return masked_mean((reconstructed.float() - features).square().mean(dim=-1), ids > 0, count)


def masked_mean(values: Tensor, mask: Tensor, count: Tensor | None = None) -> Tensor:
    """The mean of values (B, T) where the mask holds, over the whole batch, of which this rank may have a part.

    `count` is `mean_count` of the mask's numbers, for whoever needs it more often than once.
    """
    present = mask.float()
    return (values * present).sum() / (mean_count(present) if count is None else count).clamp(min=1)


class Reconstruction:
    """Collects reconstructed tokens, batch by batch, for `metrics`: `mse`, `<field>_error`s and, of events, `closure`.

    `mse` is that of `masked_mse`, over all tokens. An error is the median over tokens of its absolute value in
    physical units: `pt_error` of log pT, `eta_error`, `phi_error` in radians, or `pixel_error` in intensities of 0
    to 16. `closure` is the mean of |r - 1|, where r is the length of the reconstructed (cos phi, sin phi).
    """

    def __init__(self, data: TokenData) -> None:
        self.data = data
        self.reconstructed: list[Tensor] = []  # tokens (n, F) of each batch, and what they should be
        self.exact: list[Tensor] = []

    def add(self, reconstructed: Tensor, features: Tensor, ids: Tensor) -> None:
        """Features (B, T, F) after and before, and ids (B, T)."""
        self.reconstructed.append(reconstructed.detach()[ids > 0].float())
        self.exact.append(features[ids > 0])

    def metrics(self) -> Metrics:
        found, exact = torch.cat(self.reconstructed), torch.cat(self.exact)
        values = {"mse": (found - exact).square().mean()}
        values |= {f"{field}_error": error.median() for field, error in self.data.errors(found, exact).items()}
        if isinstance(self.data, EventData):
            values["closure"] = self.data.closure(found).mean()
        return dict(zip(values, to_host(list(values.values()))[0], strict=True))


@torch.no_grad()
def reconstruction(data: TokenData, reconstruct: Callable[[Tensor, Tensor], Tensor]) -> Metrics:
    """The metrics of `reconstruct(features, ids)` over the held-out samples."""
    collected = Reconstruction(data)
    for features, ids in data.val():
        collected.add(reconstruct(features, ids), features, ids)
    return collected.metrics()
