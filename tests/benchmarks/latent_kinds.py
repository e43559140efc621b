"""Autoencoder: what each kind of latent keeps of an object, and what initialisation and revival do for a codebook.

python -m tests.benchmarks.latent_kinds [epochs]
"""

from __future__ import annotations

import sys
from time import perf_counter
from typing import Any

import torch

from gatesweep.core.loop import fit
from gatesweep.core.schedule import schedule
from gatesweep.core.settings import Settings
from gatesweep.core.trainable import Metrics
from gatesweep.trainables.autoencoders.autoencoder import Autoencoder
from gatesweep.trainables.autoencoders.data import EventData

SOURCE = {"latent": "vq", "latent_dim": 32, "codebook": "random", "revive_below": 0.0, "lr": 1e-3}
ROWS: dict[str, dict[str, Any]] = {
    "none, 32 dimensions": {"latent": "none", "latent_dim": 32},
    "none, 3": {"latent": "none", "latent_dim": 3},
    "none, 2": {"latent": "none", "latent_dim": 2},
    "linear, 16 to 3": {"latent": "linear", "latent_dim": 16, "latent_rank": 3},
    "linear, 16 to 1": {"latent": "linear", "latent_dim": 16, "latent_rank": 1},
    "vq, the source's default: 512 codes of 32, random, no revival": SOURCE,
    "the same, codes from the data": SOURCE | {"codebook": "data"},
    "the same, with revival": SOURCE | {"revive_below": 0.1},
    "the same, codes from the data and revival": SOURCE | {"codebook": "data", "revive_below": 0.1},
    "vq, 512 codes of 4, codes from the data and revival": {"latent": "vq"},
    "the same, gnn encoder": {"latent": "vq", "encoder": "gnn", "encoder_width": 48},
}
COLUMNS = ("mse", "pt_error", "eta_error", "phi_error", "closure", "perplexity", "codes_used")


def train(fields: dict[str, Any], epochs: int) -> tuple[Metrics, float]:
    """Held-out metrics after training at the default sizes, and the seconds that it took."""
    data = EventData(device=torch.device("cpu"), seed=0)
    torch.manual_seed(0)
    trainable = Autoencoder(data, **fields)
    settings = Settings(max_epochs=epochs, clip_norm=1.0, schedule=schedule("cosine", warmup=0.1, floor=0.1))
    began = perf_counter()
    *_, last = fit(trainable, data, settings)
    return last.metrics, perf_counter() - began


def main() -> None:
    torch.set_num_threads(1)
    epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    EventData(device=torch.device("cpu"), seed=0)  # so that no row pays for the simulation
    print(f"| latent | {' | '.join(COLUMNS)} | seconds |")
    print(f"|---|{'---|' * (len(COLUMNS) + 1)}")
    for name, fields in ROWS.items():
        metrics, seconds = train(fields, epochs)
        shown = [f"{metrics[f'val/{column}']:.4g}" if f"val/{column}" in metrics else "" for column in COLUMNS]
        print(f"| {name} | {' | '.join(shown)} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
