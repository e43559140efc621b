"""On the way to MLflow nothing is lost or doubled: many trials, dead servers, full disks, runs deleted by hand."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from gatesweep.core.record import read_events
from gatesweep.sweeps.commands.publish import MLFLOW_ENVIRONMENT
from gatesweep.sweeps.commands.run import run_sweep
from gatesweep.sweeps.config.compose import compose_config
from gatesweep.sweeps.records.layout import trial_folders
from gatesweep.sweeps.tracking.database import default_uri
from gatesweep.sweeps.tracking.publisher import Publisher
from tests.conftest import LR, trivial
from tests.support.drive import Drive, finish, followed, publish
from tests.support.readback import connect, runs, unlike
from tests.support.servers import Server, mlflow_server, postgresql, start_mlflow

OUT_OF_REACH = "gate.thresholds={val/closeness:'> 2'}"  # so that every trial trains all of its epochs


@pytest.fixture(autouse=True)
def quick_to_give_up(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in MLFLOW_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The address of a server over PostgreSQL."""
    with ExitStack() as servers:
        database = servers.enter_context(postgresql())
        yield servers.enter_context(mlflow_server(database, tmp_path / "artifacts")).uri


def until(true: Callable[[], object], what: str, patience: float = 90.0) -> None:
    deadline = time.monotonic() + patience
    while not true():
        assert time.monotonic() < deadline, f"not within {patience:g} s: {what}"
        time.sleep(0.05)


def recorded(sweep: Path) -> int:
    """The number of epochs that the folders of trials hold."""
    events = [event for folder in trial_folders(sweep) for event in read_events(folder / "events.jsonl")]
    return sum(event["event"] == "epoch" for event in events)


def test_many_trials_at_once_are_all_there_once_however_often_they_are_sent(server: str, tmp_path: Path) -> None:
    """Runs, parameters, points with step, value and time, tags, files, models: beside the sweep, again, elsewhere.

    Beside a sweep to its own sqlite file: `test_a_run_deleted_by_hand_stays_deleted_and_hinders_no_other`.
    """
    drive = Drive(tmp_path / "results", 6, "training.max_epochs=12", "figures=standard")
    with followed(drive.folder, f"tracking.uri={server}") as publisher:
        for _ in drive.train():
            time.sleep(0.05)
        assert finish(publisher) == (0, [])
    assert unlike(drive.folder, server) == []
    Publisher(drive.folder, server, "gatesweep").sync()
    assert unlike(drive.folder, server) == []
    fresh = f"sqlite:///{tmp_path / 'fresh.db'}"
    Publisher(drive.folder, fresh, "gatesweep").sync()
    assert unlike(drive.folder, fresh) == []


def test_three_that_publish_at_once_make_nothing_twice(tmp_path: Path) -> None:
    """Three publishers of one sweep at once, to a database that does not exist yet."""
    drive = Drive(tmp_path / "results", 4, "training.max_epochs=4")
    for _ in drive.train():
        pass
    uri, together = default_uri(drive.folder), threading.Barrier(3)

    def publish_all(_: int) -> None:
        together.wait()
        Publisher(drive.folder, uri, "gatesweep").sync()

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(publish_all, range(3)))
    assert unlike(drive.folder, uri) == []


