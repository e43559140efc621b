"""A sweep of one's own: a file or Python's arguments over the defaults, functions, short spaces, groups elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gatesweep.core.errors import InputError
from gatesweep.core.gate import Gate
from gatesweep.sweeps.commands.preflight_step import check_function_run
from gatesweep.sweeps.commands.resume import configure
from gatesweep.sweeps.config import groups, trust
from gatesweep.sweeps.config.compose import compose_config
from gatesweep.sweeps.config.functions import bind_function
from gatesweep.sweeps.config.own import compose_own, normal_node
from gatesweep.sweeps.config.recorded import read_values
from gatesweep.sweeps.config.schema import check_config, make_gate
from gatesweep.sweeps.config.short_space import expand_space
from gatesweep.sweeps.config.values import to_yaml
from gatesweep.sweeps.search.space import read_space

FUNCTION = "tests.support.functions:classify"
FIVE = f"""
function: {FUNCTION}
space:
  lr: [1e-4, 1e-1, log]
  width: [4, 8]
gate:
  val/accuracy: "> 0.9"
max_epochs: 5
num_samples: 3
"""
MODULE = """
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from nowhere import Unknown
from functools import partial
from os import system
def whole(config): return config
def named(cfg, *, seed=0): return cfg
def typed(lr: float, width: int = 8, kind: "Unknown" = None): return lr, width
def lone(lr): return lr
def open_ended(lr, **rest): return lr, rest
def mapped(settings: dict): return settings
filled = partial(typed, width=3)
async def wait(config): ...
class Plain: ...
"""


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is trusted that an earlier test trusted, and no folder is added for good."""
    monkeypatch.setattr(trust, "_trust", trust.Trust())
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delenv("GATESWEEP_TRUST", raising=False)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's project: five keys and a module, far from the working folder."""
    (tmp_path / "sweep.yaml").write_text(FIVE)
    (tmp_path / "ownfunctions.py").write_text(MODULE)
    monkeypatch.delitem(sys.modules, "ownfunctions", raising=False)
    return tmp_path


