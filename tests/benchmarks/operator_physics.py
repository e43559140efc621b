"""How much the equation is worth beside 20 solutions: the source's setting of Burgers, by the weight of the residual.

python -m tests.benchmarks.operator_physics --updates 2000
"""

from __future__ import annotations

import argparse
import os
from time import perf_counter

import torch

from gatesweep.core.loop import fit
from gatesweep.sweeps.config.build import build_run
from gatesweep.sweeps.config.compose import compose_config
from gatesweep.sweeps.config.schema import make_settings

SOURCE = {0.0: (0.0553, 0.939, 0.005), 0.02: (0.0271, 0.339, 0.006), 0.1: (0.0182, 0.171, 0.0085)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--weights", type=float, nargs="*", default=list(SOURCE), help="of squared residuals")
    parser.add_argument("--labelled", type=int, default=20)
    parser.add_argument("--updates", type=int, default=2000)
    parser.add_argument("--width", type=int, default=20)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{os.cpu_count()} cores, torch {torch.__version__}, one thread, {arguments.updates} updates")
    print("| weight | rel. L2, val | test | twice as fine | residual | of the solution | drift | seconds | source |")
    print("|---|---|---|---|---|---|---|---|---|")
    for weight in arguments.weights:
        print(row(weight, arguments), flush=True)


def row(weight: float, arguments: argparse.Namespace) -> str:
    """The last epoch's metrics. Residuals (rms) and their weight are in the equation's own units, as the source's."""
    config = compose_config(
        [
            *("experiment=operator_burgers", "resources=cpu", "device=cpu", "tracking=none", "gate.thresholds={}"),
            *(f"trainable.width={arguments.width}", "trainable.layers=4", "trainable.weight_conservation=0.0"),
            *("trainable.lr=1e-2", "trainable.double_every=1000000", f"data.n_labelled={arguments.labelled}"),
        ]
    )
    per_epoch = config.data["n_unlabelled"] // config.data["batch_size"]
    config.training.max_epochs = round(arguments.updates / per_epoch)
    config.trainable["residual"] = "spectral" if weight else "none"
    trainable, data = build_run(config)
    rate = trainable.rate.item()
    config.trainable["weight_physics"] = weight * rate**2
    trainable, data = build_run(config)
    began = perf_counter()
    *_, last = fit(trainable, data, make_settings(config))
    seconds = perf_counter() - began
    found = {name.removeprefix("val/"): value for name, value in last.metrics.items()}
    test = trainable.evaluate(data, "test")["rel_l2"]
    rms, floor = (value * rate for value in (found["residual_rms"], found["residual_rms"] / found["residual_ratio"]))
    known = SOURCE.get(weight) if arguments.labelled == 20 else None
    source = f"{known[0]:.4f}, {known[1]:.3f}, {known[2]:.4f}" if known else ""
    shown = [weight, *(f"{value:.4f}" for value in (found["rel_l2"], test, found["rel_l2_double"], rms, floor))]
    return "| " + " | ".join(map(str, [*shown, f"{found['drift']:.4f}", f"{seconds:.0f}", source])) + " |"


if __name__ == "__main__":
    main()
