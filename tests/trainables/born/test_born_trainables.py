"""Classifier and generator: their losses in closed form, what they report and when, and that they learn."""

from __future__ import annotations

import math

import pytest
import torch

from gatesweep.core.loop import fit
from gatesweep.core.schedule import schedule
from gatesweep.core.settings import Settings
from gatesweep.core.trainable import Metrics
from gatesweep.trainables.born.classifier import BornClassifier
from gatesweep.trainables.born.data import BornData
from gatesweep.trainables.born.generator import BornGenerator
from gatesweep.trainables.born.metrics import generation, normalisation_error

KINDS = {"born_classifier": BornClassifier, "born_generator": BornGenerator}
SMALL = {"generated": 40, "attacked": 20, "attack_steps": 3}


def moons(**fields) -> BornData:
    return BornData(device=torch.device("cpu"), seed=0, **({"per_class": 200, "batch_size": 32} | fields))


def trained(kind, data: BornData, epochs: int, **fields) -> tuple[torch.nn.Module, list[Metrics]]:
    torch.manual_seed(0)
    trainable = kind(data, **(SMALL | fields))
    settings = Settings(max_epochs=epochs, clip_norm=1.0, schedule=schedule("cosine", warmup=0.1))
    return trainable, [epoch.metrics for epoch in fit(trainable, data, settings)]


def test_losses_are_what_they_are_named_after():
    data = moons()
    torch.manual_seed(0)
    x, labels = batch = data.train(0)[0]
    classifier = BornClassifier(data, **SMALL)
    given = classifier.machine.class_log_probabilities(x)[torch.arange(32), labels]
    torch.testing.assert_close(classifier(batch)["loss"], -given.mean())
    for hybrid in (0.0, 0.3, 1.0):
        torch.manual_seed(0)
        losses = BornGenerator(data, hybrid=hybrid, **SMALL)(batch)
        joint = -classifier.machine.joint_log_likelihood(x, labels).mean() / 2
        torch.testing.assert_close(losses["joint_nll"], joint)
        torch.testing.assert_close(losses["class_nll"], -given.mean())
        torch.testing.assert_close(losses["loss"], hybrid * -given.mean() + (1 - hybrid) * joint)


def test_the_generator_learns_the_density_and_the_classifier_the_class_alone():
    data = moons(per_class=1000)
    known, trivial = data.exact, BornGenerator(data, **SMALL).trivial(data)
    _, generated = trained(BornGenerator, data, 15, hybrid=0.1, generated=500)
    _, classified = trained(BornClassifier, data, 15, generated=500)
    last = generated[-1]
    assert known is not None
    assert last["val/accuracy"] > 0.98
    assert last["val/joint_nll_per_dim"] < 0.45 < trivial["joint_nll_per_dim"]
    assert last["val/sliced_w1"] < 0.17 < trivial["sliced_w1"]
    assert last["val/frechet"] < 0.02
    assert classified[-1]["val/accuracy"] > 0.98
    assert classified[-1]["val/joint_nll_per_dim"] > 0.55
    assert classified[-1]["val/sliced_w1"] > 0.25
    assert classified[-1]["val/robust_accuracy_10"] > last["val/robust_accuracy_10"]  # a density is no defence
    assert all(one["val/normalisation_error"] < 1e-4 for one in generated + classified)


def test_digits_are_classified_over_64_features():
    data = BornData(device=torch.device("cpu"), seed=0, dataset="digits", batch_size=32, val=0.15, test=0.15)
    fields = {"dim": 2, "bond": 8, "std": 0.01, "lr": 2e-3, "robustness": [], "frechet_every": 4}
    trainable, metrics = trained(BornClassifier, data, 4, **fields)
    assert metrics[-1]["val/accuracy"] > 0.93
    assert metrics[-1]["val/normalisation_error"] < 1e-3
    assert trainable.evaluate(data, "test")["accuracy"] > 0.9
    assert not [name for name in metrics[-1] if name.startswith("val/robust")]


def test_tensors_are_renormalised_after_each_epoch_and_nothing_else_changes():
    data = moons()
    with_control, without = (trained(BornGenerator, data, 1, norm_control=one)[0] for one in (True, False))
    sizes = [one.machine.log_partition().logsumexp(0).item() for one in (with_control, without)]
    assert sizes[0] == pytest.approx(0, abs=1e-5)
    assert abs(sizes[1]) > 0.01
    found, exact = (one.evaluate(data)["joint_nll_per_dim"] for one in (with_control, without))
    assert found == pytest.approx(exact, abs=1e-5)


def test_an_unnormalised_machine_is_found_out():
    data = moons()
    machine = BornGenerator(data, **SMALL).machine
    assert normalisation_error(machine, machine.double()) < 1e-6
    exact = machine.log_partition
    machine.log_partition = lambda: exact() + 0.1
    assert normalisation_error(machine, machine.double()) == pytest.approx(1 - math.exp(-0.1), abs=1e-6)


