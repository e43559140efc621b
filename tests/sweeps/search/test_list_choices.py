"""Choices that are lists, through a sweep, its study, resume, warm start, report, MLflow and replay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gatesweep.sweeps.commands.publish import MLFLOW_ENVIRONMENT
from gatesweep.sweeps.commands.replay import main as replay
from gatesweep.sweeps.commands.resume import configure
from gatesweep.sweeps.commands.run import run_sweep
from gatesweep.sweeps.config.recorded import read_config
from gatesweep.sweeps.records.layout import trial_folders
from gatesweep.sweeps.records.reader import read_trials
from gatesweep.sweeps.schedulers.mutation import Mutator
from gatesweep.sweeps.search.space import AnyLeaf, read_space
from gatesweep.sweeps.search.study import open_study
from gatesweep.sweeps.search.warm_start import warm_start_trials
from gatesweep.sweeps.tracking.publisher import Publisher
from tests.conftest import trivial
from tests.support.readback import unlike
from tests.support.trivial import Line, Points

WIDTHS = [[64, 64], [128], []]
LEAF = {"type": "categorical", "choices": WIDTHS}


class Wide(Line):
    """A `Line` with a list among its arguments."""

    def __init__(self, data: Points, *, widths: list[int] | None = None, **fields: Any) -> None:
        super().__init__(data, **fields)
        self.widths = widths


def overrides(results: Path, *others: str) -> list[str]:
    space = {"widths": LEAF, "lr": {"type": "float", "low": 0.05, "high": 0.3}}
    target = "trainable={_target_:tests.sweeps.search.test_list_choices.Wide}"
    return [*trivial(results, space, "scheduler=none", *others), target]


def test_lists_are_choices_everywhere(
    ray_here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    run_sweep(configure(overrides(results, "num_samples=2", "training.max_epochs=2")))
    sweep = (results / "latest").resolve()
    run_sweep(configure([f"resume={sweep}", "num_samples=5"]))
    drawn = [trial.values["trainable.widths"] for trial in read_trials(sweep)]
    assert len(drawn) == 5 and all(widths in WIDTHS for widths in drawn) and len(set(map(str, drawn))) > 1
    recorded = [read_config(folder / "config.yaml").trainable["widths"] for folder in trial_folders(sweep)]
    assert recorded == drawn
    asked = open_study(sweep).get_trials(deepcopy=False)
    assert [json.loads(trial.params["trainable.widths"]) for trial in asked] == drawn
    assert json.dumps(drawn[0]) in (sweep / "report.html").read_text()
    assert json.dumps(drawn[0]) in capfd.readouterr().out

    for name, value in MLFLOW_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    Publisher(sweep, uri, "gatesweep").sync()
    assert unlike(sweep, uri) == []

    warm = configure(overrides(tmp_path / "warm", "training.max_epochs=2"))
    learned = warm_start_trials(warm, read_space(warm), sweep)
    assert [trial.params for trial in learned] == [trial.params for trial in asked]
    assert replay([str(sweep), "search=tpe,random", "--replicas", "2"]) == 0


def test_population_based_training_changes_lists(tmp_path: Path) -> None:
    mutator = Mutator({"trainable.widths": AnyLeaf.validate_python(LEAF)}, configure(overrides(tmp_path)), 1.0)
    found = [mutator.mutate({"trainable.widths": [128]})["trainable.widths"] for _ in range(20)]
    assert all(widths in WIDTHS for widths in found) and len(set(map(str, found))) > 1
