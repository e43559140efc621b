"""A function as a trainable: reports, checkpoints, its end, and whatever functions do wrong."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import gatesweep
from gatesweep.core import checkpoint, function, rng
from gatesweep.core.errors import MissingMetric
from gatesweep.core.function import Hung, fit_function
from gatesweep.core.gate import Gate
from gatesweep.core.judging import Epoch
from gatesweep.core.reporting import Stop, checked_metrics, last, report
from gatesweep.core.settings import EarlyStopping, Settings
from gatesweep.core.trainable import Diverged
from tests.support import functions

GATE = Gate({"val/accuracy": "> 0.985"})


def settings(max_epochs: int = 6, gate: Gate = GATE, **fields: Any) -> Settings:
    return Settings(max_epochs=max_epochs, gate=gate, **fields)


def save(folder: Path, epoch: Epoch) -> None:
    if epoch.is_resumable:
        facts = {"epoch": epoch.index, "score": epoch.score}
        checkpoint.save(folder / f"epoch_{epoch.index:04d}", epoch.state(), facts, write_files=epoch.write_files)


def train(target: Callable[[], Any], folder: Path, stop_after: int = 1000, seed: int = 3, **fields: Any) -> list[Epoch]:
    """Run a function in a folder, from its newest checkpoint; end it as a scheduler does after `stop_after` epochs."""
    newest = checkpoint.newest(folder)
    epochs = []
    resume = {"resume": newest[1], "files": newest[0].folder} if newest else {}
    running = fit_function(target, settings(**fields), seed=seed, **resume)
    for epoch in running:
        save(folder, epoch)
        epochs.append(epoch)
        if len(epochs) == stop_after:
            running.close()
    return epochs


def running_functions() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "gatesweep function"]


def outcomes(epochs: list[Epoch]) -> list[Any]:
    return [(epoch.index, epoch.outcome) for epoch in epochs]


CLASSIFY = partial(functions.classify, {"lr": 0.02, "width": 4})
DESCEND = partial(functions.descend, lr=0.1)
DESCENT = Gate({"val/closeness": "> 0.99"})


@pytest.mark.parametrize(("target", "gate"), [(CLASSIFY, GATE), (DESCEND, DESCENT)], ids=["function", "generator"])
def test_a_run_that_is_cut_twice_goes_on_bit_by_bit(target: Any, gate: Gate, tmp_path: Path) -> None:
    whole = train(target, tmp_path / "whole", gate=gate)
    assert len(whole) == 6 and whole[-1].outcome == "finished"
    cut = [train(target, tmp_path / "cut", stop_after=count, gate=gate) for count in (1, 2, 1000)]
    names = set(gate.reads) | {"train/loss"}
    curves = [
        [(epoch.index, {name: epoch.metrics.get(name) for name in names}, epoch.score) for epoch in epochs]
        for epochs in (whole, [epoch for part in cut for epoch in part])
    ]
    assert curves[0] == curves[1]
    assert not running_functions()


def test_the_gate_ends_a_function_in_its_report_and_nothing_trains_past_it(tmp_path: Path) -> None:
    past = []

    def climb() -> None:
        for value in (0.5, 0.99, 0.5):
            report({"val/accuracy": value})
            past.append(value)

    assert outcomes(train(climb, tmp_path)) == [(1, None), (2, "passed")]
    assert past == [0.5]


@pytest.mark.parametrize("generator", [False, True])
def test_a_function_that_returns_has_finished_with_its_last_epoch(generator: bool, tmp_path: Path) -> None:
    def once() -> dict[str, float]:
        return {"val/accuracy": 0.5}

    def steps() -> Any:
        yield {"val/accuracy": 0.4}
        return {"val/accuracy": 0.5}

    epochs = train(steps if generator else once, tmp_path)
    last_one = 2 if generator else 1
    assert outcomes(epochs)[-2:] == [(last_one, None), (last_one, "finished")]
    assert epochs[-1].metrics["val/accuracy"] == 0.5 and epochs[-1].reason == "the function returned"


def test_outside_of_a_sweep_a_function_runs_unchanged() -> None:
    assert last() is None and report({"val/accuracy": "anything"}) is None
    assert functions.evaluate_once({"lr": 0.3}) == {"val/accuracy": 0.3}
    assert gatesweep.report is report and gatesweep.last is last


def test_stop_passes_except_exception_and_comes_again_after_a_bare_except(tmp_path: Path) -> None:
    assert issubclass(Stop, BaseException) and not issubclass(Stop, Exception)
    epochs = train(partial(functions.catch_all, {}), tmp_path, max_epochs=3)
    assert outcomes(epochs)[-1] == (3, "finished") and not running_functions()


def test_a_function_that_never_ends_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(function, "GRACE", 0.1)
    running = fit_function(partial(functions.catch_all, {"hang": 0.5}), settings(), seed=0)
    next(running)
    with pytest.raises(Hung, match="still runs"):
        running.close()
    running_functions()[0].join()


def test_a_resumed_function_that_does_not_ask_for_its_checkpoint_fails(tmp_path: Path) -> None:
    train(partial(functions.forget, {}), tmp_path, stop_after=2)
    with pytest.raises(
        RuntimeError, match=r"goes on after epoch 2, but its function reported before it called last\(\)"
    ):
        train(partial(functions.forget, {}), tmp_path)


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (torch.tensor(0.985), 0.985),
        (torch.tensor(0.985).item(), 0.985),
        (np.float32(0.985), 0.985),
        (torch.tensor([0.95], dtype=torch.bfloat16), 0.95),
        (np.float16(0.1), 0.1),
        (1365 / 4096, 1365 / 4096),
        (0.1 + 0.2, 0.1 + 0.2),
        (torch.tensor(3), 3.0),
        (True, 1.0),
        (float("inf"), float("inf")),
    ],
)
def test_a_metric_is_the_decimal_that_a_rounded_number_stands_for(value: Any, number: float) -> None:
    (found,) = checked_metrics({"val/accuracy": value}).values()
    assert found == number and type(found) is float


@pytest.mark.parametrize("rule", ["> 0.985", "< 0.985", "> 0.95", "< 0.95"])
def test_a_rounded_number_clears_no_threshold_that_it_equals(rule: str, tmp_path: Path) -> None:
    value = float(rule.split()[1])
    target = partial(functions.repeat, {"values": [torch.tensor(value), torch.tensor(value).item(), np.float32(value)]})
    epochs = train(target, tmp_path, gate=Gate({"val/accuracy": rule}))
    assert epochs[-1].outcome == "finished"


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        (None, "got None, expected metrics by name"),
        ({"val/accuracy": "0.9"}, "'val/accuracy' got '0.9', expected a number"),
        ({"val/accuracy": torch.zeros(2)}, r"tensor of shape \(2,\), expected one number"),
        ({3: 0.9}, "got the name 3, expected letters"),
        ({"a\nb": 0.9}, "expected letters"),
        ({"epoch": 0.9}, "which the record uses itself"),
        ({"train/step_loss": 0.9}, "which the record uses itself"),
    ],
)
def test_a_metric_that_cannot_be_recorded_is_refused(metrics: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        checked_metrics(metrics)


def test_a_gated_metric_must_come_with_the_first_report_and_may_be_left_out_later(tmp_path: Path) -> None:
    with pytest.raises(MissingMetric, match="'val/accuracy' is not reported; this trainable reports val/acc"):
        train(partial(functions.repeat, {"values": [0.99], "name": "val/acc"}), tmp_path)

    def seldom() -> Any:
        yield {"val/accuracy": 0.99, "val/loss": 2.0}
        yield {"val/loss": 0.1}

    gate = Gate({"val/accuracy": "> 0.9", "val/loss": "< 1"})
    assert outcomes(train(seldom, tmp_path, gate=gate))[-1] == (2, "finished")  # a carried value passes nothing


def test_a_dict_that_could_not_come_back_fails_at_the_first_report(tmp_path: Path) -> None:
    def save_object() -> Any:
        yield {"val/accuracy": 0.5}, {"path": Path("a")}

    with pytest.raises(TypeError, match=r"cannot be loaded without running code .* expected tensors and plain values"):
        train(save_object, tmp_path)


def test_files_are_copied_checked_and_handed_over(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "inner").mkdir(parents=True)
    (source / "inner" / "a.txt").write_text("one")
    kept: list[Any] = []

    def copy(path: Path) -> Any:
        kept.append(last())
        yield {"val/accuracy": 0.5}, path
        yield {"val/accuracy": 0.5}, None

    for path, file in ((source, "inner/a.txt"), (source / "inner" / "a.txt", "a.txt")):
        folder = tmp_path / file.replace("/", "-")
        train(partial(copy, path), folder)
        (source / "inner" / "a.txt").write_text("one")
        train(partial(copy, path), folder)
        before, after = kept[-2:]
        assert before is None and after.epoch == 1 and after.state is None
        assert (after.folder / file).read_text() == "one"
        newest = checkpoint.newest(folder)
        assert newest and newest[0].epoch == 2 and newest[0].folder
        (newest[0].folder / file).write_text("two")
        with pytest.warns(UserWarning, match=rf"files/{file} does not match its checksum"):
            assert checkpoint.newest(folder)[0].epoch == 1


def test_last_puts_the_random_generators_back(tmp_path: Path) -> None:
    drawn = []

    def draw() -> Any:
        torch.rand(5)
        start = last()
        while True:
            drawn.append((torch.rand(()).item(), np.random.rand()))
            yield {"val/accuracy": 0.5}, {"n": len(drawn)}
            assert start is None or start.state == {"n": 1}

    train(draw, tmp_path / "whole", stop_after=2)
    train(draw, tmp_path / "cut", stop_after=1)
    train(draw, tmp_path / "cut", stop_after=1)
    assert drawn[:2] == drawn[2:]


def test_errors_of_the_function_keep_their_traceback_and_end_no_process(tmp_path: Path) -> None:
    def fail() -> None:
        report({"val/accuracy": 0.5})
        raise KeyError("mine")

    def diverge() -> None:
        report({"val/accuracy": 0.5})
        raise Diverged("loss is NaN")

    with pytest.raises(KeyError, match="mine") as caught:
        train(fail, tmp_path)
    assert caught.traceback[-1].name == "fail"
    with pytest.raises(RuntimeError, match="the function raised SystemExit: 4"):
        train(partial(functions.leave, {}), tmp_path)
    with pytest.raises(RuntimeError, match="returned without a report"):
        train(lambda: None, tmp_path)
    epochs = train(diverge, tmp_path)
    assert outcomes(epochs) == [(1, None), (2, "diverged")] and epochs[-1].reason == "loss is NaN"
    assert not running_functions()


def test_early_stopping_ends_a_function(tmp_path: Path) -> None:
    patience = EarlyStopping("val/accuracy", epochs=2, mode="max")
    target = partial(functions.repeat, {"values": [0.5, 0.6, 0.1, 0.2, 0.3]})
    epochs = train(target, tmp_path, patience=patience)
    assert outcomes(epochs)[-1] == (4, "finished") and epochs[-1].reason == "no better val/accuracy for 2 epochs"


def test_a_seed_decides_what_a_function_draws(tmp_path: Path) -> None:
    before = rng.state()
    first, second = (train(CLASSIFY, tmp_path / name, stop_after=2) for name in "ab")
    rng.restore(before)
    assert [epoch.metrics["train/loss"] for epoch in first] == [epoch.metrics["train/loss"] for epoch in second]
