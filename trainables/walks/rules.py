"""Jumpers, and random walks that are conditioned to obey them exactly.

A jumper is a vertex with a rule: a walk that visits it must be in its target block a given number of steps
later. While one obligation is pending no jumper is visited, so obligations never overlap.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gatesweep.trainables.walks.graph import BlockGraph

NON_TRIVIAL = 0.4  # the share of plain random walks that may obey a rule by chance
ATTEMPTS = 200

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Rules:
    """One jumper per entry: from `vertices[j]`, be in block `targets[j]` after `steps[j]` steps."""

    vertices: Ints  # (J,), distinct
    steps: Ints  # (J,), at least 2
    targets: Ints  # (J,)


def draw(graph: BlockGraph, per_block: int, r_min: int, r_max: int, seed: int) -> Rules:
    """`per_block` jumpers in every block, with lengths spread evenly over `r_min` to `r_max`.

    A jumper's target is another block, reachable under all the rules together, in which at most 0.4 of the
    plain random walks from the jumper are after r steps. ValueError where a graph has no such set of jumpers.
    """
    rng = np.random.default_rng([seed, 1])
    chance = _block_chances(graph, r_max)
    blocks = len(graph.block_names)
    spread = np.linspace(r_min, r_max, per_block * blocks).round().astype(np.int64)
    for _ in range(ATTEMPTS):
        steps = rng.permutation(spread)
        chosen: list[tuple[int, int]] = []
        for position, r in enumerate(steps):
            home = position // per_block
            eligible = (graph.blocks == home)[:, None] & (chance[r] > 0) & (chance[r] <= NON_TRIVIAL)
            eligible[:, home] = False
            eligible[[vertex for vertex, _ in chosen]] = False
            pairs = np.argwhere(eligible)
            if len(pairs) == 0:
                break
            vertex, target = pairs[rng.integers(len(pairs))]
            chosen.append((int(vertex), int(target)))
        else:
            vertices, targets = np.array(chosen, dtype=np.int64).T
            rules = Rules(vertices, steps, targets)
            if all(h[r, v] > 0 for h, r, v in zip(backward(graph, rules), steps, vertices, strict=True)):
                return rules
    raise ValueError(
        f"data.jumpers_per_block: got {per_block}, expected fewer: in none of {ATTEMPTS} draws did every "
        f"jumper have a target block that is reachable in {r_min} to {r_max} steps and hit by at most "
        f"{NON_TRIVIAL} of random walks"
    )


def _block_chances(graph: BlockGraph, r_max: int) -> Floats:
    """(r_max + 1, n, K): the share of plain random walks from a vertex that are in a block after r steps."""
    transition = graph.transition()
    chances = [np.eye(len(graph.block_names))[graph.blocks]]
    for _ in range(r_max):
        chances.append(transition @ chances[-1])
    return np.stack(chances)


def backward(graph: BlockGraph, rules: Rules) -> list[Floats]:
    """Per jumper (r + 1, n): the chance h[k, u] to be in its target block k steps after u, off jumpers."""
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
    """The walker: uniform over out-neighbours when free, conditioned on the pending rule otherwise.

    Its state is the vertex and the obligation: 0 for none, or a number that falls by one with each step of
    the rule. From u with k steps left the chance of v is A[u, v] h[k-1, v] / sum_w A[u, w] h[k-1, w], over
    vertices that are not jumpers: the random walk on them, conditioned on the rule (Doob's h-transform; Levin
    and Peres, Markov Chains and Mixing Times, 2nd ed., section 17.6.1). No walk is ever rejected.
    """

    def __init__(self, graph: BlockGraph, rules: Rules) -> None:
        self.adjacency = graph.adjacency.astype(np.float64)
        n = len(graph.blocks)
        ordinary = np.ones(n)
        ordinary[rules.vertices] = 0.0
        weights = [np.ones((1, n))] + [h[:-1] * ordinary for h in backward(graph, rules)]
        self.weights = np.concatenate(weights)  # (1 + sum r, n): of the next vertex, for each obligation
        ends = np.cumsum(rules.steps)
        self.after = np.arange(len(self.weights)) - 1  # the obligation after a step to an ordinary vertex
        self.after[0] = 0
        self.after[1 + ends - rules.steps] = 0  # the last step of each rule
        self.start = np.zeros(n, dtype=np.int64)  # the obligation that visiting a vertex brings
        self.start[rules.vertices] = ends
        self.jumpers = rules.vertices

    def sample(self, walks: int, length: int, rng: np.random.Generator) -> Ints:
        """(walks, length): every second walk starts on a jumper, the others on any vertex, both uniform."""
        out = np.empty((walks, length), dtype=np.int64)
        out[0::2, 0] = rng.choice(self.jumpers, size=len(out[0::2]))
        out[1::2, 0] = rng.integers(len(self.adjacency), size=len(out[1::2]))
        rows = max(1, 2**22 // len(self.adjacency))  # the walkers' next-vertex weights stay within 32 MiB
        for part in (out[first : first + rows] for first in range(0, walks, rows)):
            obligation = self.start[part[:, 0]]
            for t in range(1, length):
                total = np.cumsum(self.adjacency[part[:, t - 1]] * self.weights[obligation], axis=1)
                point = rng.random((len(part), 1)) * total[:, -1:]
                # The first vertex whose cumulated weight is above the point; one of weight 0 never is.
                part[:, t] = (total <= point).sum(axis=1)
                obligation = self._advance(obligation, part[:, t])
        return out

    def surprise(self, walks: Ints) -> Floats:
        """(walks, length - 1): -log p in nats of each step given the full state before it; inf if impossible.

        Its mean over the process's own walks is the entropy that no predictor can undercut.
        """
        out = np.empty((len(walks), walks.shape[1] - 1))
        total = self.adjacency @ self.weights.T  # (n, obligations)
        obligation = self.start[walks[:, 0]]
        with np.errstate(divide="ignore", invalid="ignore"):
            for t in range(1, walks.shape[1]):
                u, v = walks[:, t - 1], walks[:, t]
                chosen = self.adjacency[u, v] * self.weights[obligation, v]
                out[:, t - 1] = np.where(chosen > 0, np.log(total[u, obligation]) - np.log(chosen), np.inf)
                obligation = self._advance(obligation, v)
        return out

    def _advance(self, obligation: Ints, vertex: Ints) -> Ints:
        return np.where(obligation == 0, self.start[vertex], self.after[obligation])


def random_walks(graph: BlockGraph, starts: Ints, length: int, rng: np.random.Generator) -> Ints:
    """(walks, length): uniform random walks from `starts` that know the edges and ignore the rules."""
    walks = np.empty((len(starts), length), dtype=np.int64)
    walks[:, 0] = starts
    total = np.cumsum(graph.adjacency, axis=1)
    for t in range(1, length):
        rows = total[walks[:, t - 1]]
        walks[:, t] = (rows <= rng.integers(rows[:, -1])[:, None]).sum(axis=1)
    return walks
