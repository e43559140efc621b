"""What a warm start saves: `python -m tests.benchmarks.warm_start [KEY=VALUE] [--experiments mlp] [--seeds 0 1 2]`.

For each seed an earlier sweep as a user would run it, then a sweep of another seed until its first pass, cold and warm.
Overrides are of the later sweeps alone, a stricter gate say. Trials run one at a time, so that epochs repeat.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import ray

from gatesweep.sweeps.commands.run import run_sweep
from gatesweep.sweeps.config.compose import compose_config
from gatesweep.sweeps.execution.cluster import start_ray


def run(results: Path, *overrides: str) -> tuple[Path, dict[str, Any]]:
    """A sweep's folder and summary."""
    common = [f"results={results}", "tracking=none", "figures=none", "max_concurrent=1"]
    with contextlib.redirect_stdout(io.StringIO()):
        run_sweep(compose_config([*common, *overrides]))
    folder = (results / "latest").resolve()
    return folder, json.loads((folder / "summary.json").read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--experiments", nargs="+", default=["mlp", "born_classifier"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    arguments = parser.parse_args()
    start_ray(compose_config([]).resources, None)
    print("| experiment | seed | earlier: passed | cold: epochs, seconds | warm: epochs, seconds |", flush=True)
    print("|---|---|---|---|---|", flush=True)
    for experiment in arguments.experiments:
        ratios = []
        for seed in arguments.seeds:
            with tempfile.TemporaryDirectory() as results:
                one = (f"experiment={experiment}", f"data.seed={seed}")
                before, summary = run(Path(results), *one, f"seed={seed}")
                later = (*one, f"seed={seed + 100}", "stop_after_passes=1", "num_samples=40", *arguments.overrides)
                _, cold = run(Path(results), *later)
                _, warm = run(Path(results), *later, f"warm_start={before}")
            shown = [f"{end['first_pass_epochs']}, {end['first_pass_seconds'] or 0:.0f}" for end in (cold, warm)]
            passed = f"{summary['passed']} of {summary['trials']}"
            print(f"| `{experiment}` | {seed} | {passed} | {shown[0]} | {shown[1]} |", flush=True)
            if cold["first_pass_epochs"] and warm["first_pass_epochs"]:
                ratios.append(cold["first_pass_epochs"] / warm["first_pass_epochs"])
        if ratios:
            spread = f"{min(ratios):.1f} to {max(ratios):.1f}"
            print(f"{experiment}: epochs, cold / warm: median {median(ratios):.1f}, {spread}", flush=True)
    ray.shutdown()


if __name__ == "__main__":
    main()
