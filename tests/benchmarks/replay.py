"""Which scheduler, grace period and sampler? Recorded pools, replayed: `python -m tests.benchmarks.replay [PART ...]`.

The pools are in `pools/`: random trials, none stopped (`sweeps/run.py experiment=NAME search=random scheduler=none
seed=100 num_samples=48`, then `sweeps/replay.py FOLDER --save tests/benchmarks/pools/NAME`). Two thirds of the trials
of each are there to choose on, a third is held back. A replay has two trials at once and a third of the time that its
trials take when nobody stops them.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import geometric_mean, mean, quantiles, stdev
from typing import Any

from gatesweep.sweeps.commands.replay import Setting, SettingSummary, replay_settings, summarise_replicas
from gatesweep.sweeps.config.schema import Config, make_gate
from gatesweep.sweeps.search.sampler import make_sampler
from gatesweep.sweeps.search.searcher import Search
from gatesweep.sweeps.search.space import Space, read_space
from gatesweep.sweeps.simulation.recorded import LearningCurve, RecordedSweep, read_recorded
from gatesweep.sweeps.simulation.simulate import point_distance, simulate_sweep

POOLS = Path(__file__).parent / "pools"
SHARES = (0.1, 0.25, 0.4, 0.5, 0.65, 0.8)  # of the epochs, as grace periods
ENOUGH = 24  # trials of a pool that can be split
HALVINGS = [(factor, brackets) for factor in (2, 3, 4) for brackets in (1, 3)]
SAMPLERS = {
    "random": ["search=random"],
    **{f"tpe, {n} random first": ["search=tpe", f"search.sampler.n_startup_trials={n}"] for n in (4, 8, 16)},
    "gp, 8 random first": ["search=gp"],
}


def part(of: RecordedSweep, held_back: bool) -> RecordedSweep:
    """Every third trial is held back, where there are enough."""
    if len(of.curves) < ENOUGH:
        return replace(of, curves=[] if held_back else of.curves, concurrent=2)
    return replace(of, curves=[one for at, one in enumerate(of.curves) if (at % 3 == 2) == held_back], concurrent=2)


def budget(of: RecordedSweep) -> float:
    """A third of the seconds that all trials take, two at a time."""
    return sum(sum(curve.seconds) + of.start for curve in of.curves) / 2 / 3


def grace(of: RecordedSweep, share: float) -> int:
    return max(1, round(share * of.config.training.max_epochs))


def asha(epochs: int, factor: int = 3, brackets: int = 1) -> list[str]:
    return [f"grace_period={epochs}", f"scheduler.reduction_factor={factor}", f"scheduler.brackets={brackets}"]


def found(of: RecordedSweep, overrides: Sequence[str], count: int) -> SettingSummary:
    (setting,) = replay_settings(of, [f"time_budget={budget(of)}", *overrides])
    return summarise_replicas(list(setting.replicas(of, count)))


def line(*cells: Any) -> None:
    print(
        "| " + " | ".join(f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in cells) + " |", flush=True
    )


def head(*cells: str) -> None:
    print()
    line(*cells)
    print("|" + "---|" * len(cells), flush=True)


def described(one: SettingSummary) -> tuple[str, ...]:
    low, middle, high = (f"{value:.3g}" for value in one.first_pass)
    return f"{one.false_kills:.0%}", f"{one.epochs:.0%}", f"{one.passed:.1f}", f"{middle} ({low} to {high})"


def pools(pools: Sequence[RecordedSweep]) -> None:
    head("experiment", "trials", "pass", "epochs", "grace_period now", "seconds a trial", "budget s")
    for of in pools:
        passing = sum(curve.passes for curve in of.curves)
        seconds = sum(sum(curve.seconds) for curve in of.curves) / len(of.curves)
        epochs = of.config.training.max_epochs
        line(of.name, len(of.curves), passing, epochs, of.config.grace_period, seconds, budget(part(of, False)))


def graces(pools: Sequence[RecordedSweep], count: int) -> None:
    """Each experiment's grace period, on the trials to choose on and on those held back."""
    head(
        "experiment",
        "setting",
        "false kills",
        "epochs",
        "passed in time",
        "first pass s",
        "held back: false kills",
        "passed in time",
    )
    for of in pools:
        shown = {"none": ["scheduler=none"], "median": ["scheduler=median"]}
        for epochs in dict.fromkeys([grace(of, share) for share in SHARES] + [of.config.grace_period]):
            now = ", now" if epochs == of.config.grace_period else ""
            shown[f"asha {epochs}{now}"] = asha(epochs)
        for name, overrides in shown.items():
            rest = part(of, True)
            again = described(found(rest, overrides, count)) if rest.curves else ("-", "-", "-")
            line(of.name, name, *described(found(part(of, False), overrides, count)), again[0], again[2])


def halvings(pools: Sequence[RecordedSweep], count: int) -> None:
    """Reduction factor and brackets at every grace period: passes in time over those of no scheduler."""
    head("grace period, of the epochs", *(f"{factor}, {brackets} brackets" for factor, brackets in HALVINGS))
    for held_back in (False, True):
        parts = [part(of, held_back) for of in pools if len(of.curves) >= ENOUGH]
        plain = [found(of, ["scheduler=none"], count).passed for of in parts]
        for share in SHARES:
            cells = []
            for factor, brackets in HALVINGS:
                passed = [found(of, asha(grace(of, share), factor, brackets), count).passed for of in parts]
                cells.append(geometric_mean(max(a, 0.05) / b for a, b in zip(passed, plain, strict=True)))
            line(f"{share}{', held back' if held_back else ''}", *cells)


