"""Base class of autoencoders that also generate: tokens are decoded from random latents and compared with real ones."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gatesweep.core.data import check_size, require
from gatesweep.core.trainable import Data, Metrics, Split, Trainable, split_batches
from gatesweep.trainables.autoencoders import figures
from gatesweep.trainables.autoencoders.data import EVAL_BATCH_SIZE, Batch, TokenData
from gatesweep.trainables.autoencoders.metrics import reconstruction
from gatesweep.trainables.autoencoders.model import Kind, make_decoder, make_encoder
from gatesweep.trainables.autoencoders.two_sample import compare

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class GenerativeAutoencoder(Trainable):
    """Encoder and decoder of tokens, and a method `draw` for random latents of given ids.

    Validation metrics are those of `Reconstruction`, of `two_sample.compare` and of `latent_metrics`. Every evaluation
    generates tokens for the ids of the first `generated` validation samples, always with the same random numbers.
    Raises InputError if a hyperparameter is out of its range.
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
        check_size("trainable.latent_dim", latent_dim)
        n_val = sum(len(ids) for _, ids in data.val())
        expected = f"2 to {n_val}, the held-out samples (data.held_out)"
        require(2 <= generated <= n_val, "trainable.generated", generated, expected)
        self.latent_dim, self.generated = latent_dim, generated
        self.encoder = make_encoder(encoder, data, width=encoder_width, depth=encoder_depth, latent_dim=latent_dim)
        self.decoder = make_decoder(decoder, data, width=decoder_width, depth=decoder_depth, latent_dim=latent_dim)

    @abstractmethod
    def draw(self, ids: Tensor, generator: torch.Generator) -> Tensor:
        """Draw latents (B, T, D) for tokens with ids (B, T), with random numbers of a generator on the CPU."""

    def latent_metrics(self, z: Tensor) -> Metrics:
        """Return further metrics, computed from latents z (n, D) of validation tokens; none by default."""
        return {}

    def reconstruct(self, features: Tensor, ids: Tensor) -> Tensor:
        """Pass features (B, T, F) and ids (B, T) through encoder and decoder; return features (B, T, F)."""
        return self.decoder(self.encoder(features, ids), ids)

    @torch.no_grad()
    def generate(self, ids: Tensor) -> Batch:
        """Generate features (n, T, F) for ids (n, T) from random latents; return both. Every call gives the same."""
        generator = torch.Generator().manual_seed(0)
        parts = [self.decoder(self.draw(part, generator), part).float() for part in ids.split(EVAL_BATCH_SIZE)]
        return torch.cat(parts), ids

    @torch.no_grad()
    def evaluate(self, data: Data, split: Split = "val") -> Metrics:
        """Return the losses and the metrics of reconstruction, generation and latents on the samples of `split`."""
        assert isinstance(data, TokenData)
        real = self._real_samples(data, split)
        batches = split_batches(data, split)
        z = torch.cat([self.encoder(features, ids)[ids > 0].float() for features, ids in batches])
        generated = self.generate(real[1])
        return super().evaluate(data, split) | self._all_metrics(data, self.reconstruct, generated, z, split)

    def oracle(self, data: Data) -> Metrics:
        """Return the metrics of a perfect model.

        Tokens are reconstructed exactly, training samples stand in for generated ones, and latents are standard normal.
        """
        assert isinstance(data, TokenData)
        features, ids = data.train_all()
        training_samples = features[: self.generated], ids[: self.generated]
        z = torch.randn(10_000, self.latent_dim, generator=torch.Generator().manual_seed(0))
        return self._all_metrics(data, lambda features, ids: features, training_samples, z)

    def trivial(self, data: Data) -> Metrics:
        """Return the metrics of a model that has learned nothing.

        It reconstructs every token as the mean token, generates Gaussian noise with the mean and standard deviation of
        the data, and has constant latents.
        """
        assert isinstance(data, TokenData)
        features, ids = self._real_samples(data)
        noise = torch.randn(features.shape, generator=torch.Generator().manual_seed(0)).to(features)
        z = torch.zeros(2, self.latent_dim)
        return self._all_metrics(data, lambda features, ids: torch.zeros_like(features), (noise, ids), z)

    def figures(self, data: Data, split: Split = "val") -> dict[str, Callable[[], Figure]]:
        """Return functions that draw generated `samples` and the `reconstruction`."""
        assert isinstance(data, TokenData)
        real = self._real_samples(data, split)
        return {
            "samples": lambda: figures.draw_samples(data, self.generate(real[1]), real),
            "reconstruction": partial(figures.draw_reconstruction, data, split, self.reconstruct),
        }

    def _real_samples(self, data: TokenData, split: Split = "val") -> Batch:
        """Return the first `generated` samples of a split: features (n, T, F) and ids (n, T)."""
        batches = zip(*split_batches(data, split), strict=True)
        features, ids = (torch.cat(parts)[: self.generated] for parts in batches)
        return features, ids

    def _all_metrics(
        self,
        data: TokenData,
        reconstruct: Callable[[Tensor, Tensor], Tensor],
        generated: Batch,
        z: Tensor,
        split: Split = "val",
    ) -> Metrics:
        """Return the metrics of a reconstruction, of generated samples and of latents z (n, D)."""
        comparison = compare(data, generated, self._real_samples(data, split))
        return reconstruction(data, reconstruct, split) | comparison | self.latent_metrics(z)
