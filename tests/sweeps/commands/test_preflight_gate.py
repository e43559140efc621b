"""The gate is tested before the first trial: by the oracle, which must pass it, and the baseline, which must not."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from gatesweep.core.errors import InputError
from gatesweep.core.record import read_events
from gatesweep.core.trainable import Metrics
from gatesweep.sweeps.commands.dispatch import main
from gatesweep.sweeps.commands.preflight_gate import check_gate
from gatesweep.sweeps.commands.report import main as report
from gatesweep.sweeps.config.compose import compose_config
from gatesweep.sweeps.config.recorded import read_config
from gatesweep.sweeps.config.schema import Config, make_gate
from tests.conftest import LR, trivial
from tests.support.trivial import JudgedLine

NEVER = "error: gate.thresholds: no trial can pass, for the exact answer (`oracle` of "
AT_ONCE = "error: gate.thresholds: a trial passes without learning, for the trivial baseline (`trivial` of "


def judged(results: Path, *overrides: str) -> list[str]:
    return trivial(results, LR, "trainable._target_=tests.support.trivial.JudgedLine", *overrides)


def gate_of(results: Path, thresholds: dict[str, str], **fields: Any) -> Config:
    config = compose_config(judged(results))
    return config.replace(gate=config.gate.replace(thresholds=thresholds, objective=None, **fields))


@pytest.mark.parametrize("command", ["run", "train"])
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["experiment=mlp_classification", "gate.thresholds={val/accuracy:'> 1.5'}"], f"{NEVER}MLP) has val/accuracy"),
        (["experiment=mlp", "gate.thresholds={val/r2:'>= 1'}"], f"{NEVER}MLP) has val/r2 = 0.9994, needs >= 1: "),
        (["experiment=mlp", "gate.thresholds={val/r2:'> -1'}"], f"{AT_ONCE}MLP) clears val/r2 > -1 at -0.00"),
        (
            ["experiment=mlp_classification", "gate.thresholds={val/accuracy:'> 0.99'}", "gate.bound=wilson"],
            "expected gate.bound=point, more held-out cases, or thresholds that it clears",
        ),
        (["experiment=circuit_vae", "data.n_train=240", "gate.thresholds={val/db_error:'< 0'}"], f"{NEVER}CircuitVAE"),
    ],
)
def test_a_gate_that_cannot_be_meant_is_refused_in_one_line(
    command: str, overrides: list[str], message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([command, *overrides, f"results={tmp_path / 'results'}", "tracking=none"]) == 2
    out, err = capfd.readouterr()
    assert message in err and err.count("\n") == 1 and out == ""
    assert not (tmp_path / "results").exists()


def test_a_metric_that_the_oracle_or_the_baseline_leaves_out_refuses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = gate_of(tmp_path, {"val/loss": "< 99", "val/closeness": "> 0.9"})
    monkeypatch.setattr(JudgedLine, "oracle", lambda self, data: {"loss": 0.0, "closeness": math.nan})
    monkeypatch.setattr(JudgedLine, "trivial", lambda self, data: {"loss": 98.0})
    checked, lines = check_gate(config)
    assert checked.gate.baseline == {"val/loss": 98.0}
    assert lines == [
        "gate: val/loss < 99, unit 990 (the baseline, 98, reaches it), counts 0.5",
        "gate: val/closeness > 0.9, unit 0.9 (no baseline: the distance from 0)",
    ]


@pytest.mark.parametrize("absent", [lambda self, data: None, lambda self, data: 1 / 0])
def test_without_oracle_and_baseline_one_line_warns_and_a_fault_in_them_is_told(
    absent: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(JudgedLine, "oracle", absent)
    monkeypatch.setattr(JudgedLine, "trivial", absent)
    config = gate_of(tmp_path, {"val/closeness": "> 1.5"})
    try:
        checked, lines = check_gate(config)
    except InputError as error:
        assert "the oracle of JudgedLine raised ZeroDivisionError" in str(error) and "\n" not in str(error)
    else:
        assert checked.gate.baseline == {} and len(lines) == 2
        assert lines[0].startswith("gate: warning: not tested") and lines[0].endswith("no oracle, no trivial")


def test_the_test_draws_no_random_numbers_and_a_typed_baseline_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def noisy(self: JudgedLine, data: object) -> Metrics:
        assert not self.training and not torch.is_grad_enabled()
        return {"closeness": 0.5 + 0.01 * torch.rand(()).item()}

    monkeypatch.setattr(JudgedLine, "trivial", noisy)
    config = gate_of(tmp_path, {"val/closeness": "> 0.9", "val/loss": "< 0.1"}, baseline={"val/loss": 4.0})
    baselines = []
    for _ in range(2):
        torch.manual_seed(3)
        expected = torch.rand(()).item()
        torch.manual_seed(3)
        baselines.append(check_gate(config)[0].gate.baseline)
        assert torch.rand(()).item() == expected
    assert baselines[0] == baselines[1] and baselines[0]["val/loss"] == 4.0


@pytest.mark.usefixtures("ray_here")
def test_a_sweep_records_its_units_and_keeps_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """In its configuration and its trials', in what it prints, on its page; resumed it measures nothing again."""
    space = ["num_samples=1", "training.max_epochs=2", "gate.thresholds={val/closeness:'> 0.9',val/loss:'< 0.1'}"]
    assert main(["run", *judged(tmp_path, *space)]) in (0, 3)
    folder = (tmp_path / "latest").resolve()
    lines = [line for line in capfd.readouterr().out.splitlines() if line.startswith("gate: ")]
    recorded = read_config(folder / "config.yaml")
    assert recorded.gate.shortfall == "bounded" and set(recorded.gate.baseline) == {"val/closeness", "val/loss"}
    assert lines == [f"gate: {line}" for line in make_gate(recorded.gate).unit_lines]
    assert all("from the baseline" in line for line in lines)
    assert report([str(folder)]) == 0
    assert all(rule.unit_text in (folder / "report.html").read_text() for rule in make_gate(recorded.gate).rules)

    def never(self: JudgedLine, data: object) -> Metrics:
        raise AssertionError("measured again")

    monkeypatch.setattr(JudgedLine, "trivial", never)
    assert main(["run", f"resume={folder}"]) in (0, 3)
    assert yaml.safe_load((folder / "config.yaml").read_text())["gate"] == recorded.gate.to_dict()
    for trial in sorted(folder.glob("trial_*")):
        gate = make_gate(read_config(trial / "config.yaml").gate)
        assert gate == make_gate(recorded.gate)
        epochs = [event for event in read_events(trial / "events.jsonl") if event["event"] == "epoch"]
        assert epochs and all(event["score"] == pytest.approx(gate.score(event["metrics"])) for event in epochs)
    assert len(list(folder.glob("trial_*"))) == 1


def test_cfg_says_the_units(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "experiment=mlp_classification", "--cfg"]) == 0
    text = capsys.readouterr().out
    assert yaml.safe_load(text)["gate"]["baseline"] == {}
    assert (
        "# gate: val/accuracy >= 0.97, unit 0.97 (no baseline: the distance from 0)\n# gate: a sweep measures" in text
    )
