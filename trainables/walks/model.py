"""A decoder-only transformer with banded attention, and generation that reads each token once.

In every layer a token attends to the last `context` tokens, itself included. Positions enter only as distances between
tokens. The output of a layer for a token therefore never changes when the walk grows. A rolling cache of `context` keys
and values gives the same walks as a forward pass over the whole walk at every step, also past `context` tokens. (If the
walk were cut to its last `context` tokens and encoded again, no such cache would exist.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Positions = Literal["rotary", "learned"]
ROTARY_BASE = 100.0  # wavelengths from 6 to about 600 tokens: distances here are tens of tokens, not thousands


class Transformer(nn.Module):
    """Maps token walks (B, T) to next-token logits (B, T, n_vertices), for any T.

    `context` is the number of tokens that a layer looks back. `d_model` must be a multiple of `n_heads`, and an even
    multiple with rotary positions.
    """

    def __init__(
        self,
        n_vertices: int,
        context: int,
        *,
        d_model: int,
        n_layers: int,
        n_heads: int,
        positions: Positions,
        dropout: float,
    ) -> None:
        super().__init__()
        self.context, self.positions, self.head_size = context, positions, d_model // n_heads
        self.embedding = nn.Embedding(n_vertices, d_model)
        self.dropout = nn.Dropout(dropout)
        span = context if positions == "learned" else 0
        blocks = nn.ModuleList(Block(d_model, n_heads, dropout, span) for _ in range(n_layers))
        self.blocks = cast("list[Block]", blocks)
        self.norm = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, n_vertices, bias=False)

    def forward(self, tokens: Tensor, run_block: Callable[..., Any] | None = None) -> Tensor:
        """Return the logits (B, T, n_vertices) of `tokens` (B, T).

        `run_block(block, *inputs)` replaces the plain call of a block, e.g. to recompute activations.
        """
        time = torch.arange(tokens.shape[1], device=tokens.device)
        distance = time[:, None] - time[None, :]
        outside = (distance < 0) | (distance >= self.context)
        band = torch.zeros(outside.shape, device=tokens.device).masked_fill(outside, float("-inf"))
        places = self.rotations(time) if self.positions == "rotary" else distance.clamp(0, self.context - 1)
        x = self.dropout(self.embedding(tokens))
        for block in self.blocks:
            x = block(x, band, places) if run_block is None else run_block(block, x, band, places)
        return self.head(self.norm(x))

    def rotations(self, time: Tensor) -> Tensor:
        """Return cosine and sine (2, T, head_size / 2) of the angles that rotate queries and keys at times (T,)."""
        half = self.head_size // 2
        speed = ROTARY_BASE ** (-torch.arange(half, device=time.device) / half)
        angle = time[:, None] * speed
        return torch.stack((angle.cos(), angle.sin()))

    @torch.inference_mode()
    def generate(
        self, starts: Tensor, length: int, generator: torch.Generator | None = None, *, cached: bool = True
    ) -> Tensor:
        """Generate token walks (B, length) from `starts` (B,): greedily, or by sampling from `generator`.

        `generator` is on the CPU, so that all devices draw the same numbers. `cached=False` is the slow reference: a
        forward pass over the whole walk at every step. Call this in eval mode: the cached pass applies no dropout.
        """
        noise = None
        if generator is not None:
            noise = torch.rand(length, len(starts), generator=generator).to(starts.device)
        walks = starts.new_empty(len(starts), length)
        walks[:, 0] = starts
        cache = Cache(self, length) if cached else None
        for t in range(1, length):
            logits = cache.logits(walks[:, t - 1], t - 1) if cache else self(walks[:, :t])[:, -1]
            walks[:, t] = logits.argmax(-1) if noise is None else _sample(logits, noise[t])
        return walks


class Block(nn.Module):
    """Pre-norm attention, then a feed-forward layer with four times the width.

    With `span` > 0 the heads share a learned key for each of `span` distances (Shaw et al., arXiv:1803.02155).
    Otherwise queries and keys are rotated (Su et al., RoFormer, arXiv:2104.09864).
    """

    def __init__(self, d_model: int, n_heads: int, dropout: float, span: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norm_attention, self.norm_forward = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=False)
        self.up, self.down = nn.Linear(d_model, 4 * d_model), nn.Linear(4 * d_model, d_model)
        self.dropout = nn.Dropout(dropout)
        size = d_model // n_heads
        self.distance = nn.Parameter(torch.randn(span, size) * size**-0.5) if span else None

    def forward(self, x: Tensor, band: Tensor, places: Tensor) -> Tensor:
        """Return the block's output (B, T, d_model) for `x` (B, T, d_model).

        `band` (T, T) is 0 where a token may attend and -inf elsewhere. `places` holds the rotations
        (2, T, head_size / 2), or with learned keys the distances (T, T).
        """
        q, k, v = self._project(x, None if self.distance is not None else places)
        scores = q @ k.mT
        if self.distance is not None:
            scores = scores + torch.einsum("bhid,ijd->bhij", q, self.distance[places])
        # The fused CPU kernel would take two thirds of the time, but torch.func.vmap (stacks) has no rule for it.
        attended = torch.softmax(scores + band, dim=-1) @ v
        x = x + self.dropout(self.out(attended.transpose(1, 2).flatten(2)))
        return x + self.dropout(self._feed_forward(x))

    def step(self, x: Tensor, keys: Tensor, values: Tensor, slot: int, places: Tensor) -> Tensor:
        """Return the block's output (B, 1, d_model) for the next token `x` (B, 1, d_model) of each walk.

        The key and value of the token are written to `slot` of the cached `keys` and `values`
        (B, n_heads, filled, head_size). `places` holds the rotation (2, 1, head_size / 2), or with learned keys the
        distance (filled,) of each slot.
        """
        q, k, v = self._project(x, None if self.distance is not None else places)
        keys[:, :, slot], values[:, :, slot] = k[:, :, 0], v[:, :, 0]
        scores = q @ keys.mT
        if self.distance is not None:
            scores = scores + q @ self.distance[places].T
        attended = torch.softmax(scores, dim=-1) @ values
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self._feed_forward(x)

    def _project(self, x: Tensor, rotations: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return scaled queries, keys and values (B, n_heads, T, head_size); `rotations` turn queries and keys."""
        qkv = self.qkv(self.norm_attention(x)).unflatten(-1, (3, self.n_heads, -1)).permute(2, 0, 3, 1, 4)
        qk, v = qkv[:2], qkv[2]
        if rotations is not None:
            (cos, sin), (first, second) = rotations.to(x.dtype), qk.chunk(2, dim=-1)
            qk = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
        return qk[0] * qk.shape[-1] ** -0.5, qk[1], v

    def _feed_forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(self.norm_forward(x))))


