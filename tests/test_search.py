"""The study: nothing asked twice, nothing lost, and the same questions after a kill at any moment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ray.tune.search import Searcher

from sweeps import config as configuration
from sweeps.schema import make_gate
from sweeps.search import Search, open_study
from sweeps.space import read
from tests.conftest import trivial

SPACE = {
    "lr": {"type": "float", "low": 1e-4, "high": 1.0, "log": True},
    "dropout": {"type": "float", "low": 0.0, "high": 0.5},
    "at_epoch": {"type": "int", "low": 1, "high": 9},
}


def search(folder: Path, *overrides: str) -> Search:
    folder.mkdir(exist_ok=True)
    config = configuration.load(trivial(folder, SPACE, *overrides))
    return Search(config, read(config), make_gate(config), folder)


def asked(of: Search, count: int) -> list[dict[str, Any]]:
    """Trials that pass at once, one after the other."""
    found = []
    for _ in range(count):
        found.append(of.suggest(""))
        of.tell(
            found[-1]["trial"], "passed", 1, {"val/closeness": 0.95, "val/loss": found[-1]["values"]["trainable.lr"]}
        )
    return found


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


def test_trials_that_ran_are_handed_out_again_as_they_were(tmp_path: Path) -> None:
    first = search(tmp_path / "a", "num_samples=4")
    running = [first.suggest(""), first.suggest("")]
    again = search(tmp_path / "a", "num_samples=4")
    assert [again.suggest(""), again.suggest("")] == running
    assert len(open_study(tmp_path / "a").trials) == 2


def test_one_that_never_began_is_handed_out_again_even_as_the_last(tmp_path: Path) -> None:
    one = search(tmp_path / "a", "num_samples=2")
    first, second = one.suggest(""), one.suggest("")
    assert one.suggest("") is None  # not FINISHED: what runs may yet come back
    one.hand_back(second["trial"])
    assert one.suggest("") == second
    for trial in (first, second):
        one.tell(trial["trial"], "passed", 1, {"val/closeness": 0.95, "val/loss": 0.1})
    assert one.suggest("") == Searcher.FINISHED
    assert len(open_study(tmp_path / "a").trials) == 2
