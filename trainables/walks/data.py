"""Walks as training windows: a corpus that obeys its rules exactly, cut at random offsets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from gatesweep.core.cache import machine_cache
from gatesweep.core.data import check_batch_size, generator, require
from gatesweep.trainables.walks import graph as graphs
from gatesweep.trainables.walks import rules as jumpers
from gatesweep.trainables.walks.compliance import Judge
from gatesweep.trainables.walks.graph import BlockGraph
from gatesweep.trainables.walks.rules import Process, Rules

Windowing = Literal["random", "chunk"]
Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Recipe:
    """All that a corpus depends on."""

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
        least = {"n_walks": 1, "held_out": 1, "jumpers_per_block": 1, "r_min": 2, "r_max": self.r_min}
        if self.graph_dir is None:
            least |= {"n_blocks": 2, "n_vertices": self.n_blocks * (self.jumpers_per_block + 1), "zipf": 0}
            most = graphs.MAX_VERTICES
            require(self.n_vertices <= most, "data.n_vertices", self.n_vertices, f"at most {most}")
            for field in ("p_in", "p_out"):
                value = getattr(self, field)
                require(0 < value <= 1, f"data.{field}", value, "a probability above 0")
        else:
            found = _folder(self.graph_dir).is_dir()
            require(found, "data.graph_dir", self.graph_dir, "a folder with edges.csv and blocks.csv")
        for field, bound in least.items():
            value = getattr(self, field)
            require(value >= bound, f"data.{field}", value, f"at least {bound}")


@dataclass(frozen=True)
class Corpus:
    """Walks (n, length) and -log p of each of their steps (n, length - 1) in nats, in two parts."""

    graph: BlockGraph
    rules: Rules
    judge: Judge
    train: Batch
    held_out: Batch


@machine_cache
def corpus(recipe: Recipe, device: torch.device) -> Corpus:
    """The corpus of a recipe, made once and kept on the device for every trial that asks."""
    if recipe.graph_dir is None:
        shape = recipe.n_vertices, recipe.n_blocks, recipe.p_in, recipe.p_out, recipe.zipf
        graph = graphs.generate(*shape, seed=recipe.corpus_seed)
    else:
        graph = graphs.load(_folder(recipe.graph_dir))
    rules = jumpers.draw(graph, recipe.jumpers_per_block, recipe.r_min, recipe.r_max, recipe.corpus_seed)
    process = Process(graph, rules)
    rng = np.random.default_rng([recipe.corpus_seed, 2])
    parts = []
    for count in (recipe.n_walks, recipe.held_out):
        walks = process.sample(count, recipe.walk_length, rng)
        surprise = process.surprise(walks).astype(np.float32)
        parts.append((torch.from_numpy(walks).to(device), torch.from_numpy(surprise).to(device)))
    return Corpus(graph, rules, Judge(graph, rules, device), parts[0], parts[1])


def _folder(name: str) -> Path:
    """A folder of the user's, or one that lies in this package (`connectome`)."""
    return Path(name) if Path(name).is_dir() else Path(__file__).parent / name


class WalkData:
    """Batches of tokens (B, context + 1) and -log p (B, context) of their steps under the true process.

    An epoch is `windows` windows of the corpus, cut at random offsets (`random`) or from the walks laid out
    in whole windows (`chunk`), which never shows a rule across a cut. The corpus depends on `corpus_seed`; `seed`
    chooses the windows.
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
        # A rule as long as the context is not in view when it falls due.
        longest = context * 3 // 4
        require(r_max <= longest, "data.r_max", r_max, f"at most {longest}, three quarters of data.context")
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
        self._val = self._held_out_windows()

    @property
    def n_vertices(self) -> int:
        """How many tokens there are."""
        return len(self.corpus.graph.blocks)

    @property
    def settled(self) -> int:
        """The first position of a window at which its tokens show any obligation that can be pending."""
        return int(self.corpus.rules.steps.max()) - 1

    @property
    def starts(self) -> Tensor:
        """(held_out,): the first tokens of the held-out walks."""
        return self.corpus.held_out[0][:, 0]

    def train(self, epoch: int) -> Sequence[Batch]:
        order = generator(self.seed, epoch)
        walks = len(self.corpus.train[0])
        if self.windowing == "random":
            rounds = -(-self.windows // walks)
            orders = [torch.randperm(walks, generator=order) for _ in range(rounds)]
            walk = torch.cat(orders)[: self.windows]
            offset = torch.randint(self.walk_length - self.context, (self.windows,), generator=order)
        else:
            per_walk = self.walk_length // (self.context + 1)
            chunk = torch.randperm(walks * per_walk, generator=order)[: self.windows]
            walk, offset = chunk // per_walk, chunk % per_walk * (self.context + 1)
        return self._batches(self.corpus.train, walk, offset, self.batch_size)

    def val(self) -> Sequence[Batch]:
        return self._val

    def _held_out_windows(self) -> list[Batch]:
        """One window of every held-out walk, at offsets that do not depend on the seed."""
        count = len(self.corpus.held_out[0])
        generator = torch.Generator().manual_seed(0)
        offset = torch.randint(self.walk_length - self.context, (count,), generator=generator)
        return self._batches(self.corpus.held_out, torch.arange(count), offset, 512)

    def _batches(self, source: Batch, walk: Tensor, offset: Tensor, size: int) -> list[Batch]:
        walk, offset = walk.to(self.device)[:, None], offset.to(self.device)[:, None]
        column = offset + torch.arange(self.context + 1, device=self.device)
        tokens, surprise = source[0][walk, column], source[1][walk, column[:, :-1]]
        return list(zip(tokens.split(size), surprise.split(size), strict=True))
