"""Encoder and decoder of the circuit VAE: message passing over five nodes, a latent in three parts, three heads."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gatesweep.trainables.circuits.circuit import KINDS, NODES, PAIRS

PLACES = len(PAIRS) * len(KINDS)
ROLES = (0, 1, 2, 3, 3)  # roles of the nodes: ground, input, output, internal, internal


class GraphEncoder(nn.Module):
    """Maps components and standardised values (B, 10, 3) to mean and log-variance (B, latent) of the posterior.

    Every layer sends a message in both directions of all ten node pairs. Messages between nodes without a component are
    multiplied by 0. Sums and gathers are dense: with five nodes, sparse operations would cost more than they save.
    """

    source: Tensor
    target: Tensor
    roles: Tensor
    incidence: Tensor

    def __init__(self, latent: int, hidden: int, layers: int) -> None:
        super().__init__()
        ends = torch.tensor(PAIRS)
        self.register_buffer("source", torch.cat([ends[:, 0], ends[:, 1]]), persistent=False)
        self.register_buffer("target", torch.cat([ends[:, 1], ends[:, 0]]), persistent=False)
        self.register_buffer("roles", torch.tensor(ROLES), persistent=False)
        received = nn.functional.one_hot(self.target, len(NODES)).T.float()
        self.register_buffer("incidence", received, persistent=False)  # (5, 20): 1 where a node receives a message
        self.node = nn.Embedding(max(ROLES) + 1, hidden)
        self.layers = nn.ModuleList(Messages(hidden) for _ in range(layers))
        self.head = nn.Sequential(nn.Linear(len(NODES) * hidden, hidden), nn.GELU(), nn.Linear(hidden, 2 * latent))

    def forward(self, mask: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance (B, latent), the latter clamped to -12 to 6, of circuits (B, 10, 3)."""
        edges = torch.cat([mask, values * mask], dim=-1)
        edges = torch.cat([edges, edges], dim=1)
        exists = edges[..., : len(KINDS)].amax(dim=-1, keepdim=True)
        nodes = self.node(self.roles).expand(len(mask), -1, -1)
        for layer in self.layers:
            nodes = layer(nodes, edges, exists, self.source, self.target, self.incidence)
        mean, log_variance = self.head(nodes.flatten(1)).float().chunk(2, dim=-1)
        return mean, log_variance.clamp(-12, 6)


class Messages(nn.Module):
    """One round of messages (B, 20, hidden), followed by a residual update of the nodes (B, 5, hidden)."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.message = nn.Sequential(
            nn.Linear(2 * hidden + 2 * len(KINDS), hidden), nn.GELU(), nn.Linear(hidden, hidden)
        )
        self.update = nn.Linear(2 * hidden, hidden)
        self.norm = nn.LayerNorm(hidden)

    def forward(
        self, nodes: Tensor, edges: Tensor, exists: Tensor, source: Tensor, target: Tensor, incidence: Tensor
    ) -> Tensor:
        """Return the updated nodes (B, 5, hidden).

        `edges` (B, 20, 6) are the components and values of each directed pair, `exists` (B, 20, 1) is 0 where there is
        no component. `source` and `target` (20,) are node indices, and `incidence` (5, 20) sums messages at nodes.
        """
        sent = self.message(torch.cat([nodes[:, source], nodes[:, target], edges], dim=-1)) * exists
        received = torch.einsum("ne,beh->bnh", incidence, sent.float())
        changed = self.update(torch.cat([nodes, received.to(nodes.dtype)], dim=-1))
        return nodes + torch.nn.functional.gelu(self.norm(changed))


class Decoder(nn.Module):
    """Maps a latent in three parts to logits of the 30 places, to standardised values, and to poles and zeros.

    The split is a hierarchy: only `topology` decides which components exist, `values` decides their values, and
    `response` holds poles and zeros. The head of the values reads the decoded topology, not the `topology` part of the
    latent, and sends no gradient there. Otherwise that part could carry values too, and the split would mean nothing.
    `latent` gives the dimensions of the parts, and `max_counts` the largest numbers of poles, of zeros and of zeros at
    the origin.
    """

    def __init__(self, latent: dict[str, int], hidden: int, max_counts: dict[str, int]) -> None:
        super().__init__()
        self.sizes, self.max_counts = [latent["topology"], latent["values"], latent["response"]], max_counts
        topology, values, response = self.sizes
        self.topology = _mlp(topology, hidden, PLACES)
        self.values = _mlp(PLACES + values, hidden, PLACES)
        roots = 3 * (max_counts["poles"] + max_counts["zeros"])
        counts = sum(max_counts.values()) + len(max_counts)
        self.response = _mlp(response, hidden, roots + counts)

    def circuit(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and standardised values, both (B, 10, 3), for latents `z` (B, latent)."""
        topology, values, _ = z.split(self.sizes, dim=-1)
        shape = (len(z), len(PAIRS), len(KINDS))
        logits = self.topology(topology).float()
        decoded = self.values(torch.cat([logits.detach().sigmoid(), values], dim=-1)).float()
        return logits.view(shape), decoded.view(shape)

    def roots(self, z: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Return poles and zeros as points, and the logits of the three counts, for latents `z` (B, latent).

        Poles are (B, max_counts["poles"], 3), zeros (B, max_counts["zeros"], 3). Each of the logits is
        (B, largest number + 1).
        """
        flat = self.response(z.split(self.sizes, dim=-1)[2]).float()
        counts = [largest + 1 for largest in self.max_counts.values()]
        sizes = [3 * self.max_counts["poles"], 3 * self.max_counts["zeros"], *counts]
        poles, zeros, *logits = flat.split(sizes, dim=-1)
        return poles.view(len(z), -1, 3), zeros.reshape(len(z), self.max_counts["zeros"], 3), logits


def _mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, outputs)
    )
