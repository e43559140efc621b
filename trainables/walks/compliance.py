"""Compliance of walks: the share of steps along edges of the graph, and the share of jumper rules that are obeyed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gatesweep.core.gate import proportion
from gatesweep.core.trainable import Metrics
from gatesweep.trainables.walks.graph import BlockGraph
from gatesweep.trainables.walks.rules import Rules


@dataclass(frozen=True)
class Count:
    """The result of `total` checks, of which `hits` passed."""

    hits: int
    total: int


@dataclass(frozen=True)
class Compliance:
    """Counts over a set of walks.

    `edge` counts the steps of all walks. `rule` counts the visits to jumpers whose deadline lies inside the walk, and
    `by_steps` splits `rule` by the number of steps of the rule. `sequences` is the number of walks, `distinct` the
    number of different walks among them.
    """

    edge: Count
    rule: Count
    by_steps: dict[int, Count]
    sequences: int
    distinct: int

    def metrics(self, prefix: str = "") -> Metrics:
        """Return the counts as metrics; every name begins with `prefix`.

        `edge_compliance` and `rule_compliance` are shares over all walks, `rule_compliance_r<steps>` is the share for
        one length of rule; each has the ends of its Wilson interval as `_low` and `_high`. A share of no checks is 0.
        Copies of a walk add no information: an interval is as wide as if only the distinct walks had been checked.
        """
        metrics: Metrics = {}
        counts = {"edge_compliance": self.edge, "rule_compliance": self.rule}
        counts |= {f"rule_compliance_r{steps}": count for steps, count in self.by_steps.items()}
        for name, count in counts.items():
            share = count.hits / count.total if count.total else 0.0
            independent = round(count.total * self.distinct / self.sequences) if self.sequences else 0
            metrics |= proportion(prefix + name, round(share * independent), independent)
            metrics[prefix + name] = share
        return metrics | {f"{prefix}distinct": float(self.distinct)}


class Judge:
    """Counts the compliance of walks with one graph and its rules, on one device."""

    def __init__(self, graph: BlockGraph, rules: Rules, device: torch.device) -> None:
        self.adjacency = torch.from_numpy(graph.adjacency).to(device)
        self.blocks = torch.from_numpy(graph.blocks).to(device)
        self.steps = torch.zeros(len(graph.blocks), dtype=torch.long, device=device)  # 0: not a jumper
        self.targets = torch.zeros_like(self.steps)
        jumpers = torch.from_numpy(rules.vertices).to(device)
        self.steps[jumpers] = torch.from_numpy(rules.steps).to(device)
        self.targets[jumpers] = torch.from_numpy(rules.targets).to(device)
        self.lengths = sorted(set(rules.steps.tolist()))

    def __call__(self, walks: Tensor) -> Compliance:
        """Count the compliance of token walks (B, T).

        Costs two host syncs: one for the distinct walks, one for all counts together.
        """
        batch, length = walks.shape
        edges = self.adjacency[walks[:, :-1], walks[:, 1:]]
        steps = self.steps[walks]
        deadline = steps + torch.arange(length, device=walks.device)
        checked = (steps > 0) & (deadline < length)
        reached = walks.gather(1, deadline.clamp(max=length - 1)) if length else walks
        obeyed = checked & (self.blocks[reached] == self.targets[walks])
        sums = [edges.sum(), checked.sum(), obeyed.sum()]
        for r in self.lengths:
            sums += [(checked & (steps == r)).sum(), (obeyed & (steps == r)).sum()]
        distinct = len(torch.unique(walks, dim=0)) if batch else 0
        valid, total, hits, *by_length = torch.stack(sums).tolist()
        by_steps = {r: Count(by_length[2 * i + 1], by_length[2 * i]) for i, r in enumerate(self.lengths)}
        return Compliance(Count(valid, edges.numel()), Count(hits, total), by_steps, batch, distinct)
