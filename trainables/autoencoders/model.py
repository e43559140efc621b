"""Encoders and decoders of sets of tokens: an MLP for each token, or message passing between the tokens of an event."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from gatesweep.core.data import require
from gatesweep.trainables.autoencoders.data import TokenData

Kind = Literal["mlp", "gnn"]
ID_WIDTH = 8  # of the learned embedding of a token's id


def make_encoder(kind: Kind, data: TokenData, *, width: int, depth: int, latent_dim: int) -> nn.Module:
    """(features (B, T, F), ids (B, T)) -> latents (B, T, latent_dim)."""
    return _make("encoder", kind, data.n_features, data.n_ids, width, depth, latent_dim)


def make_decoder(kind: Kind, data: TokenData, *, width: int, depth: int, latent_dim: int) -> nn.Module:
    """(latents (B, T, latent_dim), ids (B, T)) -> features (B, T, F)."""
    return _make("decoder", kind, latent_dim, data.n_ids, width, depth, data.n_features)


def _make(part: str, kind: Kind, n_in: int, n_ids: int, width: int, depth: int, n_out: int) -> nn.Module:
    for field, value in ((f"{part}_width", width), (f"{part}_depth", depth)):
        require(value >= 1, f"trainable.{field}", value, "at least 1")
    return (TokenMLP if kind == "mlp" else TokenGNN)(n_in, n_ids, width=width, depth=depth, n_out=n_out)


class TokenMLP(nn.Module):
    """The same MLP for every token, of its own values and its id, with `depth` hidden layers."""

    def __init__(self, n_in: int, n_ids: int, *, width: int, depth: int, n_out: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n_ids, ID_WIDTH)
        layers: list[nn.Module] = []
        for size in [n_in + ID_WIDTH] + [width] * (depth - 1):
            layers += [nn.Linear(size, width), nn.GELU()]
        self.layers = nn.Sequential(*layers, nn.Linear(width, n_out))

    def forward(self, values: Tensor, ids: Tensor) -> Tensor:
        return self.layers(torch.cat([values, self.embedding(ids)], dim=-1))


class TokenGNN(nn.Module):
    """`depth` rounds of message passing on the complete graph of an event's tokens; padding neither sends nor receives.

    A token hears the mean of the others' messages GELU(S h_sender + R h_receiver) (Gilmer et al., arXiv:1704.01212),
    so the result does not depend on the order of the tokens.
    """

    def __init__(self, n_in: int, n_ids: int, *, width: int, depth: int, n_out: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n_ids, ID_WIDTH)
        self.first = nn.Sequential(nn.Linear(n_in + ID_WIDTH, width), nn.GELU())
        self.rounds = nn.ModuleList(Round(width) for _ in range(depth))
        self.last = nn.Linear(width, n_out)

    def forward(self, values: Tensor, ids: Tensor) -> Tensor:
        present = (ids > 0).to(values.dtype)
        others = present[:, None, :] * (1 - torch.eye(ids.shape[1], dtype=values.dtype, device=values.device))
        weights = others / others.sum(dim=-1, keepdim=True).clamp(min=1)  # (B, receivers, senders)
        nodes = self.first(torch.cat([values, self.embedding(ids)], dim=-1))
        for one in self.rounds:
            nodes = one(nodes, weights)
        return self.last(nodes) * present[..., None]


class Round(nn.Module):
    """One round: messages, their weighted mean, and a residual update of each token."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.send, self.receive = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.update = nn.Sequential(nn.Linear(2 * width, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, nodes: Tensor, weights: Tensor) -> Tensor:
        normed = self.norm(nodes)
        messages = nn.functional.gelu(self.send(normed)[:, None, :, :] + self.receive(normed)[:, :, None, :])
        heard = torch.einsum("brs,brsw->brw", weights.to(messages.dtype), messages)
        return nodes + self.update(torch.cat([normed, heard], dim=-1))
