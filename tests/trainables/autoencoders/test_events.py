"""Collision events and digits: decays keep masses, files give back what went in, a wrong file is one line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gatesweep.trainables.autoencoders import events as physics
from gatesweep.trainables.autoencoders import files
from gatesweep.trainables.autoencoders.data import TokenData
from gatesweep.trainables.autoencoders.events import Events, invariant_mass, simulate
from gatesweep.trainables.autoencoders.metrics import masked_mse, reconstruction
from tests.support.examples import small_digits, small_events

# --- events


def test_decays_keep_the_masses_and_the_momentum_of_their_mothers():
    rng = np.random.default_rng(0)
    top = physics.mother(500, physics.TOP, physics.TOP_PT, rng)
    _, products = physics.decay_top(top, 1, rng)
    assert np.allclose(invariant_mass(products[:, 0]), 4.7, atol=1e-3)
    assert np.allclose((products[:, 1:, 0] ** 2), (products[:, 1:, 1:] ** 2).sum(-1), rtol=1e-6)  # massless
    assert np.allclose(invariant_mass(products[:, 1] + products[:, 2]), 80.4)
    assert np.allclose(invariant_mass(products.sum(axis=1)), 172.5)
    assert np.allclose(products.sum(axis=1), top)
    ids, momenta = physics.two_tops_higgs(500, rng)
    assert np.allclose(invariant_mass(momenta[:, 6] + momenta[:, 7]), 125.0)
    assert (ids[:, [0, 3, 6, 7]] == physics.B_JET).all()


def test_decays_are_isotropic_in_the_rest_frame():
    at_rest = np.zeros((20000, 4))
    at_rest[:, 0] = physics.TOP
    first, second = physics.two_body(at_rest, physics.W, physics.BOTTOM, np.random.default_rng(0))
    direction = first[:, 1:] / np.linalg.norm(first[:, 1:], axis=1, keepdims=True)
    assert np.allclose(direction.mean(axis=0), 0, atol=0.02)
    assert np.allclose(direction.T @ direction / len(direction), np.eye(3) / 3, atol=0.01)
    assert np.allclose(first[:, 1:], -second[:, 1:])


def test_mothers_and_branching_are_as_asked_for():
    rng = np.random.default_rng(0)
    top = physics.mother(40000, physics.TOP, physics.TOP_PT, rng)
    pt = np.hypot(top[:, 1], top[:, 2])
    assert pt.mean() == pytest.approx(120, rel=0.02)
    assert pt.var() == pytest.approx(2 * 60**2, rel=0.05)
    rapidity = np.arctanh(top[:, 3] / top[:, 0])
    assert rapidity.std() == pytest.approx(1, rel=0.02)
    for sign, leptons in ((1, (3, 5)), (-1, (4, 6))):
        ids, _ = physics.decay_top(top, sign, rng)
        assert (ids[:, 1] == physics.JET).mean() == pytest.approx(0.67, abs=0.01)
        assert ((ids[:, 1] == physics.JET) == (ids[:, 2] == physics.JET)).all()
        for lepton in leptons:
            assert (ids[:, 1] == lepton).mean() == pytest.approx(0.33 / 2, abs=0.01)
        assert set(np.unique(ids[:, 1])) == {physics.JET, *leptons}


def test_listed_objects_are_within_the_acceptance_and_sorted():
    events = simulate(2000, 9, seed=1)
    listed = events.ids > 0
    pt, eta, phi = np.moveaxis(events.objects, -1, 0)
    assert events.ids.shape == (2000, 9)
    assert (np.diff(pt, axis=1) <= 0).all()
    assert (listed[:, :-1] >= listed[:, 1:]).all()  # padding last
    assert (events.objects[~listed] == 0).all()
    assert np.abs(eta).max() < 2.5 and np.abs(phi).max() <= np.pi
    assert pt[(events.ids == 1) | (events.ids == 2)].min() > 25
    assert 15 < pt[events.ids > 2].min() < 16
    whole = simulate(2000, 18, seed=1)
    assert (whole.ids[:, :9] == events.ids).all()  # what is cut off is the softest
    assert set(np.unique(whole.ids)) == set(range(7))
    assert not np.array_equal(simulate(2000, 9, seed=2).ids, events.ids)


def test_signal_and_background_differ_as_much_as_they_should():
    """Source of the figures: a prototype of the same generator, 30,000 events."""
    from sklearn.metrics import roc_auc_score

    events = simulate(20000, 18, seed=42)
    objects = (events.ids > 0).sum(axis=1)
    assert objects[events.signal].mean() == pytest.approx(10.5, abs=0.1)
    assert objects[~events.signal].mean() == pytest.approx(7.8, abs=0.1)
    assert roc_auc_score(events.signal, objects) == pytest.approx(0.892, abs=0.01)
    assert roc_auc_score(events.signal, events.objects[..., 0].sum(axis=1)) == pytest.approx(0.806, abs=0.01)
    assert roc_auc_score(events.signal, (events.ids == physics.B_JET).sum(axis=1)) == pytest.approx(0.505, abs=0.01)


# --- data


def test_features_are_standardised_over_training_tokens_and_padding_is_zero():
    data = small_events()
    features, ids = data.train_all()
    assert len(ids) == 300 - 2 * 40
    torch.testing.assert_close(features[ids > 0].mean(dim=0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(features[ids > 0].std(dim=0), torch.ones(4))
    assert (features[ids == 0] == 0).all()
    assert (data.n_features, data.n_ids) == (4, 7)


def test_physical_values_are_those_of_the_events():
    data = small_events()
    known = [data.physical(features)[ids > 0] for features, ids in [data.train_all(), *data.val(), *data.test()]]
    events = simulate(300, 18, seed=42)
    pt, eta, phi = events.objects[events.ids > 0].T
    exact = torch.from_numpy(np.stack([np.log(pt), eta, phi], axis=1)).float()
    found = torch.cat(known)
    for column in range(3):  # every token once, in whatever order
        torch.testing.assert_close(found[:, column].sort().values, exact[:, column].sort().values, atol=1e-5, rtol=1e-5)


def test_the_seed_orders_epochs_and_leaves_the_events_alone():
    one, other = small_events(seed=0), small_events(seed=1)
    assert torch.equal(one.train_all()[0], other.train_all()[0])
    assert not torch.equal(one.train(0)[0][0], other.train(0)[0][0])
    assert not torch.equal(one.train_all()[0], small_events(data_seed=1).train_all()[0])


def test_errors_go_round_the_short_way_and_closure_is_zero_on_the_circle():
    data = small_events()

    def token(phi: float, radius: float = 1.0) -> Tensor:
        raw = torch.tensor([4.0, 1.0, radius * np.cos(phi), radius * np.sin(phi)], dtype=torch.float32)
        return (raw - data.mean) / data.std

    errors = data.errors(token(3.1), token(-3.1))
    assert errors["phi"].item() == pytest.approx(2 * np.pi - 6.2, abs=1e-5)
    assert errors["pt"].item() == pytest.approx(0, abs=1e-6)
    assert data.closure(token(1.0)).item() == pytest.approx(0, abs=1e-6)
    assert data.closure(token(1.0, 0.7)).item() == pytest.approx(0.3, abs=1e-6)


def test_metrics_are_over_tokens_and_not_over_padding():
    data = small_events()
    shift = torch.tensor([0.5, 0.0, 0.0, 0.0])

    def shifted(features: Tensor, ids: Tensor) -> Tensor:
        return torch.where((ids > 0)[..., None], features + shift, 1e6)

    found = reconstruction(data, shifted)
    assert found["mse"] == pytest.approx(0.25 / 4, rel=1e-5)
    assert found["pt_error"] == pytest.approx(0.5 * data.std[0].item(), rel=1e-4)
    assert found["eta_error"] == pytest.approx(0, abs=1e-6)
    features, ids = data.val()[0]
    assert masked_mse(shifted(features, ids), features, ids).item() == pytest.approx(0.25 / 4, rel=1e-5)


def test_digits_are_rows_of_pixels():
    from sklearn.datasets import load_digits

    data = small_digits()
    images = torch.cat([data.physical(features) for features, _ in [data.train_all(), *data.val(), *data.test()]])
    exact = torch.from_numpy(load_digits().images).float()
    assert images.shape == (1797, 8, 8)
    for found in (images.flatten(1), exact.flatten(1)):
        assert len(torch.unique(found.round(), dim=0)) == len(torch.unique(exact.flatten(1), dim=0))
    torch.testing.assert_close(images.mean(dim=0), exact.mean(dim=0), atol=1e-4, rtol=1e-4)
    assert data.train(0)[0][1].tolist() == [list(range(1, 9))] * data.batch_size


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"held_out": 150}, r"data\.held_out: got 150, expected 1 to 149: of 300 events, as many for validation"),
        ({"held_out": 0}, r"data\.held_out: got 0, expected at least 1"),
        ({"n_events": None}, r"data\.n_events: got None, expected a number of events to simulate"),
        ({"batch_size": 221}, r"data\.batch_size: got 221, expected 1 to 220"),
        ({"max_tokens": 0}, r"data\.max_tokens: got 0, expected at least 1"),
    ],
)
def test_wrong_data_fields_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        small_events(**fields)


def test_digits_cannot_all_be_held_out():
    with pytest.raises(ValueError, match=r"data\.held_out: got 899, expected 1 to 898"):
        small_digits(held_out=899)


# --- files


def write_root(path: Path, events: Events, **changed: Any) -> None:
    import awkward
    import uproot

    counts = (events.ids > 0).sum(axis=1)

    def jagged(values: Any) -> Any:
        return awkward.unflatten(values[events.ids > 0], counts)

    pt, eta, phi = np.moveaxis(events.objects, -1, 0)
    branches = {"id": jagged(events.ids), "pt": jagged(pt), "eta": jagged(eta), "phi": jagged(phi)} | changed
    branches |= {"met": events.met[:, 0], "met_phi": events.met[:, 1]}
    with uproot.recreate(path) as file:
        file.mktree("events", {name: one.type if hasattr(one, "type") else one.dtype for name, one in branches.items()})
        file["events"].extend(branches)


def same_events(found: TokenData, exact: TokenData) -> None:
    for one, other in zip(
        [found.train_all(), *found.val(), *found.test()], [exact.train_all(), *exact.val(), *exact.test()], strict=True
    ):
        tokens = min(one[1].shape[1], other[1].shape[1])
        assert one[1][:, tokens:].sum() == other[1][:, tokens:].sum() == 0  # one may have more columns of padding
        assert torch.equal(one[1][:, :tokens], other[1][:, :tokens])
        torch.testing.assert_close(one[0][:, :tokens], other[0][:, :tokens], atol=1e-4, rtol=1e-4)


def test_events_come_back_from_a_table_of_92_columns(tmp_path):
    import h5py

    events = simulate(300, 18, seed=42)
    padded = Events(
        *(np.pad(one, [(0, 0), (0, 3)] + [(0, 0)] * (one.ndim - 2)) for one in (events.ids, events.objects)), events.met
    )
    files.write_hdf5(tmp_path / "mine.h5", padded, "collisions")
    with h5py.File(tmp_path / "mine.h5") as file:
        row, energy = file["collisions"][7], events.objects[7, 0, 0] * np.cosh(events.objects[7, 0, 1])
        assert len(row) == 18 + 2 + 18 * 4
        assert row[18:24] == pytest.approx([*events.met[7], energy, *events.objects[7, 0]], rel=1e-6)
    same_events(small_events(path=str(tmp_path / "mine.h5"), dataset="collisions", n_events=None), small_events())
    found = files.read(tmp_path / "mine.h5", "collisions", 5)
    assert len(found) == 5
    assert found.met == pytest.approx(events.met[:5], rel=1e-6)


def test_events_come_back_from_a_tree(tmp_path):
    events = simulate(300, 18, seed=42)
    write_root(tmp_path / "mine.root", events)
    same_events(small_events(path=str(tmp_path / "mine.root"), n_events=None), small_events())
    assert files.read(tmp_path / "mine.root", "events", 5).met == pytest.approx(events.met[:5])


def test_objects_of_a_file_are_sorted_and_the_softest_cut(tmp_path):
    ids = np.array([[2, 0, 1, 3]])
    objects = np.array([[[30.0, 0, 0], [0, 0, 0], [90, 1, 1], [50, 2, 2]]])
    files.write_hdf5(tmp_path / "mine.h5", Events(ids, objects, np.zeros((1, 2))))
    found = files.read(tmp_path / "mine.h5", "events", None).hardest(2)
    assert found.ids.tolist() == [[1, 3]]
    assert found.objects[0, :, 0] == pytest.approx([90, 50])


def table(rows: Any, name: str = "events") -> Any:
    def write(path: Path) -> None:
        import h5py

        with h5py.File(path, "w") as file:
            file[name] = rows

    return write


def changed(column: int, value: float) -> Any:
    rows = np.tile([1.0, 2.0, 10, 0.5, 50, 40, 0.5, 0.1, 60, 50, 0.2, 0.3], (20, 1))  # two objects an event
    rows[4, column] = value
    return table(rows)


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("a.h5", None, r"a\.h5: no such file"),
        ("a.csv", None, r"a\.csv: expected a file whose name ends in \.h5, \.hdf5, \.root"),
        ("a.h5", lambda path: path.write_text("no"), r"a\.h5: not an HDF5 file"),
        ("a.h5", table(np.ones((3, 12)), "other"), r"has no dataset 'events' \(data\.dataset\); at its top are other"),
        ("a.h5", table(np.ones((3, 91))), r"float64 of shape \(3, 91\), expected numbers \(events, 5 T \+ 2\)"),
        ("a.h5", table(np.ones(92)), r"of shape \(92,\), expected numbers"),
        ("a.h5", table(np.ones((0, 92))), r"a\.h5: has no events"),
        ("a.h5", changed(5, np.nan), r"event 4 \(from 0\) has a number that is not finite"),
        ("a.h5", changed(2, np.inf), r"event 4 \(from 0\) has a number that is not finite"),
        ("a.h5", changed(5, -1.0), r"expected every object's pT above 0, the least is -1"),
        ("a.h5", changed(0, 1.5), r"expected ids to be whole numbers, 0 \(none\) to 255"),
        ("a.h5", changed(0, np.nan), r"expected ids to be whole numbers"),
        ("a.root", lambda path: path.write_text("no"), r"a\.root: not a ROOT file"),
    ],
)
def test_a_file_that_cannot_be_used_is_an_error_of_one_line(tmp_path, name, write, message):
    if write is not None:
        write(tmp_path / name)
    with pytest.raises(ValueError, match=rf"^data\.path: .*{message}") as caught:
        small_events(path=str(tmp_path / name), held_out=2, batch_size=2)
    assert "\n" not in str(caught.value)


def test_too_few_events_in_a_file_is_an_error(tmp_path):
    changed(0, 1.0)(tmp_path / "a.h5")
    with pytest.raises(ValueError, match=r"data\.held_out: got 40, expected 1 to 9: of 20 events"):
        small_events(path=str(tmp_path / "a.h5"))
    with pytest.raises(ValueError, match=r"data\.batch_size: got 32, expected 1 to 16"):
        small_events(path=str(tmp_path / "a.h5"), held_out=2)


def test_a_file_of_empty_events_is_an_error(tmp_path):
    table(np.zeros((20, 12)))(tmp_path / "a.h5")
    with pytest.raises(ValueError, match=r"data\.path: .*a\.h5: has no objects"):
        small_events(path=str(tmp_path / "a.h5"), held_out=2)


def test_a_tree_needs_its_name_and_its_branches(tmp_path):
    import awkward
    import uproot

    events = simulate(20, 18, seed=42)
    write_root(tmp_path / "a.root", events)
    with pytest.raises(ValueError, match=r"has no tree 'jets' \(data\.dataset\); it has events"):
        files.read(tmp_path / "a.root", "jets", None)
    write_root(tmp_path / "b.root", events, phi=awkward.Array([[0.0]] * 20))
    with pytest.raises(ValueError, match="expected as many numbers in each of id, pt, eta, phi of an event"):
        files.read(tmp_path / "b.root", "events", None)
    write_root(tmp_path / "c.root", events, phi=np.zeros(20))
    with pytest.raises(ValueError, match="expected a list of numbers for each event in id, pt, eta, phi"):
        files.read(tmp_path / "c.root", "events", None)
    with uproot.recreate(tmp_path / "d.root") as file:
        file.mktree("events", {"id": "int64"})
        file["events"].extend({"id": np.zeros(3, np.int64)})
    with pytest.raises(ValueError, match=r"events has no branch pt, eta, phi; its branches are id"):
        files.read(tmp_path / "d.root", "events", None)


@pytest.mark.parametrize(("name", "package"), [("a.h5", "h5py"), ("a.root", "uproot")])
def test_a_missing_package_is_an_error_that_says_what_to_install(tmp_path, monkeypatch, name, package):
    (tmp_path / name).touch()
    monkeypatch.setitem(sys.modules, package, None)  # what Python does when a package is not there
    with pytest.raises(ValueError, match=rf'needs the package {package}: pip install "gatesweep\[events\]"'):
        small_events(path=str(tmp_path / name))
