"""MLflow's publisher as a process of its own: it can neither slow a sweep down nor end it."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import sys
import sysconfig
import threading
import time
from pathlib import Path
from typing import Any

import gatesweep
from gatesweep.core.record import DamagedRecord
from gatesweep.sweeps.config.schema import Config
from gatesweep.sweeps.config.secrets import STORAGE_VARIABLE, TRACKING_VARIABLE
from gatesweep.sweeps.execution.progress import say
from gatesweep.sweeps.records.layout import MLFLOW_POINTER, PUBLISHER_LOCK
from gatesweep.sweeps.records.reader import read_json

PATIENCE_SECONDS = 90  # how long the publisher may be without progress when the sweep has ended
NEWS_SECONDS = 10  # after which a person is told what the sweep waits for


def start_publisher(folder: Path, config: Config) -> subprocess.Popen:
    """Start to publish what comes in a sweep's folder, at a lower priority than the trials.

    Passwords in the addresses of MLflow and of the storage are not in that folder: they go by the environment.
    """
    command = [sys.executable, "-m", "gatesweep", "publish", str(folder), "--follow"]
    addresses = {TRACKING_VARIABLE: config.tracking.uri, STORAGE_VARIABLE: config.storage}
    environment = _environment() | {name: address for name, address in addresses.items() if address}
    options: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    publisher = subprocess.Popen(command, env=environment, text=True, start_new_session=True, **options)
    threading.Thread(target=_pass_on, args=(publisher,), daemon=True).start()
    # Its imports take two seconds of processor time while the trials' processes start.
    os.setpriority(os.PRIO_PROCESS, publisher.pid, min(19, os.getpriority(os.PRIO_PROCESS, 0) + 10))
    return publisher


def _pass_on(publisher: subprocess.Popen) -> None:
    """Print what the publisher has to say through this process, whose progress would be torn by another's lines."""
    assert publisher.stderr
    for line in publisher.stderr:
        print(line.rstrip("\n"), file=sys.stderr, flush=True)


def _environment() -> dict[str, str]:
    """This process's environment, in which another Python finds gatesweep, too, where it is not installed."""
    root = str(Path(gatesweep.__file__).parents[1])
    if root in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")):
        return dict(os.environ)
    paths = [path for path in (os.environ.get("PYTHONPATH"), root) if path]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def stop_publisher(publisher: subprocess.Popen, folder: Path) -> None:
    """Let the publisher send the rest as long as it makes progress, and print the address where MLflow shows the sweep.

    Closing its pipe tells it that the sweep has ended.
    """
    assert publisher.stdin
    publisher.stdin.close()
    if not _await_rest(publisher, folder / PUBLISHER_LOCK):
        say(f"tracking: not all was published; later: gatesweep publish {shlex.quote(str(folder))}")
    with contextlib.suppress(OSError, DamagedRecord, KeyError):  # the publisher writes it once MLflow has answered
        say(f"compare {read_json(folder / MLFLOW_POINTER)['compare']}", wrap=False)


def _await_rest(publisher: subprocess.Popen, sign: Path) -> bool:
    """Wait for the publisher, and kill it once it has made no progress for long; returns True if it has sent all.

    The time of the file `sign` is that of its last progress.
    """
    began = moved = time.monotonic()
    seen, said = None, False
    while time.monotonic() - moved < PATIENCE_SECONDS:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return publisher.wait(timeout=0.5) == 0
        with contextlib.suppress(OSError):
            if (now := sign.stat().st_mtime_ns) != seen:
                seen, moved = now, time.monotonic()
        if not said and time.monotonic() - began > NEWS_SECONDS:
            say("tracking: the rest is on its way to MLflow")
            said = True
    publisher.kill()
    publisher.wait()
    return False
