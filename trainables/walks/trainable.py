"""The walk transformer: trained on walks that obey rules, gated on whether its own walks obey them."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gatesweep.core.data import require
from gatesweep.core.trainable import Data, Losses, Mean, Metrics, Trainable, samples
from gatesweep.trainables.walks.data import Batch, WalkData
from gatesweep.trainables.walks.model import Positions, Transformer
from gatesweep.trainables.walks.rules import random_walks


class WalkTransformer(Trainable):
    """Cross-entropy of the next vertex, and compliance of generated walks.

    `excess` is the cross-entropy above the process's own, exact one, in nats per token, over the positions
    where the window shows the full state of the process: the process itself has 0. Every evaluation generates
    `sequences` walks as long as the corpus's from the first tokens of held-out walks, greedily and, every
    `sampled_every` epochs, by sampling (`sampled_`, with the same random numbers each time).
    """

    stackable = frozenset({"lr", "weight_decay"})

    def __init__(
        self,
        data: WalkData,
        *,
        d_model: int = 64,
        n_layers: int = 2,
        n_heads: int = 2,
        positions: Positions = "rotary",
        dropout: float = 0.0,
        sequences: int = 1000,
        sampled_every: int = 5,
        lr: float = 6e-3,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(lr=lr, weight_decay=weight_decay)
        for field, value in (
            ("d_model", d_model),
            ("n_layers", n_layers),
            ("n_heads", n_heads),
            ("sampled_every", sampled_every),
        ):
            require(value >= 1, f"trainable.{field}", value, "at least 1")
        require(d_model % n_heads == 0, "trainable.d_model", d_model, f"a multiple of trainable.n_heads = {n_heads}")
        if positions == "rotary":
            expected = f"an even multiple of trainable.n_heads = {n_heads} with rotary positions"
            require(d_model // n_heads % 2 == 0, "trainable.d_model", d_model, expected)
        require(0 <= dropout < 1, "trainable.dropout", dropout, "a probability below 1")
        most = len(data.starts)
        expected = f"1 to {most}, the held-out walks (data.held_out)"
        require(1 <= sequences <= most, "trainable.sequences", sequences, expected)
        self.sequences, self.sampled_every, self.settled = sequences, sampled_every, data.settled
        self.model = Transformer(
            data.n_vertices,
            data.context,
            d_model=d_model,
            n_layers=n_layers,
            n_heads=n_heads,
            positions=positions,
            dropout=dropout,
        )

    def forward(self, batch: Batch) -> Losses:
        tokens, surprise = batch
        logits = self.model(tokens[:, :-1], self.recomputed)
        targets = tokens[:, 1:]
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(surprise)
        return self._losses(loss, surprise)

    @torch.no_grad()
    def evaluate(self, data: Data) -> Metrics:
        assert isinstance(data, WalkData)
        starts, length = data.starts[: self.sequences], data.walk_length
        # Greedy walks from one vertex are copies of each other: generate each once.
        vertices, copies = torch.unique(starts, return_inverse=True)
        greedy = self.model.generate(vertices, length)[copies]
        found = super().evaluate(data) | data.corpus.judge(greedy).metrics()
        if self.due(self.sampled_every):
            sampled = self.model.generate(starts, length, torch.Generator().manual_seed(0))
            found |= data.corpus.judge(sampled).metrics("sampled_")
        return found

    def oracle(self, data: Data) -> Metrics:
        """Held-out walks in the place of generated ones, and the process itself as the predictor."""
        assert isinstance(data, WalkData)
        walks = data.corpus.held_out[0][: self.sequences]
        return self._predicted(data, None) | _compliance(data, walks)

    def trivial(self, data: Data) -> Metrics:
        """Uniform random walks: every edge is right, and the rules are met by chance."""
        assert isinstance(data, WalkData)
        graph, starts = data.corpus.graph, data.starts[: self.sequences].cpu().numpy()
        walks = torch.from_numpy(random_walks(graph, starts, data.walk_length, np.random.default_rng(0)))
        degree = torch.from_numpy(graph.out_degree).to(data.device)
        return self._predicted(data, degree.float().log()) | _compliance(data, walks.to(data.device))

    def _predicted(self, data: WalkData, uncertainty: Tensor | None) -> Metrics:
        """What `forward` would report of a predictor of -log p `uncertainty[vertex]`, or of the process."""
        mean = Mean()
        for tokens, surprise in data.val():
            loss = surprise if uncertainty is None else uncertainty[tokens[:, :-1]]
            mean.add(self._losses(loss, surprise), samples(tokens))
        return mean.value()

    def _losses(self, loss: Tensor, surprise: Tensor) -> Losses:
        return {"loss": loss.mean(), "excess": (loss - surprise)[:, self.settled :].mean()}


def _compliance(data: WalkData, walks: Tensor) -> Metrics:
    """Of walks that stand for greedy and for sampled ones."""
    found = data.corpus.judge(walks)
    return found.metrics() | found.metrics("sampled_")
