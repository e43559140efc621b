"""A warm start: earlier trials as this sweep would have seen them, and nothing else of it any different."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from gatesweep.core.gate import WORST_SCORE
from gatesweep.sweeps.commands.load import load
from gatesweep.sweeps.commands.resume import configure, restore_sweep
from gatesweep.sweeps.commands.run import run_sweep
from gatesweep.sweeps.config.compose import compose_config
from gatesweep.sweeps.config.recorded import read_config
from gatesweep.sweeps.config.schema import make_gate
from gatesweep.sweeps.config.values import to_yaml
from gatesweep.sweeps.execution.trial import trial_config
from gatesweep.sweeps.records.layout import trial_folders
from gatesweep.sweeps.search.searcher import Search
from gatesweep.sweeps.search.space import AnyLeaf, read_space, suggest_values
from gatesweep.sweeps.search.study import open_study
from gatesweep.sweeps.search.warm_start import ORIGIN, place_values
from tests.conftest import LR, trivial
from tests.support.pretended import Epochs, Pretended, pretend

SPACE = {
    "kind": {"type": "categorical", "choices": [None, "deep", 3]},
    "lr": {"type": "float", "low": 1e-4, "high": 1e-1, "log": True},
    "depth": {"type": "int", "low": 2, "high": 8, "step": 2, "when": {"kind": "deep"}},
    "split": {"type": "composition", "total": 24, "parts": {"a": 2, "b": 0, "c": 1}, "step": 3},
}


def search(folder: Path, *overrides: str) -> Search:
    folder.mkdir(exist_ok=True)
    config = compose_config(trivial(folder, LR, *overrides))
    return Search(config, read_space(config), make_gate(config.gate), folder)


def earlier(folder: Path, trials: list[Pretended]) -> Path:
    """A sweep that was, its trials' configurations too."""
    pretend(folder, trials)
    config = read_config(folder / "config.yaml")
    for number, trial in enumerate(trials):
        own = trial_config(config, {"values": trial.values, "number": number})
        (folder / f"trial_{number:04d}" / "config.yaml").write_text(to_yaml(own))
    return folder


def curve(*closeness: float) -> Epochs:
    return [(-1.0, {"val/closeness": value}) for value in closeness]


def learned(folder: Path) -> list[optuna.trial.FrozenTrial]:
    return [trial for trial in open_study(folder).trials if ORIGIN in trial.user_attrs]


def test_every_point_of_a_space_is_found_in_it_again() -> None:
    space = {key: AnyLeaf.validate_python(node) for key, node in SPACE.items()}
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(100):
        values = suggest_values(study.ask(), space)
        point = place_values({"depth": 5, **values}, space)  # what is not active may be anything
        assert point and suggest_values(point, space) == values  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "values", [{"lr": 1.0}, {"kind": "flat"}, {"kind": "deep", "depth": 3}, {"split.a": 3}, {"split.c": 40}]
)
def test_what_lies_outside_of_a_space_is_not(values: dict[str, Any]) -> None:
    space = {key: AnyLeaf.validate_python(node) for key, node in SPACE.items()}
    inside = {"kind": None, "lr": 1e-2, "split.a": 2, "split.b": 3, "split.c": 19}
    assert place_values(inside, space)
    assert place_values({**inside, **values}, space) is None
    assert place_values({key: value for key, value in inside.items() if key != "lr"}, space) is None


def test_earlier_trials_are_judged_by_the_gate_of_this_sweep(tmp_path: Path) -> None:
    lr, broken = {"trainable.lr": 0.1}, [(-1.0, {"val/closeness": 0.4}), (WORST_SCORE, {})]
    trials = [
        Pretended(lr, curve(0.5, 0.6, 0.95), "passed"),  # here at once
        Pretended(lr, curve(0.2, 0.5, 0.3), "passed"),  # by another gate
        Pretended(lr, curve(0.1, 0.2, 0.3, 0.4, 0.5, 0.9), "passed"),  # longer than it would have had here
        Pretended(lr, curve(0.3), "stopped"),
        Pretended(lr, broken, "diverged"),
        Pretended(lr, broken, "failed"),
        Pretended({"trainable.lr": 7.0}, curve(0.9), "passed"),  # not of this space
        Pretended({**lr, "trainable.dropout": 0.5}, curve(0.9), "passed"),  # nor this
    ]
    earlier(tmp_path / "earlier", trials)
    gate = ["gate.thresholds={val/closeness:'> 0.55'}", "gate.objective=val/closeness", "gate.mode=max"]
    of = search(tmp_path / "a", *gate, f"warm_start={tmp_path / 'earlier'}", "training.max_epochs=5", "grace_period=2")
    results = [
        (trial.user_attrs["outcome"], trial.user_attrs["epoch"], trial.state, trial.value) for trial in of.study.trials
    ]
    assert results == [
        ("passed", 2, TrialState.COMPLETE, 0.6),
        ("stopped", 3, TrialState.PRUNED, 0.3),
        ("finished", 5, TrialState.COMPLETE, 0.5),
        ("stopped", 1, TrialState.PRUNED, 0.3),
        ("diverged", 2, TrialState.PRUNED, WORST_SCORE),
    ]
    constraints = [list(trial.constraints.items()) for trial in of.study.trials]
    assert [key for ((key, _),) in constraints] == [*["val/closeness"] * 3, "early", "val/closeness"]
    assert [value for ((_, value),) in constraints] == pytest.approx([-1 / 11, 5 / 11, 1 / 11, 1e6, 1e9])


