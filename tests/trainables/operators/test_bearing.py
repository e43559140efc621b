"""The bearing operator: networks against exact answers, losses by hand, and what the gate asks."""

from __future__ import annotations

import math
from inspect import signature
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from gatesweep.sweeps.config.compose import compose_config
from gatesweep.sweeps.config.groups import CONFIGS
from gatesweep.sweeps.config.schema import make_gate
from gatesweep.trainables.operators import bearing_metrics as metrics
from gatesweep.trainables.operators.bearing import BearingOperator
from gatesweep.trainables.operators.bearing_data import SimulatedBearings
from gatesweep.trainables.operators.bearing_metrics import States
from gatesweep.trainables.operators.bearing_model import Modes, OrderAnalysis, Spectral, convolve
from gatesweep.trainables.operators.faults import CLASSES, RATE, SAMPLES, simulate
from gatesweep.trainables.operators.motor import Casing
from tests.support.examples import CPU, stacks_as_it_trains_alone

SMALL = {"width": 8, "modes": 8, "layers": 2, "casing_width": 16, "filters": 2, "classifier_width": 16}


def bearings(**fields: Any) -> SimulatedBearings:
    few = {"train_bearings": 3, "val_bearings": 2, "test_bearings": 1, "windows": 3, "batch_size": 16}
    return SimulatedBearings(**({"device": CPU, "seed": 0} | few | fields))


def operator(data: SimulatedBearings, seed: int = 0, **fields: Any) -> BearingOperator:
    torch.manual_seed(seed)
    return BearingOperator(data, **(SMALL | fields))


# --- data and networks


def test_parts_share_no_bearing_and_windows_depend_on_the_data_seed_alone():
    data, other, again = bearings(), bearings(data_seed=1), bearings(seed=1)
    found = [set(data.part(name)["bearing"].tolist()) for name in ("train", "val", "test")]
    assert [len(one) for one in found] == [30, 20, 10] and len(set.union(*found)) == 60
    resonances = [set(data.part(name)["frequency"].tolist()) for name in ("train", "val", "test")]
    assert len(set.union(*resonances)) == 60
    assert not torch.equal(data.part("val")["force"], other.part("val")["force"])
    assert data.part("val") is again.part("val")  # made once
    assert not torch.equal(data.train(0)[0]["label"], again.train(0)[0]["label"])
    known = data.part("train")["known"]
    assert known.sum() == round(0.25 * len(known)) and set(known.tolist()) == {0.0, 1.0}


def test_spectral_layer_is_a_convolution_and_keeps_its_frequencies_at_other_lengths():
    torch.manual_seed(0)
    layer = Spectral(3, 5)
    time = torch.arange(64) / 64
    waves = torch.stack([(2 * math.pi * k * time).cos() for k in (1, 4, 9)], dim=-1)[None]
    found = layer(waves)
    weight = torch.view_as_complex(layer.weight)
    wave = torch.exp(2j * math.pi * time)
    exact = sum((weight[k, i] * wave[:, None] ** k).real for i, k in enumerate((1, 4)))  # the ninth is cut
    torch.testing.assert_close(found[0], exact, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer(waves.repeat_interleave(2, dim=1))[0, ::2].shape, found[0].shape)
    fine = torch.stack([(2 * math.pi * k * torch.arange(128) / 128).cos() for k in (1, 4, 9)], dim=-1)[None]
    torch.testing.assert_close(layer(fine)[:, ::2], found, rtol=1e-4, atol=1e-5)


def test_convolution_is_that_of_numpy():
    kernel, signal = torch.randn(2, 4, 50, generator=torch.Generator().manual_seed(0))
    exact = np.stack([np.convolve(k, s)[:50] for k, s in zip(kernel.numpy(), signal.numpy(), strict=True)])
    np.testing.assert_allclose(convolve(kernel, signal).numpy(), exact, atol=1e-4)


