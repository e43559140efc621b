"""The training loop: every promise of `fit`, on models small enough to follow by hand."""

from __future__ import annotations

import math
import os
import random
import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.optim import AdamW

from gatesweep.core import rng
from gatesweep.core.errors import InputError
from gatesweep.core.gate import WORST_SCORE, Gate
from gatesweep.core.loop import Epoch, fit
from gatesweep.core.resume import copied_state
from gatesweep.core.schedule import schedule
from gatesweep.core.settings import EarlyStopping, Settings
from gatesweep.core.trainable import Data, Diverged, Losses, Metrics, Split, Step, Trainable
from gatesweep.sweeps.config.compose import compose_config
from tests.support.examples import ONE, Batches, Slope, critic, line, same, seen, stored, weights
from tests.support.trivial import Points

# Steps, rates, metrics


def test_it_is_the_loop_that_anyone_would_write() -> None:
    data, ours, theirs = Points(size=50, batch_size=16), line(), line()
    epochs = list(fit(ours, data, Settings(max_epochs=3)))

    optimizer = AdamW(theirs.parameters(), lr=0.1, weight_decay=0.0)
    expected = []
    for epoch in range(3):
        for batch in data.train(epoch):
            loss = theirs(batch)["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            expected.append(loss.item())
    assert [len(epoch.losses) for epoch in epochs] == [4, 4, 4]  # the last batch holds two samples
    assert [loss for epoch in epochs for loss in epoch.losses] == expected
    assert torch.equal(ours.layer.weight, theirs.layer.weight)
    assert [epoch.index for epoch in epochs] == [1, 2, 3]
    assert [epoch.outcome for epoch in epochs] == [None, None, "finished"]


def test_an_epoch_reports_its_metrics_by_split_and_name() -> None:
    data = Points(size=50, batch_size=16)
    (epoch,) = fit(line(), data, Settings(max_epochs=1))
    assert set(epoch.metrics) == {
        "train/loss", "train/grad_norm", "val/loss", "val/closeness", "system/seconds", "system/train_seconds",
        "system/samples_per_second", "system/peak_memory_mib",
    }  # fmt: skip
    assert all(math.isfinite(value) and value > 0 for value in epoch.metrics.values())
    sizes = [16, 16, 16, 2]
    mean = sum(size * loss for size, loss in zip(sizes, epoch.losses, strict=True)) / 50
    assert epoch.metrics["train/loss"] == pytest.approx(mean)  # by samples, not by batches
    rate = epoch.metrics["system/samples_per_second"] * epoch.metrics["system/train_seconds"]
    assert rate == pytest.approx(50) and epoch.metrics["system/seconds"] >= epoch.metrics["system/train_seconds"]


def test_how_busy_the_machine_was_is_reported_if_asked_for() -> None:
    (epoch,) = fit(line(), Points(size=50, batch_size=16), Settings(max_epochs=1, system_metrics=True))
    assert 0 < epoch.metrics["system/cpu_percent"] < 110 * (os.cpu_count() or 1)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_rate_of_the_schedule_is_applied_at_every_update(accumulate: int) -> None:
    """Warm-up over the first quarter of 16 updates, then a cosine, read off the weight that the steps move."""
    data = Batches(ONE.batches * 4 * accumulate)
    multiplier = schedule("cosine", warmup=0.25, floor=0.1)
    trainable = Slope(lr=0.5)
    epochs = list(fit(trainable, data, Settings(max_epochs=4, schedule=multiplier, accumulate=accumulate)))
    losses = [loss for epoch in epochs for loss in epoch.losses]
    levels = [*losses[::accumulate], trainable.weight.item()]
    rates = [before - after for before, after in pairwise(levels)]
    assert len(rates) == 16 and rates[:4] == pytest.approx([0.125, 0.25, 0.375, 0.5], abs=1e-6)
    cosine = [
        0.5 * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * (update / 16 - 0.25) / 0.75))) for update in range(5, 17)
    ]
    assert rates[4:] == pytest.approx(cosine, abs=1e-6) and rates[-1] == pytest.approx(0.05, abs=1e-6)


def test_progress_runs_from_the_first_update_to_one() -> None:
    class Progress(Slope):
        def forward(self, batch: Any) -> Losses:
            return {"loss": super().forward(batch)["loss"] * 0 + self.progress}

    epochs = list(fit(Progress(), Batches(ONE.batches * 2), Settings(max_epochs=3)))
    assert [loss for epoch in epochs for loss in epoch.losses] == pytest.approx([n / 6 for n in range(1, 7)])


