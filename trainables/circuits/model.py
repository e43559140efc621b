"""Encoder and decoder: message passing over five nodes to a latent of three parts, and three heads that read them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gatesweep.trainables.circuits.circuit import KINDS, NODES, PAIRS

PLACES = len(PAIRS) * len(KINDS)
ROLES = (0, 1, 2, 3, 3)  # of the nodes: ground, input, output, internal, internal


class GraphEncoder(nn.Module):
    """Parts and standardised values (B, 10, 3) to mean and log-variance (B, latent).

    Every layer sends a message along both directions of all ten pairs, closed by a gate where nothing lies; sums and
    gathers are dense, since five nodes have no sparse graph worth its overhead.
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
        self.register_buffer("incidence", received, persistent=False)  # (5, 20): which messages a node gets
        self.node = nn.Embedding(max(ROLES) + 1, hidden)
        self.layers = nn.ModuleList(Messages(hidden) for _ in range(layers))
        self.head = nn.Sequential(nn.Linear(len(NODES) * hidden, hidden), nn.GELU(), nn.Linear(hidden, 2 * latent))

    def forward(self, mask: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        edges = torch.cat([mask, values * mask], dim=-1)
        edges = torch.cat([edges, edges], dim=1)
        exists = edges[..., : len(KINDS)].amax(dim=-1, keepdim=True)
        nodes = self.node(self.roles).expand(len(mask), -1, -1)
        for layer in self.layers:
            nodes = layer(nodes, edges, exists, self.source, self.target, self.incidence)
        mean, log_variance = self.head(nodes.flatten(1)).float().chunk(2, dim=-1)
        return mean, log_variance.clamp(-12, 6)


class Messages(nn.Module):
    """One round of messages (B, 20, hidden) and a residual update of the nodes (B, 5, hidden)."""

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
        sent = self.message(torch.cat([nodes[:, source], nodes[:, target], edges], dim=-1)) * exists
        received = torch.einsum("ne,beh->bnh", incidence, sent.float())
        changed = self.update(torch.cat([nodes, received.to(nodes.dtype)], dim=-1))
        return nodes + torch.nn.functional.gelu(self.norm(changed))


class Decoder(nn.Module):
    """A latent in three parts to logits of the 30 places, standardised values there, and poles and zeros.

    The split is a hierarchy: `topology` alone says which parts there are, `values` what those are worth, and
    `response` holds poles and zeros. The head of the values reads the decoded parts, not the latent they came from,
    and sends no gradient there: else values would hide in `topology`, and the split would say nothing.
    """

    def __init__(self, latent: dict[str, int], hidden: int, most: dict[str, int]) -> None:
        super().__init__()
        self.sizes, self.most = [latent["topology"], latent["values"], latent["response"]], most
        topology, values, response = self.sizes
        self.topology = _mlp(topology, hidden, PLACES)
        self.values = _mlp(PLACES + values, hidden, PLACES)
        roots = 3 * (most["poles"] + most["zeros"])
        counts = sum(most.values()) + len(most)
        self.response = _mlp(response, hidden, roots + counts)

    def circuit(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and standardised values, both (B, 10, 3)."""
        topology, values, _ = z.split(self.sizes, dim=-1)
        shape = (len(z), len(PAIRS), len(KINDS))
        logits = self.topology(topology).float()
        found = self.values(torch.cat([logits.detach().sigmoid(), values], dim=-1)).float()
        return logits.view(shape), found.view(shape)

    def roots(self, z: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Poles (B, most, 3) and zeros (B, most, 3) as points, and logits of the three counts."""
        flat = self.response(z.split(self.sizes, dim=-1)[2]).float()
        counts = [one + 1 for one in self.most.values()]
        sizes = [3 * self.most["poles"], 3 * self.most["zeros"], *counts]
        poles, zeros, *logits = flat.split(sizes, dim=-1)
        return poles.view(len(z), -1, 3), zeros.reshape(len(z), self.most["zeros"], 3), logits


def _mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, outputs)
    )