def test_one_mode_can_be_the_casing():
    """With the residues of the exact response, for one casing, nothing is left to learn."""
    windows = simulate(1, 1, data_seed=3, part=0)
    W, zeta, force = windows.frequency[:1], windows.damping[:1], windows.force[:1]
    turned = (1 - zeta**2).sqrt()
    casing = Casing(W, zeta, 1 / RATE)
    model = Modes(1, 4, RATE).double()
    for param in model.net.parameters():
        torch.nn.init.zeros_(param)
    # x[n] = sum of kernel[n - j] F[j]; kernel[1] and kernel[2] give the two residues at decay^n (a cos + b sin).
    decay, angle = (-zeta * W / RATE).exp(), W / RATE * turned
    impulse = torch.zeros(1, 3, dtype=torch.float64)
    impulse[0, 0] = 1
    first, second = casing.run(impulse)[0, 1:3, 0]
    rows = torch.stack([torch.cat([(decay**n) * (angle * n).cos(), (decay**n) * (angle * n).sin()]) for n in (1, 2)])
    real, imaginary = torch.linalg.solve(rows, torch.stack([first, second]))
    turn = (turned - 1) / 0.1
    with torch.no_grad():
        # x = x0 (cos + zeta/turned sin) + rate0 / turned sin
        model.net[-1].bias.copy_(
            torch.stack([turn[0] * 0, turn[0], real, imaginary, (zeta / turned)[0], 1 / turned[0] - 1])
        )
        found, _ = model(force, windows.casing[:1, 0], W, zeta)
    torch.testing.assert_close(found, windows.casing[:1, :, 0], rtol=1e-6, atol=1e-8)


def test_orders_stay_where_they_are_when_the_speed_changes():
    """A machine that speeds up by half: one line in orders, at the same place as at constant speed."""
    torch.manual_seed(0)
    analysis = OrderAnalysis(10, 1, 8, 0.0)
    with torch.no_grad():
        analysis.filters.weight.zero_()
        analysis.filters.weight[0, 0, 15] = 1.0
    time = torch.arange(SAMPLES) / RATE
    steady, rising = 300 * time, 250 * time + 0.5 * (125 / 0.0853) * time**2
    carrier = (2 * math.pi * 3000 * time).cos()
    lines = []
    for angle in (steady, rising):
        signal = (1 + 0.5 * (5.4 * angle).cos()) * carrier
        bands = analysis.envelopes((analysis.filters(signal[None, None])), angle[None])
        lines.append(analysis.orders[bands[0, :96].argmax()].item())
    assert lines == pytest.approx([5.4, 5.4], abs=0.15)


# --- the trainable


def test_predictions_begin_exactly_where_they_are_told_to():
    data = bearings()
    held = data.part("val")
    found, _ = operator(data).states(held)
    assert torch.equal(found.drive[:, 0], held["states"][:, 0])
    torch.testing.assert_close(found.casing[:, 0], held["casing"][:, 0], rtol=1e-5, atol=0)


def test_losses_are_those_of_their_definitions():
    data = bearings()
    batch = data.train(0)[0]
    trainable = operator(data, weight_classification=0.7, weight_physics=0.3, weight_consistency=0.2).eval()
    logits, found, _ = trainable.answer(batch)
    terms = trainable(batch)
    known = batch["known"].bool()
    drive = (found.drive - batch["states"])[known][:, 1:] / trainable.moved
    shape = (found.casing - batch["casing"])[known][:, 1:].square().mean(dim=1)
    shape = shape / batch["casing"][known][:, 1:].square().mean(dim=1)
    exact = torch.cat([drive.square().mean(dim=1), shape[:, None]], dim=1).mean()
    torch.testing.assert_close(terms["states"], exact)
    parted = States(found.drive.detach(), found.casing.detach())
    residuals = metrics.physics(batch, trainable.drive, trainable.change, parted)
    squares = [residuals[f"residual_{name}"] ** 2 for name in metrics.STATES]
    assert terms["physics"].item() == pytest.approx(sum(squares) / 4, rel=1e-4)
    assert terms["classification"].item() == pytest.approx(
        -logits.log_softmax(dim=1).gather(1, batch["label"][:, None]).mean().item(), rel=1e-5
    )
    total = terms["states"] + 0.7 * terms["classification"] + 0.3 * terms["physics"] + 0.2 * terms["consistency"]
    torch.testing.assert_close(terms["loss"], total + 0.02 * terms["variational"] + terms["likelihood"])