def test_a_long_gradient_is_clipped_and_its_norm_reported_as_it_was() -> None:
    for clip, moved in ((1.0, 1.0), (10.0, 5.0), (None, 5.0)):
        trainable = Slope(slope=(3.0, 4.0))
        (epoch,) = fit(trainable, ONE, Settings(max_epochs=1, clip_norm=clip))
        assert epoch.metrics["train/grad_norm"] == pytest.approx(5.0)
        assert trainable.weight.detach().norm().item() == pytest.approx(moved, rel=1e-5)


def test_a_hook_before_the_run_and_one_after_each_epoch() -> None:
    class Hooked(Slope):
        calls = 0

        def begin(self, data: Data) -> None:
            self.calls += 100

        def end_epoch(self, data: Data, metrics: Metrics) -> None:
            self.calls += 1
            metrics["val/added"] = float(self.calls)

    trainable = Hooked()
    epochs = list(fit(trainable, ONE, Settings(max_epochs=5, gate=Gate({"val/added": "> 102.5"}))))
    assert [epoch.metrics["val/added"] for epoch in epochs] == [101, 102, 103] and epochs[-1].outcome == "passed"


# Outcomes


def test_a_loss_that_is_not_a_number_ends_the_run_as_diverged() -> None:
    before = weights_after(lambda: line(lr=0.3))
    epochs = list(fit(line(misbehave="nan", at_epoch=2), Points(), Settings(max_epochs=5)))
    assert [epoch.outcome for epoch in epochs] == [None, "diverged"]
    assert (
        epochs[1].score == WORST_SCORE == -1e9 and all(map(math.isnan, epochs[1].losses)) and len(epochs[1].losses) == 4
    )
    assert epochs[1].reason == "a training loss or its gradient was not finite"
    assert epochs[1].metrics["system/seconds"] > 0
    assert same(weights_after(lambda: line(lr=0.3)), before)  # what is trained next is not touched by it


def weights_after(make: Callable[[], Trainable]) -> dict[str, Tensor]:
    trainable = make()
    assert list(fit(trainable, Points(), Settings(max_epochs=2)))[-1].outcome == "finished"
    return weights(trainable)


@pytest.mark.parametrize("clip", [None, 1.0])
def test_an_infinite_gradient_ends_the_run_as_diverged(clip: float | None) -> None:
    class Cliff(Slope):
        def forward(self, batch: Any) -> Losses:
            return {"loss": self.weight.sqrt().sum()}  # the slope at 0 is infinite

    (epoch,) = fit(Cliff(), ONE, Settings(max_epochs=3, clip_norm=clip))
    assert epoch.outcome == "diverged" and epoch.losses == [0.0] and epoch.score == WORST_SCORE


class GivesUp(Slope):
    """Raises Diverged at its third step."""

    def train_step(self, batch: Any, step: Step) -> Losses:
        if self.weight.item() <= -2:
            raise Diverged("the critic won")
        return super().train_step(batch, step)


def test_a_trainable_may_say_itself_that_it_diverged() -> None:
    (epoch,) = fit(GivesUp(), Batches(ONE.batches * 5), Settings(max_epochs=3))
    assert (epoch.outcome, epoch.reason, epoch.score) == ("diverged", "the critic won", WORST_SCORE)


def test_the_losses_before_it_gave_up_are_kept() -> None:
    (epoch,) = fit(GivesUp(), Batches(ONE.batches * 5), Settings(max_epochs=3))
    assert epoch.losses == [0.0, -1.0]


def out_of_memory(size: int = 16, **options: Any) -> list[Epoch]:
    data = Points(batch_size=size)
    return list(fit(line(misbehave="memory", at_epoch=2), data, Settings(max_epochs=5, **options)))


def test_lack_of_memory_fails_the_run_with_advice_and_spares_the_process() -> None:
    before = weights_after(lambda: line(lr=0.3))
    epochs = out_of_memory()
    assert [epoch.outcome for epoch in epochs] == [None, "failed"] and epochs[1].score == WORST_SCORE
    assert epochs[1].reason and epochs[1].reason.startswith(
        "out of memory at batch size 16: try data.batch_size=8 training.accumulate=2 (the same update)"
    )
    assert same(weights_after(lambda: line(lr=0.3)), before)


