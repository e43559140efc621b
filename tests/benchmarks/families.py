"""Does each default sweep pass? `python -m tests.benchmarks.families [--seeds 0 1] [EXPERIMENT ...]`.

Each sweep runs as a user would run it, and again as plain random search (no early stopping) for as many seconds.
In both, a trial ends when it passes. Trials that the end of the budget cut short are not counted.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from gatesweep.sweeps.records.summary import leaderboard

ROOT = Path(__file__).parents[2]
DEFAULT = [
    *("circuit_vae", "autoencoder", "gan_autoencoder", "diffusion_autoencoder", "mlp"),
    *("born_classifier", "born_generator", "born_adversarial", "born_gan", "born_joint"),
    *("physics_operator", "bearing_operator"),
]


def run(results: Path, *overrides: str) -> dict[str, Any]:
    """A sweep's summary, `trials` without those that its end cut short."""
    command = [sys.executable, str(ROOT / "sweeps" / "run.py"), f"results={results}", *overrides]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode in (0, 3), done.stderr
    folder = (results / "latest").resolve()
    summary = json.loads((folder / "summary.json").read_text())
    cut = sum(row["reason"] == "the sweep ended" for row in leaderboard(folder))
    return {**summary, "trials": summary["trials"] - cut}


def row(experiment: str, seed: int, kind: str, summary: dict[str, Any]) -> str:
    first = summary["first_pass_seconds"]
    shown = "-" if first is None else f"{first:.0f}"
    rate = f"{summary['passed']} of {summary['trials']}"
    return f"| `{experiment}` | {seed} | {kind} | {rate} | {shown} | {summary['seconds']:.0f} | {summary['epochs']} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("experiments", nargs="*", default=DEFAULT)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    arguments = parser.parse_args()
    print("| experiment | seed | search | passed | first pass s | sweep s | epochs trained |", flush=True)
    print("|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as results:
        for experiment in arguments.experiments:
            for seed in arguments.seeds:
                chosen = (f"experiment={experiment}", f"seed={seed}")
                ours = run(Path(results), *chosen)
                print(row(experiment, seed, "TPE, ASHA on the gate", ours), flush=True)
                budget = ("num_samples=1000", f"time_budget={ours['seconds']}")
                plain = run(Path(results), *chosen, "search=random", "scheduler=none", *budget)
                print(row(experiment, seed, "random", plain), flush=True)


if __name__ == "__main__":
    main()
