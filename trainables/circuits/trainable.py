"""The circuit VAE: circuits to a latent in three parts and back, gated on the physics of the decoded circuits."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from gatesweep.core.data import check_size, require
from gatesweep.core.distributed import mean_over_ranks
from gatesweep.core.trainable import Data, Losses, Metrics, Split, Trainable
from gatesweep.trainables.circuits import figures, losses, metrics
from gatesweep.trainables.circuits.circuit import Mask, Values
from gatesweep.trainables.circuits.data import Batch, CircuitData
from gatesweep.trainables.circuits.model import Decoder, GraphEncoder
from gatesweep.trainables.circuits.physics import decibels, grid, response

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LATENT = ("topology", "values", "response")


class CircuitVAE(Trainable):
    """A variational autoencoder of circuits.

    The loss is a weighted sum of the cross-entropy of the components, the errors of their values, the Chamfer distances
    of poles and zeros, the cross-entropy of their numbers, and the KL divergence. `weight_response` adds the error of
    the transfer function of the true components with decoded values.
    `latent` gives the dimensions of `topology`, `values` and `response`. The decoder sees the true circuit only through
    the latent. The gated metrics do not use the head for poles and zeros: they solve the decoded circuit.
    The fields are described in `configs/trainable/circuit_vae.yaml`. Raises InputError for a value out of range.
    """

    stackable = frozenset(
        {
            *("lr", "weight_decay", "weight_reconstruction", "weight_values", "weight_chamfer"),
            *("weight_kl", "weight_kl_topology", "kl_warmup", "free_bits"),
        }
    )
    omega: Tensor  # (61,)
    mean: Tensor  # (10, 3), as is `std`: the scales of the values
    std: Tensor
    weight_reconstruction: Tensor
    weight_values: Tensor
    weight_chamfer: Tensor
    weight_kl: Tensor
    weight_kl_topology: Tensor
    weight_response: Tensor
    free_bits: Tensor
    kl_warmup: Tensor

    def __init__(
        self,
        data: CircuitData,
        *,
        latent: dict[str, int],
        hidden: int = 56,
        layers: int = 3,
        decoder_hidden: int = 84,
        weight_reconstruction: float = 1.0,
        weight_values: float = 3.0,
        weight_chamfer: float = 0.5,
        weight_kl: float = 0.05,
        weight_kl_topology: float = 1.0,
        weight_response: float = 1.0,
        kl_warmup: float = 0.3,
        free_bits: float = 0.0,
        samples: int = 1000,
        lr: float = 3e-3,
        weight_decay: float = 1e-5,
    ) -> None:
        super().__init__(lr=lr, weight_decay=weight_decay)
        require(sorted(latent) == sorted(LATENT), "trainable.latent", latent, f"sizes of {', '.join(LATENT)}")
        sizes = {f"latent.{part}": latent[part] for part in LATENT}
        shape = {"hidden": hidden, "layers": layers, "decoder_hidden": decoder_hidden, "samples": samples}
        for field, size in (sizes | shape).items():
            check_size(f"trainable.{field}", size)
        weights = {
            "weight_reconstruction": weight_reconstruction,
            "weight_values": weight_values,
            "weight_chamfer": weight_chamfer,
            "weight_kl": weight_kl,
            "weight_kl_topology": weight_kl_topology,
            "weight_response": weight_response,
            "free_bits": free_bits,
        }
        for field, weight in weights.items():
            require(weight >= 0, f"trainable.{field}", weight, "at least 0")
        require(0 <= kl_warmup <= 1, "trainable.kl_warmup", kl_warmup, "a fraction of the run, 0 to 1")
        self.register_stacked(**weights, kl_warmup=kl_warmup)
        self.samples, self.solves = samples, weight_response > 0
        self.latent = sum(latent.values())
        self.topology_size = latent["topology"]
        self.encoder = GraphEncoder(self.latent, hidden, layers)
        self.decoder = Decoder(latent, decoder_hidden, data.max_counts)
        self.register_buffer("omega", grid(data.device), persistent=False)
        for name in ("mean", "std"):
            scale = torch.from_numpy(getattr(data.statistics, name)).float()
            self.register_buffer(name, scale)

    def forward(self, batch: Batch) -> Losses:
        """Return `loss`, its terms, and `kl` in nats for a batch of `CircuitData`.

        The latent is sampled from the posterior in training mode, and is the posterior mean in eval mode.
        """
        mask, exact = batch["mask"], (batch["values"] - self.mean) / self.std
        mean, log_variance = self.encoder(mask, exact)
        z = mean
        if self.training:
            z = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        logits, values = self.decoder.circuit(z)
        poles, zeros, counts = self.decoder.roots(z)
        with torch.autocast(mask.device.type, enabled=False):
            terms = {
                "topology": losses.topology(logits, mask),
                "values": losses.edges(values, exact, mask),
                "poles": losses.chamfer(poles, batch["poles"], batch["counts"][:, 0]),
                "zeros": losses.chamfer(zeros, batch["zeros"], batch["counts"][:, 1]),
                "counts": losses.counts(counts, batch["counts"]),
            }
            if self.solves:
                terms["response"] = self._response_loss(batch, values)
            divergence = losses.kl(mean, log_variance)
            # A collective: the average is over the whole batch, not over the circuits of this rank.
            free = mean_over_ranks(divergence, len(mask)) < self.free_bits
            nats = torch.where(free, self.free_bits, divergence)
            return {"loss": self._total(terms, nats), **terms, "kl": divergence.sum()}

    def _total(self, terms: Losses, nats: Tensor) -> Tensor:
        """Return the weighted sum of the terms and of the KL divergence `nats` (latent,)."""
        roots = terms["poles"] + 0.5 * terms["zeros"] + terms["counts"]
        loss = self.weight_reconstruction * (terms["topology"] + self.weight_values * terms["values"])
        loss = loss + self.weight_chamfer * roots
        if self.solves:
            loss = loss + self.weight_response * terms["response"]
        topology, rest = nats[: self.topology_size].sum(), nats[self.topology_size :].sum()
        warm = (self.progress / self.kl_warmup.clamp(min=1e-6)).clamp(max=1)
        return loss + warm * self.weight_kl * (self.weight_kl_topology * topology + rest)

    def _response_loss(self, batch: Batch, values: Tensor) -> Tensor:
        """Return the mean error of the transfer function of the true components with decoded values (B, 10, 3).

        It is the error in units of 20 dB plus the error of real and imaginary part. The topology has no gradient here,
        but the values have one.
        """
        decoded = response(batch["mask"], values * self.std + self.mean, self.omega)
        exact = torch.view_as_complex(batch["response"])
        difference = torch.view_as_real(decoded - exact).abs().sum(dim=-1).clamp(max=10)
        return (decibels(decoded) - decibels(exact)).abs().mean() / 20 + difference.mean()

    def decode(self, z: Tensor) -> tuple[Mask, Values]:
        """Return mask and values (n, 10, 3) of the circuits that latents (n, latent) decode to.

        A component exists where its logit is positive. Values are log10 over `REFERENCE`, and 0 where there is none.
        """
        logits, values = self.decoder.circuit(z)
        mask = (logits > 0).cpu().numpy()
        return mask, ((values * self.std + self.mean).double().cpu().numpy()) * mask

    @torch.no_grad()
    def encode(self, batch: Batch) -> Tensor:
        """Return the latent means (B, latent) of a batch of circuits."""
        return self.encoder(batch["mask"], (batch["values"] - self.mean) / self.std)[0]

    @torch.no_grad()
    def evaluate(self, data: Data, split: Split = "val") -> Metrics:
        """Return the loss, and the metrics of reconstruction, of generation and of the latent layout.

        `samples` circuits are decoded from the prior, from the same random numbers each time.
        """
        assert isinstance(data, CircuitData)
        evaluated = data.part(split)
        terms = {name: float(term) for name, term in self(evaluated.tensors).items()}
        mean = self.encode(evaluated.tensors)
        prior = torch.randn(self.samples, self.latent, generator=torch.Generator().manual_seed(0))
        generated = self.decode(prior.to(mean.device))
        return (
            terms
            | metrics.reconstruction(evaluated, *self.decode(mean))
            | metrics.generation(*generated, data.part("train").circuits.mask, data.statistics)
            | metrics.layout(mean, evaluated)
        )

    def oracle(self, data: Data) -> Metrics:
        """Return the metrics of a perfect model: exact val circuits, and training circuits as the generated ones."""
        assert isinstance(data, CircuitData)
        part, training = data.part("val"), data.part("train").circuits
        return metrics.reconstruction(part, part.circuits.mask, part.circuits.values) | metrics.generation(
            training.mask[: self.samples], training.values[: self.samples], training.mask, data.statistics
        )

    def trivial(self, data: Data) -> Metrics:
        """Return the metrics of a baseline that knows only frequencies and mean values of the components.

        Every decoded circuit has the components that more than half of the training circuits have. A generated circuit
        has each component with its frequency in the training circuits, independently of the others.
        """
        assert isinstance(data, CircuitData)
        part, training = data.part("val"), data.part("train").circuits
        frequency, mean = training.mask.mean(axis=0), data.statistics.mean
        mask = np.repeat((frequency > 0.5)[None], len(part.circuits), axis=0)
        drawn = np.random.default_rng(0).random((self.samples, *frequency.shape)) < frequency
        return metrics.reconstruction(part, mask, mask * mean) | metrics.generation(
            drawn, drawn * mean, training.mask, data.statistics
        )

    def figures(self, data: Data, split: Split = "val") -> dict[str, Callable[[], Figure]]:
        """Return functions that draw the latent, Bode diagrams, and poles and zeros of a split's circuits."""
        assert isinstance(data, CircuitData)
        part = data.part(split)
        mean = self.encode(part.tensors)
        with torch.no_grad():
            decoded = self.decode(mean)
        return {
            "latent": lambda: figures.draw_latent(mean, part),
            "bode": lambda: figures.draw_bode(part, *decoded),
            "poles_zeros": lambda: figures.draw_poles_zeros(part, *decoded),
        }
