"""Born machines under attack: what classes, robustness and drawing cost one another.

python -m tests.benchmarks.born_front --weights 0 0.25 0.5 1 2 4 --sizes 0 0.06 0.12 --seeds 2
"""

from __future__ import annotations

import argparse
from itertools import product

import numpy as np
import torch

from gatesweep.core.loop import fit
from gatesweep.sweeps.config.build import build_run
from gatesweep.sweeps.config.compose import compose_config
from gatesweep.sweeps.config.schema import Config, make_settings
from gatesweep.sweeps.config.values import with_values
from gatesweep.trainables.born.adversarial import BornAdversarial

SHOWN = ("accuracy", "robust_accuracy_10", "joint_nll_per_dim", "frechet", "sliced_w1")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--weights", nargs="*", type=float, default=[0.0, 0.5, 2.0], help="trainable.weight_generative")
    parser.add_argument("--sizes", nargs="*", type=float, default=[0.0, 0.12], help="trainable.eps, of training")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("overrides", nargs="*", help="e.g. data.dataset=circles training.max_epochs=60")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    base = compose_config(["experiment=born_joint", "gate.thresholds={}", *arguments.overrides])
    print(f"| weight | eps | {' | '.join(SHOWN)} |\n|{'---|' * (len(SHOWN) + 2)}")
    for weight, eps in product(arguments.weights, arguments.sizes):
        rows = [trained(base, weight, eps, seed) for seed in range(arguments.seeds)]
        cells = [f"{np.mean([row[name] for row in rows]):.3f}" for name in SHOWN]
        spans = [f"{min(row[name] for row in rows):.3f} to {max(row[name] for row in rows):.3f}" for name in SHOWN]
        texts = [f"{cell} ({span})" for cell, span in zip(cells, spans, strict=True)] if len(rows) > 1 else cells
        print(f"| {weight:g} | {eps:g} | {' | '.join(texts)} |", flush=True)


def trained(base: Config, weight: float, eps: float, seed: int) -> dict[str, float]:
    """Metrics on the test points after all epochs: no gate ends the run."""
    every = base.training.max_epochs  # nothing costly on the way
    varied = {"trainable.weight_generative": weight, "trainable.eps": eps, "seed": seed}
    spared = {"trainable.robustness_every": every, "trainable.frechet_every": every}
    config = with_values(base, varied | spared)
    trainable, data = build_run(config)
    for _ in fit(trainable, data, make_settings(config)):
        pass
    assert isinstance(trainable, BornAdversarial)
    return trainable.eval().evaluate(data, "test")


if __name__ == "__main__":
    main()
