"""Born machines trained in four ways, and what attackers make of them on test points that no sweep sees.

python -m tests.benchmarks.robustness --seeds 3
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from gatesweep.core.loop import fit
from gatesweep.sweeps.config.build import build_run
from gatesweep.sweeps.config.compose import compose_config
from gatesweep.sweeps.config.schema import make_settings
from gatesweep.trainables.born.attacks import fgsm, is_robust, pgd
from gatesweep.trainables.born.data import BornData
from gatesweep.trainables.born.trainable import Born

SIZES = (0.05, 0.10, 0.15)  # of the inputs' range
METHODS = {
    "plain": ["trainable=born_classifier"],
    "fgsm": ["trainable=born_adversarial", "trainable.method=fgsm"],
    "pgd": ["trainable=born_adversarial", "trainable.training_tries=1"],
    "pgd, worst start": ["trainable=born_adversarial"],
    "trades": ["trainable=born_adversarial", "trainable.method=trades", "trainable.beta=1"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS), metavar="METHOD")
    parser.add_argument("--points", type=int, default=500, help="test points that are attacked")
    parser.add_argument("overrides", nargs="*", help="for all of them, e.g. data.dataset=circles trainable.std=0.05")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    attacks = [f"{name} {eps:.2f}" for name in ("FGSM", "PGD-20", "search") for eps in SIZES]
    print(f"| training | seed | clean | {' | '.join(attacks)} |\n|{'---|' * (len(attacks) + 3)}")
    for method in arguments.methods:
        rows = []
        for seed in range(arguments.seeds):
            rows.append(robustness(method, seed, arguments.points, arguments.overrides))
            print(f"| {method} | {seed} | {' | '.join(f'{share:.3f}' for share in rows[-1])} |", flush=True)
        if len(rows) > 1:
            shares = " | ".join(f"{share:.3f}" for share in np.mean(rows, axis=0))
            print(f"| **{method}** | mean | {shares} |", flush=True)


def robustness(method: str, seed: int, count: int, overrides: list[str]) -> list[float]:
    """Accuracy on test points as they are, and after each attack of each size."""
    spared = ["trainable.robustness=[]", "trainable.frechet_every=1000", "gate.thresholds={}", "gate.objective=null"]
    config = compose_config(
        [*METHODS[method], *spared, "data.batch_size=256", f"seed={seed}", f"data.seed={seed}", *overrides]
    )
    trainable, data = build_run(config)
    for _ in fit(trainable, data, make_settings(config)):
        pass
    assert isinstance(trainable, Born) and isinstance(data, BornData)
    x, labels = data.part("test")
    some = torch.linspace(0, len(x) - 1, min(count, len(x))).long()  # of every class alike
    x, labels, machine = x[some].double(), labels[some], trainable.exact()

    def share(points: torch.Tensor) -> float:
        with torch.no_grad():
            return (machine.class_log_probabilities(points).argmax(dim=1) == labels).double().mean().item()

    found = [share(x)]
    found += [share(fgsm(machine, x, labels, eps)) for eps in SIZES]
    found += [share(pgd(machine, x, labels, eps)) for eps in SIZES]
    return found + [is_robust(machine, x, labels, eps).double().mean().item() for eps in SIZES]


if __name__ == "__main__":
    main()
