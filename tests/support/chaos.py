"""Chaos: SIGKILL at seeded random moments. Nothing is lost, nothing is there twice, and the result is the same.

    python -m tests.support.chaos driver trial worker node nodes --rounds 20 --seed 0

A round is a small sweep that loses processes once to three times. Its kind says which: the driver, followed by
`resume=` (`job`: on a cluster that outlives the driver; `group_term`: it ends by SIGTERM to its process group;
`budget`: by its time budget); a trial's process, killed or (`freeze`) stopped by SIGSTOP;
one of two Ray Train workers; the process that holds the workers (`holder`); or a whole node of a cluster of three,
which a new node replaces (`nodes`: with two trials at once; `gang`: with two workers). The round is compared with an
undisturbed run of the same trials (tests/support/undisturbed.py).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import gatesweep.sweeps  # sets Ray's environment before anything imports it  # noqa: F401  isort: skip

import ray
from ray.cluster_utils import Cluster

from gatesweep.sweeps.config.compose import compose_config
from gatesweep.sweeps.execution.cluster import start_ray
from tests.support.strikes import (
    NODE,
    Kind,
    Round,
    end_driver,
    recorded,
    strike_driver,
    strike_node,
    strike_process,
    sweep_here,
)
from tests.support.undisturbed import differences

# Trials that pass, are stopped and use up their epochs.
SWEEP = [
    "experiment=mlp",
    "data.n_samples=20000",
    "gate.thresholds={val/r2: '>= 0.997'}",
    "figures=none",
    "resources.max_failures=6",
    "seed=1",
]
# One trial at a time, so the order of reports never varies. TPE uses earlier trials from the fourth on.
IN_TURN = ["max_concurrent=1", "grace_period=2", "scheduler.reduction_factor=2", "search.sampler.n_startup_trials=3"]
TOGETHER = ["max_concurrent=2", "search=random", "scheduler=none"]  # no result depends on the order of reports
TWO_WORKERS = [*IN_TURN, "resources.workers=2"]

TRIAL = ("ray::DirectTrial", "ray::_Inner")  # the first words of process titles: idle, and in Tune's wrapper
HOLDER = ("ray::TrainTrial", "ray::_Inner", "ray::TrainController")
WORKER = ("ray::RayTrainWorker",)
SILENCE = 15  # seconds; a process starts in less, also on a busy machine
HEALTH = {"health_check_period_ms": 1000, "health_check_failure_threshold": 3, "health_check_initial_delay_ms": 0}
KINDS = {
    "driver": Kind(IN_TURN),
    "job": Kind(IN_TURN, cluster=True),
    "trial": Kind(IN_TURN, TRIAL),
    "worker": Kind(TWO_WORKERS, WORKER),
    "freeze": Kind([*IN_TURN, f"resources.silence={SILENCE}"], TRIAL, freeze=True),
    "group_term": Kind(IN_TURN, term=True),
    "budget": Kind(IN_TURN, budget=True),
    "holder": Kind(TWO_WORKERS, HOLDER),
    "node": Kind(IN_TURN, TRIAL, cluster=True),
    "nodes": Kind(TOGETHER, TRIAL, cluster=True),
    "gang": Kind(TWO_WORKERS, WORKER, cluster=True),
}


@contextlib.contextmanager
def three_nodes() -> Iterator[Cluster]:
    """Start a cluster in this process: a head without trials, and two nodes with one core each."""
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        with mock.patch.dict(os.environ, RAY_TMPDIR=folder):  # Ray writes its address there, for others to join
            cluster = Cluster(initialize_head=True, head_node_args={**NODE, "num_cpus": 0, "_system_config": HEALTH})
        try:
            for _ in range(2):
                cluster.add_node(**NODE)
            yield cluster
        finally:
            cluster.shutdown()


class Chaos:
    """Rounds of any kind, and the undisturbed sweeps that they are compared with."""

    def __init__(
        self, results: Path, size: list[str], *, kills: int = 3, seed: int = 0, cluster: Cluster | None = None
    ) -> None:
        self.results, self.size, self.kills, self.seed, self.cluster = results, size, kills, seed, cluster
        self.whole: dict[str, Path] = {}  # by options: several kinds disturb the same trials

    def options(self, kind: str) -> list[str]:
        """Return the overrides of a kind's sweep."""
        return [*SWEEP, *KINDS[kind].options, *self.size]

    def undisturbed(self, kind: str) -> Path:
        """Return the folder of an undisturbed sweep of the same trials; run it if there is none yet."""
        options = self.options(kind)
        key = " ".join(options)
        if key not in self.whole:
            name = f"whole{len(self.whole)}"
            sweep_here([*options, f"name={name}", f"results={self.results}"])
            self.whole[key] = next(self.results.glob(f"*-{name}"))
        return self.whole[key]

    def round(self, kind: str, number: int) -> Round:
        """Run one round; a round whose kills came too late starts again with earlier ones."""
        assert self.cluster or not KINDS[kind].cluster
        whole = self.undisturbed(kind)
        draw, length = random.Random(f"{self.seed} {kind} {number}"), recorded(whole)
        last = length + (not KINDS[kind].victims)  # a driver still works after the last epoch
        moments = sorted(draw.uniform(0, last) for _ in range(min(draw.choice([1, 1, 2, 3]), self.kills)))
        began = time.monotonic()
        for attempt in range(5):
            name = f"{kind}-{number}" + "-again" * attempt
            arguments = [*self.options(kind), f"name={name}", f"results={self.results}"]
            earlier = [moment * 0.7**attempt for moment in moments]
            round = Round(name, KINDS[kind], arguments, self.results, length, earlier, draw)
            self._strike(round)
            if round.hits:
                break
        assert round.hits and round.folder, f"nothing could be killed: {round.faults}"
        round.faults = round.faults or differences(round.folder, whole)
        round.seconds = time.monotonic() - began
        return round

    def _strike(self, round: Round) -> None:
        try:
            if round.kind.term or round.kind.budget:
                end_driver(round)
            elif not round.kind.victims:
                strike_driver(round, self.cluster if round.kind.cluster else None)
            elif round.kind.cluster:
                strike_node(round, self.cluster)
            else:
                strike_process(round)
        except Exception as error:  # of the sweep in this process, or a sweep that never ends
            round.faults.append(f"{type(error).__name__}: {str(error)[-400:]}")


