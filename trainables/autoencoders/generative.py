"""What autoencoders that also generate have in common: tokens decoded from drawn latents, judged beside real ones."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gatesweep.core.data import require
from gatesweep.core.trainable import Data, Metrics, Trainable
from gatesweep.trainables.autoencoders import figures
from gatesweep.trainables.autoencoders.data import EVALUATED, Batch, TokenData
from gatesweep.trainables.autoencoders.metrics import reconstruction
from gatesweep.trainables.autoencoders.model import Kind, make_decoder, make_encoder
from gatesweep.trainables.autoencoders.two_sample import compare

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class GenerativeAutoencoder(Trainable):
    """An encoder and a decoder of tokens, and a way to draw latents (`draw`) for given ids.

    Held-out metrics are those of `metrics.reconstruction` and of `two_sample.compare`: every evaluation generates
    tokens for the ids of the first `generated` held-out samples, with the same random numbers each time.
    """

    def __init__(
        self,
        data: TokenData,
        *,
        encoder: Kind = "mlp",
        encoder_width: int = 128,
        encoder_depth: int = 2,
        decoder: Kind = "mlp",
        decoder_width: int = 128,
        decoder_depth: int = 2,
        latent_dim: int = 3,
        generated: int = 2000,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(lr=lr, weight_decay=weight_decay)
        require(latent_dim >= 1, "trainable.latent_dim", latent_dim, "at least 1")
        most = sum(len(ids) for _, ids in data.val())
        expected = f"2 to {most}, the held-out samples (data.held_out)"
        require(2 <= generated <= most, "trainable.generated", generated, expected)
        self.latent_dim, self.generated = latent_dim, generated
        self.encoder = make_encoder(encoder, data, width=encoder_width, depth=encoder_depth, latent_dim=latent_dim)
        self.decoder = make_decoder(decoder, data, width=decoder_width, depth=decoder_depth, latent_dim=latent_dim)

    @abstractmethod
    def draw(self, ids: Tensor, generator: torch.Generator) -> Tensor:
        """(B, T, D): latents for tokens with ids (B, T), from numbers of a generator on the CPU."""

    def latent_metrics(self, z: Tensor) -> Metrics:
        """What else a gate may read of latents (n, D) of held-out tokens."""
        return {}

    def reconstruct(self, features: Tensor, ids: Tensor) -> Tensor:
        """(B, T, F): tokens after encoder and decoder."""
        return self.decoder(self.encoder(features, ids), ids)

    @torch.no_grad()
    def generate(self, ids: Tensor) -> Batch:
        """Tokens (n, T, F) with ids (n, T), decoded from drawn latents; the same at every call."""
        generator = torch.Generator().manual_seed(0)
        parts = [self.decoder(self.draw(part, generator), part).float() for part in ids.split(EVALUATED)]
        return torch.cat(parts), ids

    @torch.no_grad()
    def evaluate(self, data: Data) -> Metrics:
        assert isinstance(data, TokenData)
        real = self._real(data)
        z = torch.cat([self.encoder(features, ids)[ids > 0].float() for features, ids in data.val()])
        return super().evaluate(data) | self._judged(data, self.reconstruct, self.generate(real[1]), z)

    def oracle(self, data: Data) -> Metrics:
        """Every token as it is, other real samples in the place of generated ones, and latents as they should be."""
        assert isinstance(data, TokenData)
        features, ids = data.train_all()
        other = features[: self.generated], ids[: self.generated]
        z = torch.randn(10_000, self.latent_dim, generator=torch.Generator().manual_seed(0))
        return self._judged(data, lambda features, ids: features, other, z)

    def trivial(self, data: Data) -> Metrics:
        """The mean token for every token, from latents that are all alike, and Gaussian noise of the data's spread."""
        assert isinstance(data, TokenData)
        features, ids = self._real(data)
        noise = torch.randn(features.shape, generator=torch.Generator().manual_seed(0)).to(features)
        z = torch.zeros(2, self.latent_dim)
        return self._judged(data, lambda features, ids: torch.zeros_like(features), (noise, ids), z)

    def figures(self, data: Data) -> dict[str, Callable[[], Figure]]:
        assert isinstance(data, TokenData)
        real = self._real(data)
        return {
            "samples": lambda: figures.draw_samples(data, self.generate(real[1]), real),
            "reconstruction": partial(figures.draw_reconstruction, data, self.reconstruct),
        }

    def _real(self, data: TokenData) -> Batch:
        """The held-out samples in whose place others are generated."""
        features, ids = (torch.cat(parts)[: self.generated] for parts in zip(*data.val(), strict=True))
        return features, ids

    def _judged(
        self, data: TokenData, reconstruct: Callable[[Tensor, Tensor], Tensor], generated: Batch, z: Tensor
    ) -> Metrics:
        judged = compare(data, generated, self._real(data))
        return reconstruction(data, reconstruct) | judged | self.latent_metrics(z)
