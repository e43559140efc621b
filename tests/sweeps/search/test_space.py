"""The search space: each leaf, conditions, and errors that name the key."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, cast

import optuna
import pytest

from gatesweep.core.trainable import Losses, Metrics, Trainable
from gatesweep.sweeps.config.compose import compose_config
from gatesweep.sweeps.config.schema import Config, check_config
from gatesweep.sweeps.search.space import AnyLeaf, Space, read_space, suggest_values

KEY = "trainable.x"


class Model(Trainable):
    """Something to vary."""

    def __init__(
        self,
        data: Any,
        *,
        lr: float = 0.1,
        width: int = 8,
        kind: str | None = "plain",
        depth: int = 1,
        split: dict[str, int] | None = None,
    ) -> None:
        super().__init__(lr=lr)

    def forward(self, batch: Any) -> Losses:
        raise AssertionError("never trained")

    def oracle(self, data: Any) -> Metrics:
        raise AssertionError("never trained")

    trivial = oracle


class Fixed(dict):
    """A trial that answers with the values it was given by name, the lowest choice otherwise, and notes each name."""

    def suggest_float(self, name: str, low: float, high: float, **options: Any) -> float:
        return self.setdefault(name, low)

    def suggest_int(self, name: str, low: int, high: int, **options: Any) -> int:
        return self.setdefault(name, low)

    def suggest_categorical(self, name: str, choices: list[Any]) -> Any:
        return self.setdefault(name, choices[0])


def answered(space: Space, **values: Any) -> dict[str, Any]:
    """Return the values that `space` suggests if the sampler answers `values`, and the lowest value otherwise."""
    return suggest_values(cast(optuna.Trial, Fixed(values)), space)


def leaves(**nodes: Any) -> Space:
    return {key: AnyLeaf.validate_python(node) for key, node in nodes.items()}


def sampled(node: dict[str, Any], count: int = 40) -> Iterator[dict[str, Any]]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(count):
        yield suggest_values(study.ask(), {KEY: AnyLeaf.validate_python(node)})


def config(space: Mapping[str, Any]) -> Config:
    """A whole configuration whose search space is `space`."""
    whole = compose_config([]).replace(
        trainable={"_target_": "tests.sweeps.search.test_space.Model", "lr": 0.1},
        data={"_target_": "tests.support.trivial.Points", "seed": 0},
    )
    return check_config(with_space(whole, **space).to_dict())


@pytest.fixture(scope="module")
def whole() -> Config:
    return config({})


def with_space(whole: Config, **space: Any) -> Config:
    return whole.replace(search=whole.search.replace(space={"trainable": space}))


# Leaves


def test_a_float_stays_in_its_range_and_varies() -> None:
    values = [point[KEY] for point in sampled({"type": "float", "low": -1, "high": 2.5})]
    assert all(isinstance(value, float) and -1 <= value <= 2.5 for value in values) and len(set(values)) > 30


def test_a_logarithmic_float_finds_its_small_values_as_often_as_its_large_ones() -> None:
    values = [point[KEY] for point in sampled({"type": "float", "low": 1e-6, "high": 1.0, "log": True}, 200)]
    assert all(1e-6 <= value <= 1.0 for value in values)
    assert 60 < sum(value < 1e-3 for value in values) < 140


def test_a_stepped_float_lies_on_its_grid() -> None:
    values = {point[KEY] for point in sampled({"type": "float", "low": 0.0, "high": 1.0, "step": 0.25})}
    assert values == {0.0, 0.25, 0.5, 0.75, 1.0}


def test_an_int_reaches_both_ends_in_its_steps() -> None:
    values = {point[KEY] for point in sampled({"type": "int", "low": 2, "high": 8, "step": 2})}
    assert values == {2, 4, 6, 8} and all(isinstance(value, int) for value in values)
    values = {point[KEY] for point in sampled({"type": "int", "low": 1, "high": 4, "log": True}, 100)}
    assert values == {1, 2, 3, 4}


def test_a_categorical_offers_each_of_its_choices() -> None:
    choices = [32, 0.5, "rotary", True, None]
    assert {repr(point[KEY]) for point in sampled({"type": "categorical", "choices": choices})} == set(
        map(repr, choices)
    )


def test_a_leaf_names_its_extremes() -> None:
    space = leaves(
        a={"type": "float", "low": 0, "high": 1},
        b={"type": "int", "low": 2, "high": 6},
        c={"type": "categorical", "choices": ["x", "y", "z"]},
        d={"type": "composition", "total": 10, "parts": {"one": 1, "two": 3}, "step": 2},
    )
    assert space["a"].extremes("a") == [{"a": 0}, {"a": 1}]
    assert space["b"].extremes("b") == [{"b": 2}, {"b": 6}]
    assert space["c"].extremes("c") == [{"c": "x"}, {"c": "y"}, {"c": "z"}]
    assert space["d"].extremes("d") == [{"d.one": 7, "d.two": 3}, {"d.one": 1, "d.two": 9}]


# Conditions

CHAIN = leaves(
    leaf={"type": "int", "low": 1, "high": 4, "when": {"middle": [1, 2]}},  # before what it waits for
    middle={"type": "categorical", "choices": [1, 2, 3], "when": {"root": "deep"}},
    root={"type": "categorical", "choices": ["flat", "deep"]},
    other={"type": "float", "low": 0, "high": 1, "when": {"root": "flat"}},
)


def test_a_conditional_leaf_exists_only_under_its_choice() -> None:
    assert answered(CHAIN, root="flat") == {"root": "flat", "other": 0}
    assert answered(CHAIN, root="deep", middle=3) == {"root": "deep", "middle": 3}
    assert answered(CHAIN, root="deep", middle=2, leaf=4) == {"root": "deep", "middle": 2, "leaf": 4}


def test_a_leaf_that_is_not_active_is_not_even_asked_for() -> None:
    trial = Fixed(root="flat")
    suggest_values(cast(optuna.Trial, trial), CHAIN)
    assert set(trial) == {"root", "other"}


def test_all_of_several_conditions_must_hold() -> None:
    space = leaves(
        a={"type": "categorical", "choices": [1, 2]},
        b={"type": "categorical", "choices": [1, 2]},
        both={"type": "int", "low": 5, "high": 5, "when": {"a": 1, "b": 2}},
    )
    drawn = {(a, b): "both" in answered(space, a=a, b=b) for a in (1, 2) for b in (1, 2)}
    assert drawn == {(1, 1): False, (1, 2): True, (2, 1): False, (2, 2): False}


def test_a_condition_on_null_does_not_hold_where_its_key_is_not_active() -> None:
    space = leaves(
        root={"type": "categorical", "choices": ["flat", "deep"]},
        middle={"type": "categorical", "choices": [None, 1], "when": {"root": "deep"}},
        leaf={"type": "int", "low": 1, "high": 4, "when": {"middle": None}},
    )
    assert answered(space, root="deep", middle=None) == {"root": "deep", "middle": None, "leaf": 1}
    assert answered(space, root="flat") == {"root": "flat"}


def test_a_space_suggests_what_its_configuration_takes(whole: Config) -> None:
    space = read_space(
        with_space(
            whole,
            kind={"type": "categorical", "choices": ["plain", None]},
            depth={"type": "int", "low": 1, "high": 4, "when": {"trainable.kind": "plain"}},
            split={"type": "composition", "total": 6, "parts": {"a": 1, "b": 1}},
        )
    )
    values = answered(space, **{"trainable.kind": "plain", "trainable.depth": 3, "trainable.split.a": 0.5})
    assert values == {"trainable.kind": "plain", "trainable.depth": 3, "trainable.split.a": 3, "trainable.split.b": 3}


@pytest.mark.parametrize(
    "conditions",
    [{"width": "depth", "depth": "width"}, {"width": "width"}, {"lr": "width", "width": "depth", "depth": "lr"}],
)
def test_conditions_that_wait_for_one_another_are_refused(whole: Config, conditions: dict[str, str]) -> None:
    nodes = {
        key: {"type": "int", "low": 1, "high": 2, "when": {f"trainable.{parent}": 1}}
        for key, parent in conditions.items()
    }
    names = ", ".join(f"trainable.{key}" for key in conditions)
    with pytest.raises(ValueError, match=f"search.space: the conditions of {names} wait for one another"):
        read_space(with_space(whole, kind={"type": "categorical", "choices": ["plain"]}, **nodes))


# Errors


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"type": "float", "low": 2, "high": 1}, "lr: expected low <= high, with low=2 and high=1"),
        ({"type": "float", "low": 0, "high": 1, "log": True}, "lr: expected low above 0 for log: true, with low=0"),
        (
            {"type": "float", "low": 0.1, "high": 1, "log": True, "step": 0.1},
            "lr: expected either log: true or a step, not both",
        ),
        ({"type": "float", "low": "small", "high": 1}, "lr.low: got 'small', expected a valid number"),
        ({"type": "float", "low": 0, "high": 1, "step": -0.5}, "lr.step: got -0.5, expected greater than 0"),
        ({"type": "int", "low": 0.5, "high": 1}, "lr.low: got 0.5, expected a valid integer"),
        ({"type": "categorical", "choices": []}, r"lr.choices: got \[\], expected .* at least 1"),
        ({"type": "normal", "mean": 0}, "lr.type: got 'normal', expected float, int, categorical or composition"),
        ({"low": 0, "high": 1}, "lr.low: got 0, expected a leaf, e.g. {type: float, low: 0.1, high: 1}"),
        (0.1, "lr: got 0.1, expected a leaf, e.g. {type: float, low: 0.1, high: 1}"),
        ({"type": "float", "low": 0}, "lr.high: "),
        ({"type": "float", "low": 0, "high": 1, "lgo": True}, "lr.lgo: "),
        (
            {"type": "float", "low": 0, "high": 1, "when": {"trainable.kin": "plain"}},
            "lr.when: got 'trainable.kin', expected another key of the search space",
        ),
    ],
)
def test_a_bad_leaf_is_refused_by_its_key(whole: Config, node: Any, message: str) -> None:
    with pytest.raises(ValueError, match=r"search\.space\.trainable\." + message.replace("{", r"\{")):
        read_space(with_space(whole, lr=node))


@pytest.mark.parametrize(
    ("total", "parts", "step", "rest"),
    [(9, {"a": 2, "b": 2}, 2, 5), (4, {"a": 3, "b": 3}, 1, -2), (4, {"a": -1, "b": 3}, 1, 2)],
)
def test_an_impossible_composition_is_refused(
    whole: Config, total: int, parts: dict[str, int], step: int, rest: int
) -> None:
    message = re.escape(
        f"search.space.trainable.split: expected a possible composition: total={total} less the minima "
        f"({sum(parts.values())}) leaves {rest}, which must be a multiple of step={step}, at least 0"
    )
    with pytest.raises(ValueError, match=message):
        read_space(with_space(whole, split={"type": "composition", "total": total, "parts": parts, "step": step}))


def test_a_composition_of_one_part_is_refused(whole: Config) -> None:
    with pytest.raises(ValueError, match=r"search.space.trainable.split.parts: got \{'a': 1\}, expected .* at least 2"):
        read_space(with_space(whole, split={"type": "composition", "total": 4, "parts": {"a": 1}}))


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"rate": {"type": "float", "low": 0, "high": 1}}, "trainable.rate: trainable.rate: unknown key"),
        ({"width": {"type": "float", "low": 0.5, "high": 1.5}}, "trainable.width: trainable.width: got 0.5, expected"),
        (
            {"width": {"type": "categorical", "choices": [8, "wide"]}},
            "trainable.width: trainable.width: got 'wide', expected",
        ),
    ],
)
def test_what_the_configuration_would_not_take_is_refused(whole: Config, space: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"search.space.{message}"):
        read_space(with_space(whole, **space))


def test_what_training_would_not_take_is_refused(whole: Config) -> None:
    nodes = {"training": {"max_epochs": {"type": "int", "low": 0, "high": 4}}}
    with pytest.raises(ValueError, match=r"search.space.training.max_epochs: training.max_epochs: got 0, expected"):
        read_space(whole.replace(search=whole.search.replace(space=nodes)))


def test_a_nested_space_is_read_by_dotted_key(whole: Config) -> None:
    nodes = {
        "trainable": {"lr": {"type": "float", "low": 0.1, "high": 1}},
        "training": {"schedule": {"warmup": {"type": "float", "low": 0, "high": 0.5}}},
    }
    space = read_space(whole.replace(search=whole.search.replace(space=nodes)))
    assert list(space) == ["trainable.lr", "training.schedule.warmup"]
    assert read_space(with_space(whole)) == {}