def main() -> int:
    """Run the rounds of the command line; return 1 if any differs from its undisturbed run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="+", choices=KINDS, metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="number of the first round")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--kills", type=int, default=3, help="in a round, at most")
    parser.add_argument("--results", type=Path, help="folder that keeps the sweeps; default: none are kept")
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        results = arguments.results or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        results.mkdir(parents=True, exist_ok=True)
        start_ray(compose_config([]).resources, None)
        cluster = stack.enter_context(three_nodes()) if any(KINDS[kind].cluster for kind in arguments.kinds) else None
        size = [f"num_samples={arguments.trials}", f"training.max_epochs={arguments.epochs}"]
        chaos, done = Chaos(results, size, kills=arguments.kills, seed=arguments.seed, cluster=cluster), []
        for kind in arguments.kinds:
            for number in range(arguments.first, arguments.first + arguments.rounds):
                done.append((kind, chaos.round(kind, number)))
                print_round(done[-1][1])
        ray.shutdown()
    print("\n| kind | rounds | kills | when | seconds a round | rounds with a difference |\n|---|---|---|---|---|---|")
    for kind in arguments.kinds:
        print(row(kind, [round for round_kind, round in done if round_kind == kind]))
    return int(any(round.faults for _, round in done))


def print_round(round: Round) -> None:
    """Print a round: its time, its kills, and its faults."""
    print(f"{round.name}: {round.seconds:.0f} s, {'; '.join(round.hits)}", flush=True)
    for fault in round.faults:
        print(f"    {fault[:600]}", flush=True)


def row(kind: str, done: list[Round]) -> str:
    """Return a kind's row of the table in markdown."""
    phases = Counter(hit.partition(":")[0] for round in done for hit in round.hits)
    when = ", ".join(f"{phase} {count}" for phase, count in phases.most_common())
    seconds = sum(round.seconds for round in done) / len(done)
    failed = sum(bool(round.faults) for round in done)
    return f"| {kind} | {len(done)} | {sum(phases.values())} | {when} | {seconds:.0f} | {failed} |"


if __name__ == "__main__":
    sys.exit(main())