class Cache:
    """The keys and values of the last `context` tokens in every layer.

    `length` is the length of the walks to generate. Token t is in slot t mod min(context, length).
    """

    def __init__(self, model: Transformer, length: int) -> None:
        self.model = model
        self.size = min(model.context, length)
        self.rotations = model.rotations(torch.arange(length, device=model.head.weight.device))
        self.layers: list[tuple[Tensor, Tensor]] = []

    def logits(self, tokens: Tensor, t: int) -> Tensor:
        """Return the logits (B, n_vertices) of the tokens that follow `tokens` (B,) at position `t` of the walks.

        Call it with t = 0, 1, 2, ... in turn: each call adds its tokens to the cache.
        """
        model, slot, filled = self.model, t % self.size, min(t + 1, self.size)
        x = model.embedding(tokens)[:, None]
        if not self.layers:
            self.layers = self._allocate(x)
        if model.positions == "rotary":
            places = self.rotations[:, t : t + 1]
        else:
            places = (slot - torch.arange(filled, device=x.device)) % self.size
        for block, (keys, values) in zip(model.blocks, self.layers, strict=True):
            x = block.step(x, keys[:, :, :filled], values[:, :, :filled], slot, places)
        return model.head(model.norm(x))[:, 0]

    def _allocate(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        dtype = self.model.blocks[0].qkv(x[:1]).dtype  # under autocast it differs from that of x
        shape = (len(x), self.model.blocks[0].n_heads, self.size, self.model.head_size)
        return [(x.new_empty(shape, dtype=dtype), x.new_empty(shape, dtype=dtype)) for _ in self.model.blocks]


def _sample(logits: Tensor, noise: Tensor) -> Tensor:
    """Draw one token per row (B,) by inverting the cumulative probabilities at `noise` (B,) in [0, 1)."""
    cumulative = torch.softmax(logits.float(), dim=-1).cumsum(-1)
    point = noise[:, None] * cumulative[:, -1:]
    return (cumulative <= point).sum(-1).clamp(max=logits.shape[-1] - 1)
