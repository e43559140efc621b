"""Winners on fresh seeds: each run once, whatever interrupts them, and the rate at which they pass said everywhere."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
import yaml

from gatesweep.core.record import read_events
from gatesweep.sweeps.commands.publish import MLFLOW_ENVIRONMENT
from gatesweep.sweeps.commands.resume import configure
from gatesweep.sweeps.commands.run import run_sweep
from gatesweep.sweeps.config.compose import compose_config
from gatesweep.sweeps.records.layout import CONFIRM, trial_folders
from gatesweep.sweeps.records.summary import confirmation_lines, confirmations, leaderboard, write_summary
from gatesweep.sweeps.reports.page import write_page
from gatesweep.sweeps.search.confirmation import FRESH_SEEDS, Confirmation
from gatesweep.sweeps.tracking.publisher import Publisher
from tests.conftest import trivial
from tests.support.pretended import Epochs, Pretended, pretend
from tests.support.readback import connect, runs

PASSING: Epochs = [(-0.1, {"val/closeness": 0.81}), (1.4, {"val/closeness": 0.95})]
CLOSE: Epochs = [(-0.5, {"val/closeness": 0.45}), (-0.2, {"val/closeness": 0.72})]


def test_the_best_that_passed_run_on_seeds_of_their_own(tmp_path: Path) -> None:
    better: Epochs = [(1.6, {"val/closeness": 0.97})]
    trials = [
        Pretended({"lr": 1}, PASSING, "passed"),
        Pretended({"lr": 2}, CLOSE),
        Pretended({"lr": 3}, better, "passed"),
    ]
    folder = pretend(tmp_path / "sweep", trials)
    of = Confirmation(folder, seeds=2, trials=5)
    asked = [of.suggest("") for _ in range(4)]
    assert [(run["trial"], run["number"] - FRESH_SEEDS, run["values"]) for run in asked] == [
        ("confirm_0002_0", 0, {"lr": 3}), ("confirm_0000_0", 0, {"lr": 1}),
        ("confirm_0002_1", 1, {"lr": 3}), ("confirm_0000_1", 1, {"lr": 1}),
    ]  # fmt: skip
    assert of.is_over() and of.suggest("") is None
    of.hand_back("confirm_0000_0")
    assert of.suggest("") == asked[1]
    for run in asked:
        of.tell(run["trial"], "passed", 1, {})
    assert of.suggest("") == "FINISHED"
    assert [run["trial"] for run in Confirmation(folder, seeds=1, trials=1).unfinished] == ["confirm_0002_0"]
    assert Confirmation(pretend(tmp_path / "none", [Pretended({}, CLOSE)]), seeds=2, trials=1).is_over()


def test_the_rate_counts_the_runs_that_ended(tmp_path: Path) -> None:
    folder = pretend(tmp_path / "sweep", [Pretended({}, PASSING, "passed"), Pretended({}, PASSING, "passed")])
    outcomes = {
        "confirm_0001_0": "passed",
        "confirm_0001_1": "failed",
        "confirm_0001_2": "passed",
        "confirm_0001_3": None,
    }
    for number, (name, outcome) in enumerate(outcomes.items()):
        source = pretend(tmp_path / f"other{number}", [Pretended({}, PASSING, outcome)])
        shutil.copytree(source / "trial_0000", folder / name)
    confirmed = confirmations(folder)
    wilson = {"rate": 2 / 3, "rate_low": 0.2077, "rate_high": 0.9385}
    assert confirmed == {"trial_0001": pytest.approx({"passed": 2, "seeds": 3, **wilson}, abs=1e-3)}
    assert confirmation_lines(confirmed) == ["trial_0001 passed on 2 of 3 fresh seeds: 67%, 95 % interval 21% to 94%"]
    assert write_summary(folder, 1.0, {})["confirmed"] == confirmed
    assert {row["trial"]: row["confirmed"] for row in leaderboard(folder)} == {
        "trial_0000": None, "trial_0001": "2 of 3"
    }  # fmt: skip
    html = write_page(folder).read_text()
    assert "2 of 3</td>" in html and "21 to 94 %" in html and html.count('href="confirm_0001_') == 4


def curves(folder: Path) -> dict[str, list[float]]:
    """Return the losses of each run on a fresh seed, epoch by epoch."""
    return {
        trial.name: [
            event["metrics"]["val/loss"] for event in read_events(trial / "events.jsonl") if "metrics" in event
        ]
        for trial in trial_folders(folder, CONFIRM)
    }


@pytest.mark.usefixtures("ray_here")
def test_an_interrupted_confirmation_goes_on_and_one_of_more_seeds_adds_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    options = ["num_samples=1", "scheduler=none", "training.max_epochs=9", "confirm.seeds=2"]
    winner = Pretended({"trainable.lr": 0.046}, PASSING, "passed")  # with which most seeds pass
    folder = pretend(tmp_path / "sweep", [winner], *options)
    shutil.copy(folder / "config.yaml", folder / "trial_0000")  # MLflow shows it
    run_sweep(configure([f"resume={folder}"]))
    names, before = ["confirm_0000_0", "confirm_0000_1"], curves(folder)
    assert list(before) == names and before[names[0]] != before[names[1]]
    ended = {name: (folder / name / "events.jsonl").read_text() for name in ["trial_0000", names[1]]}
    first = json.loads((folder / "summary.json").read_text())

    cut = folder / names[0]
    lines = (cut / "events.jsonl").read_text().splitlines(keepends=True)
    (cut / "events.jsonl").write_text("".join(lines[:3]))  # as a kill in its third epoch leaves it
    (cut / "result.json").unlink()
    for checkpoint in (cut / "checkpoints").iterdir():
        shutil.rmtree(checkpoint)
    capsys.readouterr()
    run_sweep(configure([f"resume={folder}", "confirm.seeds=3"]))
    after = curves(folder)
    assert list(after) == [*names, "confirm_0000_2"] and {name: after[name] for name in names} == before
    assert {name: (folder / name / "events.jsonl").read_text() for name in ended} == ended
    seeds = [yaml.safe_load((folder / name / "config.yaml").read_text())["seed"] for name in after]
    assert seeds == [FRESH_SEEDS, FRESH_SEEDS + 1, FRESH_SEEDS + 2]

    summary = json.loads((folder / "summary.json").read_text())
    assert summary["trials"] == 1 and summary["seconds"] < first["seconds"] + 5  # those of the search alone
    assert first["confirmed"]["trial_0000"]["seeds"] == 2 and summary["confirmed"]["trial_0000"]["seeds"] == 3
    line = "trial_0000 passed on 2 of 3 fresh seeds: 67%, 95 % interval 21% to 94%"
    assert confirmation_lines(summary["confirmed"]) == [line] and line in capsys.readouterr().out
    with (folder / "leaderboard.csv").open() as stream:
        assert [row["confirmed"] for row in csv.DictReader(stream)] == ["2 of 3"]

    for name, value in MLFLOW_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    Publisher(folder, uri, "gatesweep").sync()
    published = dict(runs(folder, connect(uri)))
    assert list(published) == ["", *after, "trial_0000"]
    assert all(published[name].data.tags["sweep.kind"] == "confirm" for name in after)
    assert line in published[""].data.tags["mlflow.note.content"]


def test_population_based_training_has_nothing_to_confirm(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"confirm\.seeds: got 2, expected 0: with scheduler=pbt"):
        run_sweep(
            compose_config(trivial(tmp_path / "results", None, "scheduler=pbt", "max_concurrent=2", "confirm.seeds=2"))
        )
    assert not (tmp_path / "results").exists()