def test_the_advice_for_lack_of_memory_can_be_typed() -> None:
    reason = str(out_of_memory()[-1].reason)
    advice = re.findall(r"[\w.]+=\w+", reason)
    assert len(advice) == 4
    for override in advice:
        compose_config([override])


def test_the_advice_for_lack_of_memory_keeps_the_update_under_accumulation() -> None:
    reason = str(out_of_memory(accumulate=4)[-1].reason)
    assert "data.batch_size=8 training.accumulate=8 (the same update)" in reason


def test_a_single_sample_cannot_be_halved() -> None:
    reason = str(out_of_memory(size=1)[-1].reason)
    assert reason.startswith("out of memory at batch size 1: try training.activation_checkpointing=true")


def test_a_fault_of_the_trainables_own_is_an_exception() -> None:
    run = fit(line(misbehave="a fault", at_epoch=2), Points(), Settings(max_epochs=5))
    next(run)
    with pytest.raises(RuntimeError, match="a fault"):
        next(run)


def test_passing_the_gate_ends_the_run_at_once() -> None:
    trainable = Slope(values=[0.5, 0.8, 0.96, 0.99])
    epochs = list(fit(trainable, ONE, Settings(max_epochs=4, gate=Gate({"val/value": "> 0.95"}))))
    assert [epoch.outcome for epoch in epochs] == [None, None, "passed"]
    assert [epoch.score >= 1 for epoch in epochs] == [False, False, True]
    assert trainable.weight.item() == -3.0  # with the weights that passed


def test_passing_in_the_last_epoch_is_passing() -> None:
    epochs = list(fit(Slope(values=[0.5, 0.96]), ONE, Settings(max_epochs=2, gate=Gate({"val/value": "> 0.95"}))))
    assert [epoch.outcome for epoch in epochs] == [None, "passed"]


def test_a_run_that_never_passes_is_finished_not_passed() -> None:
    epochs = list(fit(Slope(values=[0.5, 0.6]), ONE, Settings(max_epochs=2, gate=Gate({"val/value": "> 0.95"}))))
    assert epochs[-1].outcome == "finished" and epochs[-1].score < 0 and epochs[-1].reason is None


def test_an_empty_gate_lets_every_epoch_run() -> None:
    epochs = list(fit(Slope(values=[3.0, 1.0]), ONE, Settings(max_epochs=2, gate=Gate(objective="val/value"))))
    assert [epoch.outcome for epoch in epochs] == [None, "finished"] and epochs[0].score > epochs[1].score


def test_the_gate_may_ask_for_several_epochs_in_a_row() -> None:
    values = [0.96, 0.97, 0.5, 0.96, 0.96, 0.96, 0.96]
    settings = Settings(max_epochs=7, gate=Gate({"val/value": "> 0.95"}, consecutive=3))
    whole = list(fit(Slope(values=values), ONE, settings))
    assert len(whole) == 6 and whole[-1].outcome == "passed" and whole[0].score >= 1

    run = fit(Slope(values=values), ONE, settings)
    early = [next(run) for _ in range(5)]
    rest = list(fit(Slope(values=values), ONE, settings, resume=stored(early[-1].state())))
    assert seen(rest) == seen(whole[5:])  # the epochs in a row are counted across the interruption


@pytest.mark.parametrize("gate", [Gate({"val/compliance": "> 0.9"}), Gate(objective="val/compliance")])
def test_a_gate_on_what_is_not_reported_is_an_error(gate: Gate) -> None:
    message = r"gate: 'val/compliance' is not reported; this trainable reports .*train/loss, val/closeness, val/loss"
    with pytest.raises(InputError, match=message):
        next(fit(line(), Points(), Settings(gate=gate)))


# Metrics that are not evaluated at every epoch


class Seldom(Slope):
    """Reports `often` at every epoch and `seldom`, with its interval, at every second."""

    def evaluate(self, data: Data, split: Split = "val") -> Metrics:
        value = super().evaluate(data, split)["value"]
        return {"often": value} | ({"seldom": value, "seldom_low": value - 1} if self.due(2) else {})