def fault(work: Any, *arguments: Any) -> str:
    with pytest.raises(InputError) as caught:
        work(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def own(**values: Any) -> dict[str, Any]:
    node = normal_node({"function": FUNCTION, "gate": {"val/accuracy": "> 0.9"}, **values})
    trust.trust_typed(node)
    return node


def test_five_keys_are_a_sweep_and_typed_values_win(folder: Path) -> None:
    config = configure([str(folder / "sweep.yaml"), "num_samples=4", "space.width=[2,4,6]", "scheduler=none",
                        "max_epochs=7", "trainable.nap=0.1", "~space.lr"])  # fmt: skip
    assert config.trainable == {"_target_": "tests.support.functions.classify", "nap": 0.1} and config.data == {}
    assert (config.num_samples, config.training.max_epochs, config.name) == (4, 7, "classify")
    assert make_gate(config.gate) == Gate({"val/accuracy": "> 0.9"})
    assert config.scheduler["_target_"] == "ray.tune.schedulers.FIFOScheduler"
    typed = configure([str(folder / "sweep.yaml"), "function=ownfunctions:whole"])
    assert typed.trainable["_target_"] == "ownfunctions.whole"
    (leaf,) = read_space(config).values()
    assert leaf.choices == [2, 4, 6]
    assert check_config(config.to_dict()) == config
    assert configure([str(folder / "sweep.yaml")]).search.space["trainable"]["lr"] == {
        **{"type": "float", "low": 1e-4, "high": 1e-1, "log": True}
    }


def test_every_other_key_and_group_is_merged_over_the_defaults() -> None:
    config = compose_own(
        own(
            search="random",
            figures={"kinds": []},
            training={"keep_checkpoints": 1, "patience": {"metric": "val/accuracy", "epochs": 2}},
            scheduler={"reduction_factor": 2},
            **{"resources.max_failures": 0},
        )
    )
    assert config.search.sampler["_target_"] == "optuna.samplers.RandomSampler"
    assert config.figures.kinds == [] and config.training.keep_checkpoints == 1
    assert config.training.patience is not None and config.training.precision == "fp32"
    assert config.scheduler["reduction_factor"] == 2 and config.scheduler["brackets"] == 1
    assert config.resources.max_failures == 0 and config.resources.workers == 1
    line = {"trainable": "tests.support.trivial:Line", "data": "tests.support.trivial:Points"}
    node = normal_node({**line, "space": {"lr": (0.1, 1.0), "data.size": [32, 64]}, "gate": {"val/loss": "< 1"}})
    trust.trust_typed(node)
    config = compose_own(node)
    assert config.data == {"_target_": "tests.support.trivial.Points", "seed": 0} and config.training.clip_norm == 1.0
    assert set(read_space(config)) == {"trainable.lr", "data.size"}


LEAVES = [
    ({"lr": [1e-4, 1e-1, "log"]}, "trainable.lr", {"type": "float", "low": 1e-4, "high": 1e-1, "log": True}),
    ({"n": [1, 64, "log"]}, "trainable.n", {"type": "int", "low": 1, "high": 64, "log": True}),
    ({"p": [0.0, 0.5, "linear"]}, "trainable.p", {"type": "float", "low": 0.0, "high": 0.5, "log": False}),
    ({"p": (0, 0.5)}, "trainable.p", {"type": "float", "low": 0, "high": 0.5, "log": False}),
    ({"n": (1, 4)}, "trainable.n", {"type": "int", "low": 1, "high": 4, "log": False}),
    ({"n": (np.int64(1), np.float64(4))}, "trainable.n", {"type": "float", "low": 1, "high": 4.0, "log": False}),
    ({"n": [1, 4]}, "trainable.n", {"type": "categorical", "choices": [1, 4]}),
    ({"w": [(8, 8), [4]]}, "trainable.w", {"type": "categorical", "choices": [[8, 8], [4]]}),
    ({"s": ["log", "linear", "log2"]}, "trainable.s", {"type": "categorical", "choices": ["log", "linear", "log2"]}),
    ({"n": {"low": 1, "high": 4, "step": 3}}, "trainable.n", {"type": "int", "low": 1, "high": 4, "step": 3}),
    ({"data": {"batch_size": [8, 16]}}, "data.batch_size", {"type": "categorical", "choices": [8, 16]}),
    ({"training.max_epochs": [3, 4]}, "training.max_epochs", {"type": "categorical", "choices": [3, 4]}),
    ({"trainable": {"lr": [0.1, 1]}}, "trainable.lr", {"type": "categorical", "choices": [0.1, 1]}),
    ({"data": ["a", "b"]}, "trainable.data", {"type": "categorical", "choices": ["a", "b"]}),
    (
        {"p": {"low": 0.0, "high": 1.0, "when": {"kind": "a"}}},
        *("trainable.p", {"type": "float", "low": 0.0, "high": 1.0, "when": {"trainable.kind": "a"}}),
    ),
]


@pytest.mark.parametrize(("space", "key", "leaf"), LEAVES)
def test_a_short_form_is_one_leaf(space: dict[str, Any], key: str, leaf: dict[str, Any]) -> None:
    assert expand_space(space) == {key: leaf}
    assert expand_space({key: leaf}) == {key: leaf}  # a whole leaf stays


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"lr": 0.1}, "space.lr: got 0.1, expected a range"),
        ({"lr": "log"}, "space.lr: got 'log', expected a range"),
        ({"lr": (0.1,)}, "space.lr: got (0.1,), expected a range"),
        ({"lr": ("a", "b")}, "space.lr: got ('a', 'b'), expected a range"),
        ({"lr": (1, 2, "lgo")}, "space.lr: got (1, 2, 'lgo'), expected a range"),
        ([1], "space: got [1], expected keys"),
    ],
)
def test_what_is_no_leaf_is_said_in_one_line(space: Any, message: str) -> None:
    assert fault(expand_space, space).startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected keys: function, space, gate"),
        ("function: [", "line 1: got 'function: [', expected YAML"),
        ("a: 1\n", "a: unknown key, "),
        ("num_sample: 3\nfunction: a:b\n", "num_sample: unknown key, did you mean num_samples?"),
        ("max_epoch: 3\nfunction: a:b\n", "max_epoch: unknown key, did you mean max_epochs?"),
        ("gate: {val/loss: '< 1'}\n", "function: missing, expected module:name"),
        ("function: train\n", "function: got 'train', expected module:name"),
        ("function: nowhere:train\n", "cannot import 'nowhere.train' (No module named 'nowhere'); is the folder"),
        (f"{FIVE}\nscheduler: asah\n", "scheduler: got 'asah', expected one of"),
        (f"{FIVE}\ndata: {{_target_: a.B}}\n", "data: got {'_target_': 'a.B'}, expected none: a function loads"),
        (f"{FIVE}\ntrainable: net:Net\n", "trainable: got {'_target_': 'net.Net'} beside function"),
        (FIVE.replace("> 0.9", "about 0.9"), "gate.thresholds: 'val/accuracy' got 'about 0.9', expected e.g."),
        (
            FIVE.replace("max_epochs: 5", "max_epochs: five"),
            "training.max_epochs: got 'five', expected a valid integer",
        ),
        (f"{FIVE}\nresources: {{workers: 2}}\n", "resources.workers: got 2, expected 1 for a function, which is one"),
        (f"{FIVE}\nresources: {{stack: auto}}\n", "resources.stack: got 'auto', expected 1 for a function"),
        (f"{FIVE}\ntraining: {{precision: bf16}}\n", "training.precision: got 'bf16', expected fp32 for a function"),
        (f"{FIVE}\ntraining: {{clip_norm: 1.0}}\n", "training.clip_norm: got 1.0, expected null for a function"),
    ],
)
def test_a_bad_file_is_said_in_one_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(text)
    assert message in fault(configure, [str(tmp_path / "sweep.yaml")])
    assert "expected a YAML file" in fault(configure, [str(tmp_path / "other.yaml")])


