"""`gatesweep check`: code of strangers that keeps every promise, that breaks every one, and functions."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gatesweep.sweeps.commands.cli import run_command
from gatesweep.sweeps.commands.contract import CHECKS
from gatesweep.sweeps.config import trust

ROOT = Path(__file__).parents[3]
CODE = """
import torch
from torch import nn
from torch.nn import functional as F
from gatesweep import Trainable, last, report

X = torch.randn(300, 4, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()


class Points:
    pure = True

    def __init__(self, *, device, seed: int = 0, batch_size: int = 50):
        self.x, self.y, self.batch_size = X.to(device), Y.to(device), batch_size

    def train(self, epoch):
        generator = torch.Generator().manual_seed(epoch) if self.pure else None
        return [(self.x[i], self.y[i]) for i in torch.randperm(200, generator=generator).split(self.batch_size)]

    def val(self):
        return [(self.x[200:], self.y[200:])]


class Net(Trainable):
    def __init__(self, data: Points, width: int = 8, lr: float = 0.02):
        super().__init__(lr=lr)
        self.net = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 2))

    def forward(self, batch):
        logits = self.net(batch[0])
        return {"loss": F.cross_entropy(logits, batch[1]), "accuracy": (logits.argmax(1) == batch[1]).float().mean()}

    def oracle(self, data):
        return {"accuracy": 1.0}

    def trivial(self, data):
        return {"accuracy": 0.5}


class Drawn(Points):
    pure = False


class Broken(Net):
    def __init__(self, data: Drawn):
        super().__init__(data)
        self.norm, self.calls = nn.BatchNorm1d(4), 0
        self.spare = nn.Parameter(torch.zeros(2), requires_grad=not torch.distributed.is_initialized())

    def forward(self, batch):
        self.calls += 1  # it is in no checkpoint
        losses = super().forward((self.norm(batch[0]), batch[1]))
        return {**losses, "loss": losses["loss"] * (1 + self.calls)}

    def oracle(self, data):
        return {"accuracy": 0.1}


def train(config):
    x, start = 4.0, 0
    if found := last():
        x, start = found.state["x"], found.epoch
    for _ in range(start, 50):
        x -= config["lr"] * (x + torch.randn(()).item() / 10)
        report({"train/loss": x * x, "val/accuracy": 1 / (1 + x * x)}, checkpoint={"x": 4.0 if config["bad"] else x})


def forget(lr: float = 0.1):
    for epoch in range(9):
        report({"train/loss": 1 / (1 + epoch)}, checkpoint={"epoch": epoch})


def once(lr: float = 0.1):
    return {"val/accuracy": 0.5}
"""
LINE = re.compile(r"^(passed|failed|-) +(.+?)  +(.+)$")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder outside of the repository with a module of one's own, as the working directory."""
    (tmp_path / "strange.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(trust, "_trust", trust.Trust())
    monkeypatch.delitem(sys.modules, "strange", raising=False)
    return tmp_path


def results(text: str) -> dict[str, tuple[str, str]]:
    """Return result and words of each line, by the name of the check."""
    found = [match.groups() for match in map(LINE.match, text.splitlines()) if match]
    assert len(found) == len(text.splitlines()), text
    return {name: (result, words) for result, name, words in found}


def test_code_that_keeps_every_promise_passes_from_any_folder(folder: Path) -> None:
    words = ["strange:Net", "width=16", "data.batch_size=25", "gate.thresholds={val/accuracy: '> 0.9'}"]
    command = [sys.executable, "-m", "gatesweep.check", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = results(done.stdout)
    assert list(found) == list(CHECKS) and {result for result, _ in found.values()} == {"passed"}
    assert {path.name for path in folder.iterdir()} <= {"strange.py", "__pycache__"}


def test_code_that_breaks_every_promise_fails_each_check(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    gate = "gate.thresholds={val/accuracy: '> 0.4', val/recall: '> 0.1'}"
    assert run_command("check", ["strange:Broken", gate]) == 1
    found = results(capfd.readouterr().out)
    assert found.pop("trains") == ("passed", "3 epochs")
    assert list(found) == list(CHECKS)[1:] and {result for result, _ in found.values()} == {"failed"}
    words = {name: text for name, (_, text) in found.items()}
    assert "'val/recall' is not reported" in words["reports its gate's metrics"]
    assert "differ after the resume" in words["resumes bitwise"] and "spare" in words["uses every parameter"]
    assert "data.train(0) differs from call to call" in words["data follow the epoch"]
    assert "no trial can pass, for the exact answer" in words["oracle and trivial"]
    assert "norm.running_mean differs between ranks" in words["replicates on two ranks"]


def test_a_file_is_checked_at_a_point_of_its_space(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    space, gate = "{lr: [0.1, 0.2]}", "{val/accuracy: '> 0.4'}"
    (folder / "mine.yaml").write_text(
        f"function: strange:train\ntrainable: {{bad: false}}\nspace: {space}\ngate: {gate}\nmax_epochs: 90\n"
    )
    assert run_command("check", ["mine.yaml"]) == 0
    found = results(capfd.readouterr().out)
    assert found["trains"] == ("passed", "3 epochs")
    assert found["reports its gate's metrics"] == ("passed", "val/accuracy")


@pytest.mark.parametrize(
    ("words", "code", "resumes"),
    [
        ("strange:train lr=0.1 bad=false", 0, ("passed", "3 epochs, cut after the first")),
        ("strange:train lr=0.1 bad=true", 1, ("failed", "train/loss of epoch 2 is ")),
        ("strange:forget", 1, ("failed", "RuntimeError: this trial goes on after epoch 1")),
        ("strange:once", 0, ("-", "it ended after one epoch")),
    ],
)
def test_a_function_is_checked_for_what_applies(
    words: str, code: int, resumes: tuple[str, str], folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_command("check", words.split()) == code
    found = results(capfd.readouterr().out)
    result, text = found["resumes bitwise"]
    assert result == resumes[0] and text.startswith(resumes[1])
    assert {found[name][0] for name in ("uses every parameter", "replicates on two ranks")} == {"-"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["strange"], "check: got 'strange', expected module:name"),
        (["strange:Nett"], "cannot import 'strange.Nett'"),
        (["nowhere:Net"], "cannot import 'nowhere.Net'"),
        (
            ["strange:Net", "widht=3"],
            "trainable.widht: unknown key, expected one of lr, width; did you mean",
        ),
        (["strange:Net", "data=strange:X"], "data._target_: got 'strange.X', expected a class"),
        (["strange:Net", "width=0.5"], "trainable.width: got 0.5"),
        (["strange:Net", "strange:train"], "got strange:Net and strange:train, expected one of them"),
        (["strange:forget", "lr=fast"], "trainable.lr: got 'fast'"),
        (["nothing.yaml"], "got 'nothing.yaml', expected a YAML file"),
    ],
)
def test_bad_input_is_told_in_one_line(
    words: list[str], message: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_command("check", words) == 2
    out, error = capfd.readouterr()
    assert message in error and error.count("\n") == 1 and out == ""


def test_code_that_fails_is_told_once(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_command("check", ["strange:train", "lr=0.1"]) == 1
    out = capfd.readouterr().out
    assert out.startswith("failed  trains ") and "KeyError: 'bad'; traceback in" in out and out.count("\n") == 1
