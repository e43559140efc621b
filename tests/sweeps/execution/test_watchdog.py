"""A silent process is ended and its trial goes on; one that nobody listened to is not silent.

A silent rank of a worker group is in test_group.py.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from gatesweep.core.record import read_events
from gatesweep.sweeps.config.compose import compose_config
from gatesweep.sweeps.execution import watchdog
from gatesweep.sweeps.execution.deaths import Deaths
from gatesweep.sweeps.execution.watchdog import Watchdog
from tests.support.classifier import classifier
from tests.support.processes import title
from tests.sweeps.commands.test_sweep import run

pytestmark = pytest.mark.usefixtures("ray_here")


def epochs(trial: Path) -> list[int]:
    return [event["epoch"] for event in read_events(trial / "events.jsonl") if event["event"] == "epoch"]


def test_a_hung_loader_costs_a_process_and_not_the_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(watchdog, "FLOOR", 3.0)  # the default is a minute
    marker = tmp_path / "marker"
    marker.touch()
    _, folder, summary = run(classifier(tmp_path, f"data.hang_while={marker}", "num_samples=1"))
    assert not marker.exists() and summary["finished"] == 1 and epochs(folder / "trial_0000") == [1, 2, 3, 4]
    deaths = [
        event for event in read_events(folder / "trial_0000" / "events.jsonl") if event["event"] == "process_died"
    ]
    assert len(deaths) == 1 and deaths[0]["reason"].startswith("silent for ")
    output = capfd.readouterr().out
    assert "trial_0000: not heard of for" in output and "goes on from its last checkpoint" in output


def test_only_seconds_of_listening_count_and_a_stopped_process_is_gone_at_once() -> None:
    class Trial:
        def pid(self) -> int:
            return os.getpid()

    actor = ray.remote(num_cpus=0)(Trial).remote()
    pid = ray.get(actor.pid.remote())
    trial: Any = SimpleNamespace(trial_id="a", config={"trial": "trial_0000"})
    deaths = Deaths(compose_config([]))
    dog, awaited = Watchdog(2.0, deaths), {(actor._actor_id.hex(), "a"): (actor, trial)}
    dog.look(awaited)
    os.kill(pid, signal.SIGSTOP)
    time.sleep(3.0)  # as if this process had been suspended
    dog.look(awaited)
    assert title(pid) and "a" not in deaths.notes
    while "a" not in deaths.notes:
        time.sleep(0.1)
        dog.look(awaited)
    assert deaths.explain("a", "whatever Ray says") == "silent for 2 s"
    deadline = time.monotonic() + 2  # Ray alone takes five seconds
    while title(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not title(pid)


def test_the_limit_follows_the_epochs_that_were_seen() -> None:
    dog = Watchdog("auto", Deaths(compose_config([])))
    assert (dog.limit("new"), dog.limit("")) == (600.0, 60.0)
    dog.usual[False].extend([1.0, 30.0, 31.0])
    dog.reports = {"usual": 2, "slow": 2}
    dog.longest = {"slow": 90.0}
    assert [dog.limit(name) for name in ("usual", "slow", "new")] == [300.0, 900.0, 600.0]
    assert Watchdog(None, dog.deaths).limit("new") == float("inf")
    assert Watchdog(7.0, dog.deaths).limit("new") == 7.0
