"""Signals at the end of a sweep, and to a run; test_sweep.py sends them in the middle of a sweep."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from gatesweep.sweeps.commands.signals import SIGNALS, handle_signals
from tests.conftest import TINY
from tests.support.started import ROOT, await_epochs, start


@pytest.fixture(scope="module")
def signalled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, list[str]]:
    """Working directory, exit code and lines of a sweep that gets SIGTERM again and again after its last trial.

    The command as a person types it, small; results and a graph lie beside the person.
    """
    folder = tmp_path_factory.mktemp("person")
    shutil.copytree(ROOT / "trainables" / "walks" / "connectome", folder / "mine")
    options = ["num_samples=1", "training.max_epochs=1", "scheduler=none", "tracking=none", *TINY["walk_transformer"]]
    space = "search.space={trainable:{lr:{type:float,low:0.001,high:0.01}}}"
    process = start("run", "experiment=walk_transformer", "data.graph_dir=mine", space, *options, cwd=folder)
    assert process.stdout
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith(("trial_0000", "report ")):  # its end, its row of the leaderboard, and the page
            time.sleep(0.3)
            os.killpg(process.pid, signal.SIGTERM)
    return folder, process.wait(60), lines


def test_a_signal_after_the_last_trial_loses_neither_verdict_nor_page(signalled: tuple[Path, int, list[str]]) -> None:
    folder, code, lines = signalled
    assert code == 3 and any(line.startswith("0 of 1 trials passed") for line in lines)
    assert "ended: all 1 trials have ended\n" in lines
    assert (folder / "results" / "latest" / "report.html").is_file()
    assert any(line.startswith("report ") for line in lines)


def test_a_sweep_of_ones_own_graph_runs_from_any_working_directory(signalled: tuple[Path, int, list[str]]) -> None:
    folder, _, _ = signalled
    summary = json.loads((folder / "results" / "latest" / "summary.json").read_text())
    assert summary["finished"] == 1 and summary["best"]["metrics"]["val/edge_compliance"] >= 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGXCPU])
def test_a_signal_ends_a_run_which_says_how_to_go_on(number: signal.Signals, tmp_path: Path) -> None:
    """By Ctrl-C; in the background of a script, where Ctrl-C is ignored, by SIGTERM; by a warning."""
    options = ["experiment=mlp", "training.max_epochs=5000", "gate.thresholds={}", "figures=none"]
    process = start("train", *options, f"results={tmp_path}", background=number != signal.SIGINT)
    await_epochs(tmp_path, process)
    os.killpg(process.pid, number)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "")
    folder = (tmp_path / "latest_run").resolve()
    assert output.splitlines()[-1] == f"interrupted; go on with: gatesweep train --resume {folder}"
    assert '"interrupted"' in (folder / "events.jsonl").read_text().splitlines()[-1]


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