def test_what_is_costly_is_evaluated_at_the_first_epoch_every_so_many_and_at_the_last() -> None:
    trainable = Seldom(values=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])
    epochs = list(fit(trainable, ONE, Settings(max_epochs=6)))
    assert [epoch.metrics.get("val/seldom") for epoch in epochs] == [1.0, None, 3.0, None, 5.0, 6.0]
    assert trainable.evaluate(ONE) == {"often": 7.0, "seldom": 7.0, "seldom_low": 6.0}  # and outside a run


def test_a_gated_metric_keeps_its_last_value_for_the_score_but_passes_only_when_evaluated() -> None:
    gate = Gate(
        {"val/often": "> 0.5", "val/seldom": "> 0.5"}, bound="wilson", scales={"val/seldom": 10.0}, shortfall="linear"
    )
    settings = Settings(max_epochs=7, gate=gate)
    whole = list(fit(Seldom(values=[0.0, 2.0, 1.0, 1.0, 3.0]), ONE, settings))
    assert [epoch.metrics["val/seldom"] for epoch in whole] == [0.0, 0.0, 1.0, 1.0, 3.0]
    assert [epoch.metrics["val/seldom_low"] for epoch in whole] == [-1.0, -1.0, 0.0, 0.0, 2.0]
    assert [epoch.score for epoch in whole[:4]] == pytest.approx([-1.15, -0.15, -0.05, -0.05])
    assert [epoch.outcome for epoch in whole] == [None] * 4 + ["passed"]

    run = fit(Seldom(values=[0.0, 2.0, 1.0, 1.0, 3.0]), ONE, settings)
    early = [next(run) for _ in range(3)]
    rest = fit(Seldom(values=[0.0, 2.0, 1.0, 1.0, 3.0]), ONE, settings, resume=stored(early[-1].state()))
    assert seen(rest) == seen(whole[3:])  # the last value is known across an interruption


def test_epochs_that_kept_a_value_neither_count_nor_break_a_row_that_clears() -> None:
    gate = Gate({"val/often": "> 0.5", "val/seldom": "> 0.5"}, consecutive=2)
    values = [1.0, 1.0, 1.0]  # evaluated at the first and the third
    assert [epoch.outcome for epoch in fit(Seldom(values=values), ONE, Settings(max_epochs=9, gate=gate))] == [
        None, None, "passed",
    ]  # fmt: skip
    values = [1.0, 0.0, 1.0, 1.0, 1.0]
    epochs = list(fit(Seldom(values=values), ONE, Settings(max_epochs=9, gate=gate)))
    assert len(epochs) == 5 and epochs[-1].outcome == "passed"


# Patience


def patient(
    values: Sequence[float], max_epochs: int = 9, gate: Gate | None = None, **options: Any
) -> tuple[Slope, list[Epoch]]:
    trainable = Slope(values=values)
    patience = EarlyStopping(**{"metric": "val/value", "epochs": 2, **options})
    settings = Settings(max_epochs=max_epochs, patience=patience, gate=gate or Gate())
    return trainable, list(fit(trainable, ONE, settings))


def test_patience_ends_the_run_and_restores_the_best_weights() -> None:
    trainable, epochs = patient([3.0, 1.0, 2.0, 1.5, 0.5])
    assert len(epochs) == 4 and epochs[-1].outcome == "finished"
    assert epochs[-1].reason == "no better val/value for 2 epochs; weights of epoch 2 restored"
    assert trainable.weight.item() == -2.0
    assert epochs[-1].state()["trainable"]["weight"].item() == -2.0


def test_the_metrics_reported_at_the_end_are_those_of_the_weights_that_are_kept() -> None:
    _, epochs = patient([3.0, 1.0, 2.0, 1.5, 0.5], gate=Gate({"val/value": "< 0.5"}))
    last, best = epochs[-1], epochs[1]
    assert last.metrics["val/value"] == 1.0 and last.metrics["discarded/val/value"] == 1.5
    assert last.metrics["train/loss"] == best.metrics["train/loss"] and last.score == best.score
    assert last.state()["history"][-1]["metrics"] is last.metrics and last.outcome == "finished"
    _, epochs = patient([3.0, 2.0], max_epochs=2)  # the last is the best: nothing is discarded
    assert epochs[-1].metrics["val/value"] == 2.0 and not any(name.startswith("disc") for name in epochs[-1].metrics)


def test_patience_may_look_for_the_largest() -> None:
    trainable, epochs = patient([1.0, 3.0, 2.0, 2.5, 4.0], mode="max")
    assert len(epochs) == 4 and trainable.weight.item() == -2.0


