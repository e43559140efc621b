"""Stacks within a sweep: each of their trials is a trial like any other."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from gatesweep.core.record import read_events
from gatesweep.core.trainable import Data, Metrics, Split
from gatesweep.sweeps.commands.preflight import check_search
from gatesweep.sweeps.config.compose import compose_config, load_file
from gatesweep.sweeps.config.schema import make_gate
from gatesweep.sweeps.execution.stack import stack_size
from gatesweep.sweeps.records.layout import trial_folders
from gatesweep.sweeps.schedulers.asha import GateASHA
from gatesweep.sweeps.schedulers.history import recorded_scores
from gatesweep.sweeps.search.searcher import Search
from gatesweep.sweeps.search.space import read_space
from gatesweep.sweeps.search.study import open_study
from tests.conftest import LR, tiny, trivial
from tests.support.trivial import Line
from tests.sweeps.commands.test_sweep import recorded, run


class Doomed(Line):
    """Takes its process with it at an evaluation of its third epoch, once."""

    def evaluate(self, data: Data, split: Split = "val") -> Metrics:
        if self.epochs == 2 and self.marker and self.marker.exists():
            self.marker.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().evaluate(data, split)


def close(trials: list[Any], expected_trials: list[Any]) -> None:
    """The same trials, but for rounding."""
    for (name, values, metrics, losses, outcome), expected in zip(trials, expected_trials, strict=True):
        assert (name, values, outcome) == (expected[0], expected[1], expected[4])
        assert [epoch for epoch, _ in metrics] == [epoch for epoch, _ in expected[2]]
        for (_, value), (_, wanted) in zip(metrics, expected[2], strict=True):
            assert value == pytest.approx(wanted, rel=1e-4, abs=1e-6)
        assert losses == [pytest.approx(curve, rel=1e-4, abs=1e-6) for curve in expected[3]]


SWEEP = ["search=random", "num_samples=5", "scheduler=none"]


@pytest.fixture(scope="module")
def alone(ray_here: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of one trial at a time."""
    return run(trivial(tmp_path_factory.mktemp("alone"), None, *SWEEP, "resources.stack=1"))[1]


def test_a_sweep_in_stacks_records_what_one_trial_at_a_time_does(alone: Path, tmp_path: Path) -> None:
    _, stack, summary = run(trivial(tmp_path, None, *SWEEP, "resources.stack=3"))
    expected = json.loads((alone / "summary.json").read_text())
    close(recorded(stack), recorded(alone))
    same = ("trials", "passed", "finished", "stopped", "first_pass_epochs")
    assert {key: summary[key] for key in same[:-1]} == {key: expected[key] for key in same[:-1]}
    states = [
        [(trial.state, trial.params, trial.value) for trial in open_study(folder).trials] for folder in (stack, alone)
    ]
    for state, expected_state in zip(*states, strict=True):
        assert state[:2] == expected_state[:2] and state[2] == pytest.approx(expected_state[2], rel=1e-4)
    for trial in trial_folders(stack):
        assert {path.name for path in trial.iterdir()} == {path.name for path in (alone / trial.name).iterdir()}


@pytest.mark.usefixtures("ray_here")
def test_a_rung_thins_a_stack_to_its_best_third_and_a_killed_process_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    _, whole, summary = run(_doomed(tmp_path / "whole", tmp_path / "nowhere"))
    _, killed, _ = run(_doomed(tmp_path / "killed", tmp_path / "there"))
    assert not (tmp_path / "there").exists() and summary["stopped"] > 0
    close(recorded(killed), recorded(whole))

    seen = recorded_scores(whole)
    assert [len(together) for together in seen[:2]] == [6, 2]  # a third of six
    best = sorted(seen[0], key=lambda score: score[2])[-2:]
    assert {name for name, _, _ in seen[1]} == {name for name, _, _ in best}
    ended = {folder.name: read_events(folder / "events.jsonl")[-1]["outcome"] for folder in trial_folders(whole)}
    stopped = {name for name, outcome in ended.items() if outcome == "stopped"}
    assert GateASHA(max_t=6, grace_period=1, seen=seen).stopped == stopped