def test_states_of_windows_that_are_not_known_teach_nothing_but_their_equations():
    data = bearings()
    batch = data.train(0)[0]
    hidden = batch["known"] == 0
    trainable = operator(data)
    before = trainable(batch)
    changed = batch | {"states": batch["states"].clone()}
    changed["states"][hidden, 1:] += 5.0  # all but where the window begins
    after = trainable.eval()(changed)
    for name in ("states", "physics", "consistency", "likelihood"):
        torch.testing.assert_close(before[name], after[name])


def test_log_variances_move_nothing_but_themselves():
    data = bearings()
    trainable = operator(data)
    trainable(data.train(0)[0])["likelihood"].backward()
    moved = {
        name.split(".weight")[0].split(".bias")[0]
        for name, param in trainable.named_parameters()
        if param.grad is not None
    }
    assert moved and all("spread" in name for name in moved), moved


def test_physics_metrics_of_exact_still_and_wrong_states():
    data = bearings()
    held, trainable = data.part("val"), operator(data)
    exact = States(held["states"], held["casing"])
    found = metrics.physics(held, trainable.drive, trainable.change, exact)
    assert found["ode_residual"] < 2e-3 and found["energy_error"] < 1e-4 and found["state_error"] == 0
    still = States(exact.drive[:, :1].expand_as(exact.drive), torch.zeros_like(exact.casing))
    found = metrics.physics(held, trainable.drive, trainable.change, still)
    assert found["residual_casing"] == pytest.approx(1) and found["state_error"] == pytest.approx(1)
    assert found["residual_current"] > 0.5 and found["energy_error"] > 0.05
    noisy = exact.drive.clone()
    noisy[:, 1:] += 0.05 * trainable.moved * torch.randn(noisy[:, 1:].shape, generator=torch.Generator().manual_seed(0))
    assert metrics.physics(held, trainable.drive, trainable.change, States(noisy, exact.casing))["ode_residual"] > 0.1


def test_classification_metrics_are_their_definitions():
    part = {"label": torch.tensor([0, 0, 1, 3, 3, 4]), "bearing": torch.tensor([7, 7, 8, 9, 9, 5])}
    answers = torch.tensor([0, 0, 2, 3, 4, 4])  # a wrong severity, and a wrong place
    sure = torch.nn.functional.one_hot(answers, 10).float()
    found = metrics.classification(part, CLASSES, 0.9 * sure + 0.01)
    assert found["balanced_accuracy"] == pytest.approx((1 + 0 + 0.5 + 1) / 4)
    assert found["fault_accuracy"] == pytest.approx(5 / 6)
    assert found["severity_accuracy"] == pytest.approx(2 / 3)  # of the faults 1, 3 and 4 that are rightly placed
    assert found["bearing_accuracy"] == pytest.approx(3 / 4)  # 9 is a draw, and the first class wins
    assert found["ece"] == pytest.approx(0.91 - 4 / 6, abs=1e-6)


def test_evaluation_repeats_itself_and_reports_what_the_oracle_does():
    data = bearings()
    trainable = operator(data).eval()
    before = torch.get_rng_state()
    found = trainable.evaluate(data)
    assert found == trainable.evaluate(data) and torch.equal(before, torch.get_rng_state())
    assert trainable.oracle(data).keys() == trainable.trivial(data).keys() < found.keys()
    assert found["loss"] == pytest.approx(trainable(data.val()[0])["loss"].item(), rel=1e-5)


