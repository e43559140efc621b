"""The autoencoder: each token becomes a small latent and is reconstructed from it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gatesweep.core.distributed import mean_count
from gatesweep.core.trainable import Data, Losses, Mean, Metrics, Split, Trainable, samples, split_batches
from gatesweep.trainables.autoencoders import figures
from gatesweep.trainables.autoencoders.data import Batch, TokenData
from gatesweep.trainables.autoencoders.latent import Codebook, VectorQuantizer, codebook_use, make_latent
from gatesweep.trainables.autoencoders.latent import Kind as LatentKind
from gatesweep.trainables.autoencoders.metrics import Reconstruction, masked_mse, reconstruction
from gatesweep.trainables.autoencoders.model import Kind, make_decoder, make_encoder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CODEBOOK_SAMPLES = 1024  # training samples, at most, whose latents a codebook starts from


class Autoencoder(Trainable):
    """Autoencoder of tokens with a bottleneck; the loss is the mean squared error plus a codebook's commitment loss.

    `encoder` and `decoder` are an `mlp` or a `gnn` each; both get the tokens' ids. `latent` is `none`, `linear` (a
    projection to `latent_rank` dimensions) or `vq` (a codebook). Validation metrics are those of `Reconstruction` and
    of the bottleneck. For `vq` the latter are `codebook_use`; for the others `latent_dims`, the number of real numbers
    that pass for each token. Raises InputError if a hyperparameter is out of its range.
    """

    stackable = frozenset({"lr", "weight_decay"})

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
        latent: LatentKind = "vq",
        latent_dim: int = 4,
        latent_rank: int = 3,
        n_codes: int = 512,
        commitment: float = 0.25,
        decay: float = 0.99,
        revive_below: float = 0.1,
        codebook: Codebook = "data",
        lr: float = 3e-3,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(lr=lr, weight_decay=weight_decay)
        self.latent = make_latent(
            latent,
            latent_dim,
            rank=latent_rank,
            n_codes=n_codes,
            commitment=commitment,
            decay=decay,
            revive_below=revive_below,
            codebook=codebook,
        )
        self.encoder = make_encoder(encoder, data, width=encoder_width, depth=encoder_depth, latent_dim=latent_dim)
        self.decoder = make_decoder(decoder, data, width=decoder_width, depth=decoder_depth, latent_dim=latent_dim)

    def forward(self, batch: Batch) -> Losses:
        """Return `loss`, its term `mse`, and with a codebook its term `commitment`."""
        return self._pass(batch)[0]

    def reconstruct(self, features: Tensor, ids: Tensor) -> Tensor:
        """Pass features (B, T, F) and ids (B, T) through encoder, bottleneck and decoder; return features (B, T, F)."""
        return self._pass((features, ids))[2]

    @torch.no_grad()
    def begin(self, data: Data) -> None:
        """Start a codebook at the latents of training tokens.

        Raises InputError if there are fewer such tokens than codes.
        """
        assert isinstance(data, TokenData)
        if isinstance(self.latent, VectorQuantizer):
            features, ids = (tensor[:CODEBOOK_SAMPLES] for tensor in data.train_all())
            self.latent.begin(self.encoder(features, ids), ids > 0)

    @torch.no_grad()
    def evaluate(self, data: Data, split: Split = "val") -> Metrics:
        """Return the losses, the reconstruction metrics and the bottleneck's metrics over the samples of `split`."""
        assert isinstance(data, TokenData)
        mean, collected, usage = Mean(), Reconstruction(data), self._no_usage()
        for batch in split_batches(data, split):
            losses, latents, reconstructed = self._pass(batch)
            mean.add(losses, samples(batch))
            collected.add(reconstructed, *batch)
            if isinstance(self.latent, VectorQuantizer):
                usage += self.latent.usage(latents, batch[1] > 0)
        return mean.value() | collected.metrics() | self._bottleneck(usage)

    def oracle(self, data: Data) -> Metrics:
        """Return the metrics of perfect reconstruction by codes that are all used equally often."""
        assert isinstance(data, TokenData)
        return reconstruction(data, lambda features, ids: features) | self._bottleneck(self._no_usage() + 1)

    def trivial(self, data: Data) -> Metrics:
        """Return the metrics of answering the mean token always, with only the first code used."""
        assert isinstance(data, TokenData)
        usage = self._no_usage()
        usage[:1] = 1
        return reconstruction(data, lambda features, ids: torch.zeros_like(features)) | self._bottleneck(usage)

    def figures(self, data: Data, split: Split = "val") -> dict[str, Callable[[], Figure]]:
        """Return functions that draw the `reconstruction` and, with a codebook, the use of its codes (`codebook`)."""
        assert isinstance(data, TokenData)
        drawings: dict[str, Callable[[], Figure]] = {
            "reconstruction": partial(figures.draw_reconstruction, data, split, self.reconstruct)
        }
        if isinstance(self.latent, VectorQuantizer):
            drawings["codebook"] = lambda: figures.draw_codebook(self._usage(data, split))
        return drawings

    def _pass(self, batch: Batch) -> tuple[Losses, Tensor, Tensor]:
        """Return the losses, the latents (B, T, D) before the bottleneck, and the reconstructed features (B, T, F)."""
        features, ids = batch
        latents = self.recomputed(self.encoder, features, ids)
        count = mean_count((ids > 0).float())
        z, terms = self.latent(latents, ids > 0, count)
        reconstructed = self.recomputed(self.decoder, z, ids)
        mse = masked_mse(reconstructed, features, ids, count)
        return {"loss": mse + sum(terms.values()), "mse": mse, **terms}, latents, reconstructed

    def _usage(self, data: TokenData, split: Split) -> Tensor:
        """Count the tokens (K,) of a split that each code stands for."""
        assert isinstance(self.latent, VectorQuantizer)
        usage = self._no_usage()
        for features, ids in split_batches(data, split):
            usage += self.latent.usage(self.encoder(features, ids), ids > 0)
        return usage

    def _no_usage(self) -> Tensor:
        """Return a count of 0 for each code, (K,); without a codebook K is 0."""
        n_codes = self.latent.n_codes if isinstance(self.latent, VectorQuantizer) else 0
        return torch.zeros(n_codes, dtype=torch.int64, device=self.progress.device)

    def _bottleneck(self, usage: Tensor) -> Metrics:
        """Return the metrics of the bottleneck, given the number of tokens (K,) of each code."""
        if isinstance(self.latent, VectorQuantizer):
            return codebook_use(usage)
        return {"latent_dims": float(self.latent.dims)}
