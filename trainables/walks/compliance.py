"""How far walks keep to the edges of the graph and to the rules of its jumpers."""

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
    """Of `total` checks, `hits` were met."""

    hits: int
    total: int


@dataclass(frozen=True)
class Compliance:
    """Counts over a set of walks: of its steps, and of visits to jumpers whose deadline is inside it."""

    edge: Count
    rule: Count
    by_steps: dict[int, Count]  # of the rule checks, by the number of steps of the rule
    sequences: int
    distinct: int

    def metrics(self, prefix: str = "") -> Metrics:
        """Pooled shares with their Wilson ends, the share of each length of rule, and the distinct sequences.

        Copies of a walk tell nothing new: an interval is as wide as if only distinct ones had been checked.
        """
        metrics: Metrics = {}
        for name, count in (("edge_compliance", self.edge), ("rule_compliance", self.rule)):
            share = count.hits / count.total if count.total else 0.0
            independent = round(count.total * self.distinct / self.sequences) if self.sequences else 0
            metrics |= proportion(prefix + name, round(share * independent), independent)
            metrics[prefix + name] = share
        for steps, count in self.by_steps.items():
            metrics[f"{prefix}rule_compliance_r{steps}"] = count.hits / count.total if count.total else 0.0
        return metrics | {f"{prefix}distinct": float(self.distinct)}


class Judge:
    """Scores walks against one graph and its rules, on one device."""

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
        """Of token walks (B, T). Two host syncs: the distinct walks, and all counts at once."""
        batch, length = walks.shape
        edges = self.adjacency[walks[:, :-1], walks[:, 1:]]
        steps = self.steps[walks]
        deadline = steps + torch.arange(length, device=walks.device)
        checked = (steps > 0) & (deadline < length)
        at = walks.gather(1, deadline.clamp(max=length - 1)) if length else walks
        obeyed = checked & (self.blocks[at] == self.targets[walks])
        kinds = [(checked & (steps == r), obeyed & (steps == r)) for r in self.lengths]
        sums = [edges.sum(), checked.sum(), obeyed.sum(), *(mask.sum() for pair in kinds for mask in pair)]
        distinct = len(torch.unique(walks, dim=0)) if batch else 0
        valid, total, hits, *rest = torch.stack(sums).tolist()
        by_steps = {r: Count(rest[2 * i + 1], rest[2 * i]) for i, r in enumerate(self.lengths)}
        return Compliance(Count(valid, edges.numel()), Count(hits, total), by_steps, batch, distinct)