def _doomed(results: Path, marker: Path) -> list[str]:
    options = [
        "num_samples=6",
        "resources.stack=6",
        "grace_period=1",
        f"trainable._target_={__name__}.Doomed",
    ]
    return trivial(results, {**LR, "lr": {**LR["lr"], "high": 0.01}}, *options, marker=str(marker))


def test_what_cannot_stack_trains_alone_and_is_asked_for_alone_from_then_on(alone: Path, tmp_path: Path) -> None:
    never = {"misbehave": "boom", "at_epoch": 99}  # asking a tensor whether it is that epoch is what no stack can
    _, stack, _ = run(trivial(tmp_path, None, *SWEEP, "resources.stack=3", **never))
    assert recorded(stack) == recorded(alone)


def search(folder: Path, *overrides: str, space: dict[str, Any] | None = None) -> Search:
    config = compose_config(trivial(folder, space, *overrides))
    return Search(
        config,
        read_space(config),
        make_gate(config.gate),
        folder,
        stack_size(config.resources.stack, config.num_samples, 1),
    )


def test_a_group_has_one_shape_and_is_handed_out_again_as_it_was(tmp_path: Path) -> None:
    options, space = (
        ["resources.stack=4", "num_samples=10"],
        {**LR, "epoch_seconds": {"type": "float", "low": 0.0, "high": 1.0}},
    )
    first = search(tmp_path, *options, space=space)
    groups = [first.suggest(str(number)) for number in range(3)]
    assert [len(group["members"]) for group in groups] == [4, 4, 2]
    for group in groups:
        values = [member["values"] for member in group["members"]]
        assert len({value["trainable.epoch_seconds"] for value in values}) == 1
        assert len({value["trainable.lr"] for value in values}) == len(values)
    names = [member["trial"] for group in groups for member in group["members"]]
    assert names == [f"trial_{number:04d}" for number in range(10)]
    assert first.suggest("none left") is None

    for name in names[4:8]:
        first.tell(name, "finished", 6, {"val/closeness": 0.5, "val/loss": 1.0})
    again = search(tmp_path, *options, space=space)  # the driver was killed
    assert [again.suggest("a")["members"], again.suggest("b")["members"]] == [
        groups[0]["members"],
        groups[2]["members"],
    ]


def test_who_is_handed_back_as_unstackable_comes_alone(tmp_path: Path) -> None:
    asked = search(tmp_path, "resources.stack=3", "num_samples=4")
    group = asked.suggest("a")["members"]
    for member in group[1:]:
        asked.hand_back(member["trial"], alone=True)
    assert [asked.suggest(str(number))["members"] for number in range(2)] == [[group[1]], [group[2]]]
    assert len(asked.suggest("new")["members"]) == 1


@pytest.mark.parametrize(
    ("wanted", "trials", "concurrent", "size"),
    [(1, 16, 2, None), (8, 16, 2, 8), ("auto", 16, 2, 4), ("auto", 1000, 2, 16), ("auto", 3, 2, 1)],
)
def test_how_many_auto_stacks(wanted: Any, trials: int, concurrent: int, size: int | None) -> None:
    assert stack_size(wanted, trials, concurrent) == size


@pytest.mark.parametrize("options", [["resources.workers=2"], ["scheduler=pbt"], ["scheduler=median"]])
def test_what_goes_with_no_stack_is_said_at_once(options: list[str]) -> None:
    config = tiny("mlp", "resources.stack=4", *options)
    with pytest.raises(ValueError, match=r"resources\.stack: got 4, expected 1 with "):
        check_search(config, read_space(config))


def test_a_record_older_than_stacks_reads_as_without(tmp_path: Path) -> None:
    config = tiny("mlp").to_dict()
    del config["resources"]["stack"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert load_file(tmp_path / "config.yaml", []).resources.stack == 1
