"""Steps of trials stacked against the same one by one: `python -m tests.benchmarks.stack [TRAINABLE ...]`.

Every trainable that can, at its default configuration: a pass over some batches by a stack, and by its members one by
one, in turns. Evaluation and checkpoints, which are the same either way, are in neither.
"""

from __future__ import annotations

import argparse
from importlib.metadata import version
from statistics import median
from time import perf_counter

import torch

from gatesweep.core import rng
from gatesweep.core.loop import Run
from gatesweep.core.stack_step import Stack
from gatesweep.core.trainable import owns_step
from gatesweep.sweeps.config.build import build_run
from gatesweep.sweeps.config.compose import compose_config
from gatesweep.sweeps.config.schema import Config, make_settings
from gatesweep.sweeps.config.values import with_values
from tests.conftest import TRAINABLES


def runs(config: Config, count: int) -> list[Run]:
    """Members that differ in seed and learning rate."""
    made = []
    for position in range(count):
        lr = config.trainable["lr"] * (0.5 + position / count)
        member = with_values(config, {"seed": position, "trainable.lr": lr})
        trainable, data = build_run(member)
        run = Run(trainable, make_settings(member), lambda module: module)
        trainable.begin(data)
        run.generators = rng.state()
        made.append(run)
    return made


def compare(config: Config, count: int, batches: int, rounds: int) -> list[tuple[float, float]]:
    """Seconds one by one and stacked, of each round."""
    stack, alone = Stack(runs(config, count)), runs(config, count)
    some = build_run(config)[1].train(0)[:batches]
    found = []
    for _ in range(rounds + 1):
        began = perf_counter()
        for run in alone:
            run.train_epoch(some, {}, [])
        between = perf_counter()
        stack.train(some)
        found.append((between - began, perf_counter() - between))
    return found[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trainables", nargs="*", default=TRAINABLES, metavar="TRAINABLE")
    parser.add_argument("--members", type=int, nargs="+", default=[16])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, help="default: the configuration's")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    print(
        f"torch {version('torch')}; ms a step of one member; ratio: median (least to most) of {arguments.rounds} rounds"
    )
    print(f"{'trainable':24}{'batch':>6}{'threads':>8}{'members':>8}{'alone ms':>10}{'stacked ms':>11}  ratio")
    for name in arguments.trainables:
        size = [f"data.batch_size={arguments.batch_size}"] if arguments.batch_size else []
        config = compose_config([f"trainable={name}", f"device={arguments.device}", *size])
        if owns_step(build_run(config)[0]):
            continue
        for threads in arguments.threads:
            torch.set_num_threads(threads)
            for count in arguments.members:
                found = compare(config, count, arguments.batches, arguments.rounds)
                steps = min(arguments.batches, len(build_run(config)[1].train(0))) * count
                alone, stacked = (1e3 * median(one[side] for one in found) / steps for side in (0, 1))
                ratios = sorted(first / second for first, second in found)
                spread = f"{median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
                batch = config.data["batch_size"]
                print(f"{name:24}{batch:6}{threads:8}{count:8}{alone:10.2f}{stacked:11.2f}  {spread}", flush=True)


if __name__ == "__main__":
    main()