def test_noise_of_the_right_size_does_not_pass_the_gate():
    """Each part of the gate is failed alone by a fault in that part, with all else exact."""
    config = compose_config(["trainable=bearing_operator"])
    gate = make_gate(config.gate)
    data = bearings(val_bearings=4, windows=8)
    trainable, held = operator(data), data.part("val")
    drawn = torch.Generator().manual_seed(0)
    exact, sure = States(held["states"], held["casing"]), torch.nn.functional.one_hot(held["label"], 10).float()

    def missed(probabilities: Tensor, states: States) -> list[str]:
        found = trainable._judged(held, data.classes, probabilities, states)
        return [line.split(" ")[0] for line in gate.missed({f"val/{name}": value for name, value in found.items()})]

    assert missed(sure, exact) == []
    shuffled = sure[torch.randperm(len(sure), generator=drawn)]
    assert missed(shuffled, exact) == ["val/balanced_accuracy", "val/ece"]
    assert missed(0.8 * sure + 0.02, exact) == ["val/ece"]
    drift = exact.drive + 0.02 * trainable.moved * torch.randn(exact.drive.shape, generator=drawn)
    assert "val/ode_residual" in missed(sure, States(drift, exact.casing))
    other = exact.casing + 0.1 * exact.casing.std() * torch.randn(exact.casing.shape, generator=drawn)
    assert missed(sure, States(exact.drive, other)) == ["val/ode_residual"]


def test_members_of_a_stack_are_what_they_are_alone():
    data = bearings()
    for balance in ("fixed", "running", "uncertainty"):
        weights = (0.05, 2.0)
        members = [operator(data, n, balance=balance, weight_physics=w, dropout=0.0) for n, w in enumerate(weights)]
        stacks_as_it_trains_alone([one.eval() for one in members], data.train(0)[0], rtol=1e-3, atol=1e-4)


def test_checkpointing_saves_memory_and_changes_no_gradient():
    data = bearings()
    batch = data.train(0)[0]
    found = []
    for recompute in (False, True):
        trainable = operator(data, dropout=0.0)
        trainable.recompute = recompute
        saved = [0]

        def keep(tensor: Tensor, saved: list[int] = saved) -> Tensor:
            saved[0] += tensor.numel()
            return tensor

        with saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = trainable(batch)["loss"]
        loss.backward()
        found.append((saved[0], {name: param.grad for name, param in trainable.named_parameters()}))
    assert found[1][0] < 0.6 * found[0][0]
    for name, grad in found[0][1].items():
        torch.testing.assert_close(grad, found[1][1][name])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"modes": 50}, r"trainable\.modes: got 50, expected 1 to 49, the frequencies of 64 blocks"),
        ({"width": 0}, r"trainable\.width: got 0, expected at least 1"),
        ({"dropout": 1.0}, r"trainable\.dropout: got 1\.0, expected a probability below 1"),
        ({"weight_physics": -0.1}, r"trainable\.weight_physics: got -0\.1, expected at least 0"),
    ],
)
def test_wrong_hyperparameters_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        BearingOperator(bearings(), **fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"val_bearings": 0}, r"data\.val_bearings: got 0, expected at least 1 of each class"),
        ({"windows": 0}, r"data\.windows: got 0, expected at least 1 of each bearing"),
        ({"labelled": 0.0}, r"data\.labelled: got 0\.0, expected a fraction above 0, at most 1"),
        ({"batch_size": 91}, r"data\.batch_size: got 91, expected 1 to 90"),
    ],
)
def test_wrong_data_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        bearings(**fields)


@pytest.mark.parametrize(
    ("path", "kind"), [("trainable/bearing_operator", BearingOperator), ("data/bearings", SimulatedBearings)]
)
def test_defaults_are_those_of_the_file(path, kind):
    text = yaml.safe_load((CONFIGS / f"{path}.yaml").read_text())
    fields = text.get("trainable", text)
    assert fields.pop("_target_") == f"{kind.__module__}.{kind.__qualname__}"
    left_out = ("data", "device", "seed")
    assert fields == {key: one.default for key, one in signature(kind).parameters.items() if key not in left_out}
