"""Points of Born machines: where they come from, how they are scaled and split, series from files, known densities."""

from __future__ import annotations

from inspect import signature
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from scipy import stats
from torch import Tensor

from gatesweep.core.errors import InputError
from gatesweep.core.loop import fit
from gatesweep.core.settings import Settings
from gatesweep.sweeps.config.groups import CONFIGS
from gatesweep.trainables.born.classifier import BornClassifier
from gatesweep.trainables.born.data import NOISE, BornData, curve
from gatesweep.trainables.born.files import read_series
from gatesweep.trainables.born.metrics import frechet, sliced_wasserstein
from gatesweep.trainables.born.mixture import Mixture, gaussians, kernels
from tests.trainables.born.test_born import quadrature

CPU = torch.device("cpu")
TS = """# a comment
@problemName Two
@classLabel true low high
@data
1.0,2.0,3.0:low
4.0,5.0,7.0:high
2.0,2.0,3.5:low
0.0,1.0,2.0:high
3.0,1.0,2.0:high
1.5,1.0,2.0:low
"""


def planar(dataset="moons", **fields) -> BornData:
    return BornData(device=CPU, seed=0, dataset=dataset, **({"per_class": 200, "batch_size": 32} | fields))


# --- planar sets


@pytest.mark.parametrize("dataset", sorted(NOISE))
def test_points_lie_about_their_curve_as_far_as_the_noise_has_it(dataset):
    data = planar(dataset, per_class=2000)
    exact = data.exact
    assert exact is not None
    x, labels = data.part("train")
    for label, (centres, width) in enumerate(zip(exact.centres, exact.widths, strict=True)):
        mine = x[labels == label].double()
        # In units of the noise, the distance to a curve is that of one normal number, wherever the curve is straight.
        apart = torch.cdist(mine / width, centres / width).amin(dim=1)
        assert apart.square().mean().item() == pytest.approx(1, abs=0.15)
    assert exact.class_log_probabilities(x).argmax(dim=1).eq(labels).double().mean() > 0.995


@pytest.mark.parametrize("dataset", sorted(NOISE))
def test_the_exact_density_is_normalised_and_likelier_than_any_estimate(dataset):
    data = planar(dataset, per_class=2000)
    assert data.exact is not None
    points, weights = quadrature(2, 120)
    masses = (data.exact.log_densities(points).exp() * weights[:, None]).sum(dim=0)
    torch.testing.assert_close(masses, torch.ones(2, dtype=torch.float64), rtol=0, atol=0.01)  # a little lies outside
    x, labels = data.part("val")
    known = data.part("train")

    def nll(model: Mixture) -> float:
        return -model.log_densities(x).gather(1, labels[:, None]).mean().item()

    assert nll(data.exact) < nll(kernels(*known)) < nll(gaussians(*known))


def test_curves_are_those_they_are_named_after():
    t = np.linspace(0, 1, 101)
    assert np.allclose(np.hypot(*curve("moons", 0, t).T), 1)
    assert np.allclose(np.hypot(*(curve("moons", 1, t) - [1, 0.5]).T), 1)
    assert curve("moons", 0, t)[:, 1].min() >= -1e-12
    assert curve("moons", 1, t)[:, 1].max() <= 0.5 + 1e-12
    assert np.allclose([np.hypot(*curve("circles", label, t).T) for label in (0, 1)], [[1.0] * 101, [0.5] * 101])
    spiral = curve("spirals", 0, t)
    radius, angle = np.hypot(*spiral.T), np.unwrap(np.arctan2(*spiral.T[::-1]))
    assert np.allclose(np.diff(radius), 2 * np.diff(angle))  # r = a + b angle
    assert np.allclose(curve("spirals", 1, t), -spiral)


def test_the_split_is_by_class_and_the_range_that_of_training():
    data = planar(per_class=400)
    sizes = {part: data.part(part)[1].bincount().tolist() for part in ("train", "val", "test")}
    assert sizes == {"train": [200, 200], "val": [100, 100], "test": [100, 100]}
    x = data.part("train")[0]
    assert (x.amin(dim=0).tolist(), x.amax(dim=0).tolist()) == ([0, 0], [1, 1])
    for part in ("val", "test"):
        held_out = data.part(part)[0]
        assert held_out.min() >= 0
        assert held_out.max() <= 1
        assert not torch.isin(held_out[:, 0], x[:, 0]).any() or held_out[:, 0].eq(0).any() or held_out[:, 0].eq(1).any()
    assert torch.equal(data.test()[0][0], data.part("test")[0])
    assert not torch.equal(planar(per_class=400, data_seed=1).part("train")[0], x)
    assert torch.equal(planar(per_class=400, noise=0.05).part("train")[0], x)
    assert not torch.equal(planar(per_class=400, noise=0.2).part("train")[0], x)


