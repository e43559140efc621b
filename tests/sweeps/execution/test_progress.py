"""The progress of a sweep: on a terminal of 80 columns, and where output is no terminal."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from gatesweep.sweeps.execution import progress
from gatesweep.sweeps.execution.progress import Progress, wrap_line

ROOT = Path(__file__).parents[3]
CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
SHOW = """
from collections import Counter
from gatesweep.sweeps.execution import progress
outcomes = Counter(stopped=2)
progress.REFRESH = 0.0
shown = progress.Progress("mlp", 12, 20, outcomes)
for number in range(40):
    shown.start(f"trial_{number:04d}")
shown.epoch("trial_0003", 7, 0.5, ["val/edge_compliance = 0.94, needs > 0.95"] * 3, {"val/edge_compliance": 0.94})
shown.tick()
outcomes["passed"] += 1
result = {"reason": None, "missed": [], "metrics": {"val/edge_compliance": 0.96, "val/loss": 3.0}}
values = {"trainable.lr": 0.00123456, "trainable.n_layers": 3, "trainable.d_model": 96, "data.batch_size": 64}
shown.end("trial_0003", "passed", 7, result, values, ["val/edge_compliance"])
shown.tick()
shown.close()
progress.say("the end " + "of words " * 20)
"""


def on_a_terminal(columns: int, lines: int, **variables: str) -> str:
    """What SHOW writes on a terminal."""
    main, terminal = pty.openpty()
    size = {"COLUMNS": str(columns), "LINES": str(lines), "TERM": "xterm", "PYTHONPATH": str(ROOT)}
    environment = {**os.environ, **size, **variables}
    process = subprocess.Popen([sys.executable, "-c", SHOW], stdout=terminal, stderr=terminal, env=environment)
    os.close(terminal)
    written = b""
    while True:
        try:
            part = os.read(main, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        written += part
    os.close(main)
    assert process.wait(20) == 0, written
    return written.decode().replace("\r\n", "\n").replace("\r", "\n")


def test_on_a_terminal_each_running_trial_has_a_line_and_no_line_is_too_long() -> None:
    written = on_a_terminal(80, 24)
    lines = [CODES.sub("", line) for line in written.split("\n")]
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("best 0.5: edge_compliance = 0.94, needs > 0.95; edge") for line in lines)
    assert any(line.startswith("2 stopped, 40 running, of 12; 0:00, ETA 0:00") for line in lines)
    assert any(
        re.match(r"  trial_0003 epoch   7 of 20     0 s  edge_compliance 0.94$", line.rstrip()) for line in lines
    )
    assert "  and 21 more" in [line.rstrip() for line in lines]
    text = "\n".join(lines)
    assert "trial_0003 passed    after   7 epochs\n    edge_compliance 0.96, lr=0.001235," in text
    assert "batch_size=64" in text and "0 failed" not in text
    assert "\x1b[?25l" not in written  # a sweep that is killed leaves the cursor visible


@pytest.mark.parametrize("variables", [{"TERM": "dumb"}, {"NO_COLOR": "1"}])
def test_a_plain_terminal_gets_no_codes_that_it_does_not_know(variables: dict[str, str]) -> None:
    written = on_a_terminal(80, 24, **variables)
    if variables.get("TERM") == "dumb":
        assert "\x1b" not in written and "epoch   7 of 20" not in written
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", written)
    assert "trial_0003 passed    after   7 epochs" in CODES.sub("", written)


def test_where_output_is_no_terminal_a_line_comes_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    outcomes = Counter(stopped=3)
    shown = Progress("mlp", 12, 20, outcomes)
    shown.start("trial_0003", 5)
    shown.epoch("trial_0003", 10, -0.01, ["val/accuracy = 0.94, needs > 0.95"], {"val/accuracy": 0.94})
    for second in range(100):
        now[0] = 1000.0 + second
        shown.tick()
    lines = capsys.readouterr().out.splitlines()
    best = "best -0.01: accuracy = 0.94, needs > 0.95"
    assert lines == [
        f"mlp: 3 stopped, 1 running, of 12; 0:10, ETA 2:50; {best}",
        f"mlp: 3 stopped, 1 running, of 12; 1:10, ETA 19:50; {best}",
    ]
    with progress.silence():
        now[0] += 1000.0
        shown.tick()
        progress.say("nothing")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("width", [20, 40, 79])
def test_a_long_line_is_broken_between_words_and_loses_none(width: int) -> None:
    line = "trial_0004 passed after 6 epochs  edge_compliance 1, rule_compliance 0.978, lr=0.0072 " + "w" * 90
    lines = wrap_line(line, width)
    assert " ".join(" ".join(lines).split()) == " ".join(line.split())
    assert all(len(part) <= width or " " not in part.strip() for part in lines)
