"""The circuit VAE: circuits to a latent in three parts and back, gated on the physics of what it decodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from gatesweep.core.data import require
from gatesweep.core.distributed import mean_over_ranks
from gatesweep.core.trainable import Data, Losses, Metrics, Trainable
from gatesweep.trainables.circuits import figures, losses, metrics
from gatesweep.trainables.circuits.circuit import Mask, Values
from gatesweep.trainables.circuits.data import Batch, CircuitData
from gatesweep.trainables.circuits.model import Decoder, GraphEncoder
from gatesweep.trainables.circuits.physics import decibels, grid, response

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LATENT = ("topology", "values", "response")


class CircuitVAE(Trainable):
    """Cross-entropy of a circuit's parts, errors of their values, Chamfer distance of poles and zeros, and KL.

    `latent` gives the dimensions of the three parts of the latent. `weight_response` adds the error of the transfer
    function of the true parts with decoded values, solved by nodal analysis. The gated metrics do not read the pole
    and zero head: they come from the decoded circuit, solved again. Nothing of the true circuit reaches the decoder
    but through the latent.
    """

    stackable = frozenset(
        {
            *("lr", "weight_decay", "weight_reconstruction", "weight_values", "weight_chamfer"),
            *("weight_kl", "weight_kl_topology", "kl_warmup", "free_bits"),
        }
    )
    omega: Tensor
    mean: Tensor  # (10, 3) and so is `std`: the scales of the values
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
            require(size >= 1, f"trainable.{field}", size, "at least 1")
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
        self.decoder = Decoder(latent, decoder_hidden, data.most)
        self.register_buffer("omega", grid(data.device), persistent=False)
        for name in ("mean", "std"):
            scale = torch.from_numpy(getattr(data.statistics, name)).float()
            self.register_buffer(name, scale)

    def forward(self, batch: Batch) -> Losses:
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
            free = mean_over_ranks(divergence, len(mask)) < self.free_bits  # on average over all, not over a rank's
            nats = torch.where(free, self.free_bits, divergence)
            return {"loss": self._total(terms, nats), **terms, "kl": divergence.sum()}

    def _total(self, terms: Losses, nats: Tensor) -> Tensor:
        roots = terms["poles"] + 0.5 * terms["zeros"] + terms["counts"]
        loss = self.weight_reconstruction * (terms["topology"] + self.weight_values * terms["values"])
        loss = loss + self.weight_chamfer * roots
        if self.solves:
            loss = loss + self.weight_response * terms["response"]
        topology, rest = nats[: self.topology_size].sum(), nats[self.topology_size :].sum()
        warm = (self.progress / self.kl_warmup.clamp(min=1e-6)).clamp(max=1)
        return loss + warm * self.weight_kl * (self.weight_kl_topology * topology + rest)

    def _response_loss(self, batch: Batch, values: Tensor) -> Tensor:
        """Mean error of the transfer function in units of 20 dB, and in its complex value, of the true parts with
        decoded values: which parts there are has no gradient, what they are worth has."""
        found = response(batch["mask"], values * self.std + self.mean, self.omega)
        exact = torch.view_as_complex(batch["response"])
        apart = torch.view_as_real(found - exact).abs().sum(dim=-1).clamp(max=10)
        return (decibels(found) - decibels(exact)).abs().mean() / 20 + apart.mean()

    def decode(self, z: Tensor) -> tuple[Mask, Values]:
        """The circuits (n, 10, 3) of latents: a part where its logit is positive, log10 values over the references."""
        logits, values = self.decoder.circuit(z)
        mask = (logits > 0).cpu().numpy()
        return mask, ((values * self.std + self.mean).double().cpu().numpy()) * mask

    @torch.no_grad()
    def encode(self, batch: Batch) -> Tensor:
        """The latent means (n, latent) of circuits."""
        return self.encoder(batch["mask"], (batch["values"] - self.mean) / self.std)[0]

    @torch.no_grad()
    def evaluate(self, data: Data, part: str = "val") -> Metrics:
        assert isinstance(data, CircuitData)
        chosen = data.part(part)
        terms = {name: float(term) for name, term in self(chosen.tensors).items()}
        mean = self.encode(chosen.tensors)
        prior = torch.randn(self.samples, self.latent, generator=torch.Generator().manual_seed(0))
        generated = self.decode(prior.to(mean.device))
        return (
            terms
            | metrics.reconstruction(chosen, *self.decode(mean))
            | metrics.generation(*generated, data.part("train").circuits.mask, data.statistics)
            | metrics.layout(mean, chosen)
        )

    def oracle(self, data: Data) -> Metrics:
        """The held-out circuits themselves, and training circuits in the place of generated ones."""
        assert isinstance(data, CircuitData)
        part, training = data.part("val"), data.part("train").circuits
        return metrics.reconstruction(part, part.circuits.mask, part.circuits.values) | metrics.generation(
            training.mask[: self.samples], training.values[: self.samples], training.mask, data.statistics
        )

    def trivial(self, data: Data) -> Metrics:
        """Every circuit has the parts that more than half of all have, with mean values; generated ones have each
        part as often as the training circuits, independently."""
        assert isinstance(data, CircuitData)
        part, training = data.part("val"), data.part("train").circuits
        often, mean = training.mask.mean(axis=0), data.statistics.mean
        mask = np.repeat((often > 0.5)[None], len(part.circuits), axis=0)
        drawn = np.random.default_rng(0).random((self.samples, *often.shape)) < often
        return metrics.reconstruction(part, mask, mask * mean) | metrics.generation(
            drawn, drawn * mean, training.mask, data.statistics
        )

    def figures(self, data: Data) -> dict[str, Callable[[], Figure]]:
        assert isinstance(data, CircuitData)
        part = data.part("val")
        mean = self.encode(part.tensors)
        with torch.no_grad():
            decoded = self.decode(mean)
        return {
            "latent": lambda: figures.draw_latent(mean, part),
            "bode": lambda: figures.draw_bode(part, *decoded),
            "poles_zeros": lambda: figures.draw_poles_zeros(part, *decoded),
        }
