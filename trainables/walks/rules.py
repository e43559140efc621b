"""Jumpers with delayed rules, and random walks conditioned to obey the rules exactly.

A jumper is a vertex with a rule: a walk that visits it must be in the rule's target block a fixed number of steps
later. Until then this obligation is pending, and the walk visits no other jumper. Obligations therefore never overlap.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gatesweep.core.errors import InputError
from gatesweep.trainables.walks.graph import BlockGraph

NON_TRIVIAL = 0.4  # the largest share of plain random walks that may obey a rule by chance
ATTEMPTS = 200
CHUNK_WEIGHTS = 2**22  # float64 weights of next vertices that are held at once: 32 MiB

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Rules:
    """The rules of J jumpers: a walk at `vertices[j]` must be in block `targets[j]` after `steps[j]` steps.

    All arrays are (J,). Vertices are distinct, and steps are at least 2.
    """

    vertices: Ints
    steps: Ints
    targets: Ints


def draw(graph: BlockGraph, per_block: int, r_min: int, r_max: int, seed: int) -> Rules:
    """Draw `per_block` jumpers in every block, with rule lengths spread evenly from `r_min` to `r_max` steps.

    The target of a jumper is another block. It can be reached in time without a visit to a second jumper, and at most
    0.4 of the plain random walks from the jumper are in it at the deadline. Raises InputError if 200 draws give no
    such rules.
    """
    rng = np.random.default_rng([seed, 1])
    chance = _block_chances(graph, r_max)
    spread = np.linspace(r_min, r_max, per_block * len(graph.block_names)).round().astype(np.int64)
    for _ in range(ATTEMPTS):
        steps = rng.permutation(spread)
        pairs = _vertices_and_targets(graph, chance, steps, per_block, rng)
        if pairs is None:
            continue
        rules = Rules(pairs[:, 0], steps, pairs[:, 1])
        if all(h[r, v] > 0 for h, r, v in zip(backward(graph, rules), steps, rules.vertices, strict=True)):
            return rules
    raise InputError(
        f"data.jumpers_per_block: got {per_block}, expected fewer: in none of {ATTEMPTS} draws did every "
        f"jumper have a target block that is reachable in {r_min} to {r_max} steps and hit by at most "
        f"{NON_TRIVIAL} of random walks"
    )


def backward(graph: BlockGraph, rules: Rules) -> list[Floats]:
    """Return one table (r + 1, n) for each jumper, r the steps of its rule.

    Entry h[k, u] is the probability that a random walk over ordinary vertices is in the jumper's target block k steps
    after it was at u.
    """
    free = graph.adjacency.astype(np.float64)
    free[:, rules.vertices] = 0.0
    degree = free.sum(axis=1, keepdims=True)
    step = np.divide(free, degree, out=np.zeros_like(free), where=degree > 0)
    tables = []
    for r, target in zip(rules.steps, rules.targets, strict=True):
        h = [(graph.blocks == target).astype(np.float64)]
        for _ in range(r):
            h.append(step @ h[-1])
        tables.append(np.stack(h))
    return tables


class Process:
    """The random walk that obeys the rules: uniform over successors when free, conditioned while a rule is pending.

    The state is the vertex and the obligation: 0 for none, or a number that falls by one with each step of the rule.
    From u with k steps left, the next vertex is v with probability A[u, v] h[k-1, v] / sum_w A[u, w] h[k-1, w], where v
    and w are no jumpers. This is the random walk over ordinary vertices conditioned on the rule, so no walk is ever
    rejected. Source: Doob's h-transform; Levin and Peres, Markov Chains and Mixing Times, 2nd ed., section 17.6.1.
    """

    def __init__(self, graph: BlockGraph, rules: Rules) -> None:
        self.adjacency = graph.adjacency.astype(np.float64)
        n = len(graph.blocks)
        ordinary = np.ones(n)
        ordinary[rules.vertices] = 0.0
        weights = [np.ones((1, n))] + [h[:-1] * ordinary for h in backward(graph, rules)]
        self.weights = np.concatenate(weights)  # (1 + sum r, n): weight of the next vertex, for each obligation
        ends = np.cumsum(rules.steps)
        self.after = np.arange(len(self.weights)) - 1  # the obligation after a step to an ordinary vertex
        self.after[0] = 0
        self.after[1 + ends - rules.steps] = 0  # the last step of each rule
        self.start = np.zeros(n, dtype=np.int64)  # the obligation that a visit to a vertex creates
        self.start[rules.vertices] = ends
        self.jumpers = rules.vertices

    def sample(self, count: int, length: int, rng: np.random.Generator) -> Ints:
        """Draw walks (count, length) of vertices.

        Even rows start on a jumper and odd rows on any vertex, both drawn uniformly.
        """
        walks = np.empty((count, length), dtype=np.int64)
        walks[0::2, 0] = rng.choice(self.jumpers, size=len(walks[0::2]))
        walks[1::2, 0] = rng.integers(len(self.adjacency), size=len(walks[1::2]))
        rows = max(1, CHUNK_WEIGHTS // len(self.adjacency))
        for first in range(0, count, rows):
            chunk = walks[first : first + rows]  # a view: its steps are written into `walks`
            obligation = self.start[chunk[:, 0]]
            for t in range(1, length):
                cumulative = np.cumsum(self.adjacency[chunk[:, t - 1]] * self.weights[obligation], axis=1)
                point = rng.random((len(chunk), 1)) * cumulative[:, -1:]
                # The first vertex whose cumulative weight exceeds the point. A vertex of weight 0 is never it.
                chunk[:, t] = (cumulative <= point).sum(axis=1)
                obligation = self._advance(obligation, chunk[:, t])
        return walks

    def surprise(self, walks: Ints) -> Floats:
        """Return -log p in nats (count, length - 1) of each step of walks (count, length), inf for impossible steps.

        Each p is conditioned on the full state before the step. The mean over the process's own walks is its entropy,
        and no predictor has a lower cross-entropy.
        """
        surprise = np.empty((len(walks), walks.shape[1] - 1))
        total = self.adjacency @ self.weights.T  # (n, obligations)
        obligation = self.start[walks[:, 0]]
        with np.errstate(divide="ignore", invalid="ignore"):
            for t in range(1, walks.shape[1]):
                u, v = walks[:, t - 1], walks[:, t]
                weight = self.adjacency[u, v] * self.weights[obligation, v]
                surprise[:, t - 1] = np.where(weight > 0, np.log(total[u, obligation]) - np.log(weight), np.inf)
                obligation = self._advance(obligation, v)
        return surprise

    def _advance(self, obligation: Ints, vertex: Ints) -> Ints:
        return np.where(obligation == 0, self.start[vertex], self.after[obligation])


def random_walks(graph: BlockGraph, starts: Ints, length: int, rng: np.random.Generator) -> Ints:
    """Draw uniform random walks (count, length) from `starts` (count,), which follow edges and ignore the rules."""
    walks = np.empty((len(starts), length), dtype=np.int64)
    walks[:, 0] = starts
    cumulative = np.cumsum(graph.adjacency, axis=1)
    for t in range(1, length):
        rows = cumulative[walks[:, t - 1]]
        walks[:, t] = (rows <= rng.integers(rows[:, -1])[:, None]).sum(axis=1)
    return walks


def _block_chances(graph: BlockGraph, r_max: int) -> Floats:
    """Return the probability (r_max + 1, n, K) that a plain random walk from a vertex is in a block after r steps."""
    transition = graph.transition()
    chances = [np.eye(len(graph.block_names))[graph.blocks]]
    for _ in range(r_max):
        chances.append(transition @ chances[-1])
    return np.stack(chances)


def _vertices_and_targets(
    graph: BlockGraph, chance: Floats, steps: Ints, per_block: int, rng: np.random.Generator
) -> Ints | None:
    """Draw a jumper and its target block for each of `steps` (J,): rows of (J, 2), or None if one has no candidate."""
    pairs: list[tuple[int, int]] = []
    for position, r in enumerate(steps):
        home = position // per_block
        eligible = (graph.blocks == home)[:, None] & (chance[r] > 0) & (chance[r] <= NON_TRIVIAL)
        eligible[:, home] = False
        eligible[[vertex for vertex, _ in pairs]] = False
        candidates = np.argwhere(eligible)
        if len(candidates) == 0:
            return None
        vertex, target = candidates[rng.integers(len(candidates))]
        pairs.append((int(vertex), int(target)))
    return np.array(pairs, dtype=np.int64)