def test_digits_are_pixels_of_their_whole_range():
    data = BornData(device=CPU, seed=0, dataset="digits", batch_size=32, val=0.15, test=0.15)
    x, labels = data.part("train")
    assert (data.n_features, data.n_classes, data.shape, data.exact) == (64, 10, (8, 8), None)
    assert torch.equal(x * 16, (x * 16).round())
    assert len(x) + len(data.part("val")[0]) + len(data.part("test")[0]) == 1797
    assert labels.bincount().min() > 100


@pytest.mark.parametrize(
    ("dataset", "size", "classes"), [("iris", (150, 4), 3), ("wine", (178, 13), 3), ("breast_cancer", (569, 30), 2)]
)
def test_tables_are_whole_and_classified(dataset, size, classes):
    data = BornData(device=CPU, seed=0, dataset=dataset, batch_size=16)
    parts = [data.part(name)[0] for name in ("train", "val", "test")]
    assert (sum(map(len, parts)), data.n_features, data.n_classes, data.shape) == (*size, classes, (size[1],))
    torch.manual_seed(0)
    model = BornClassifier(data, dim=3, bond=6, std=0.05, lr=5e-3, attacked=10, robustness=[], generated=20)
    *_, last = fit(model, data, Settings(max_epochs=15, clip_norm=1.0))
    assert last.metrics["val/accuracy"] > 0.85  # of 36 points, for iris


# --- files


def write(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def test_series_come_back_from_both_formats(tmp_path):
    x, labels, names = read_series(write(tmp_path, "two.ts", TS))
    assert names == ("high", "low")
    assert labels.tolist() == [1, 0, 1, 0, 0, 1]
    assert x[1].tolist() == [4.0, 5.0, 7.0]
    rows = [line.split(":") for line in TS.splitlines() if ":" in line]
    for separator in ("\t", ",", "   "):
        text = "\n".join(separator.join([label, *values.split(",")]) for values, label in rows)
        again = read_series(write(tmp_path, "two.tsv", text))
        assert np.array_equal(again[0], x)
        assert (again[1].tolist(), again[2]) == (labels.tolist(), names)


def test_series_train_on_one_file_and_are_held_out_from_another(tmp_path):
    train = write(tmp_path, "two_TRAIN.ts", TS)
    test = write(tmp_path, "two_TEST.ts", TS.replace("7.0", "9.0"))
    data = BornData(device=CPU, seed=0, dataset="series", path=train, test_path=test, batch_size=4, val=0.35, test=0.15)
    assert [len(data.part(part)[0]) for part in ("train", "val", "test")] == [6, 4, 2]
    assert (data.n_features, data.names, data.shape) == (3, ("high", "low"), (3,))
    held_out = torch.cat([data.part(part)[0] for part in ("val", "test")])
    assert held_out.max() == 1  # the 9 is beyond the range of training
    twice = write(tmp_path, "twice.ts", TS + TS.partition("@data\n")[2])
    alone = BornData(device=CPU, seed=0, dataset="series", path=twice, batch_size=1, val=0.34, test=0.0)
    assert [len(alone.part(part)[0]) for part in ("train", "val", "test")] == [8, 4, 0]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.ts", TS.replace("5.0", "?"), r"data\.path: got '.*a\.ts, line 6: a value that is missing or not finite'"),
        ("a.ts", TS.replace("5.0", "five"), r"line 6: could not convert string to float: 'five'\", expected numbers"),
        ("a.ts", TS.replace("5.0,", ""), r"line 6: 2 values', expected 3, as the others have"),
        ("a.ts", TS.replace("5.0,", "5.0:"), r"line 6: 3 parts between colons', expected one series and its class"),
        ("a.ts", TS.replace("high", "low"), r"the class low alone', expected at least two classes"),
        ("a.ts", "@data\n", r"expected at least one series"),
        ("a.tsv", "1\t1.0\tinf\n2\t1.0\t2.0\n", r"line 1: a value that is missing or not finite', .* 2 of 2 is inf$"),
        ("a.tsv", "1\t1.0\n,\n2\t1.0\n", r"line 2: 0 fields', expected a class and at least one number"),
        ("a.tsv", "1\n2\n", r"line 1: 1 fields', expected a class and at least one number"),
    ],
)
def test_bad_files_are_named_with_their_line(tmp_path, name, text, message):
    with pytest.raises(InputError, match=message):
        read_series(write(tmp_path, name, text))


