"""The walk transformer: trained on walks that obey rules, and gated on the compliance of the walks it generates."""

from __future__ import annotations

from typing import get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gatesweep.core.data import check_size, require
from gatesweep.core.trainable import Data, Losses, Mean, Metrics, Split, Trainable, samples
from gatesweep.trainables.walks.data import Batch, WalkData
from gatesweep.trainables.walks.model import Positions, Transformer
from gatesweep.trainables.walks.rules import random_walks


class WalkTransformer(Trainable):
    """A next-vertex model whose loss is the cross-entropy in nats per token.

    `excess` is the cross-entropy minus the exact one of the true process, in nats per token. It is taken over the
    positions from which the window shows the full state of the process, so that the process itself has 0.
    Each evaluation generates `sequences` walks as long as those of the corpus, from the first tokens of held-out walks.
    It does so greedily, and every `sampled_every` epochs also by sampling (metrics `sampled_*`), with the same random
    numbers each time.
    The fields are described in `configs/trainable/walk_transformer.yaml`. Raises InputError for a value out of range.
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
        sizes = {"d_model": d_model, "n_layers": n_layers, "n_heads": n_heads, "sampled_every": sampled_every}
        for field, value in sizes.items():
            check_size(f"trainable.{field}", value)
        require(d_model % n_heads == 0, "trainable.d_model", d_model, f"a multiple of trainable.n_heads = {n_heads}")
        allowed = get_args(Positions)
        require(positions in allowed, "trainable.positions", positions, f"one of {', '.join(allowed)}")
        if positions == "rotary":
            expected = f"an even multiple of trainable.n_heads = {n_heads} with rotary positions"
            require(d_model // n_heads % 2 == 0, "trainable.d_model", d_model, expected)
        require(0 <= dropout < 1, "trainable.dropout", dropout, "a probability below 1")
        held_out = len(data.first_tokens("val"))
        expected = f"1 to {held_out}, the held-out walks (data.held_out)"
        require(1 <= sequences <= held_out, "trainable.sequences", sequences, expected)
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
        """Return `loss` and `excess` in nats per token for a batch of `WalkData`."""
        tokens, surprise = batch
        logits = self.model(tokens[:, :-1], self.recomputed)
        targets = tokens[:, 1:]
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(surprise)
        return self._losses(loss, surprise)

    @torch.no_grad()
    def evaluate(self, data: Data, split: Split = "val") -> Metrics:
        """Return `loss` and `excess` over windows of `split`, and the compliance of generated walks.

        The `sampled_*` metrics are left out of epochs in which sampling is not due.
        """
        assert isinstance(data, WalkData)
        starts, length = data.first_tokens(split)[: self.sequences], data.walk_length
        # All greedy walks from a vertex are equal: generate one for each vertex.
        vertices, copies = torch.unique(starts, return_inverse=True)
        greedy = self.model.generate(vertices, length)[copies]
        metrics = super().evaluate(data, split) | data.corpus.judge(greedy).metrics()
        if self.due(self.sampled_every):
            sampled = self.model.generate(starts, length, torch.Generator().manual_seed(0))
            metrics |= data.corpus.judge(sampled).metrics("sampled_")
        return metrics

    def oracle(self, data: Data) -> Metrics:
        """Return the metrics of a perfect model: held-out walks as the generated ones, and the process's own loss."""
        assert isinstance(data, WalkData)
        walks = data.corpus.held_out[0][: self.sequences]
        return self._predicted(data, None) | _compliance(data, walks)

    def trivial(self, data: Data) -> Metrics:
        """Return the metrics of uniform random walks, which follow edges and obey rules only by chance."""
        assert isinstance(data, WalkData)
        graph, starts = data.corpus.graph, data.first_tokens("val")[: self.sequences].cpu().numpy()
        walks = torch.from_numpy(random_walks(graph, starts, data.walk_length, np.random.default_rng(0)))
        degree = torch.from_numpy(graph.out_degree).to(data.device)
        return self._predicted(data, degree.float().log()) | _compliance(data, walks.to(data.device))

    def _predicted(self, data: WalkData, uncertainty: Tensor | None) -> Metrics:
        """Return the losses of a predictor that knows only the current vertex, or of the true process.

        `uncertainty` (n_vertices,) is the predictor's -log p in nats at each vertex; None stands for the process.
        """
        mean = Mean()
        for tokens, surprise in data.val():
            loss = surprise if uncertainty is None else uncertainty[tokens[:, :-1]]
            mean.add(self._losses(loss, surprise), samples(tokens))
        return mean.value()

    def _losses(self, loss: Tensor, surprise: Tensor) -> Losses:
        return {"loss": loss.mean(), "excess": (loss - surprise)[:, self.settled :].mean()}


def _compliance(data: WalkData, walks: Tensor) -> Metrics:
    """Return the metrics of walks that serve as greedy and as sampled ones."""
    compliance = data.corpus.judge(walks)
    return compliance.metrics() | compliance.metrics("sampled_")
