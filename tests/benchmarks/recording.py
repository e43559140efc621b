"""What the record costs, and whether MLflow gets all of it: `python -m tests.benchmarks.recording`.

Sixteen trials at once, each of 200 reports of 20 metrics and 25 steps' losses. First the driver: what a report costs
it, beside Ray's `MLflowLoggerCallback` for the same metrics, to a sqlite file as it makes one; in turns, so that both
see the same machine. Then the publisher that follows the folders while they grow, to sqlite and to a server over
PostgreSQL: how fast, how large, and what is lost or doubled when everything is read back.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import platform
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gatesweep.sweeps  # sets Ray's environment before anything imports it  # noqa: F401  isort: skip

import pytest
import sqlalchemy

from gatesweep.sweeps.commands.publish import MLFLOW_ENVIRONMENT
from gatesweep.sweeps.config.schema import Config
from tests.support.drive import Drive, publish
from tests.support.readback import unlike
from tests.support.servers import mlflow_server, postgresql

METRICS, STEPS = 20, 25


@dataclass
class Cost:
    """Seconds of the driver, a report each."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def of(self, act: Callable[[], Any]) -> None:
        wall, cpu = time.perf_counter(), time.thread_time()
        act()
        self.wall.append(time.perf_counter() - wall)
        self.cpu.append(time.thread_time() - cpu)

    def row(self, name: str) -> str:
        ordered = sorted(self.wall)
        last = ordered[int(0.99 * len(ordered))]
        wall, cpu = (1000 * sum(times) / len(times) for times in (self.wall, self.cpu))
        shown = f"{wall:.2f} | {1000 * ordered[len(ordered) // 2]:.2f} | {1000 * last:.1f} | {cpu:.2f}"
        return f"| {name} | {len(ordered)} | {shown} |"


def metrics(seed: int) -> dict[str, float]:
    draw = random.Random(seed)
    return {"val/loss": draw.random(), "val/closeness": draw.random()} | {
        f"val/metric_{index:02d}": draw.gauss(0, 1) for index in range(METRICS - 2)
    }


def result(trial: int, epoch: int, last: int) -> dict[str, Any]:
    """What Tune hands to its callbacks."""
    seed = 1000 * trial + epoch
    losses = [random.Random(-seed - step).random() for step in range(STEPS)]
    facts = {"epoch": epoch, "score": -1.0, "outcome": "finished" if epoch == last else None, "reason": None}
    return {**facts, "metrics": metrics(seed), "losses": losses, "done": epoch == last}


def new_drive(folder: Path, arguments: argparse.Namespace) -> Drive:
    return Drive(folder, arguments.trials, f"training.max_epochs={arguments.reports}", "gate.thresholds={}")


@contextlib.contextmanager
def timed_fsync() -> Iterator[list[float]]:
    """The seconds of every fsync."""
    spent, fsync = [], os.fsync

    def timed(descriptor: int) -> None:
        began = time.perf_counter()
        fsync(descriptor)
        spent.append(time.perf_counter() - began)

    os.fsync = timed
    try:
        yield spent
    finally:
        os.fsync = fsync


class StockTrial:
    def __init__(self, config: Config) -> None:
        self.config = config


def driver(folder: Path, arguments: argparse.Namespace) -> None:
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    drive = new_drive(folder, arguments)
    stock = MLflowLoggerCallback(tracking_uri=f"sqlite:///{folder / 'stock.db'}", experiment_name="stock")
    stock.setup()
    stock_trials = [StockTrial(dict(trial.config["values"])) for trial in drive.trials]
    for trial in stock_trials:
        stock.log_trial_start(trial)
    ours, theirs, every = Cost(), Cost(), arguments.reports // arguments.stock
    with timed_fsync() as synced:
        for epoch in range(1, arguments.reports + 1):
            for index, trial in enumerate(drive.trials):
                heard = result(index, epoch, arguments.reports)
                ours.of(lambda: drive.recorder.on_trial_result(0, drive.trials, trial, heard))  # noqa: B023
            if epoch % every == 0:
                index = epoch // every % len(stock_trials)
                flat = {**metrics(epoch), "training_iteration": epoch}
                theirs.of(lambda: stock.log_trial_result(epoch, stock_trials[index], flat))  # noqa: B023
    ratio = sum(theirs.wall) / len(theirs.wall) / (sum(ours.wall) / len(ours.wall))
    processor = sum(theirs.cpu) / len(theirs.cpu) / (sum(ours.cpu) / len(ours.cpu))
    print("| driver, a report | reports | wall ms | median | 99 % | CPU ms |\n|---|---|---|---|---|---|")
    print(ours.row(f"**gatesweep**: {METRICS} metrics and {STEPS} losses"))
    print(f"| of which fsync | {len(synced)} | {1000 * sum(synced) / len(ours.wall):.2f} | | | |")
    print(theirs.row(f"MLflowLoggerCallback: {METRICS} metrics"))
    print(f"\n{ratio:.0f} times less wall time, {processor:.0f} times less CPU time.\n")