def test_patience_asks_for_a_minimal_gain() -> None:
    trainable, epochs = patient([3.0, 2.5, 2.2, 0.0], min_delta=1.0)
    assert len(epochs) == 3 and trainable.weight.item() == -1.0


def test_patience_starts_again_at_every_gain() -> None:
    trainable, epochs = patient([5.0, 6.0, 4.0, 6.0, 3.0, 6.0], max_epochs=6)
    assert epochs[-1].reason == "weights of epoch 5 restored" and len(epochs) == 6 and trainable.weight.item() == -5.0


def test_an_epoch_that_is_not_a_number_does_not_become_the_best() -> None:
    trainable, epochs = patient([math.nan, 3.0, 2.0, 1.0], max_epochs=4)
    assert len(epochs) == 4 and trainable.weight.item() == -4.0


def test_the_weights_that_passed_the_gate_stay() -> None:
    trainable = Slope(values=[1.0, 2.0])
    settings = Settings(max_epochs=5, gate=Gate({"val/value": "> 1.5"}), patience=EarlyStopping("val/value", 3))
    assert list(fit(trainable, ONE, settings))[-1].outcome == "passed" and trainable.weight.item() == -2.0


@pytest.mark.parametrize("mode, values", [("max", [0.5, 0.9, 0.97, 1.0]), ("min", [-0.5, -0.9, -0.97, -1.0])])
def test_patience_ends_at_its_goal(mode: str, values: list[float]) -> None:
    _, epochs = patient(values, mode=mode, goal=values[2])
    assert len(epochs) == 3 and epochs[-1].outcome == "finished"
    assert epochs[-1].reason == f"val/value reached {values[2]:g}; weights of epoch 3 restored"


def test_patience_waits_for_a_metric_that_is_not_evaluated_at_every_epoch() -> None:
    trainable = Seldom(values=[3.0, 0.0, 2.0, 0.0, 2.5, 0.0, 2.5])
    epochs = list(fit(trainable, ONE, Settings(max_epochs=9, patience=EarlyStopping("val/seldom", 3))))
    assert epochs[-1].reason == "no better val/seldom for 3 epochs; weights of epoch 3 restored" and len(epochs) == 6


def test_patience_with_what_is_not_reported_is_an_error() -> None:
    message = r"training.patience.metric: 'val/los' is not reported; this trainable reports .*val/value"
    with pytest.raises(InputError, match=message):
        patient([1.0], metric="val/los")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "training.patience.epochs: got 0, expected at least 1"),
        ({"mode": "maximum"}, "training.patience.mode: got 'maximum', expected min or max"),
    ],
)
def test_bad_early_stopping_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}$"):
        EarlyStopping(**{"metric": "val/value", "epochs": 2, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp8"}, "training.precision: got 'fp8', expected fp32, bf16 or fp16"),
        ({"accumulate": 0}, "training.accumulate: got 0, expected at least 1"),
    ],
)
def test_bad_settings_are_refused_before_an_epoch(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}$"):
        next(fit(line(), Points(), Settings(**options)))


# Resume

CASES: dict[str, tuple[Callable[[int], Trainable], Settings]] = {
    "dropout": (lambda seed: line(seed, dropout=0.5), Settings(max_epochs=4)),
    "schedule": (
        lambda seed: line(seed, dropout=0.2, weight_decay=0.1),
        Settings(max_epochs=4, accumulate=3, clip_norm=0.5, schedule=schedule("cosine", warmup=0.3)),
    ),
    "patience": (
        lambda seed: line(seed, dropout=0.5),
        Settings(max_epochs=9, patience=EarlyStopping("val/closeness", 3, "max", min_delta=0.5)),
    ),
    "gate": (lambda seed: line(seed, dropout=0.1), Settings(gate=Gate({"val/closeness": "> 0.95"}))),
    "two optimizers": (critic, Settings(max_epochs=4)),
    "bf16": (lambda seed: line(seed, dropout=0.5), Settings(max_epochs=3, precision="bf16")),
    "fp16": (lambda seed: line(seed, dropout=0.5), Settings(max_epochs=3, precision="fp16", clip_norm=1.0)),
    "diverged": (lambda seed: line(seed, dropout=0.5, misbehave="nan", at_epoch=3), Settings(max_epochs=5)),
}