def sure(pools: Sequence[RecordedSweep], count: int) -> None:
    """How sure is it? Passes in time over those without a scheduler, on pools drawn from each pool's trials again."""
    head("experiment", *(f"grace {share}" for share in SHARES), "now")
    for of in pools:
        graces = [grace(of, share) for share in SHARES] + [of.config.grace_period]
        (plain,) = replay_settings(of, ["scheduler=none"])
        halving = [replay_settings(of, asha(epochs))[0] for epochs in graces]
        ratios: list[list[float]] = [[] for _ in graces]
        for draw in range(count):
            drawn = replace(of, curves=random.Random(draw).choices(of.curves, k=len(of.curves)), concurrent=2)
            without = passed(drawn, plain)
            for found, setting in zip(ratios, halving, strict=True):
                found.append(passed(drawn, setting) / max(without, 0.1))
        line(of.name, *(interval(values) for values in ratios))


def passed(of: RecordedSweep, setting: Setting) -> float:
    limited = replace(setting, config=setting.config.replace(time_budget=budget(of)))
    return summarise_replicas(list(limited.replicas(of, 10))).passed


def interval(values: list[float]) -> str:
    cuts = quantiles(values, n=20)
    return f"{mean(values):.2f} ({cuts[0]:.2f} to {cuts[-1]:.2f})"


def samplers(pools: Sequence[RecordedSweep], count: int) -> None:
    """Half of each pool's trials, as a sampler picks them, with today's grace period; `+-` is the standard error."""
    head("experiment", "sampler", "replicas", "passed", "first pass s")
    for of in pools:
        fixed = [f"num_samples={len(of.curves) // 2}", f"grace_period={of.config.grace_period}", "max_concurrent=2"]
        for name, overrides in SAMPLERS.items():
            (setting,) = replay_settings(of, [*overrides, *fixed])
            replicas = list(setting.replicas(of, count if "gp" not in name else max(2, count // 4)))
            passed = [one.passed for one in replicas]
            error = stdev(passed) / len(passed) ** 0.5
            line(
                of.name,
                name,
                len(passed),
                f"{mean(passed):.1f} +- {error:.1f}",
                described(summarise_replicas(replicas))[-1],
            )


class Landscape:
    """A space each point of which is the recorded trial nearest to it, as often as a sampler comes there.

    So one may stay for ever with what does not pass, which one that is offered each trial once cannot.
    """

    def __init__(self, config: Config, points: Space, curves: list[LearningCurve], together: bool) -> None:
        self.curves, self.search = curves, Search(config, points, make_gate(config.gate), None)
        if together:  # Optuna's sampler as it is
            self.search.sampler = lambda number, like=None: make_sampler(config.search.sampler, config.seed, number)  # type: ignore[method-assign]

    def ask(self) -> LearningCurve:
        trial = self.search._ask()
        self.search.suggestion(trial)
        return min(self.curves, key=lambda one: point_distance(one.params, trial.params, trial.distributions))

    def tell(self, *ended: Any) -> None:
        self.search.tell(*ended)


def searches(pools: Sequence[RecordedSweep], count: int) -> None:
    """Whole searches of such spaces, with today's scheduler: until the first pass, and for 24 trials."""
    head("experiment", "sampler", "first pass s", "95 % of searches", "none in 150 trials", "passed of 24 trials")
    for of in (replace(of, concurrent=2) for of in pools if len(of.curves) >= ENOUGH):
        for name, choice, together in (
            ("random", "random", False),
            ("TPE, all values together", "tpe", True),
            ("TPE, now", "tpe", False),
        ):
            first, passed = [], []
            for most, enough in ((150, 1), (24, None)):
                (setting,) = replay_settings(of, [f"search={choice}", f"num_samples={most}"])
                for number in range(count):
                    config = setting.config.replace(seed=1000 + 37 * number, stop_after_passes=enough)
                    points = read_space(config)
                    source = Landscape(config, points, of.curves, together)
                    done = simulate_sweep(config, of, points, source)
                    if enough:
                        first.append(done.first_pass)
                    else:
                        passed.append(done.passed)
            first.sort()
            shown = [f"{first[round(share * (count - 1))]:.3g}" for share in (0.5, 0.25, 0.75, 0.95)]
            error = stdev(passed) / count**0.5
            within = f"{shown[0]} ({shown[1]} to {shown[2]})"
            line(of.name, name, within, shown[3], first.count(float("inf")), f"{mean(passed):.1f} +- {error:.1f}")


def main() -> None:
    parts = {
        "pools": pools, "graces": graces, "halvings": halvings, "sure": sure, "samplers": samplers, "searches": searches
    }  # fmt: skip
    replicas = {"graces": 200, "halvings": 50, "sure": 40, "samplers": 20, "searches": 60}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(parts))
    parser.add_argument("--pools", nargs="*", help="names of pools; all of them")
    arguments = parser.parse_args()
    chosen = [read_recorded(POOLS / name) for name in arguments.pools or sorted(path.name for path in POOLS.iterdir())]
    for name in arguments.parts or parts:
        call = partial(parts[name], count=replicas[name]) if name in replicas else parts[name]
        call(chosen)


if __name__ == "__main__":
    main()