def followed(name: str, folder: Path, uri: str, database: str, arguments: argparse.Namespace) -> None:
    """Report as fast as the recorder goes while a publisher follows; then read everything back."""
    drive = new_drive(folder, arguments)
    publisher = publish(drive.folder, f"tracking.uri={uri}", "--follow")
    assert publisher.stdin
    began = time.perf_counter()
    for epoch in range(1, arguments.reports + 1):
        for index, trial in enumerate(drive.trials):
            with contextlib.redirect_stdout(io.StringIO()):
                drive.report(trial, result(index, epoch, arguments.reports))
        time.sleep(arguments.pause)
    drive.end()
    reported = time.perf_counter() - began
    publisher.stdin.close()
    row(f"{name}, beside the sweep", publisher.pid, began, reported, drive, uri, database, arguments)
    again = publish(drive.folder, f"tracking.uri={uri}")
    row(f"{name}, once more", again.pid, time.perf_counter(), 0.0, drive, uri, database, arguments)


def row(
    name: str, pid: int, began: float, reported: float, drive: Drive, uri: str, database: str, arguments: Any
) -> None:
    _, status, used = os.wait4(pid, 0)
    seconds = time.perf_counter() - began
    wanted = arguments.reports * (METRICS + 2 + STEPS)  # score and epoch are curves, too
    total = wanted * arguments.trials
    with sqlalchemy.create_engine(database).connect() as connection:
        query = "select count(*) from metrics where run_uuid in (select run_uuid from tags where key = 'trial')"
        rows = connection.execute(sqlalchemy.text(query)).scalar_one()
    differences = unlike(drive.folder, uri)
    shown = f"{reported:.0f} | {seconds:.0f} | {total / seconds:,.0f} | {used.ru_utime + used.ru_stime:.0f}"
    print(f"| {name} | {shown} | {used.ru_maxrss / 1024:.0f} | {rows - total:+d} of {total:,} | {len(differences)} |")
    assert os.waitstatus_to_exitcode(status) == 0
    for difference in differences[:5]:
        print(difference)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--reports", type=int, default=200, help="of each trial")
    parser.add_argument("--stock", type=int, default=100, help="reports to MLflowLoggerCallback, of all trials")
    parser.add_argument("--pause", type=float, default=0.1, help="seconds between two reports of a trial")
    arguments = parser.parse_args()
    os.environ.update(MLFLOW_ENVIRONMENT)
    packages = ", ".join(f"{name} {version(name)}" for name in ("ray", "mlflow", "sqlalchemy"))
    print(f"{arguments.trials} trials of {arguments.reports} reports; {packages}, Python {platform.python_version()}\n")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        driver(folder / "driver", arguments)
        header = (
            "publisher | s reporting | s until all is there | points/s | CPU s | peak MB | rows too many | differences"
        )
        print(f"| {header} |\n|---|---|---|---|---|---|---|---|")
        store = f"sqlite:///{folder / 'mlflow.db'}"
        followed("sqlite", folder / "sqlite", store, store, arguments)
        try:
            with postgresql() as database, mlflow_server(database, folder / "artifacts") as server:
                followed("server over PostgreSQL", folder / "server", server.uri, database, arguments)
        except pytest.skip.Exception as absent:
            print(absent)


if __name__ == "__main__":
    main()