@pytest.mark.parametrize("case", CASES)
def test_a_run_resumed_after_any_epoch_is_the_same_bit_for_bit(case: str) -> None:
    make, settings = CASES[case]
    model = make(0)
    whole, states = [], []
    for epoch in fit(model, Points(), settings):
        whole.append(epoch)
        states.append(stored(epoch.state()))
    assert len(whole) >= 3

    for done, state in enumerate(states, 1):
        again = make(77)  # what the state holds must win
        torch.rand(5), np.random.rand(5), random.random()
        rest = list(fit(again, Points(), settings, resume=state))
        assert seen(whole[:done] + rest) == seen(whole)
        final = rest[-1].state() if rest else state
        for left, right in zip(final["history"], states[-1]["history"], strict=True):
            assert repr(left["losses"]) == repr(right["losses"]) and left["epoch"] == right["epoch"]
        assert repr(weights(again)) == repr(weights(model)) and (
            case == "diverged" or same(weights(again), weights(model))
        )


def test_resuming_draws_the_same_noise() -> None:
    """The test above can fail: without the generators' states the dropout masks differ."""
    model, settings = line(dropout=0.5), Settings(max_epochs=3)
    run = fit(model, Points(), settings)
    state = stored(next(run).state())
    rest = list(run)
    rng.seed_everything(9)
    state["rng"] = rng.state()
    other = list(fit(line(dropout=0.5), Points(), settings, resume=state))
    assert [epoch.losses for epoch in other] != [epoch.losses for epoch in rest]


@pytest.mark.parametrize("case", ["gate", "patience", "dropout", "diverged"])
def test_a_run_that_had_ended_yields_nothing(case: str) -> None:
    make, settings = CASES[case]
    model = make(0)
    state = stored(list(fit(model, Points(), settings))[-1].state())
    again = make(1)
    assert list(fit(again, Points(), settings, resume=state)) == []
    assert repr(weights(again)) == repr(weights(model))


def test_a_fresh_run_begins_and_a_resumed_one_does_not() -> None:
    class Pretrained(Slope):
        def begin(self, data: Data) -> None:
            self.weight.data -= 100

    run = fit(Pretrained(), ONE, Settings(max_epochs=2))
    state = stored(next(run).state())
    again = Pretrained()
    list(fit(again, ONE, Settings(max_epochs=2), resume=state))
    assert again.weight.item() == -102.0


def test_a_copied_run_takes_moments_from_the_state_and_rates_from_its_own_configuration() -> None:
    run = fit(line(lr=0.1), Points(), Settings(max_epochs=3))
    state = stored(next(run).state())
    still = line(lr=0.0)
    list(fit(still, Points(), Settings(max_epochs=3), resume=state))
    assert torch.equal(still.layer.weight, state["trainable"]["layer.weight"])


def test_a_run_that_used_its_epochs_up_goes_on_with_more_of_them_and_one_that_patience_ended_does_not() -> None:
    run, longer = line(dropout=0.5), Settings(max_epochs=5, schedule=schedule("cosine"))
    state = stored(list(fit(run, Points(), Settings(max_epochs=3, schedule=schedule("cosine"))))[-1].state())
    rest = list(fit(line(1), Points(), longer, resume=state, recorded=2))
    assert [(epoch.index, epoch.outcome) for epoch in rest] == [(3, None), (4, None), (5, "finished")]
    patience = EarlyStopping("val/value", 2)
    _, epochs = patient([3.0, 1.0, 2.0, 1.5, 0.5])
    settings = Settings(max_epochs=20, patience=patience)
    assert list(fit(Slope(), ONE, settings, resume=stored(epochs[-1].state()))) == []


def test_a_copy_of_another_run_counts_its_own_epochs_and_its_own_streak() -> None:
    settings = Settings(max_epochs=9, gate=Gate({"val/value": "> 1.5"}, consecutive=2))
    donor = list(fit(Slope(values=[1.0, 2.0, 2.0]), ONE, settings))
    assert donor[-1].outcome == "passed" and donor[-1].index == 3
    copied = copied_state(stored(donor[-1].state()), epoch=6)
    rest = list(fit(Slope(values=[2.0] * 9), ONE, settings, resume=copied))
    assert [(epoch.index, epoch.outcome) for epoch in rest] == [(7, None), (8, "passed")]