def test_the_second_file_must_share_length_and_classes(tmp_path):
    train = write(tmp_path, "a.ts", TS)
    fields = {"device": CPU, "seed": 0, "dataset": "series", "path": train, "batch_size": 2}
    with pytest.raises(InputError, match=r"data\.test_path: got .*class middle', expected one of high, low"):
        BornData(**fields, test_path=write(tmp_path, "b.ts", TS.replace("3.0:low", "3.0:middle")))
    with pytest.raises(InputError, match=r"data\.test_path: got .*line 5: 4 values', expected 3"):
        BornData(**fields, test_path=write(tmp_path, "c.ts", TS.replace(":low", ",1.0:low")))
    with pytest.raises(InputError, match=r"data\.path: got 'nowhere\.ts', expected a file that exists"):
        BornData(**(fields | {"path": "nowhere.ts"}))
    (tmp_path / "d.ts").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="expected a text file"):
        BornData(**(fields | {"path": str(tmp_path / "d.ts")}))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"per_class": 3}, r"data\.per_class: got 3, expected at least 4"),
        ({"noise": 0.0}, r"data\.noise: got 0\.0, expected above 0, or null"),
        ({"val": 1.0}, r"data\.val: got 1\.0, expected a share between 0 and 1"),
        ({"test": 0.8}, r"data\.test: got 0\.8, expected a share from 0 to below 0\.75"),
        ({"path": "a.ts"}, r"data\.path: got 'a\.ts', expected null, or data\.dataset=series"),
        ({"test_path": "a.ts"}, r"data\.test_path: got 'a\.ts', expected null, or a data\.path beside it"),
        ({"dataset": "series"}, r"data\.path: got None, expected a \.ts, \.tsv or \.txt file"),
        ({"batch_size": 201}, r"data\.batch_size: got 201, expected 1 to 200, the training samples"),
        ({"val": 0.004}, r"data\.val: got 0\.004, expected shares that leave two points or more of each class in val"),
    ],
)
def test_wrong_values_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        BornData(device=CPU, seed=0, **({"per_class": 200, "batch_size": 32} | fields))


# --- mixtures and distances


def test_a_mixture_is_what_scipy_makes_of_it():
    rng = np.random.default_rng(0)
    centres, width = rng.random((3, 2)), np.array([0.1, 0.3])
    model = Mixture([torch.from_numpy(centres), torch.from_numpy(centres[:1])], [torch.from_numpy(width)] * 2)
    x = rng.random((7, 2))
    densities = np.stack([stats.norm(centre, width).pdf(x).prod(axis=1) for centre in centres])
    exact = np.log(np.stack([densities.mean(axis=0), densities[0]], axis=1) / 4)  # per unit of 2 x - 1, twice as wide
    torch.testing.assert_close(model.log_densities(torch.from_numpy(x)), torch.from_numpy(exact))
    drawn = model.draw(torch.arange(20_000) % 2)[1::2]
    assert stats.kstest(drawn[:, 1].numpy(), stats.norm(centres[0, 1], width[1]).cdf).pvalue > 1e-3


def normal(count: int, *scales: float, seed: int = 0) -> Tensor:
    return torch.randn(count, len(scales), generator=torch.Generator().manual_seed(seed)).double() * torch.tensor(
        scales
    )


def test_frechet_is_the_distance_of_gaussians_and_blind_to_shape():
    x = normal(100_000, 1.0, 2.0)
    assert frechet(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet(x, x + torch.tensor([0.5, 0.0])) == pytest.approx(4 * 0.25)  # in units of 2 x - 1
    found = frechet(x, x * torch.tensor([3.0, 1.0]))
    assert found == pytest.approx(4 * (3 - 1) ** 2, rel=0.02)
    angle = torch.rand(50_000, generator=torch.Generator().manual_seed(1)).double() * 2 * torch.pi
    ring = torch.stack([angle.cos(), angle.sin()], dim=1)
    noise = normal(50_000, 0.5**0.5, 0.5**0.5)
    assert frechet(ring, noise) < 0.001  # a Gaussian with mean and covariance of a ring
    assert sliced_wasserstein(ring, noise) > 0.1


def test_sliced_distance_of_shifted_points_is_the_shift():
    x = normal(5000, 1.0)
    shift = 0.3 * x.std().item()
    assert sliced_wasserstein(x, x + shift) == pytest.approx(0.3, rel=1e-6)
    assert sliced_wasserstein(x, x) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("name", ["planar", "born_digits", "table", "series_file"])
def test_files_name_every_field(name):
    fields = yaml.safe_load((CONFIGS / "data" / f"{name}.yaml").read_text())
    assert fields.pop("_target_") == f"{BornData.__module__}.BornData"
    assert fields.keys() == signature(BornData).parameters.keys() - {"device", "seed"}
