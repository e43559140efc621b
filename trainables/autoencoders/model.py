"""Encoders and decoders of token sets: an MLP for each token, or message passing between the tokens of an event."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from gatesweep.core.data import check_size
from gatesweep.trainables.autoencoders.data import TokenData

Kind = Literal["mlp", "gnn"]
ID_WIDTH = 8  # size of the learned embedding of a token's id


def make_encoder(kind: Kind, data: TokenData, *, width: int, depth: int, latent_dim: int) -> nn.Module:
    """Build a module that maps features (B, T, F) and ids (B, T) to latents (B, T, latent_dim).

    Raises InputError if `width` or `depth` is below 1.
    """
    return _make("encoder", kind, data.n_features, data.n_ids, width, depth, latent_dim)


def make_decoder(kind: Kind, data: TokenData, *, width: int, depth: int, latent_dim: int) -> nn.Module:
    """Build a module that maps latents (B, T, latent_dim) and ids (B, T) to features (B, T, F).

    Raises InputError if `width` or `depth` is below 1.
    """
    return _make("decoder", kind, latent_dim, data.n_ids, width, depth, data.n_features)


class TokenMLP(nn.Module):
    """One MLP, applied to every token: its input is the token's values and an embedding of the token's id.

    It has `depth` hidden layers of `width` GELU units. Tokens do not see each other. The output at padding is not zero.
    """

    def __init__(self, n_in: int, n_ids: int, *, width: int, depth: int, n_out: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n_ids, ID_WIDTH)
        layers: list[nn.Module] = []
        for size in [n_in + ID_WIDTH] + [width] * (depth - 1):
            layers += [nn.Linear(size, width), nn.GELU()]
        self.layers = nn.Sequential(*layers, nn.Linear(width, n_out))

    def forward(self, values: Tensor, ids: Tensor) -> Tensor:
        """Map values (B, T, n_in) and ids (B, T) to (B, T, n_out)."""
        return self.layers(torch.cat([values, self.embedding(ids)], dim=-1))


class TokenGNN(nn.Module):
    """Message passing on the complete graph of an event's tokens, in `depth` rounds.

    In each round a token receives the mean of the messages of all other tokens. A message is
    GELU(S h_sender + R h_receiver), where h is the token's state and S, R are learned (Gilmer et al.,
    arXiv:1704.01212). The result does not depend on the order of the tokens. Padding sends nothing and gets 0.
    """

    def __init__(self, n_in: int, n_ids: int, *, width: int, depth: int, n_out: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n_ids, ID_WIDTH)
        self.first = nn.Sequential(nn.Linear(n_in + ID_WIDTH, width), nn.GELU())
        self.rounds = nn.ModuleList(Round(width) for _ in range(depth))
        self.last = nn.Linear(width, n_out)

    def forward(self, values: Tensor, ids: Tensor) -> Tensor:
        """Map values (B, T, n_in) and ids (B, T) to (B, T, n_out)."""
        present = (ids > 0).to(values.dtype)
        senders = present[:, None, :] * (1 - torch.eye(ids.shape[1], dtype=values.dtype, device=values.device))
        weights = senders / senders.sum(dim=-1, keepdim=True).clamp(min=1)  # (B, receivers, senders)
        nodes = self.first(torch.cat([values, self.embedding(ids)], dim=-1))
        for message_round in self.rounds:
            nodes = message_round(nodes, weights)
        return self.last(nodes) * present[..., None]


class Round(nn.Module):
    """One round of message passing: messages, their weighted mean, and a residual update of each token's state."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.send, self.receive = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.update = nn.Sequential(nn.Linear(2 * width, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, nodes: Tensor, weights: Tensor) -> Tensor:
        """Update states (B, T, width); `weights` (B, T, T) are indexed by receiver, then by sender."""
        normed = self.norm(nodes)
        # Messages are (B, T, T, width): memory grows with the square of the number of tokens.
        messages = nn.functional.gelu(self.send(normed)[:, None, :, :] + self.receive(normed)[:, :, None, :])
        received = torch.einsum("brs,brsw->brw", weights.to(messages.dtype), messages)
        return nodes + self.update(torch.cat([normed, received], dim=-1))


def _make(part: str, kind: Kind, n_in: int, n_ids: int, width: int, depth: int, n_out: int) -> nn.Module:
    """Check the sizes of an encoder or decoder (`part`), and build it."""
    for field, size in ((f"{part}_width", width), (f"{part}_depth", depth)):
        check_size(f"trainable.{field}", size)
    return (TokenMLP if kind == "mlp" else TokenGNN)(n_in, n_ids, width=width, depth=depth, n_out=n_out)