def test_workers_and_precision_of_a_function_are_refused_in_its_space_too() -> None:
    for key, values in (("resources.workers", [1, 2]), ("training.precision", ["fp32", "bf16"])):
        config = compose_own(own(space={key: values}))
        assert "for a function" in fault(read_space, config)


def bound(name: str, **values: Any) -> Any:
    node = {"_target_": f"ownfunctions.{name}", **values}
    trust.trust_typed({"trainable": node})
    return bind_function(node)()


def test_a_function_gets_its_values_as_its_signature_says(folder: Path) -> None:
    sys.path.insert(0, str(folder))
    assert bound("whole", lr=0.1, width=3) == {"lr": 0.1, "width": 3}
    assert bound("mapped", lr=0.1) == {"lr": 0.1} and bound("whole", config=3) == 3
    assert bound("typed", lr=0.1) == (0.1, 8) and bound("lone", lr=0.1) == 0.1
    assert bound("open_ended", lr=0.1, more=2) == (0.1, {"more": 2})
    assert bound("filled", lr=0.1) == (0.1, 3)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("typed", {"lr": "a"}, "trainable.lr: got 'a', expected a valid number"),
        (
            "typed",
            {"rl": 0.1},
            "trainable.rl: unknown key, expected one of kind, lr, width",
        ),
        ("typed", {"width": 1.5}, "trainable.width: got 1.5, expected a valid integer"),
        ("wait", {}, "got 'ownfunctions.wait', an async function, expected one with def alone"),
        ("Plain", {}, "expected a subclass with the methods of gatesweep.core.trainable.Trainable, or a function"),
        ("system", {}, "expected a subclass with the methods"),
        ("nothing", {}, "cannot import 'ownfunctions.nothing'"),
    ],
)
def test_what_a_function_does_not_take_is_said_before_it_runs(
    name: str, values: dict[str, Any], message: str, folder: Path
) -> None:
    sys.path.insert(0, str(folder))
    typed = {"_target_": f"ownfunctions.{name}", **values}
    trust.trust_typed({"trainable": typed})
    assert message in fault(lambda: compose_own(normal_node({"trainable": typed})))


def test_an_argument_without_a_value_is_missed_before_the_first_trial(folder: Path) -> None:
    sys.path.insert(0, str(folder))
    node = normal_node({"function": "ownfunctions:typed", "space": {"width": [1, 2]}})
    trust.trust_typed(node)
    config = compose_own(node)
    message = fault(check_function_run, config, read_space(config))
    assert message.startswith("trainable.lr: missing, expected a value: ownfunctions.typed")
    check_function_run(config, ["trainable.lr"])


def test_data_and_a_function_do_not_go_together(folder: Path) -> None:
    typed = "trainable={_target_: tests.support.functions.classify}"
    assert "data: got" in fault(compose_config, [typed])
    assert "data={}" in fault(compose_config, [typed])
    assert "training.clip_norm" in fault(compose_config, [typed, "data={}", "search.space={}"])
    values = [typed, "data={}", "search.space={}", "training=function", "gate.thresholds={val/accuracy: '> 0.9'}"]
    assert compose_config([*values, "gate.objective=null"]).data == {}
    line = "trainable={_target_: tests.support.trivial.Line}"
    assert "data._target_: missing" in fault(compose_config, [line, "data={}", "search.space={}"])


