"""Winners on test at the end of a sweep, and any trial on any split by `gatesweep evaluate`."""

from __future__ import annotations

import csv
import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

import gatesweep
from gatesweep.core.errors import InputError
from gatesweep.core.evaluation import evaluate_split
from gatesweep.core.trainable import MissingSplit
from gatesweep.sweeps.commands.dispatch import main
from gatesweep.sweeps.commands.publish import MLFLOW_ENVIRONMENT
from gatesweep.sweeps.commands.resume import configure
from gatesweep.sweeps.commands.run import run_sweep
from gatesweep.sweeps.config.compose import compose_config
from gatesweep.sweeps.tracking.publisher import Publisher
from tests.conftest import trivial
from tests.support.examined import Examined, OfValAlone, TestedPoints
from tests.support.readback import connect, runs
from tests.support.trivial import Line, Points

EXAMINED = ("trainable._target_=tests.support.examined.Examined", "data._target_=tests.support.examined.TestedPoints")
DONE = ["scheduler=none", "trainable.lr=0.2", "training.max_epochs=20", "gate.consecutive=6"]  # each trial passes


@pytest.mark.usefixtures("ray_here")
def test_winners_have_the_last_word_and_a_fault_loses_none_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good = tmp_path / "good"
    space = {"on_test": {"type": "categorical", "choices": ["", "raise", "kill"]}}
    options = [
        "search=grid",
        "num_samples=null",
        *DONE,
        "confirm.seeds=1",
        "confirm.data=fresh",
        "data.data_seed=0",
        "max_concurrent=2",
    ]
    assert run_sweep(compose_config(trivial(tmp_path, space, *options, *EXAMINED, examined=str(good)))) == 0
    folder = (tmp_path / "latest").resolve()
    summary, out = json.loads((folder / "summary.json").read_text()), capsys.readouterr().out
    how = {
        yaml.safe_load((folder / name / "config.yaml").read_text())["trainable"]["on_test"]: name
        for name in summary["test"]
    }
    words = {kind: summary["test"][name] for kind, name in how.items()}
    assert summary["passed"] == 3 and words[""]["cleared"] is True and not words[""]["reason"]
    assert words["raise"]["reason"] == "RuntimeError: no idea" and "died" in words["kill"]["reason"]
    line = f"{how['']} passed, and clears the gate on test: test/closeness {words['']['metrics']['test/closeness']:.4g}"
    assert line in out and line in (folder / "report.html").read_text()
    with (folder / "leaderboard.csv").open() as stream:
        rows = {row["trial"]: row for row in csv.DictReader(stream)}
    assert {kind: rows[name]["test"] for kind, name in how.items()} == {
        "": "clears", "raise": "not evaluated", "kill": "not evaluated"
    }  # fmt: skip
    table = gatesweep.open_sweep(folder).trials
    assert table.loc[how[""], "test/closeness"] == words[""]["metrics"]["test/closeness"]

    confirmed = next(iter(folder.glob("confirm_*_0")))
    seeds = [
        yaml.safe_load((path / "config.yaml").read_text())["data"].get("data_seed") for path in (folder, confirmed)
    ]
    assert seeds == [0, 1_000_000]
    with pytest.raises(InputError, match=r"confirm\.data: got 'same', expected 'fresh'"):
        run_sweep(configure([f"resume={folder}", "confirm.data=same", "confirm.seeds=2"]))

    good.touch()  # a resumed sweep evaluates what it has not, and nothing else
    before = (folder / how[""] / "test.json").stat().st_mtime_ns
    assert run_sweep(configure([f"resume={folder}"])) == 0
    summary = json.loads((folder / "summary.json").read_text())
    assert [summary["test"][name]["cleared"] for name in how.values()] == [True, True, True]
    assert (folder / how[""] / "test.json").stat().st_mtime_ns == before
    counts = next(iter(summary["confirmed"].values()))
    assert counts["test_cleared"] == counts["passed"] == 1

    for name, value in MLFLOW_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    Publisher(folder, uri, "gatesweep").sync()
    published = dict(runs(folder, connect(uri)))
    assert {published[name].data.tags["gate.test"] for name in (*how.values(), confirmed.name)} == {"clears"}
    assert published[how[""]].data.metrics["test/closeness"] == words[""]["metrics"]["test/closeness"]
    assert line in published[""].data.tags["mlflow.note.content"]
    _check_command(folder, how[""], words[""]["metrics"], capsys)


def _config(folder: Path) -> dict[str, Any]:
    return yaml.safe_load((folder / "config.yaml").read_text())


def _check_command(folder: Path, trial: str, metrics: dict[str, float], capsys: pytest.CaptureFixture[str]) -> None:
    """Check the command on a trial of a sweep: its files, its exit codes, its lines."""
    trust = ["--trust", "tests.support.examined"]
    assert main(["evaluate", str(folder), trial, *trust]) == 0
    place = folder / trial / "evaluation_test"
    assert json.loads((place / "metrics.json").read_text())["metrics"] == metrics
    page = (place / "report.html").read_text()
    assert "clears" in page and "data:image/png" in page and (place / "targets.png").exists()
    assert main(["evaluate", str(folder), "split=val", *trust]) == 0
    assert gatesweep.evaluate(folder / trial, "test") == metrics
    shifted = _config(folder / trial)
    shifted["data"]["shift"] = 3.0
    (folder / trial / "config.yaml").write_text(yaml.safe_dump(shifted))
    assert main(["evaluate", str(folder), trial, *trust]) == 3
    capsys.readouterr()
    for words, message in (
        ([str(folder), "trial_9999"], "got 'trial_9999', expected a trial of"),
        ([str(folder), "split=tset"], "got 'split=tset', expected split=train, split=val, split=test"),
        ([str(folder / trial), "trial_0001"], "which is a run already, expected no trial"),
        ([str(folder / "none")], "expected the folder of a sweep (it is not there)"),
    ):
        assert main(["evaluate", *words]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.usefixtures("ray_here")
def test_an_interruption_of_the_evaluation_keeps_the_report_and_goes_on(tmp_path: Path) -> None:
    marker = tmp_path / "marker"

    def interrupt() -> None:
        while not marker.exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    config = compose_config(
        trivial(tmp_path, {}, "num_samples=1", *DONE, *EXAMINED, on_test="wait", examined=str(marker))
    )
    assert run_sweep(config) == 130
    folder = (tmp_path / "latest").resolve()
    assert (folder / "report.html").exists() and "test" not in json.loads((folder / "summary.json").read_text())
    assert run_sweep(configure([f"resume={folder}"])) == 0
    assert json.loads((folder / "summary.json").read_text())["test"]["trial_0000"]["cleared"]


def test_a_split_that_is_not_there_is_one_sentence() -> None:
    for trainable, data, sentence in (
        (Line(Points()), Points(), "Points has no test split: give it a method test"),
        (OfValAlone(TestedPoints()), TestedPoints(), "OfValAlone.evaluate reads val alone"),
    ):
        with pytest.raises(MissingSplit, match=sentence):
            evaluate_split(trainable, data, "test")
        assert evaluate_split(trainable, data, "val")["val/closeness"] > 0
    examined = Examined(TestedPoints())
    assert evaluate_split(examined, TestedPoints(), "test") != evaluate_split(examined, TestedPoints(), "train")
