"""Walks: the cost of generation with and without the cache, and of an evaluation next to a training epoch.

PYTHONPATH=. python tests/benchmarks/generation.py [threads]
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
import yaml

from gatesweep.core.trainable import Trainable
from gatesweep.trainables.walks.data import WalkData
from gatesweep.trainables.walks.trainable import WalkTransformer

CONFIGS = Path(__file__).parents[2] / "configs"
WALKS, LENGTH = 1000, 64


def fields(file: str, section: str | None = None) -> dict[str, Any]:
    """The constructor fields of a preset."""
    values = yaml.safe_load((CONFIGS / file).read_text())
    chosen = values[section] if section else values
    return {name: value for name, value in chosen.items() if name != "_target_"}


def seconds(run: Callable[[], object], repeats: int = 3) -> float:
    """The fastest of `repeats` runs after a first one that is not counted."""
    times = []
    for _ in range(repeats + 1):
        began = perf_counter()
        run()
        times.append(perf_counter() - began)
    return min(times[1:])


def train(trainable: WalkTransformer, data: WalkData) -> None:
    optimizer = trainable.train().optimizers()["main"]
    for batch in data.train(0):
        optimizer.zero_grad()
        trainable(batch)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(trainable.parameters(), 1.0)
        optimizer.step()


def main() -> None:
    torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
    data = WalkData(device=torch.device("cpu"), seed=0, **fields("data/walks_small.yaml"))
    torch.manual_seed(0)
    trainable = WalkTransformer(data, **fields("trainable/walk_transformer.yaml", "trainable"))
    size = sum(param.numel() for param in trainable.parameters())
    print(f"torch {torch.__version__}, python {platform.python_version()}, {platform.machine()}, ", end="")
    print(f"{torch.get_num_threads()} thread(s), {size:,} parameters, context {data.context}\n")

    train(trainable, data)  # so that walks depend on what came before
    trainable.eval()
    starts = data.first_tokens("val")
    starts = starts[torch.arange(WALKS) % len(starts)]

    def generate(cached: bool, sampled: bool) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0) if sampled else None
        return trainable.model.generate(starts, LENGTH, generator, cached=cached)

    print(f"{WALKS} walks of {LENGTH}    cached      uncached    ratio   equal tokens")
    for name, sampled in (("greedy", False), ("sampled", True)):
        fast = seconds(partial(generate, True, sampled))
        slow = seconds(partial(generate, False, sampled), repeats=1)
        equal = (generate(True, sampled) == generate(False, sampled)).float().mean().item()
        print(f"{name:<18}  {fast:6.2f} s    {slow:7.2f} s    {slow / fast:5.1f}   {equal:.6f}")

    epoch = seconds(lambda: train(trainable, data))
    trainable.eval()
    evaluation = seconds(lambda: trainable.evaluate(data))
    with torch.no_grad():
        losses = seconds(lambda: Trainable.evaluate(trainable, data))
    updates = len(data.train(0))
    print(f"\nsmall preset: training epoch {epoch:.2f} s, {updates} updates of {data.batch_size} windows")
    share = evaluation / epoch
    print(f"evaluation {evaluation:.2f} s, {share:.0%} of the epoch; its loss alone {losses:.2f} s")


if __name__ == "__main__":
    main()
