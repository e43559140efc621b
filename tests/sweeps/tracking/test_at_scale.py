"""Publishing costs a few requests a trial, and none for what is there; what is slow, locked or killed is mended."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from gatesweep.core.record import append_event
from gatesweep.sweeps.commands import publisher_process
from gatesweep.sweeps.commands.publisher_process import stop_publisher
from gatesweep.sweeps.records.summary import write_summary
from gatesweep.sweeps.tracking.publisher import Publisher
from tests.support.drive import followed
from tests.support.pretended import Pretended, many, pretend
from tests.support.readback import connect, runs, unlike


def swept(folder: Path, trials: list[Pretended], end: str | None = "end") -> Path:
    """Write the folder of a sweep that MLflow is to have."""
    pretend(folder, trials, "tracking=mlflow", end=end)
    for trial in folder.glob("trial_*"):
        (trial / "config.yaml").write_bytes((folder / "config.yaml").read_bytes())
    return folder


def counted(publisher: Publisher) -> Counter[str]:
    """Count the requests of a publisher from now on."""
    calls: Counter[str] = Counter()

    class Counting:
        def __getattr__(self, method: str) -> Any:
            calls[method] += 1
            return getattr(client, method)

    client, publisher.runs.client = publisher.runs.client, Counting()
    return calls


def test_a_trial_costs_three_requests_once(tmp_path: Path) -> None:
    folder, uri = swept(tmp_path / "sweep", many(12, 2)), f"sqlite:///{tmp_path / 'mlflow.db'}"
    publisher = Publisher(folder, uri, "gatesweep")
    calls = counted(publisher)
    publisher.sync()
    assert calls["create_run"] == 12 and calls["set_terminated"] == 13 and calls.total() <= 3 * 12 + 8, calls
    assert unlike(folder, uri) == []
    again = Publisher(folder, uri, "gatesweep")
    calls = counted(again)
    again.sync()
    assert calls.total() <= 8, calls
    assert unlike(folder, uri) == []


def test_a_publisher_goes_on_where_another_was_killed(tmp_path: Path) -> None:
    """In the middle of a trial, too: epochs that are there are not sent again."""
    trials = [Pretended({}, [(-1.0, {"val/a": 0.5})] * 40, None), *many(3, 40)]
    folder, uri = swept(tmp_path / "sweep", trials), f"sqlite:///{tmp_path / 'mlflow.db'}"
    first = Publisher(folder, uri, "gatesweep")
    first._attempt("trial_0000", lambda: first._publish_trial("trial_0000", first._facts(final=True)))
    second = Publisher(folder, uri, "gatesweep")
    sent: list[int] = []
    send = second.runs.send

    def noted(run: str, metrics: Any = (), *more: Any, **named: Any) -> None:
        metrics = list(metrics)
        sent.append(len(metrics))
        send(run, metrics, *more, **named)

    second.runs.send = noted  # type: ignore[method-assign]
    second.sync()
    assert sent[0] < 20 and max(sent) > 100
    assert dict(runs(folder, connect(uri)))["trial_0000"].info.status == "KILLED"


def test_a_publisher_that_makes_progress_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it takes; one that makes none is ended."""
    monkeypatch.setattr(publisher_process, "PATIENCE_SECONDS", 1.0)
    program = "import os, time\nfor _ in range({}):\n    time.sleep(0.25)\n    os.utime('.publish')\ntime.sleep({})"
    for moves, more, code in ((8, 0, 0), (0, 60, -9)):
        (tmp_path / ".publish").touch()
        command = [sys.executable, "-S", "-c", program.format(moves, more)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, cwd=tmp_path)
        stop_publisher(process, tmp_path)
        assert process.poll() == code


def test_a_killed_sweep_leaves_no_run_that_runs_for_ever_and_a_lock_is_waited_for_in_silence(tmp_path: Path) -> None:
    """The publisher outlives its driver; where it does not, the next one mends it. A resumed sweep runs again.

    While the publisher has the rest to send, another program writes to the database, for longer than MLflow waits.
    """
    ended, cut = Pretended({}, [(-1.0, {})] * 2), Pretended({}, [(-1.0, {})] * 2, None)
    folder, uri = swept(tmp_path / "sweep", [ended, cut], end=None), f"sqlite:///{tmp_path / 'mlflow.db'}"

    def states() -> list[str]:
        return [run.info.status for _, run in runs(folder, connect(uri))]

    with followed(folder, f"tracking.uri={uri}") as publisher:
        while not (folder / "mlflow.json").exists() or states() != ["RUNNING", "FINISHED", "RUNNING"]:
            time.sleep(0.2)
        os.killpg(publisher.pid, signal.SIGTERM)  # a batch system may send it to all of its processes
        holder = sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None, check_same_thread=False)
        holder.execute("begin immediate")
        append_event(folder / "trial_0001" / "events.jsonl", "epoch", epoch=3, metrics={}, score=-1.0, losses=[])
        release = threading.Timer(21, holder.execute, ["commit"])  # MLflow waits for 20 s
        release.start()
        _, errors = publisher.communicate(timeout=120)  # it closes the pipe, which is all that a killed driver does
        release.join()
        holder.close()
        assert (publisher.returncode, errors) == (0, "")
    assert states() == ["KILLED", "FINISHED", "KILLED"]
    append_event(folder / "events.jsonl", "start")
    resumed = Publisher(folder, uri, "gatesweep", follow=True)
    resumed.sync(final=False)
    assert states() == ["RUNNING", "FINISHED", "KILLED"]  # the trial has not gone on yet
    append_event(folder / "trial_0001" / "events.jsonl", "start", values={}, elapsed=3.0)
    resumed.sync(final=False)
    assert states() == ["RUNNING", "FINISHED", "RUNNING"]
    Publisher(folder, uri, "gatesweep").sync()  # both died: publishing by hand mends it
    assert states() == ["KILLED", "FINISHED", "KILLED"]
    assert unlike(folder, uri, files=False) == ["trial_0001: status KILLED, expected RUNNING"]


def test_a_sweep_that_was_interrupted_before_a_first_trial_was_killed(tmp_path: Path) -> None:
    """The end of its events says so; counts of trials cannot."""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    for end, status in (("interrupted", "KILLED"), ("end", "FINISHED")):
        for trials in ([], [Pretended({}, [(-1.0, {})])]):  # none begun, and none left unended
            folder = swept(tmp_path / f"{end}_{len(trials)}", trials, end=end)
            write_summary(folder, 1.0, {})
            publisher = Publisher(folder, uri, "gatesweep")
            publisher.sync()
            assert connect(uri).get_run(publisher.parent.info.run_id).info.status == status
