"""What the comparison with other systems rests on: the same space, the same training, and how it counts."""

from __future__ import annotations

import json
from pathlib import Path

import optuna
import pytest

from gatesweep.sweeps.config.compose import compose_config
from gatesweep.sweeps.search.space import read_space, suggest_values
from tests.benchmarks.peers import first_pass, interval, read_lines, spread
from tests.benchmarks.systems import prepare, random_search
from tests.benchmarks.trained import LOG, Job
from tests.conftest import trivial


@pytest.mark.parametrize("experiment", ["walk_transformer", "circuit_vae"])
def test_a_peers_flat_point_means_what_it_means_in_a_sweep(tmp_path: Path, experiment: str) -> None:
    job = Job(compose_config([f"experiment={experiment}"]), tmp_path)
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=3)).ask()
    values = suggest_values(trial, read_space(job.config))
    assert trial.distributions == job.dimensions()
    assert suggest_values(optuna.trial.FixedTrial(trial.params), read_space(job.config)) == values


def test_a_peers_trial_ends_when_it_passes_and_tells_of_every_epoch(tmp_path: Path) -> None:
    lr = {"lr": {"type": "float", "low": 0.3, "high": 0.4}}
    job = prepare(tmp_path / "sweep", [*trivial(tmp_path, lr), "num_samples=3", "training.max_epochs=40"])
    random_search(job, 1)
    told = read_lines(job.folder / LOG)
    ends = [line for line in told if line["outcome"]]
    assert [line["outcome"] for line in ends] == ["passed"] * 3
    assert [line["trial"] for line in ends] == [5000, 5001, 5002]
    for end in ends:
        mine = [line["epoch"] for line in told if line["trial"] == end["trial"]]
        assert mine == list(range(1, end["epoch"] + 1)) and len(mine) < 40


def test_a_first_pass_counts_the_epochs_of_all_trials_until_then() -> None:
    told = [
        {"time": 12.0, "seconds": 1.5, "outcome": None},
        {"time": 12.5, "seconds": 2.5, "outcome": None},
        {"time": 14.0, "seconds": 2.0, "outcome": "passed"},
        {"time": 14.5, "seconds": 2.0, "outcome": "passed"},
    ]
    assert first_pass(told, 7.0, 60.0) == {"passed": True, "wall": 7.0, "training": 4.0, "epochs": 3}
    assert first_pass(told[:2], 7.0, 60.0) == {"passed": False, "wall": 60.0, "training": 57.0, "epochs": 2}


def test_a_median_of_runs_that_did_not_pass_is_a_bound() -> None:
    assert spread([10.0, 20.0, 30.0], [True, True, True]) == "20 (15 to 25)"
    assert spread([10.0, 60.0, 60.0], [True, False, False]) == "> 60 (35 to 60)"
    assert interval([2.0, 2.0, 2.0]) == "2.0 (2.0 to 2.0)"


def test_a_line_that_is_still_being_written_is_left_for_later(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(json.dumps({"epoch": 1}) + '\n{"epo')
    assert read_lines(tmp_path / "log") == [{"epoch": 1}]
