"""Born machines beside the figures of their source's prototype: classes, densities, samples and plain attacks.

python -m tests.benchmarks.born_machines [<TRAIN>.ts <TEST>.ts of a UCR data set]
"""

from __future__ import annotations

import sys
from statistics import fmean
from time import perf_counter
from typing import Any

import torch

from gatesweep.core.loop import fit
from gatesweep.core.schedule import schedule
from gatesweep.core.settings import Settings
from gatesweep.core.trainable import Metrics
from gatesweep.trainables.born.attacks import pgd
from gatesweep.trainables.born.classifier import BornClassifier
from gatesweep.trainables.born.data import BornData
from gatesweep.trainables.born.generator import BornGenerator

SEEDS = range(3)
PLAIN = (0.05, 0.10, 0.15)  # sizes of the attack that is usual: 20 ascents from the point itself
PAGE = {"dim": 10, "bond": 6, "std": 0.05, "lr": 1e-2}
OURS = {"dim": 14, "bond": 12, "std": 0.015, "lr": 5e-3}
DIGITS: dict[str, Any] = {"dataset": "digits", "batch_size": 32, "val": 0.15, "test": 0.15}
LONG = {"std": 0.01, "lr": 1e-3}  # many features
Row = tuple[dict[str, Any], dict[str, Any], int]  # fields of the data, of the trainable, epochs


def rows(series: list[str]) -> dict[str, Row]:
    found: dict[str, Row] = {}
    for dataset in ("moons", "circles", "spirals"):
        data = {"dataset": dataset, "batch_size": 256}
        found[f"{dataset} 10/6 classifier"] = (data, PAGE, 30)
        found[f"{dataset} 10/6 generator"] = (data, PAGE | {"hybrid": 0.0}, 30)
        found[f"{dataset} 14/12 generator, hybrid 0.1"] = (data, OURS | {"hybrid": 0.1}, 30)
    hard = {"dataset": "circles", "per_class": 500, "noise": 0.2, "batch_size": 256}
    found["circles, hard, 6/4 classifier"] = (hard, PAGE | {"dim": 6, "bond": 4}, 120)
    found["digits 2/20 classifier"] = (DIGITS, LONG | {"dim": 2, "bond": 20}, 20)
    for hybrid in (0.5, 0.0):
        found[f"digits 3/10 generator, hybrid {hybrid}"] = (DIGITS, LONG | {"dim": 3, "bond": 10, "hybrid": hybrid}, 20)
    if series:
        data = {
            "dataset": "series",
            "path": series[0],
            "test_path": series[1],
            "batch_size": 16,
            "val": 0.05,
            "test": 0.45,
        }
        for hybrid in (1.0, 0.5, 0.0):
            fields = {"dim": 3, "bond": 10, "std": 0.01, "lr": 3e-3, "hybrid": hybrid}
            found[f"series 3/10, hybrid {hybrid}"] = (data, fields, 60)
    return found


def measure(row: Row, seed: int) -> Metrics:
    """Metrics of the test part after training, and the seconds that training and its own evaluations took."""
    of_data, fields, epochs = row
    data = BornData(device=torch.device("cpu"), seed=seed, **of_data)
    torch.manual_seed(seed)
    attacked = min(500, len(data.part("val")[0]))
    many = data.n_features > 2
    fields = {"attacked": attacked, "frechet_every": epochs, "robustness_every": epochs, "generated": 1000} | fields
    kind = BornGenerator if "hybrid" in fields else BornClassifier
    trainable = kind(data, **fields, robustness=[] if many else [0.05, 0.10])
    settings = Settings(max_epochs=epochs, clip_norm=1.0, schedule=schedule("cosine", warmup=0.1, floor=0.1))
    began = perf_counter()
    for _ in fit(trainable, data, settings):
        pass
    seconds = perf_counter() - began
    trainable.eval()
    found = trainable.evaluate(data, "test") | {"seconds": seconds}
    x, labels = data.part("test")
    some = torch.linspace(0, len(x) - 1, min(attacked, 100 if many else attacked)).long()
    machine, points, own = trainable.exact(), x[some].double(), labels[some]
    for eps in PLAIN:
        with torch.no_grad():
            answers = machine.class_log_probabilities(pgd(machine, points, own, eps)).argmax(dim=1)
        found[f"plain_{round(100 * eps):02d}"] = (answers == own).double().mean().item()
    return found


def main() -> None:
    torch.set_num_threads(1)
    columns = ("accuracy", "joint_nll_per_dim", "frechet", "sliced_w1", *(f"plain_{round(100 * e):02d}" for e in PLAIN))
    columns = (*columns, "robust_accuracy_10", "seconds")
    print(f"| machine | {' | '.join(columns)} |")
    print(f"|---|{'---|' * len(columns)}")
    for name, row in rows(sys.argv[1:]).items():
        found = [measure(row, seed) for seed in SEEDS]
        shown = []
        for column in columns:
            values = [one[column] for one in found if column in one]
            spread = f" ({min(values):.3g} to {max(values):.3g})" if values and column == "joint_nll_per_dim" else ""
            shown.append(f"{fmean(values):.3g}{spread}" if values else "")
        print(f"| {name} | {' | '.join(shown)} |", flush=True)


if __name__ == "__main__":
    main()
