"""Replay recorded sweeps with other schedulers and searches, in virtual time."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from gatesweep.core.errors import InputError
from gatesweep.sweeps.commands.cli import PASSED, run_command
from gatesweep.sweeps.commands.preflight import check_search
from gatesweep.sweeps.config.compose import config_variants
from gatesweep.sweeps.config.schema import Config
from gatesweep.sweeps.records.text import text_table
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
    """One way to sweep over recorded curves: a configuration, and the order of the trials."""

    name: str
    config: Config
    space: Space
    order: str  # sampler, shuffled or recorded

    def source(self, recorded: RecordedSweep, replica: int) -> Source:
        """Return the source of curves for the simulated sweep of this number."""
        seed = self.config.seed + replica
        if self.order == "sampler":
            return NearestRecorded(self.config.replace(seed=seed), self.space, recorded.curves)
        return shuffled_order(recorded, str(seed)) if self.order == "shuffled" else FixedOrder(recorded.curves)

    def replicas(self, recorded: RecordedSweep, count: int) -> Iterator[SimulatedSweep]:
        """`count` simulated sweeps; one where the order is the recorded one, for all would be equal."""
        for replica in range(count if self.order != "recorded" else 1):
            yield simulate_sweep(self.config, recorded, self.space, self.source(recorded, replica))


@dataclass(frozen=True)
class SettingSummary:
    """Means over the simulated sweeps of a setting; a share of nothing is NaN."""

    stopped: float
    false_kills: float
    epochs: float
    passed: float
    begun: float
    first_pass: list[float]  # quartiles; infinite where none passed
    seconds: float


def main(argv: Sequence[str] | None = None) -> int:
    """The command `gatesweep replay`; returns its exit code."""
    return run_command("replay", argv)


def replay_settings(recorded: RecordedSweep, overrides: Sequence[str], in_order: bool = False) -> list[Setting]:
    """Every combination of the values that `overrides` offer, checked. Raises InputError in one line."""
    keys = _replay_keys(overrides)
    order = (
        "sampler" if any(key.partition(".")[0] == "search" for key in keys) else "recorded" if in_order else "shuffled"
    )
    if in_order and order == "sampler":
        raise InputError("--in-order: got search= as well, expected one of them: a sampler has an order of its own")
    settings = []
    for name, variant in config_variants(
        recorded.config, [*([] if "scheduler" in keys else ["scheduler=asha"]), *overrides]
    ):
        space = read_space(variant)
        check_search(variant, space)
        make_stopping_scheduler(variant, space)
        settings.append(Setting(name, variant, space, order))
    return settings


def summarise_replicas(replicas: Sequence[SimulatedSweep]) -> SettingSummary:
    """Return means and quartiles over the simulated sweeps of one setting."""
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


def summary_row(name: str, setting: str, summary: SettingSummary) -> dict[str, str]:
    """The row of a setting in the table, by column."""
    low, middle, high = (_format_seconds(value) for value in summary.first_pass)
    return {
        "sweep": name,
        "setting": setting,
        "stopped": _percent(summary.stopped),
        "false kills": _percent(summary.false_kills),
        "epochs": _percent(summary.epochs),
        "passed": f"{summary.passed:.1f} of {summary.begun:.1f}",
        "first pass": f"{middle} ({low} to {high})",
        "seconds": _format_seconds(summary.seconds),
    }


def replay_command(arguments: argparse.Namespace) -> int:
    """Replay every setting on every sweep, and print the table; returns the exit code. Raises InputError."""
    folders = [item for item in arguments.arguments if "=" not in item or Path(item).is_dir()]
    overrides = [item for item in arguments.arguments if item not in folders]
    if not folders:
        raise InputError("got no sweep, expected the folder of one, e.g. results/latest")
    if arguments.replicas < 1:
        raise InputError(f"--replicas: got {arguments.replicas}, expected at least 1")
    _replay_keys(overrides)  # a wrong key is named before a record that does not suit
    recorded_sweeps = [read_recorded(Path(folder)) for folder in folders]
    if arguments.save:
        if len(recorded_sweeps) > 1 or overrides:
            raise InputError("--save: got more than a sweep, expected one sweep and nothing else")
        save_recorded(recorded_sweeps[0], arguments.save)
        return PASSED
    work = [
        (recorded, setting)
        for recorded in recorded_sweeps
        for setting in replay_settings(recorded, overrides, arguments.in_order)
    ]
    bar = tqdm(total=len(work) * (1 if arguments.in_order else arguments.replicas), disable=None, leave=False)
    rows = []
    for recorded, setting in work:
        replicas = []
        for replica in setting.replicas(recorded, arguments.replicas):
            replicas.append(replica)
            bar.update()
        rows.append(summary_row(recorded.name, setting.name, summarise_replicas(replicas)))
    bar.close()
    for recorded in recorded_sweeps:
        print(describe_recorded(recorded))
    print(text_table(list(rows[0]), [list(row.values()) for row in rows]))
    return PASSED


def describe_recorded(recorded: RecordedSweep) -> str:
    """A line about a recorded sweep: its trials, and their seconds."""
    passing = sum(curve.passes for curve in recorded.curves)
    seconds = sum(sum(curve.seconds) for curve in recorded.curves) / len(recorded.curves)
    return (
        f"{recorded.name}: {len(recorded.curves)} trials, of which {passing} pass, of {seconds:.1f} s each and "
        f"{recorded.start:.2f} s to start; {recorded.concurrent} at a time when recorded"
    )


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{share:.0%}"


def _replay_keys(overrides: Sequence[str]) -> list[str]:
    """The dotted keys that are set. Raises InputError for one that a replay cannot vary."""
    keys = [item.partition("=")[0].lstrip("+~") for item in overrides]
    for item, key in zip(overrides, keys, strict=True):
        group, _, rest = key.partition(".")
        if group not in REPLAY_KEYS or rest.startswith("space"):
            raise InputError(
                f"got {item!r}, expected one of {', '.join(REPLAY_KEYS)}: a replay takes curves as they were recorded"
            )
    return keys


def _format_seconds(value: float) -> str:
    return "never" if math.isinf(value) else f"{value:.3g}"
