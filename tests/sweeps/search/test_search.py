"""The study: nothing asked twice, nothing lost, and the same questions after a kill at any moment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from optuna.samplers._tpe.sampler import _split_trials
from optuna.trial import TrialState
from ray.tune.search import Searcher

from gatesweep.core.record import Record
from gatesweep.sweeps.config.compose import compose_config
from gatesweep.sweeps.config.schema import make_gate
from gatesweep.sweeps.search.searcher import Search
from gatesweep.sweeps.search.space import read_space
from gatesweep.sweeps.search.study import open_study
from tests.conftest import trivial

SPACE = {
    "lr": {"type": "float", "low": 1e-4, "high": 1.0, "log": True},
    "dropout": {"type": "float", "low": 0.0, "high": 0.5},
    "at_epoch": {"type": "int", "low": 1, "high": 9},
}


def search(folder: Path, *overrides: str) -> Search:
    folder.mkdir(exist_ok=True)
    config = compose_config(trivial(folder, SPACE, *overrides))
    return Search(config, read_space(config), make_gate(config.gate), folder)


def asked(of: Search, count: int) -> list[dict[str, Any]]:
    """Trials that pass at once, one after the other."""
    proposals = []
    for _ in range(count):
        proposals.append(of.suggest(""))
        of.tell(
            proposals[-1]["trial"],
            "passed",
            1,
            {"val/closeness": 0.95, "val/loss": proposals[-1]["values"]["trainable.lr"]},
        )
    return proposals


def test_a_grid_is_every_point_once(tmp_path: Path) -> None:
    """With a composition, and a leaf that exists under one choice of another; test_sweep.py trains a grid."""
    space = {
        "lr": {"type": "categorical", "choices": [0.01, 0.1]},
        "split": {"type": "composition", "total": 4, "parts": {"a": 1, "b": 1}},
        "dropout": {"type": "float", "low": 0.0, "high": 0.2, "step": 0.1, "when": {"trainable.lr": 0.1}},
    }
    config = compose_config(trivial(tmp_path, space, "search=grid", "num_samples=null"))
    of, points = Search(config, read_space(config), make_gate(config.gate), tmp_path), []
    while isinstance(proposal := of.suggest(""), dict):
        of.tell(proposal["trial"], "finished", 1, {"val/closeness": 0.5, "val/loss": 1.0})
        points.append(tuple(sorted(proposal["values"].items())))
    assert proposal == "FINISHED" and len(points) == len(set(points)) == 3 + 3 * 3


@pytest.mark.parametrize("sampler", ["tpe", "random"])
@pytest.mark.parametrize("before", [2, 12])  # TPE draws at random first
@pytest.mark.parametrize("drawn", [0, 1, 2, 3])
def test_a_trial_that_was_killed_while_its_values_were_drawn_gets_the_same(
    sampler: str, before: int, drawn: int, tmp_path: Path
) -> None:
    options = [f"search={sampler}", "num_samples=14"]
    whole = asked(search(tmp_path / "whole", *options), before + 2)
    cut = search(tmp_path / "cut", *options)
    assert asked(cut, before) == whole[:before]
    trial = cut._ask()
    for key, leaf in list(cut.space.items())[:drawn]:  # and no more
        leaf.suggest(trial, key, False)
    assert asked(search(tmp_path / "cut", *options), 2) == whole[before:]


def test_a_large_seed_is_a_seed_as_well(tmp_path: Path) -> None:
    first, second = (asked(search(tmp_path / seed, f"seed={seed}"), 4) for seed in ("4000000000", "4000000001"))
    assert first != second
    assert first == asked(search(tmp_path / "again", "seed=4000000000"), 4)


def test_trials_that_ran_are_handed_out_again_as_they_were(tmp_path: Path) -> None:
    first = search(tmp_path / "a", "num_samples=4")
    running = [first.suggest(""), first.suggest("")]
    again = search(tmp_path / "a", "num_samples=4")
    assert [again.suggest(""), again.suggest("")] == running
    assert len(open_study(tmp_path / "a").trials) == 2


def test_one_that_never_began_is_handed_out_again_even_as_the_last(tmp_path: Path) -> None:
    of = search(tmp_path / "a", "num_samples=2")
    first, second = of.suggest(""), of.suggest("")
    assert of.suggest("") is None  # not FINISHED: what runs may yet come back
    of.hand_back(second["trial"])
    assert of.suggest("") == second
    for trial in (first, second):
        of.tell(trial["trial"], "passed", 1, {"val/closeness": 0.95, "val/loss": 0.1})
    assert of.suggest("") == Searcher.FINISHED
    assert len(open_study(tmp_path / "a").trials) == 2


def test_the_sampler_believes_how_far_a_stopped_trial_was_from_gate_after_on(tmp_path: Path) -> None:
    of = search(tmp_path / "a", "search.gate_after=3")
    ends = [("finished", 6, 0.4), ("stopped", 2, 0.89), ("stopped", 3, 0.6), ("diverged", 5, 0.4), ("passed", 4, 0.95)]
    for outcome, epoch, closeness in ends:
        of.tell(of.suggest("")["trial"], outcome, epoch, {"val/closeness": closeness, "val/loss": 1 / closeness})
    trials = open_study(tmp_path / "a").trials
    ranks = [next(n for n in range(1, 6) if trial in _split_trials(of.study, trials, n)[0]) for trial in trials]
    assert ranks == [3, 4, 2, 5, 1]  # the early one behind all whose distance is known, however near it looked
    assert [trial.constraints for trial in trials[:3]] == [
        {"val/closeness": pytest.approx(0.5 / 0.9)}, {"early": 1e6}, {"val/closeness": pytest.approx(0.3 / 0.9)}
    ]  # fmt: skip
    assert [(trial.state, trial.user_attrs.get("low_fidelity", False)) for trial in trials] == [
        (TrialState.COMPLETE, False), (TrialState.PRUNED, True), (TrialState.PRUNED, True),
        (TrialState.PRUNED, False), (TrialState.COMPLETE, False)
    ]  # fmt: skip
    assert [(trial.user_attrs["outcome"], trial.user_attrs["epoch"]) for trial in trials] == [end[:2] for end in ends]


@pytest.mark.parametrize("option, first", [("grace_period=4", 4), ("scheduler.grace_period=3", 3)])
def test_unless_told_the_sampler_believes_it_where_the_scheduler_does(option: str, first: int, tmp_path: Path) -> None:
    of = search(tmp_path / "a", option)
    for epoch in (first - 1, first):
        of.tell(of.suggest("")["trial"], "stopped", epoch, {"val/closeness": 0.5, "val/loss": 1.0})
    assert [set(trial.constraints) for trial in open_study(tmp_path / "a").trials] == [{"early"}, {"val/closeness"}]


def test_with_a_cost_the_study_has_two_objectives_and_goes_on_after_a_kill_as_if_there_had_been_none(
    tmp_path: Path,
) -> None:
    def run(folder: Path, count: int) -> list[dict[str, Any]]:
        """A trial after the other: passed, stopped and diverged ones, as their records say."""
        of, proposals = search(folder, "search.cost=epochs", "search.sampler.n_startup_trials=3", "num_samples=20"), []
        for _ in range(count):
            proposal = of.suggest("")
            assert isinstance(proposal, dict)
            outcome, epochs = ("passed", "stopped", "diverged")[proposal["number"] % 3], 1 + proposal["number"] % 5
            record = Record(folder / proposal["trial"], values=proposal["values"], elapsed=0.0)
            metrics = {
                "val/closeness": 0.95 if outcome == "passed" else 0.5,
                "val/loss": proposal["values"]["trainable.lr"],
            }
            for epoch in range(1, epochs + 1):
                last = outcome if epoch == epochs and outcome != "stopped" else None
                record.epoch(epoch, metrics, [], score=0.0, outcome=last, reason=None, elapsed=0.0)
            record.end(outcome, None, of.gate)
            of.tell(proposal["trial"], outcome, epochs, metrics)
            proposals.append(proposal)
        of.suggest("")  # and it is killed
        return proposals

    whole = run(tmp_path / "whole", 9)
    cut = [*run(tmp_path / "cut", 5), *run(tmp_path / "cut", 4)]
    assert cut == whole and len({proposal["values"]["trainable.lr"] for proposal in whole}) == 9
    trials = open_study(tmp_path / "whole").trials[:9]
    assert [trial.values for trial in trials] == [
        [-proposal["values"]["trainable.lr"], 1 + number % 5] if number % 3 == 0 else None
        for number, proposal in enumerate(whole)
    ]
    assert [trial.state for trial in trials[:3]] == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.PRUNED]
    assert [trial.constraints["val/closeness"] > 0 for trial in trials[:3]] == [False, True, True]
    best = open_study(tmp_path / "whole").best_trials
    assert best and all(trial.user_attrs["outcome"] == "passed" for trial in best)  # not those that were cut short


@pytest.mark.parametrize("sampler", ["TPESampler", "NSGAIISampler", "GPSampler", "RandomSampler"])
def test_samplers_take_a_cost_beside_the_objective(sampler: str, tmp_path: Path) -> None:
    options = ["search=random", f"search.sampler._target_=optuna.samplers.{sampler}", "search.cost=epochs"]
    of = search(tmp_path / "a", *options, "num_samples=14")
    for number in range(14):
        proposal = of.suggest("")
        assert isinstance(proposal, dict)
        metrics = {"val/closeness": proposal["values"]["trainable.lr"], "val/loss": number / 10}
        record = Record(tmp_path / "a" / proposal["trial"], values=proposal["values"], elapsed=0.0)
        outcome = "stopped" if number % 4 == 3 else "passed" if of.gate.cleared(metrics) else "finished"
        for epoch in range(1, 2 + number % 3):
            last = outcome if epoch == 1 + number % 3 and outcome != "stopped" else None
            record.epoch(epoch, metrics, [], score=0.0, outcome=last, reason=None, elapsed=0.0)
        record.end(outcome, None, of.gate)
        of.tell(proposal["trial"], outcome, 1 + number % 3, metrics)
    assert len(open_study(tmp_path / "a").trials) == 14 and of.is_over()
