"""Quality of reconstructed tokens: mean squared error of standardised features, and errors in physical units."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gatesweep.core.distributed import mean_count
from gatesweep.core.trainable import Metrics, Split, split_batches, to_host
from gatesweep.trainables.autoencoders.data import EventData, TokenData


def masked_mse(reconstructed: Tensor, features: Tensor, ids: Tensor, count: Tensor | None = None) -> Tensor:
    """Return the mean squared error (a scalar) of standardised features (B, T, F) over all tokens but padding.

    A model that always answers the mean token of the training data has an error of 1. `count` is as in `masked_mean`.
    """
    return masked_mean((reconstructed.float() - features).square().mean(dim=-1), ids > 0, count)


def masked_mean(values: Tensor, mask: Tensor, count: Tensor | None = None) -> Tensor:
    """Return the mean of `values` (B, T) where `mask` (B, T) is true, as a scalar.

    The divisor is the `mean_count` of the mask: the average of the results over ranks is then the mean over the whole
    batch. `mean_count` is a collective, so a caller that needs it more than once passes it as `count`.
    """
    present = mask.float()
    return (values * present).sum() / (mean_count(present) if count is None else count).clamp(min=1)


class Reconstruction:
    """Collector of reconstructed tokens, batch by batch, for the metrics `mse`, `<field>_error` and `closure`.

    `mse` is the error of `masked_mse` over all tokens. `<field>_error` is the median over tokens of the absolute error
    in physical units: `pt_error` of log pT, `eta_error`, `phi_error` in radians, or `pixel_error` in intensities from 0
    to 16. `closure`, for events only, is the mean of |r - 1|, where r is the length of the reconstructed vector
    (cos phi, sin phi).
    """

    def __init__(self, data: TokenData) -> None:
        self.data = data
        self.reconstructed: list[Tensor] = []  # for each batch, tokens (n, F)
        self.original: list[Tensor] = []  # for each batch, the tokens (n, F) that should come back

    def add(self, reconstructed: Tensor, features: Tensor, ids: Tensor) -> None:
        """Add a batch: reconstructed and original features (B, T, F), and ids (B, T)."""
        self.reconstructed.append(reconstructed.detach()[ids > 0].float())
        self.original.append(features[ids > 0])

    def metrics(self) -> Metrics:
        """Return the metrics over all tokens added so far, with one host sync."""
        reconstructed, original = torch.cat(self.reconstructed), torch.cat(self.original)
        values = {"mse": (reconstructed - original).square().mean()}
        errors = self.data.errors(reconstructed, original)
        values |= {f"{field}_error": error.median() for field, error in errors.items()}
        if isinstance(self.data, EventData):
            values["closure"] = self.data.closure(reconstructed).mean()
        return dict(zip(values, to_host(list(values.values()))[0], strict=True))


@torch.no_grad()
def reconstruction(data: TokenData, reconstruct: Callable[[Tensor, Tensor], Tensor], split: Split = "val") -> Metrics:
    """Return the metrics of `Reconstruction` over the samples of a split, for `reconstruct(features, ids)`."""
    collected = Reconstruction(data)
    for features, ids in split_batches(data, split):
        collected.add(reconstruct(features, ids), features, ids)
    return collected.metrics()