def test_a_function_that_a_folder_names_must_be_listed_by_its_own_name(folder: Path) -> None:
    config = configure([str(folder / "sweep.yaml")])
    record = folder / "record"
    record.mkdir()
    (record / "config.yaml").write_text(to_yaml(config))
    assert trust.trust_option(config.to_dict()) == " --trust tests.support.functions.classify"
    trust._trust = trust.Trust()
    values = read_values(record / "config.yaml")
    assert "--trust tests.support.functions.classify" in fault(check_config, values)
    trust.trust_modules(["tests"])  # a module is enough for a class, which has a kind
    assert "a function, which must be named itself; if you trust" in fault(check_config, values)
    trust.trust_modules(["tests.support.functions.classify"])
    assert check_config(values) == config
    for target in ("gatesweep.core.files.write_atomically", "optuna.samplers.nothing"):
        values["trainable"] = {"_target_": target, "path": "a", "content": "b"}
        trust.trust_typed(values)  # not even then
        assert "expected a subclass" in fault(check_config, values) or "cannot import" in fault(check_config, values)


def test_a_file_within_a_record_gives_no_trust(folder: Path) -> None:
    (folder / "config.yaml").write_text(to_yaml(configure([str(folder / "sweep.yaml")])))
    trust._trust = trust.Trust()
    before = list(sys.path)
    for path in (folder / "sweep.yaml", folder / "sub" / "sweep.yaml"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(FIVE)
        assert "if you trust the code" in fault(configure, [str(path)])
    assert sys.path == before
    (folder / "config.yaml").write_text("model: mine\n")  # of another program
    assert configure([str(folder / "sweep.yaml")]).num_samples == 3


def test_groups_may_lie_in_a_folder_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "_own_folders", [])
    monkeypatch.setenv("GATESWEEP_TRUST", "tests")
    home = tmp_path / "it's, mine"
    (home / "experiment").mkdir(parents=True)
    (home / "gate").mkdir()
    (home / "gate" / "own_gate.yaml").write_text("thresholds: {val/r2: '>= 0.5'}\n")
    (home / "experiment" / "own_mlp.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /trainable: mlp\n  - override /gate: own_gate\nnum_samples: 5\n"
    )
    try:
        groups.add_config_folder(home)
        config = compose_config(["experiment=own_mlp"])
        assert config.num_samples == 5 and config.name == "own_mlp" and config.gate.thresholds == {"val/r2": ">= 0.5"}
        assert compose_config(["experiment=mlp", "gate=own_gate"]).gate.thresholds == {"val/r2": ">= 0.5"}
        assert compose_own(own(gate="own_gate")).gate.thresholds == {"val/r2": ">= 0.5"}
        assert "own_gate" in fault(compose_config, ["gate=own_gat"])
        (home / "gate" / "mlp.yaml").write_text("thresholds: {}\n")
        assert "gatesweep has gate/mlp.yaml itself" in fault(groups.add_config_folder, home)
        assert "expected a folder of groups" in fault(groups.add_config_folder, tmp_path / "none")
    finally:
        monkeypatch.undo()
        groups.group_choices.cache_clear()
        groups.read_config_file.cache_clear()


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (
            "max_epochs: 3\ntraining: {max_epochs: 9}",
            "training.max_epochs: got a value, and max_epochs is the same key",
        ),
        ("max_epochs: 3\ntraining.max_epochs: 9", "training.max_epochs: got a value, and max_epochs is the same key"),
        ("confirm.seeds: 5\nconfirm: {seeds: 2}", "confirm.seeds: got a value, and confirm.seeds is the same key"),
        (
            "gate: {val/a: '> 0.9', thresholds: {val/a: '> 0.5'}}",
            "gate.thresholds.val/a: got a value, and gate.val/a is the same key",
        ),
        ("space: {lr: [1, 2], trainable: {lr: [3, 4]}}", "space.trainable.lr: got a value, and space.lr is the same"),
        ("space: {lr: [1.0e-4, 1.0e-1, lg]}", "space.lr: got [0.0001, 0.1, 'lg'], expected a range"),
        ("space: {lr: [1.0e-4, 1.0e-1, Log]}", "space.lr: got [0.0001, 0.1, 'Log'], expected a range"),
        ("space: {lr: [1.0e-4, 1.0e-1, lin]}", "space.lr: got [0.0001, 0.1, 'lin'], expected a range"),
        ("space: {lr: [0, 1, linear]}\ntrainable: {lr: 3}", "trainable.lr: got a value, but search.space varies it"),
        ("max_epochs: 3\nstop_after_passes: 40", "stop_after_passes: got 40, expected at most 16"),
    ],
)
def test_a_key_of_an_own_file_that_would_be_ignored_is_refused(lines: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(f"function: {FUNCTION}\n{lines}\n")
    with pytest.raises(InputError) as refused:
        configure([str(path)])
    assert str(refused.value).startswith(words.replace("varies it", "varies trainable.lr"))