def test_a_warm_start_knows_what_earlier_trials_cost(tmp_path: Path) -> None:
    lr = {"trainable.lr": 0.1}
    before = [Pretended(lr, curve(0.5, 0.95, 0.97), "passed"), Pretended(lr, curve(0.3, 0.4), "stopped")]
    earlier(tmp_path / "earlier", before)
    of = search(tmp_path / "a", "search.cost=seconds", f"warm_start={tmp_path / 'earlier'}")
    assert [trial.values for trial in of.study.trials] == [[-0.1, 1.0], None]  # two epochs of half a second
    assert isinstance(of.suggest(""), dict)


def test_it_is_in_the_study_once_and_a_resumed_sweep_asks_as_one_that_was_not_interrupted(tmp_path: Path) -> None:
    earlier(tmp_path / "b", [Pretended({"trainable.lr": 10**-power}, curve(1 - power / 4)) for power in (1, 2, 3)])
    earlier(tmp_path / "c", [Pretended({"trainable.lr": 0.2}, curve(0.95), "passed")])
    options = ["search.sampler.n_startup_trials=3", "num_samples=4", f"warm_start={tmp_path / 'b'}"]
    cold = search(tmp_path / "cold", *options[:2])
    whole = search(tmp_path / "whole", *options)
    expected = [whole.suggest("") for _ in range(4)]
    assert [proposal["trial"] for proposal in expected] == ["trial_0000", "trial_0001", "trial_0002", "trial_0003"]
    assert [proposal["number"] for proposal in expected] == [0, 1, 2, 3] and whole.is_over()
    first = cold.suggest("")
    assert first["values"] != expected[0]["values"]  # the one is drawn at random, the other is not

    cut = search(tmp_path / "cut", *options)
    assert [cut.suggest(""), cut.suggest("")] == expected[:2]
    shutil.rmtree(tmp_path / "b")  # it has been read
    both = f"warm_start=[{tmp_path / 'b'},{tmp_path / 'c'}]"
    again = search(tmp_path / "cut", *options[:2], both)  # one more, when trials have numbers already
    assert len(learned(tmp_path / "cut")) == 4
    assert [again.suggest(""), again.suggest("")] == expected[:2]
    later = [again.suggest(""), again.suggest("")]
    assert [proposal["trial"] for proposal in later] == ["trial_0002", "trial_0003"] and again.is_over()
    last = search(tmp_path / "cut", *options[:2], both)
    assert [last.suggest("") for _ in range(4)] == [*expected[:2], *later] and len(
        open_study(tmp_path / "cut").trials
    ) == 8


def test_folders_that_teach_nothing(tmp_path: Path) -> None:
    earlier(tmp_path / "outside", [Pretended({"trainable.lr": 7.0}, curve(0.95), "passed")])
    (tmp_path / "empty").mkdir()
    faults = {
        "nowhere": "warm_start: got .*/nowhere', expected the folder of a sweep that has trials",
        "empty": "warm_start: got .*/empty', expected the folder of a sweep that has trials",
        "outside": "warm_start: got .*/outside', expected trials of tests.support.trivial.Line with values in "
        "search.space",
    }
    for name, message in faults.items():
        with pytest.raises(ValueError, match=message):
            run_sweep(compose_config(trivial(tmp_path / "results", None, f"warm_start={tmp_path / name}")))
    with pytest.raises(ValueError, match="warm_start: got earlier sweeps, expected null: search=grid"):
        space = {"lr": {"type": "categorical", "choices": [0.1]}}
        options = ["search=grid", f"warm_start={tmp_path / 'outside'}"]
        run_sweep(compose_config(trivial(tmp_path / "results", space, *options)))
    assert not (tmp_path / "results").exists()


@pytest.mark.usefixtures("ray_here")
def test_a_sweep_that_begins_with_earlier_trials_has_its_own_alone_in_its_folder_and_its_copy(tmp_path: Path) -> None:
    before = earlier(tmp_path / "b", [Pretended({"trainable.lr": 0.1}, curve(0.2, 0.95), "passed")])
    options = [f"warm_start={before}", "num_samples=2", "training.max_epochs=3", f"storage={tmp_path / 'kept'}"]
    run_sweep(compose_config(trivial(tmp_path / "results", None, *options)))
    folder = (tmp_path / "results" / "latest").resolve()
    assert [path.name for path in trial_folders(folder)] == ["trial_0000", "trial_0001"]
    assert [path.user_attrs[ORIGIN] for path in learned(folder)] == [f"{before}/trial_0000"]
    back = restore_sweep(str(tmp_path / "kept" / folder.name), tmp_path / "back")
    assert [path.name for path in trial_folders(back)] == ["trial_0000", "trial_0001"] and len(learned(back)) == 1
    assert not list(folder.glob("*/checkpoints"))
    trainable, _ = load(back / "trial_0000", storage=str(tmp_path / "kept"))  # its checkpoint is there alone
    assert trainable.epochs > 0
    with pytest.raises(ValueError, match="expected earlier sweeps: that is the one which goes on"):
        run_sweep(configure([f"resume={folder}", f"warm_start={folder}"]))
