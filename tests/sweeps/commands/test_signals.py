"""Ends from outside: signals to a process, to its group and to its whole tree, at any time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from gatesweep.core.record import read_events
from gatesweep.sweeps.commands.signals import SIGNALS, handle_signals
from gatesweep.sweeps.records.layout import trial_folders
from tests.conftest import LR, trivial
from tests.support.processes import await_end, descendants, title
from tests.support.sockets import check_closed

ROOT = Path(__file__).parents[3]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}


def start(command: str, *arguments: str, background: bool = False, ignored: Sequence[int] = ()) -> subprocess.Popen:
    """Start a command in a process group of its own; `background`: as a shell's `&` does, with Ctrl-C ignored."""
    return subprocess.Popen(
        [sys.executable, "-m", "gatesweep", command, *arguments], cwd=ROOT, env=ENVIRONMENT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        preexec_fn=lambda: _usual_signals(background, ignored),
    )  # fmt: skip


def _usual_signals(background: bool, ignored: Sequence[int]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN if background else signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored where the tests run under `nohup`
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


def await_epochs(results: Path, process: subprocess.Popen, pattern: str) -> None:
    deadline = time.monotonic() + 90
    while not any('"epoch"' in path.read_text() for path in results.glob(pattern)):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(("number", "whole_tree"), [(signal.SIGUSR1, False), (signal.SIGTERM, True)])
def test_a_signal_to_group_or_tree_leaves_page_and_advice(number: int, whole_tree: bool, tmp_path: Path) -> None:
    """To the group: `timeout`, a batch system's warning. To the tree, Ray's processes too: systemd."""
    process = start("run", *trivial(tmp_path, LR, "scheduler=none", epoch_seconds=0.3), background=True)
    await_epochs(tmp_path, process, "*/trial_*/events.jsonl")
    family = descendants(process.pid)
    assert all(os.getpgid(pid) != process.pid for pid in family)
    os.killpg(process.pid, number)
    for pid in family if whole_tree else []:
        os.kill(pid, number)
    os.killpg(process.pid, number)  # `timeout` sends it twice
    output, errors = process.communicate(timeout=50)
    folder = (tmp_path / "latest").resolve()
    assert (process.returncode, errors) == (130, "")
    assert output.splitlines()[-1] == f"interrupted; go on with: gatesweep run resume={folder}"
    assert (folder / "report.html").is_file() and json.loads((folder / "summary.json").read_text())["interrupted"] == 1
    assert read_events(trial_folders(folder)[-1] / "events.jsonl")[-1]["event"] == "interrupted"
    await_end(family, 20)


def test_a_signal_after_the_last_trial_loses_neither_verdict_nor_page(tmp_path: Path) -> None:
    process = start("run", *trivial(tmp_path, LR, "num_samples=1", "scheduler=none"))
    assert process.stdout
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith(("trial_0000", "report ")):  # its end, its row of the leaderboard, and the page
            time.sleep(0.3)
            os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(60) in (0, 3)
    assert any(line.startswith("report ") for line in lines) and " of 1 trials passed" in "".join(lines[-2:])


def test_a_killed_driver_takes_its_ray_with_it(tmp_path: Path) -> None:
    """Before that, its Ray is closed to others, also where the sweep was started by the script."""
    environment = {name: value for name, value in ENVIRONMENT.items() if not name.startswith("RAY_")}
    command = [sys.executable, str(ROOT / "sweeps" / "run.py"), *trivial(tmp_path, LR, epoch_seconds=0.3)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, env=environment, start_new_session=True, **quiet)
    await_epochs(tmp_path, process, "*/trial_*/events.jsonl")
    family = descendants(process.pid)
    check_closed([process.pid, *family], environment)
    family = [pid for pid in family if "Agent" not in title(pid)]  # Ray's agents take minutes, and write nothing
    process.kill()
    process.wait()
    await_end(family, 30)


def test_a_run_in_the_background_of_a_script_ends_by_sigterm(tmp_path: Path) -> None:
    """A warning that is ignored, as `trap "" USR1` has it, stays ignored."""
    options = ["experiment=mlp", "training.max_epochs=5000", "gate.thresholds={}", "figures=none"]
    process = start("train", *options, f"results={tmp_path}", background=True, ignored=[signal.SIGUSR1])
    await_epochs(tmp_path, process, "*/events.jsonl")
    process.send_signal(signal.SIGUSR1)
    time.sleep(0.5)
    assert process.poll() is None
    process.terminate()
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    folder = (tmp_path / "latest_run").resolve()
    assert output.splitlines()[-1] == f"interrupted; go on with: gatesweep train --resume {folder}"


def test_each_signal_and_each_warning_of_a_batch_system_ends_a_block_once() -> None:
    """Warnings are left to whoever handles or ignores them, and all are as before behind the block."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)
            with pytest.raises(KeyboardInterrupt), handle_signals():
                os.kill(os.getpid(), number)
                time.sleep(5)
            assert signal.getsignal(number) == signal.SIG_DFL
        heard: list[int] = []
        for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU):
            for handler in (signal.SIG_IGN, lambda number, frame: heard.append(number)):
                signal.signal(number, handler)
                with handle_signals():
                    os.kill(os.getpid(), number)
                assert signal.getsignal(number) == handler
        assert heard == [signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU]
    finally:
        for number, usual in before.items():
            signal.signal(number, usual)
