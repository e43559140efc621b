"""Population-based training: mutations stay in the space and keep the architecture of the weights that are copied."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from optuna.distributions import FloatDistribution, IntDistribution
from torch import nn

from gatesweep.core import checkpoint
from gatesweep.core.errors import InputError
from gatesweep.sweeps.config.compose import compose_config
from gatesweep.sweeps.config.schema import Config
from gatesweep.sweeps.config.trust import current_trust
from gatesweep.sweeps.execution.trial import DirectTrial
from gatesweep.sweeps.schedulers.factory import make_scheduler
from gatesweep.sweeps.schedulers.mutation import Mutator, architecture, shifted
from gatesweep.sweeps.search.space import Space, read_space
from gatesweep.sweeps.search.warm_start import place_values
from tests.conftest import LR, tiny, trivial
from tests.support.trivial import Line, Points

MLP_SPACE = (
    "search.space={trainable: {lr: {type: float, low: 1e-4, high: 1e-2, log: true}, "
    "depth: {type: int, low: 1, high: 3}, width: {type: int, low: 8, high: 32, step: 8}, "
    "dropout: {type: float, low: 0.0, high: 0.2, step: 0.05}}, "
    "data: {batch_size: {type: int, low: 16, high: 64, step: 16}}}"
)
NODES: dict[str, Any] = {
    "lr": {"type": "categorical", "choices": [0.3, 0.01, 0.1]},
    "dropout": {"type": "float", "low": 0.0, "high": 0.5, "when": {"trainable.lr": [0.01, 0.1]}},
    "at_epoch": {"type": "int", "low": 2, "high": 11, "step": 3},
    "split": {"type": "composition", "total": 6, "parts": {"a": 1, "b": 1, "c": 1}},
}


class Headed(Line):
    """A trainable with a number of heads, which has no shape of its own."""

    def __init__(self, data: Points, *, at_epoch: int = 1, heads: int = 2, **fields: Any) -> None:
        super().__init__(data, at_epoch=at_epoch, **fields)
        self.attention = nn.MultiheadAttention(8, heads)


def mutations(config: Config, values: dict[str, Any], count: int) -> tuple[Space, list[dict[str, Any]]]:
    """Mutations of mutations: the walk of a population that copies and copies."""
    space, walk = read_space(config), [values]
    mutator = Mutator(space, config, 0.25)
    for _ in range(count):
        walk.append(mutator.mutate(walk[-1]))
    return space, walk[1:]


def test_mutations_stay_on_the_grids_of_their_leaves_and_keep_the_architecture() -> None:
    config = tiny("mlp", MLP_SPACE)
    first = {"trainable.lr": 1e-3, "trainable.depth": 3, "trainable.width": 24, "trainable.dropout": 0.2}
    space, walk = mutations(config, {**first, "data.batch_size": 64}, 40)
    assert all(place_values(values, space) for values in walk)
    assert all(architecture(config, values) == architecture(config, first) for values in walk)
    tried = {key: {values[key] for values in walk} for key in walk[0]}
    assert tried["trainable.depth"] == {3} and tried["trainable.width"] == {24}
    assert len(tried["trainable.lr"]) > 20 and tried["data.batch_size"] == {16, 32, 48, 64}
    assert all(round(value / 0.05, 6).is_integer() for value in tried["trainable.dropout"])
    assert len(tried["trainable.dropout"]) > 3


def test_a_mutation_draws_what_its_branch_needs_and_splits_add_up(tmp_path: Path) -> None:
    config = compose_config(trivial(tmp_path, NODES))
    parts = {f"trainable.split.{name}": 2 for name in "abc"}
    space, walk = mutations(config, {"trainable.lr": 0.3, "trainable.at_epoch": 5, **parts}, 60)
    assert all(place_values(values, space) for values in walk)
    assert {("trainable.dropout" in values, values["trainable.lr"] != 0.3) for values in walk} == {
        (True, True), (False, False)
    }  # fmt: skip
    assert all(sum(values[key] for key in parts) == 6 for values in walk)
    assert {values["trainable.at_epoch"] for values in walk} == {2, 5, 8, 11}


def test_a_number_of_heads_belongs_to_the_architecture(tmp_path: Path) -> None:
    space = {**LR, "heads": {"type": "categorical", "choices": [1, 2, 4]}}
    options = trivial(tmp_path, space, f"trainable._target_={__name__}.Headed")
    _, walk = mutations(compose_config(options), {"trainable.lr": 0.1, "trainable.heads": 2}, 10)
    assert {values["trainable.heads"] for values in walk} == {2} and len(
        {values["trainable.lr"] for values in walk}
    ) > 5


@pytest.mark.parametrize(
    "value, distribution, up, expected",
    [
        (5, IntDistribution(1, 9), True, 6),
        (1, IntDistribution(1, 9), False, 1),
        (50, IntDistribution(10, 90, step=20), True, 70),
        (90, IntDistribution(10, 90, step=20), True, 90),
        (100, IntDistribution(1, 1000, log=True), False, 80),
        (0.01, FloatDistribution(1e-4, 1e-2, log=True), True, 0.01),
        (0.0, FloatDistribution(0.0, 0.5), True, 0.1),
        (-1.0, FloatDistribution(-2.0, 2.0), True, -0.8),
        (0.3, FloatDistribution(0.1, 0.5, step=0.1), False, pytest.approx(0.2)),
    ],
)
def test_numbers_are_shifted_by_a_fifth(
    value: float, distribution: IntDistribution | FloatDistribution, up: bool, expected: float
) -> None:
    assert shifted(value, distribution, up) == expected


def test_mutating_leaves_the_generators_of_the_driver_alone() -> None:
    before = random.getstate()
    mutations(tiny("mlp", MLP_SPACE), {"trainable.lr": 1e-3}, 1)
    architecture(tiny("mlp"), {"trainable.width": 16})
    assert random.getstate() == before


def test_a_space_without_a_leaf_is_refused(tmp_path: Path) -> None:
    config = compose_config(trivial(tmp_path, {}, "scheduler=pbt"))
    with pytest.raises(InputError, match=r"search\.space: got no leaf, expected one"):
        make_scheduler(config.scheduler, 6, {}, config=config)


def test_reports_that_a_resumed_sweep_repeats_copy_nothing(tmp_path: Path) -> None:
    config = compose_config(trivial(tmp_path, LR, "scheduler=pbt"))
    seen = [[("trial_0000", epoch, -1.0)] for epoch in (1, 2, 3)]
    scheduler = make_scheduler(config.scheduler, 6, read_space(config), seen, config)
    trial = SimpleNamespace(config={"trial": "trial_0000"})  # unknown to the population: any look-up would raise
    assert scheduler.on_trial_result(None, trial, {"epoch": 3, "score": -1.0}) == "CONTINUE"  # type: ignore[arg-type]


def test_a_copy_counts_its_own_epochs_and_a_pause_does_not_make_one(tmp_path: Path) -> None:
    config = compose_config(trivial(tmp_path, LR, "gate.thresholds={val/closeness: '> 2'}"))
    kept = str(tmp_path / "kept")

    def trial(name: str, number: int, **facts: Any) -> DirectTrial:
        running = DirectTrial.__new__(DirectTrial)
        (tmp_path / name).mkdir(exist_ok=True)
        given = {"trial": name, "number": number, "values": {"trainable.lr": 0.1}, **facts}
        running.setup(given, config, str(tmp_path), None, current_trust())
        return running

    donor = trial("trial_0000", 0)
    for _ in range(2):
        donor.step()
    donor.save_checkpoint(kept)
    copy = trial("trial_0001", 1, epochs=4)
    copy.load_checkpoint(kept)
    assert [copy.step()["epoch"], copy.step()["outcome"]] == [5, "finished"]  # of six
    paused = trial("trial_0000", 0)
    paused.load_checkpoint(kept)
    assert paused.step()["epoch"] == 3
    assert checkpoint.newest(tmp_path / "trial_0001" / "checkpoints")[0].epoch == 6  # type: ignore[index]


@pytest.mark.parametrize("low", [0.0, -0.3, 0.1, 1e-4])
@pytest.mark.parametrize("step", [0.1, 0.05, 0.03, 1e-3])
@pytest.mark.parametrize("steps", [1, 3, 6, 7])
def test_a_shift_on_a_grid_of_tenths_ends_within_its_bounds(low: float, step: float, steps: int) -> None:
    leaf = FloatDistribution(low, round(low + steps * step, 9), step=step)
    value = leaf.low
    for up in [True] * (steps + 1) + [False] * (steps + 1):
        value = shifted(value, leaf, up)
        assert leaf.low <= value <= leaf.high and leaf._contains(value)
    assert value == leaf.low
