"""Training windows, cut at random offsets from a corpus of walks that obey their rules exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from gatesweep.core.cache import machine_cache
from gatesweep.core.data import check_batch_size, generator, require
from gatesweep.core.trainable import Split
from gatesweep.trainables.walks import graph as graphs
from gatesweep.trainables.walks import rules as jumpers
from gatesweep.trainables.walks.compliance import Judge
from gatesweep.trainables.walks.graph import BlockGraph
from gatesweep.trainables.walks.rules import Process, Rules

Windowing = Literal["random", "chunk"]
Batch = tuple[Tensor, Tensor]
HELD_OUT_BATCH = 512  # windows


@dataclass(frozen=True)
class Recipe:
    """Everything that a corpus depends on; the fields are those of `WalkData`.

    Raises InputError for a value out of range, and for a `graph_dir` that is no folder.
    """

    graph_dir: str | None
    n_vertices: int
    n_blocks: int
    p_in: float
    p_out: float
    zipf: float
    jumpers_per_block: int
    r_min: int
    r_max: int
    n_walks: int
    held_out: int
    walk_length: int
    corpus_seed: int

    def __post_init__(self) -> None:
        minimum = {"n_walks": 1, "held_out": 1, "jumpers_per_block": 1, "r_min": 2, "r_max": self.r_min}
        if self.graph_dir is None:
            minimum |= {"n_blocks": 2, "n_vertices": self.n_blocks * (self.jumpers_per_block + 1), "zipf": 0}
            expected = f"at most {graphs.MAX_VERTICES}"
            require(self.n_vertices <= graphs.MAX_VERTICES, "data.n_vertices", self.n_vertices, expected)
            for field in ("p_in", "p_out"):
                value = getattr(self, field)
                require(0 < value <= 1, f"data.{field}", value, "a probability above 0")
        else:
            is_folder = _folder(self.graph_dir).is_dir()
            require(is_folder, "data.graph_dir", self.graph_dir, "a folder with edges.csv and blocks.csv")
        for field, bound in minimum.items():
            value = getattr(self, field)
            require(value >= bound, f"data.{field}", value, f"at least {bound}")


@dataclass(frozen=True)
class Corpus:
    """Training and held-out walks, with the graph and the rules they were drawn from.

    `train`, `held_out` and `test` are pairs of tensors: the walks (n, length), and -log p of each of their steps
    (n, length - 1) in nats under the process that drew them.
    """

    graph: BlockGraph
    rules: Rules
    judge: Judge
    train: Batch
    held_out: Batch
    test: Batch


@machine_cache
def corpus(recipe: Recipe, device: torch.device) -> Corpus:
    """Draw the corpus of a recipe; every trial of the machine shares it.

    Raises InputError where the graph cannot be generated or read, or allows no such rules.
    """
    if recipe.graph_dir is None:
        shape = recipe.n_vertices, recipe.n_blocks, recipe.p_in, recipe.p_out, recipe.zipf
        graph = graphs.generate(*shape, seed=recipe.corpus_seed)
    else:
        graph = graphs.load(_folder(recipe.graph_dir))
    rules = jumpers.draw(graph, recipe.jumpers_per_block, recipe.r_min, recipe.r_max, recipe.corpus_seed)
    process = Process(graph, rules)
    rng = np.random.default_rng([recipe.corpus_seed, 2])
    parts = []
    last = np.random.default_rng([recipe.corpus_seed, 3])  # another one, so that test walks do not change the others
    for count, draws in ((recipe.n_walks, rng), (recipe.held_out, rng), (recipe.held_out, last)):
        walks = process.sample(count, recipe.walk_length, draws)
        surprise = process.surprise(walks).astype(np.float32)
        parts.append((torch.from_numpy(walks).to(device), torch.from_numpy(surprise).to(device)))
    return Corpus(graph, rules, Judge(graph, rules, device), *parts)


class WalkData:
    """Batches of tokens (B, context + 1), and of -log p (B, context) of their steps in nats under the true process.

    An epoch is `windows` windows of the corpus. `windowing="random"` cuts them at random offsets.
    `windowing="chunk"` divides each walk into whole windows, so that no window shows a rule that crosses a cut.
    The corpus depends on `corpus_seed` and not on `seed`, which chooses the windows of each epoch.
    The fields are described in `configs/data/walks_small.yaml`. Raises InputError for a value out of range.
    """

    def __init__(
        self,
        *,
        device: torch.device,
        seed: int,
        batch_size: int = 64,
        context: int = 24,
        windows: int = 2560,
        windowing: Windowing = "random",
        n_walks: int = 8192,
        held_out: int = 1000,
        walk_length: int = 48,
        graph_dir: str | None = None,
        n_vertices: int = 80,
        n_blocks: int = 4,
        p_in: float = 0.3,
        p_out: float = 0.05,
        zipf: float = 0.5,
        jumpers_per_block: int = 4,
        r_min: int = 4,
        r_max: int = 14,
        corpus_seed: int = 42,
    ) -> None:
        require(context >= 4, "data.context", context, "at least 4")
        require(walk_length > context, "data.walk_length", walk_length, f"at least {context + 1}, data.context + 1")
        # The jumper of a rule as long as the context would be out of sight at the deadline.
        longest = context * 3 // 4
        require(r_max <= longest, "data.r_max", r_max, f"at most {longest}, three quarters of data.context")
        allowed = get_args(Windowing)
        require(windowing in allowed, "data.windowing", windowing, f"one of {', '.join(allowed)}")
        recipe = Recipe(
            *(graph_dir, n_vertices, n_blocks, p_in, p_out, zipf, jumpers_per_block),
            *(r_min, r_max, n_walks, held_out, walk_length, corpus_seed),
        )
        self.device, self.seed = torch.device(device), seed
        self.corpus = corpus(recipe, self.device)
        self.context, self.walk_length, self.windowing = context, walk_length, windowing
        chunks = n_walks * (walk_length // (context + 1))
        self.windows = windows if windowing == "random" else min(windows, chunks)
        self.batch_size = batch_size
        check_batch_size(batch_size, self.windows)
        self._val, self._test = (self._held_out_windows(walks) for walks in (self.corpus.held_out, self.corpus.test))

    @property
    def n_vertices(self) -> int:
        """The number of vertices of the graph, each of which is a token."""
        return len(self.corpus.graph.blocks)

    @property
    def settled(self) -> int:
        """The first position of a window from which every pending rule has its jumper inside the window."""
        return int(self.corpus.rules.steps.max()) - 1

    def first_tokens(self, split: Split) -> Tensor:
        """Return the first tokens (walks,) of the walks of a split; of train, of as many as are held out."""
        walks = {"train": self.corpus.train, "val": self.corpus.held_out, "test": self.corpus.test}[split][0]
        return walks[: len(self.corpus.held_out[0]), 0]

    def train(self, epoch: int) -> Sequence[Batch]:
        """Return the windows of an epoch in batches, a pure function of `seed` and `epoch`."""
        rng = generator(self.seed, epoch)
        walks = len(self.corpus.train[0])
        if self.windowing == "random":
            rounds = -(-self.windows // walks)
            orders = [torch.randperm(walks, generator=rng) for _ in range(rounds)]
            rows = torch.cat(orders)[: self.windows]
            offsets = torch.randint(self.walk_length - self.context, (self.windows,), generator=rng)
        else:
            per_walk = self.walk_length // (self.context + 1)
            chunks = torch.randperm(walks * per_walk, generator=rng)[: self.windows]
            rows, offsets = chunks // per_walk, chunks % per_walk * (self.context + 1)
        return self._batches(self.corpus.train, rows, offsets, self.batch_size)

    def val(self) -> Sequence[Batch]:
        """Return one window of every held-out walk, the same for every seed."""
        return self._val

    def test(self) -> Sequence[Batch]:
        """Return one window of every test walk, the same for every seed."""
        return self._test

    def _held_out_windows(self, walks: Batch) -> list[Batch]:
        count = len(walks[0])
        rng = torch.Generator().manual_seed(0)
        offsets = torch.randint(self.walk_length - self.context, (count,), generator=rng)
        return self._batches(walks, torch.arange(count), offsets, HELD_OUT_BATCH)

    def _batches(self, source: Batch, rows: Tensor, offsets: Tensor, size: int) -> list[Batch]:
        """Cut a window from each of the walks `rows` (W,) at `offsets` (W,), in batches of `size`."""
        rows, offsets = rows.to(self.device)[:, None], offsets.to(self.device)[:, None]
        columns = offsets + torch.arange(self.context + 1, device=self.device)
        tokens, surprise = source[0][rows, columns], source[1][rows, columns[:, :-1]]
        return list(zip(tokens.split(size), surprise.split(size), strict=True))


def _folder(name: str) -> Path:
    """Return the folder `name` of the user, or else the one of this package (`connectome`)."""
    return Path(name) if Path(name).is_dir() else Path(__file__).parent / name