@pytest.mark.parametrize("kind", KINDS.values())
def test_costly_metrics_are_left_out_where_they_are_not_due(kind):
    data = moons()
    _, metrics = trained(kind, data, 6, frechet_every=2, robustness_every=4, robustness=[0.05, 0.2])
    for epoch, found in enumerate(metrics, 1):
        assert ("val/frechet" in found) == ("val/sliced_w1" in found) == (epoch in (1, 3, 5, 6))
        assert ("val/robust_accuracy_20" in found) == (epoch in (1, 5, 6))
        assert ("val/robust_accuracy_05_low" in found) == (epoch in (1, 5, 6))
        assert {"val/accuracy", "val/accuracy_low", "val/nll", "val/joint_nll_per_dim"} < found.keys()


@pytest.mark.parametrize("kind", KINDS.values())
def test_evaluation_repeats_itself_and_draws_no_global_numbers(kind):
    data = moons()
    torch.manual_seed(0)
    trainable = kind(data, **SMALL).eval()
    before = torch.get_rng_state()
    metrics = trainable.evaluate(data)
    assert metrics == trainable.evaluate(data)
    assert torch.equal(before, torch.get_rng_state())
    assert trainable.oracle(data).keys() == trainable.trivial(data).keys() < metrics.keys()
    assert all(param.grad is None for param in trainable.parameters())
    assert trainable.evaluate(data, "test")["joint_nll_per_dim"] != metrics["joint_nll_per_dim"]


def test_bad_samples_are_told_from_good_ones():
    data = moons(per_class=1000)
    x, labels = data.part("val")
    exact = data.exact
    assert exact is not None
    good = generation(exact.draw, x, labels, 2, 500)
    swapped = generation(lambda asked: exact.draw(1 - asked), x, labels, 2, 500)
    collapsed = generation(lambda asked: exact.draw(asked)[:1].expand(500, -1), x, labels, 2, 500)
    assert good["frechet"] < 0.01
    assert good["sliced_w1"] < 0.12
    for bad in (swapped, collapsed):
        assert bad["frechet"] > 0.3
        assert bad["sliced_w1"] > 0.8


@pytest.mark.parametrize("dataset", ["circles", "spirals", "digits"])
def test_oracle_and_trivial_baseline_of_other_data_are_apart(dataset):
    data = moons(dataset=dataset, per_class=1000)
    trainable = BornGenerator(data, **(SMALL | {"dim": 2, "bond": 2, "generated": 300}))
    oracle, trivial = trainable.oracle(data), trainable.trivial(data)
    assert oracle["accuracy"] > 0.97
    assert oracle["accuracy"] >= trivial["accuracy"]
    assert oracle["nll"] < trivial["nll"]
    assert oracle["sliced_w1"] < trivial["sliced_w1"]


def test_series_are_drawn_as_lines(tmp_path):
    noise = torch.Generator().manual_seed(0)
    rows = []
    for name, sign in (("up", 1), ("down", -1)):
        for _ in range(30):
            values = sign * torch.linspace(-1, 1, 6) + 0.1 * torch.randn(6, generator=noise)
            rows.append("\t".join([name, *(f"{value:.4f}" for value in values.tolist())]))
    (tmp_path / "lines.tsv").write_text("\n".join(rows))
    data = moons(dataset="series", path=str(tmp_path / "lines.tsv"), batch_size=8)
    trainable, metrics = trained(BornGenerator, data, 10, dim=4, bond=4, attacked=10, hybrid=0.2)
    assert metrics[-1]["val/accuracy"] == 1
    assert metrics[-1]["val/joint_nll_per_dim"] < math.log(2)
    drawn = trainable.draw(torch.tensor([0] * 50 + [1] * 50))  # down, up
    slopes = (drawn[:, -1] - drawn[:, 0]).reshape(2, 50).mean(dim=1)
    assert slopes[0] < -0.2 < 0.2 < slopes[1]
    figures = trainable.figures(data)
    assert figures.keys() == {"samples"}
    assert len(figures["samples"]().axes) == 4


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dim": 31}, r"trainable\.dim: got 31, expected 1 to 30 for legendre"),
        ({"embedding": "hermite", "dim": 21}, r"trainable\.dim: got 21, expected 1 to 20 for hermite"),
        ({"bond": 0}, r"trainable\.bond: got 0, expected at least 1"),
        ({"std": 0.0}, r"trainable\.std: got 0\.0, expected above 0"),
        ({"generated": 3}, r"trainable\.generated: got 3, expected at least 4, two of each class"),
        ({"attacked": 101}, r"trainable\.attacked: got 101, expected 1 to 100, the held-out points"),
        ({"frechet_every": 0}, r"trainable\.frechet_every: got 0, expected at least 1"),
        ({"robustness": [0.105]}, r"trainable\.robustness: got \[0\.105\], expected different sizes in whole percents"),
        ({"robustness": [0.1, 0.1]}, r"trainable\.robustness: got \[0\.1, 0\.1\]"),
        ({"hybrid": 1.1}, r"trainable\.hybrid: got 1\.1, expected 0 to 1"),
    ],
)
def test_wrong_values_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        BornGenerator(moons(), **(SMALL | fields))
