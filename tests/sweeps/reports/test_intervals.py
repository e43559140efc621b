"""A pass on a finite validation set is partly luck: the interval of a proportion is shown wherever its value is."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest

from gatesweep.core.gate import proportion
from gatesweep.sweeps.commands.publish import MLFLOW_ENVIRONMENT
from gatesweep.sweeps.records.reader import read_sweep
from gatesweep.sweeps.records.summary import leaderboard, leaderboard_text, write_summary
from gatesweep.sweeps.reports.page import write_page
from gatesweep.sweeps.tracking.publisher import Publisher
from gatesweep.sweeps.tracking.view import proportion_tags
from tests.support.pretended import Pretended, pretend
from tests.support.readback import connect, runs

FEW, MANY = proportion("val/accuracy", 91, 100), proportion("val/accuracy", 990, 1000)
TRIALS = [Pretended({}, [(1.5, FEW)], "passed"), Pretended({}, [(1.7, MANY)], "passed")]


def sweep(folder: Path, bound: str) -> Path:
    gate = {"thresholds": {"val/accuracy": "> 0.9"}, "objective": "val/loss", "mode": "min", "bound": bound}
    trials = TRIALS if bound == "point" else [Pretended({}, [(-0.1, FEW)], "finished"), TRIALS[1]]
    made = pretend(folder, trials, gate=gate)
    write_summary(made, 1.0, {})
    return made


@pytest.mark.parametrize(
    ("bound", "column", "verdict"),
    [
        ("point", "gate.bound=wilson", "misses: val/accuracy = 0.8377, needs > 0.9"),
        ("wilson", "gate.bound=point", "clears"),
    ],
)
def test_the_interval_stands_beside_the_proportion_and_says_where_it_would_change_the_verdict(
    bound: str, column: str, verdict: str, tmp_path: Path
) -> None:
    folder = sweep(tmp_path / "sweep", bound)
    rows = {row["trial"]: row for row in leaderboard(folder)}
    assert (rows["trial_0000"].get(column), rows["trial_0001"].get(column)) == (verdict, None)
    with (folder / "leaderboard.csv").open() as stream:
        ends = {row["trial"]: (row["val/accuracy_low"], row["val/accuracy_high"]) for row in csv.DictReader(stream)}
    assert ends["trial_0000"] == (str(FEW["val/accuracy_low"]), str(FEW["val/accuracy_high"]))
    text = leaderboard_text(list(rows.values()))
    assert "0.91 (0.838 to 0.952)" in text and "accuracy_low" not in text and verdict in text
    page = write_page(folder).read_text()
    assert "0.91 (0.838 to 0.952)" in page and "0.99 (0.982 to 0.995)" in page and f">{column[:4]}" in page
    tags = proportion_tags(read_sweep(folder).gate, {**FEW, "val/loss": 0.1})
    assert tags == {"gate.intervals": "val/accuracy 0.91 (0.838 to 0.952)", column.replace("bound=", ""): verdict}


def test_mlflow_shows_the_interval_and_the_other_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = sweep(tmp_path / "sweep", "point")
    for trial in folder.glob("trial_*"):
        shutil.copy(folder / "config.yaml", trial)
    for name, value in MLFLOW_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    publisher = Publisher(folder, uri, "gatesweep")
    publisher.sync()
    published = {name: run.data for name, run in runs(folder, connect(uri))}
    assert published["trial_0000"].tags["gate.intervals"] == "val/accuracy 0.91 (0.838 to 0.952)"
    assert published["trial_0000"].tags["gate.wilson"].startswith("misses: ")
    assert "gate.wilson" not in published["trial_0001"].tags
    assert published["trial_0000"].metrics["val/accuracy_low"] == pytest.approx(FEW["val/accuracy_low"])
    note = connect(uri).get_run(publisher.parent.info.run_id).data.tags["mlflow.note.content"]
    assert "| val/accuracy | 0.99 (0.982 to 0.995) |" in note