@pytest.mark.usefixtures("ray_here")
def test_a_server_killed_in_mid_sweep_and_started_again_misses_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The sweep trains on meanwhile and ends as ever; one warning tells of it."""
    store, artifacts, hold = f"sqlite:///{tmp_path / 'server.db'}", tmp_path / "artifacts", tmp_path / "hold"
    with mlflow_server(store, artifacts) as first:
        overrides = trivial(
            tmp_path, LR, "tracking=mlflow", f"tracking.uri={first.uri}", "scheduler=none", OUT_OF_REACH,
            "num_samples=2", "training.max_epochs=25", epoch_seconds=0.1, marker=str(hold),
        )  # fmt: skip
        config = compose_config([*overrides, "trainable._target_=tests.support.drive.Held"])
        servers: list[Server] = []

        def accident() -> None:
            latest = tmp_path / "latest"
            try:
                until(lambda: latest.exists() and recorded(latest.resolve()) >= 6, "six epochs")
                hold.touch()  # the trial waits, in its middle, for what takes time here
                until(lambda: len(runs(latest.resolve(), connect(first.uri))) == 2, "runs of the sweep and a trial")
                first.kill()
                hold.unlink()
                before = recorded(latest.resolve())
                until(lambda: recorded(latest.resolve()) >= before + 6, "six epochs without a server")
                hold.touch()
                servers.append(start_mlflow(store, artifacts, port=int(first.uri.rpartition(":")[2])))
            finally:
                hold.unlink(missing_ok=True)

        helper = threading.Thread(target=accident)
        helper.start()
        try:
            code = run_sweep(config)
            helper.join()
            warnings = [line for line in capfd.readouterr().err.splitlines() if line.startswith("tracking:")]
            assert code == 3 and len(servers) == 1
            assert len(warnings) == 1 and warnings[0].startswith(f"tracking: {first.uri}: "), warnings
            folder = (tmp_path / "latest").resolve()
            assert recorded(folder) == 2 * 25
            assert unlike(folder, first.uri) == []
        finally:
            helper.join()
            for server in servers:
                server.kill()


@contextmanager
def small_disk(folder: Path) -> Iterator[tuple[str, ...]]:
    """A disk of 32 KiB at `folder`, in a mount namespace; yields what runs a command in there."""
    folder.mkdir(parents=True)
    script = 'mount -t tmpfs -o size=32k none "$1" && echo ready && exec sleep 600'
    user = [] if os.getuid() == 0 else ["--user", "--map-root-user"]
    command = ["unshare", *user, "--mount", "sh", "-c", script, "sh", str(folder)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    holder = subprocess.Popen(command, text=True, **streams)  # type: ignore[call-overload]
    try:
        if holder.stdout.readline() != "ready\n":
            pytest.skip(f"no mount namespaces here, which root has: {holder.stderr.read().strip()}")
        entered = ["--user", "--preserve-credentials"] if user else []
        yield ("nsenter", f"--target={holder.pid}", *entered, "--mount")
    finally:
        holder.kill()
        holder.communicate()


def test_a_full_artifact_store_costs_no_point_and_is_filled_up_later(tmp_path: Path) -> None:
    drive = Drive(tmp_path / "results", 2, "training.max_epochs=6", "figures=standard", "figures.every=4", OUT_OF_REACH)
    uri, artifacts = default_uri(drive.folder), tmp_path / "results" / "mlartifacts"
    with small_disk(artifacts) as inside:
        with followed(drive.folder, inside=inside) as publisher:
            for _ in drive.train():
                time.sleep(0.2)
            code, warnings = finish(publisher)
        assert code == 1 and len(warnings) == 1 and "No space left on device" in warnings[0], warnings
        assert unlike(drive.folder, uri, files=False) == []
        assert len(list(drive.folder.glob("trial_*/result.json"))) == 2 and (drive.folder / "summary.json").exists()
        subprocess.run([*inside, "mount", "-o", "remount,size=64m", str(artifacts)], check=True)
        assert finish(publish(drive.folder, inside=inside)) == (0, [])
        subprocess.run([*inside, "cp", "-a", f"{artifacts}/.", str(tmp_path / "aside")], check=True)
    (tmp_path / "aside").rename(artifacts)  # over the empty folder on which that disk was mounted
    assert unlike(drive.folder, uri) == []


def test_a_run_deleted_by_hand_stays_deleted_and_hinders_no_other(tmp_path: Path) -> None:
    """As the UI deletes one, in mid-sweep; once it is gone for good, publishing makes it anew."""
    drive = Drive(tmp_path / "results", 6, "training.max_epochs=12", "figures=standard", OUT_OF_REACH)
    uri, name = default_uri(drive.folder), "trial_0001"

    def identifier() -> str | None:
        return next((run.info.run_id for trial, run in runs(drive.folder, connect(uri)) if trial == name), None)

    with followed(drive.folder) as publisher:
        for turn in drive.train():
            if turn == 4:
                until((tmp_path / "results" / "mlflow.db").exists, "a database")
                until(identifier, f"a run of {name}")
                connect(uri).delete_run(identifier())
        code, warnings = finish(publisher)
    assert code == 0 and len(warnings) == 1 and name in warnings[0], warnings
    for again in (False, True):
        if again:
            Publisher(drive.folder, uri, "gatesweep").sync()
        assert unlike(drive.folder, uri, without=[name]) == []
        assert [trial for trial, _ in runs(drive.folder, connect(uri), deleted=True)] == [name]
    assert recorded(drive.folder) == 6 * 12
    gone = [sys.executable, "-m", "mlflow", "gc", "--backend-store-uri", uri]
    subprocess.run(gone, check=True, capture_output=True, env={**os.environ, "MLFLOW_TRACKING_URI": uri})
    Publisher(drive.folder, uri, "gatesweep").sync()
    assert unlike(drive.folder, uri) == []
