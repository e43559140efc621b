"""Circuits: what mattered in a finished sweep, and the latent split that it found against others.

python -m tests.benchmarks.latent_split results/latest --figure importance.png --splits 8+8+8 16+2+6
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from matplotlib.figure import Figure
from optuna.trial import TrialState

from gatesweep.core.loop import fit
from gatesweep.sweeps.config.build import build_run
from gatesweep.sweeps.config.recorded import read_config
from gatesweep.sweeps.config.schema import make_gate, make_settings
from gatesweep.sweeps.config.values import with_values
from gatesweep.sweeps.search.study import open_study
from gatesweep.trainables.circuits.trainable import LATENT, CircuitVAE

SHOWN = ("db_error", "pole_error_p95", "value_error", "topology_accuracy", "prior_valid", "silhouette", "active")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sweep", type=Path, help="the folder of a finished sweep of circuit_vae")
    parser.add_argument("--figure", type=Path, help="where to draw the importances, e.g. importance.png")
    parser.add_argument("--splits", nargs="*", default=["8+8+8"], help="topology+values+response, beside the best")
    parser.add_argument("--seeds", type=int, default=2, help="runs of each split; 0: importances alone")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sweep = arguments.sweep.resolve()
    study = open_study(sweep)
    shares = importances(study)
    print_importances(study, shares)
    if arguments.figure:
        draw(shares).savefig(arguments.figure)
    if arguments.seeds:
        best = best_config(study, sweep)
        found = "+".join(str(best["trainable"]["latent"][part]) for part in LATENT)
        print_splits(best, dict.fromkeys([*arguments.splits, found]), found, arguments.seeds)


def importances(study: optuna.Study) -> dict[str, float]:
    """The share of the objective's variance that each hyperparameter explains, over trials that were not stopped.

    The objective is an error over decades, so its logarithm is explained. Source: fANOVA, Hutter et al., ICML 2014.
    """
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return optuna.importance.get_param_importances(study, evaluator=evaluator, target=objective)


def objective(trial: optuna.trial.FrozenTrial) -> float:
    assert trial.value is not None
    return float(np.log10(max(-trial.value, 1e-6)))  # the study maximises, so that errors come negated


def print_importances(study: optuna.Study, shares: Mapping[str, float]) -> None:
    trials = study.get_trials(deepcopy=False)
    complete = [one for one in trials if one.state is TrialState.COMPLETE]
    values = [-one.value for one in complete if one.value is not None]
    spread = f"objective {min(values):.3g} to {max(values):.3g}"
    print(f"{len(complete)} of {len(trials)} trials were not stopped; {spread}\n")
    print("| hyperparameter | importance |\n|---|---|")
    for name, share in shares.items():
        print(f"| {name.removeprefix('trainable.')} | {share:.2f} |")


def draw(shares: Mapping[str, float]) -> Figure:
    """The importances as bars, the largest on top."""
    figure = Figure(figsize=(6, 0.45 * len(shares) + 1), layout="constrained")
    axis = figure.subplots()
    names = [name.removeprefix("trainable.") for name in reversed(shares)]
    axis.barh(names, list(reversed(shares.values())), color="C0")
    axis.set(xlabel="importance (fANOVA)", xlim=(0, 1))
    return figure


def best_config(study: optuna.Study, sweep: Path) -> dict[str, Any]:
    """The configuration of the trial with the best objective among those not stopped."""
    best = max(
        (one for one in study.get_trials(deepcopy=False) if one.state is TrialState.COMPLETE),
        key=lambda one: -np.inf if one.value is None else one.value,
    )
    return read_config(sweep / f"trial_{best.number:04d}" / "config.yaml")


def print_splits(best: dict[str, Any], splits: Mapping[str, Any], found: str, seeds: int) -> None:
    """Train each split with the best trial's other hyperparameters, and print what it makes of the test circuits."""
    print(f"\n| split | {' | '.join(name.replace('_', ' ') for name in SHOWN)} |\n|{'---|' * (len(SHOWN) + 1)}")
    for split in splits:
        rows = [trained(best, split, seed) for seed in range(seeds)]
        cells = [f"{np.mean([row[name] for row in rows]):.3g}" for name in SHOWN]
        ranges = [f"{min(row[name] for row in rows):.3g} to {max(row[name] for row in rows):.3g}" for name in SHOWN]
        texts = [f"{cell} ({span})" for cell, span in zip(cells, ranges, strict=True)]
        print(f"| {split}{', the best found' if split == found else ''} | {' | '.join(texts)} |", flush=True)


def trained(best: dict[str, Any], split: str, seed: int) -> dict[str, float]:
    """Metrics on the test circuits after all epochs: no gate ends the run."""
    sizes = dict(zip(LATENT, map(int, split.split("+")), strict=True))
    config = with_values(best, {"trainable.latent": sizes, "seed": seed, "data.seed": seed, "gate.thresholds": {}})
    assert not make_gate(config.gate).rules
    trainable, data = build_run(config)
    for _ in fit(trainable, data, make_settings(config)):
        pass
    assert isinstance(trainable, CircuitVAE)
    return trainable.eval().evaluate(data, "test")


if __name__ == "__main__":
    main()
