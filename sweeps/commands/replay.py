"""What would another scheduler or search have made of a sweep? `python sweeps/replay.py SWEEP ... grace_period=2,5`

Replays the curves of sweeps whose trials ran to their end (recorded with search=random scheduler=none) in virtual time,
with the very schedulers and samplers of a sweep. A choice of values, as above, replays each; scheduler=asha,median too.
Keys are those of a sweep: scheduler (asha, unless named), grace_period, search, num_samples, max_concurrent,
stop_after_passes, time_budget (virtual seconds), seed. With search=, each proposal of the sampler becomes the nearest
recorded trial not used yet (in the unit cube of the space, unequal choices 1 apart); without, the trials come shuffled.

  stopped      of the trials that ended
  false kills  of the trials that pass if nobody stops them, those that were stopped
  epochs       trained, of those that the same trials have in full
  passed       trials, on average, of those that began
  first pass   virtual seconds: the median over replicas and the quartiles ("never" where it did not come)
  seconds      of the whole sweep, virtual: the median

An epoch takes the seconds that it took when it was recorded, and a trial's start the median of the record. Exit codes:
0, and 2 for bad input.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from gatesweep.core.errors import InputError
from gatesweep.sweeps.commands.cli import run_command
from gatesweep.sweeps.commands.preflight import check_search
from gatesweep.sweeps.config.compose import config_variants
from gatesweep.sweeps.config.schema import Config
from gatesweep.sweeps.search.space import Space, read_space
from gatesweep.sweeps.simulation.recorded import RecordedSweep, read_recorded, save_recorded
from gatesweep.sweeps.simulation.simulate import (
    FixedOrder,
    NearestRecorded,
    SimulatedSweep,
    Source,
    make_stopping_scheduler,
    shuffled_order,
    simulate_sweep,
)

REPLAY_KEYS = (
    *("scheduler", "grace_period", "search", "num_samples"),
    *("max_concurrent", "stop_after_passes", "time_budget", "seed"),
)


@dataclass(frozen=True)
class Setting:
    """A way to sweep over a pool."""

    name: str
    config: Config
    space: Space
    order: str  # sampler, shuffled or recorded

    def source(self, pool: RecordedSweep, replica: int) -> Source:
        seed = self.config.seed + replica
        if self.order == "sampler":
            return NearestRecorded(self.config.replace(seed=seed), self.space, pool.curves)
        return shuffled_order(pool, str(seed)) if self.order == "shuffled" else FixedOrder(pool.curves)

    def replicas(self, pool: RecordedSweep, count: int) -> Iterator[SimulatedSweep]:
        for replica in range(count if self.order != "recorded" else 1):
            yield simulate_sweep(self.config, pool, self.space, self.source(pool, replica))


@dataclass(frozen=True)
class SettingSummary:
    """What a setting comes to; shares of nothing are NaN."""

    stopped: float
    false_kills: float
    epochs: float
    passed: float
    begun: float
    first_pass: list[float]  # quartiles; infinite where none passed
    seconds: float


def replay_settings(pool: RecordedSweep, overrides: Sequence[str], in_order: bool = False) -> list[Setting]:
    """Every combination of the values that `overrides` offer, checked. Raises InputError in one line."""
    keys = [item.partition("=")[0].lstrip("+~").partition(".") for item in overrides]
    for item, (key, _, rest) in zip(overrides, keys, strict=True):
        if key not in REPLAY_KEYS or rest.startswith("space"):
            raise InputError(
                f"got {item!r}, expected one of {', '.join(REPLAY_KEYS)}: a replay takes curves as they were recorded"
            )
    names = ["".join(key) for key in keys]
    order = "sampler" if any(key[0] == "search" for key in keys) else "recorded" if in_order else "shuffled"
    if in_order and order == "sampler":
        raise InputError("--in-order: got search= as well, expected one of them: a sampler has an order of its own")
    found = []
    for name, variant in config_variants(
        pool.config, [*([] if "scheduler" in names else ["scheduler=asha"]), *overrides]
    ):
        space = read_space(variant)
        check_search(variant, space)
        make_stopping_scheduler(variant, space)
        found.append(Setting(name, variant, space, order))
    return found


def summarise_replicas(replicas: Sequence[SimulatedSweep]) -> SettingSummary:
    ends = [end for replica in replicas for end in replica.ends.values() if end.outcome != "cut"]
    quartiles = np.quantile([replica.first_pass for replica in replicas], [0.25, 0.5, 0.75], method="nearest")
    return SettingSummary(
        stopped=_share(sum(end.outcome == "stopped" for end in ends), len(ends)),
        false_kills=_share(sum(end.false_kill for end in ends), sum(end.curve.passes for end in ends)),
        epochs=_share(sum(end.epochs for end in ends), sum(len(end.curve.scores) for end in ends)),
        passed=float(np.mean([replica.passed for replica in replicas])),
        begun=float(np.mean([len(replica.ends) for replica in replicas])),
        first_pass=quartiles.tolist(),
        seconds=float(np.median([replica.seconds for replica in replicas])),
    )


def summary_row(name: str, setting: str, found: SettingSummary) -> dict[str, str]:
    low, middle, high = (_seconds(value) for value in found.first_pass)
    return {
        "sweep": name,
        "setting": setting,
        "stopped": _percent(found.stopped),
        "false kills": _percent(found.false_kills),
        "epochs": _percent(found.epochs),
        "passed": f"{found.passed:.1f} of {found.begun:.1f}",
        "first pass": f"{middle} ({low} to {high})",
        "seconds": _seconds(found.seconds),
    }


def to_text(rows: Sequence[dict[str, str]]) -> str:
    table = [list(rows[0]), *(list(row.values()) for row in rows)]
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in table)
    return "\n".join(line.rstrip() for line in lines)


def replay_parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("arguments", nargs="+", metavar="SWEEP | KEY=VALUE", help="folders of sweeps, and what to vary")
    made.add_argument("--replicas", type=int, default=100, help="sweeps a setting, by default 100")
    made.add_argument("--in-order", action="store_true", help="the trials as they came, once, instead of shuffled")
    made.add_argument(
        "--save", type=Path, help="write the curves of one sweep to this folder, a few kB, and replay none"
    )
    return made


def replay_command(arguments: argparse.Namespace) -> int:
    folders = [item for item in arguments.arguments if "=" not in item or Path(item).is_dir()]
    overrides = [item for item in arguments.arguments if item not in folders]
    if not folders:
        raise InputError("got no sweep, expected the folder of one, e.g. results/latest")
    if arguments.replicas < 1:
        raise InputError(f"--replicas: got {arguments.replicas}, expected at least 1")
    pools = [read_recorded(Path(folder)) for folder in folders]
    if arguments.save:
        if len(pools) > 1 or overrides:
            raise InputError("--save: got more than a sweep, expected one sweep and nothing else")
        save_recorded(pools[0], arguments.save)
        return 0
    work = [(one, setting) for one in pools for setting in replay_settings(one, overrides, arguments.in_order)]
    bar = tqdm(total=len(work) * (1 if arguments.in_order else arguments.replicas), disable=None, leave=False)
    rows = []
    for one, setting in work:
        replicas = []
        for replica in setting.replicas(one, arguments.replicas):
            replicas.append(replica)
            bar.update()
        rows.append(summary_row(one.name, setting.name, summarise_replicas(replicas)))
    bar.close()
    for one in pools:
        print(describe_recorded(one))
    print(to_text(rows))
    return 0


def describe_recorded(pool: RecordedSweep) -> str:
    passing = sum(curve.passes for curve in pool.curves)
    seconds = sum(sum(curve.seconds) for curve in pool.curves) / len(pool.curves)
    return (
        f"{pool.name}: {len(pool.curves)} trials, of which {passing} pass, of {seconds:.1f} s each and "
        f"{pool.start:.2f} s to start; {pool.concurrent} at a time when recorded"
    )


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{share:.0%}"


def _seconds(value: float) -> str:
    return "never" if math.isinf(value) else f"{value:.3g}"


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return run_command(replay_parser(), replay_command, argv)
