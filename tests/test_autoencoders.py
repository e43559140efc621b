"""Autoencoders: events keep the masses they decayed from, files give back what went in, codes follow a slow count."""

from __future__ import annotations

import functools
import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap
from torch.multiprocessing.spawn import spawn

from core.loop import Settings, fit
from sweeps.config import load
from trainables.autoencoders import events as physics
from trainables.autoencoders import files
from trainables.autoencoders.autoencoder import Autoencoder
from trainables.autoencoders.data import DigitData, EventData, TokenData
from trainables.autoencoders.events import Events, invariant_mass, simulate
from trainables.autoencoders.latent import EPSILON, Identity, Linear, VectorQuantizer, codebook_use, make_latent
from trainables.autoencoders.metrics import masked_mse, reconstruction
from trainables.autoencoders.model import make_decoder, make_encoder

CPU = torch.device("cpu")
SMALL = {"encoder_width": 16, "decoder_width": 16, "n_codes": 16}


def tiny(**fields: Any) -> EventData:
    return EventData(**({"device": CPU, "seed": 0, "n_events": 300, "held_out": 40, "batch_size": 32} | fields))


def digits(**fields: Any) -> DigitData:
    return DigitData(**({"device": CPU, "seed": 0} | fields))


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
    data = tiny()
    features, ids = data.train_all()
    assert len(ids) == 300 - 2 * 40
    torch.testing.assert_close(features[ids > 0].mean(dim=0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(features[ids > 0].std(dim=0), torch.ones(4))
    assert (features[ids == 0] == 0).all()
    assert (data.n_features, data.n_ids) == (4, 7)


def test_physical_values_are_those_of_the_events():
    data = tiny()
    known = [data.physical(features)[ids > 0] for features, ids in [data.train_all(), *data.val(), *data.test()]]
    events = simulate(300, 18, seed=42)
    pt, eta, phi = events.objects[events.ids > 0].T
    exact = torch.from_numpy(np.stack([np.log(pt), eta, phi], axis=1)).float()
    found = torch.cat(known)
    for column in range(3):  # every token once, in whatever order
        torch.testing.assert_close(found[:, column].sort().values, exact[:, column].sort().values, atol=1e-5, rtol=1e-5)


def test_the_seed_orders_epochs_and_leaves_the_events_alone():
    one, other = tiny(seed=0), tiny(seed=1)
    assert torch.equal(one.train_all()[0], other.train_all()[0])
    assert not torch.equal(one.train(0)[0][0], other.train(0)[0][0])
    assert not torch.equal(one.train_all()[0], tiny(data_seed=1).train_all()[0])


def test_errors_go_round_the_short_way_and_closure_is_zero_on_the_circle():
    data = tiny()

    def token(phi: float, radius: float = 1.0) -> Tensor:
        raw = torch.tensor([4.0, 1.0, radius * np.cos(phi), radius * np.sin(phi)], dtype=torch.float32)
        return (raw - data.mean) / data.std

    errors = data.errors(token(3.1), token(-3.1))
    assert errors["phi"].item() == pytest.approx(2 * np.pi - 6.2, abs=1e-5)
    assert errors["pt"].item() == pytest.approx(0, abs=1e-6)
    assert data.closure(token(1.0)).item() == pytest.approx(0, abs=1e-6)
    assert data.closure(token(1.0, 0.7)).item() == pytest.approx(0.3, abs=1e-6)


def test_metrics_are_over_tokens_and_not_over_padding():
    data = tiny()
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

    data = digits()
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
        tiny(**fields)


def test_digits_cannot_all_be_held_out():
    with pytest.raises(ValueError, match=r"data\.held_out: got 899, expected 1 to 898"):
        digits(held_out=899)


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
    same_events(tiny(path=str(tmp_path / "mine.h5"), dataset="collisions", n_events=None), tiny())
    found = files.read(tmp_path / "mine.h5", "collisions", 5)
    assert len(found) == 5
    assert found.met == pytest.approx(events.met[:5], rel=1e-6)


def test_events_come_back_from_a_tree(tmp_path):
    events = simulate(300, 18, seed=42)
    write_root(tmp_path / "mine.root", events)
    same_events(tiny(path=str(tmp_path / "mine.root"), n_events=None), tiny())
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
        tiny(path=str(tmp_path / name), held_out=2, batch_size=2)
    assert "\n" not in str(caught.value)


def test_too_few_events_in_a_file_is_an_error(tmp_path):
    changed(0, 1.0)(tmp_path / "a.h5")
    with pytest.raises(ValueError, match=r"data\.held_out: got 40, expected 1 to 9: of 20 events"):
        tiny(path=str(tmp_path / "a.h5"))
    with pytest.raises(ValueError, match=r"data\.batch_size: got 32, expected 1 to 16"):
        tiny(path=str(tmp_path / "a.h5"), held_out=2)


def test_a_file_of_empty_events_is_an_error(tmp_path):
    table(np.zeros((20, 12)))(tmp_path / "a.h5")
    with pytest.raises(ValueError, match=r"data\.path: .*a\.h5: has no objects"):
        tiny(path=str(tmp_path / "a.h5"), held_out=2)


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
        tiny(path=str(tmp_path / name))


# --- encoders and decoders


def test_messages_are_a_slow_sum_over_the_other_tokens():
    data = tiny()
    torch.manual_seed(0)
    encoder = make_encoder("gnn", data, width=8, depth=1, latent_dim=3)
    features, ids = (part[:4] for part in data.train_all())
    found = encoder(features, ids)
    one = encoder.rounds[0]
    for row in range(4):
        tokens = [t for t in range(ids.shape[1]) if ids[row, t] > 0]
        start = [encoder.first(torch.cat([features[row, t], encoder.embedding(ids[row, t])])) for t in tokens]
        for place, t in enumerate(tokens):
            normed = [one.norm(node) for node in start]
            messages = [
                torch.nn.functional.gelu(one.send(sender) + one.receive(normed[place]))
                for index, sender in enumerate(normed)
                if index != place
            ]
            heard = torch.stack(messages).mean(dim=0)
            node = start[place] + one.update(torch.cat([normed[place], heard]))
            torch.testing.assert_close(found[row, t], encoder.last(node), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["mlp", "gnn"])
def test_tokens_may_come_in_any_order_and_padding_says_nothing(kind):
    data = tiny()
    torch.manual_seed(0)
    encoder = make_encoder(kind, data, width=16, depth=2, latent_dim=3)
    features, ids = (part[:16] for part in data.train_all())
    z = encoder(features, ids)
    order = torch.randperm(ids.shape[1])
    torch.testing.assert_close(encoder(features[:, order], ids[:, order]), z[:, order], atol=1e-5, rtol=1e-4)
    padded = torch.where((ids > 0)[..., None], features, 1e3)
    torch.testing.assert_close(encoder(padded, ids)[ids > 0], z[ids > 0])
    other = features.clone()
    other[:, 0] += 1.0
    moved = (encoder(other, ids)[:, 1:] - z[:, 1:])[ids[:, 1:] > 0].abs().max()
    assert moved > 1e-3 if kind == "gnn" else moved == 0


def test_an_event_of_one_token_or_none_is_fine():
    data = tiny()
    encoder = make_encoder("gnn", data, width=16, depth=2, latent_dim=3)
    ids = torch.tensor([[1, 0, 0], [0, 0, 0]])
    z = encoder(torch.zeros(2, 3, 4), ids)
    assert z.isfinite().all()
    assert masked_mse(make_decoder("gnn", data, width=16, depth=2, latent_dim=3)(z, ids), torch.zeros(2, 3, 4), ids) > 0


# --- latents


def tokens(n: int = 60, dim: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    mask = torch.arange(10)[None, :] < torch.randint(1, 11, (n, 1), generator=generator)
    return torch.randn(n, 10, dim, generator=generator), mask


def quantizer(**fields: Any) -> VectorQuantizer:
    torch.manual_seed(0)
    made = make_latent("vq", 3, **({"n_codes": 8, "revive_below": 0.0} | fields))
    assert isinstance(made, VectorQuantizer)
    return made


def test_each_latent_gets_its_nearest_code_and_hands_its_gradient_through():
    z, mask = tokens()
    z.requires_grad_()
    latent = quantizer().eval()
    quantised, losses = latent(z, mask)
    index = torch.cdist(z.detach().flatten(0, 1), latent.codes).argmin(dim=1)
    torch.testing.assert_close(quantised.detach().flatten(0, 1), latent.codes[index])
    quantised.square().sum().backward()
    torch.testing.assert_close(z.grad, 2 * quantised.detach())
    gap = (z.detach() - quantised.detach())[mask].square().mean()
    assert losses["commitment"].item() == pytest.approx(0.25 * gap.item(), rel=1e-5)


def test_codes_follow_a_slow_count_of_the_latents_that_chose_them():
    z, mask = tokens()
    latent = quantizer(decay=0.9)
    codes, counts, sums = latent.codes.clone(), latent.counts.clone(), latent.sums.clone()
    for _ in range(3):
        latent(z, mask)
        new_counts, new_sums = torch.zeros(8), torch.zeros(8, 3)
        for value in z[mask]:
            chosen = (codes - value).square().sum(dim=1).argmin()
            new_counts[chosen] += 1
            new_sums[chosen] += value
        counts, sums = 0.9 * counts + 0.1 * new_counts, 0.9 * sums + 0.1 * new_sums
        smoothed = (counts + EPSILON) / (counts.sum() + 8 * EPSILON) * counts.sum()
        codes = sums / smoothed[:, None]
        torch.testing.assert_close(latent.counts, counts, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(latent.codes, codes, atol=1e-4, rtol=1e-4)
    before = latent.codes.clone()
    latent.eval()(z, mask)
    assert torch.equal(latent.codes, before)


def test_codes_settle_on_the_centres_of_clusters():
    generator = torch.Generator().manual_seed(0)
    centres = 10 * torch.eye(3)
    z = (centres[torch.arange(300) % 3] + 0.1 * torch.randn(300, 3, generator=generator)).view(30, 10, 3)
    latent = quantizer(n_codes=6, decay=0.5, revive_below=0.0)
    latent.codes.copy_(torch.cat([centres + 3, torch.full((3, 3), -50.0)]))
    latent.sums.copy_(latent.codes)
    for _ in range(30):
        latent(z, torch.ones(30, 10, dtype=torch.bool))
    torch.testing.assert_close(latent.codes[:3], centres, atol=0.05, rtol=0)


def test_dead_codes_come_back_as_latents_of_the_batch_and_padding_never_does():
    z, mask = tokens()
    z = torch.where(mask[..., None], z, 1e3)
    far = quantizer(revive_below=0.1)
    far.codes[4:] += 500.0
    far.sums[4:] += 500.0
    far.counts[4:] = 0.0
    far(z, mask)
    known = z[mask]
    assert torch.cdist(far.codes[4:], known).min(dim=1).values.max() < 1e-3
    assert far.codes.abs().max() < 10
    off = quantizer()
    off.codes[4:] += 500.0
    off.sums[4:] += 500.0
    for _ in range(50):
        off(z, mask)
    assert off.usage(z, mask)[4:].sum() == 0


def test_codes_start_from_different_latents_of_the_data():
    z, mask = tokens()
    latent = quantizer(n_codes=100)
    latent.begin(z, mask)
    assert (latent.codes[:, None] == z[mask]).all(dim=-1).any(dim=1).all()
    assert len(torch.unique(latent.codes, dim=0)) == 100
    untouched = quantizer(codebook="random")
    before = untouched.codes.clone()
    untouched.begin(z, mask)
    assert torch.equal(untouched.codes, before)
    with pytest.raises(ValueError, match=rf"trainable\.n_codes: got 900, expected at most {int(mask.sum())}"):
        quantizer(n_codes=900).begin(z, mask)


def test_ranks_that_see_half_a_batch_each_move_the_codes_as_one_that_sees_all(tmp_path):
    z, mask = tokens()
    whole = quantizer(n_codes=8)
    whole(z, mask)
    spawn(functools.partial(_half, folder=str(tmp_path)), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for one in (first, second):
        torch.testing.assert_close(one["followed"], whole.codes)
    for drawn in ("started", "revived"):
        assert torch.equal(first[drawn], second[drawn]), drawn


def _half(rank: int, *, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    z, mask = tokens()
    codes = {}
    latent = quantizer(n_codes=8)
    latent(z[rank::2], mask[rank::2])
    codes["followed"] = latent.codes.clone()
    latent = quantizer(n_codes=8, revive_below=0.9)
    torch.manual_seed(rank)
    latent.begin(z, mask)
    codes["started"] = latent.codes.clone()
    latent(z[rank::2], mask[rank::2])
    codes["revived"] = latent.codes.clone()
    torch.save(codes, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_use_of_a_codebook_by_hand():
    assert codebook_use(torch.full((8,), 3)) == {
        **{"perplexity": pytest.approx(8), "perplexity_share": pytest.approx(1)},
        **{"codes_used": 1.0, "dead_codes": 0.0},
    }
    half = codebook_use(torch.tensor([5, 5, 0, 0]))
    assert half["perplexity"] == pytest.approx(2)
    assert (half["codes_used"], half["dead_codes"]) == (0.5, 2.0)
    assert codebook_use(torch.tensor([0, 7]))["perplexity"] == pytest.approx(1)


def test_a_linear_latent_has_the_rank_it_was_asked_for():
    z, mask = tokens(dim=6)
    latent = make_latent("linear", 6, rank=2)
    assert isinstance(latent, Linear) and latent.dims == 2
    assert torch.linalg.matrix_rank(latent(z, mask)[0].flatten(0, 1), atol=1e-5) == 2
    same = make_latent("none", 6)
    assert isinstance(same, Identity) and torch.equal(same(z, mask)[0], z)


# --- the trainable


@pytest.mark.parametrize("latent", ["none", "linear", "vq"])
@pytest.mark.parametrize("encoder", ["mlp", "gnn"])
@pytest.mark.parametrize("decoder", ["mlp", "gnn"])
@pytest.mark.parametrize("make", [tiny, digits])
def test_every_combination_trains_every_parameter_and_draws(make, encoder, decoder, latent):
    data = make()
    torch.manual_seed(0)
    trainable = Autoencoder(data, encoder=encoder, decoder=decoder, latent=latent, **SMALL)
    trainable.begin(data)
    losses = trainable(data.train(0)[0])
    losses["loss"].backward()
    assert losses["loss"] >= losses["mse"] > 0
    for name, param in trainable.named_parameters():
        assert param.grad is not None and param.grad.abs().sum() > 0, name
    drawings = trainable.eval().figures(data)
    assert set(drawings) == {"reconstruction"} | ({"codebook"} if latent == "vq" else set())
    if encoder == decoder == "mlp":
        for draw in drawings.values():
            draw().savefig(io.BytesIO(), format="png")


@pytest.mark.parametrize("latent", ["none", "linear", "vq"])
def test_evaluation_repeats_itself_and_draws_no_global_numbers(latent):
    data = tiny()
    trainable = Autoencoder(data, latent=latent, **SMALL).eval()
    before, state = torch.get_rng_state(), {key: value.clone() for key, value in trainable.state_dict().items()}
    first = trainable.evaluate(data)
    assert trainable.evaluate(data) == first
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(value, state[key]) for key, value in trainable.state_dict().items())
    for baseline in (trainable.oracle(data), trainable.trivial(data)):
        assert baseline.keys() <= first.keys()
    assert trainable.oracle(data)["mse"] == 0
    assert trainable.trivial(data)["mse"] == pytest.approx(1, abs=0.05)
    assert first["mse"] == pytest.approx(reconstruction(data, trainable.reconstruct)["mse"])


def test_use_is_counted_over_all_held_out_tokens():
    data = tiny(n_events=1500, held_out=600)  # more than one batch
    assert len(data.val()) == 2
    torch.manual_seed(0)
    trainable = Autoencoder(data, **SMALL).eval()
    trainable.begin(data)
    counts = torch.zeros(16)
    for features, ids in data.val():
        z = trainable.encoder(features, ids)[ids > 0]
        for chosen in torch.cdist(z, trainable.latent.codes).argmin(dim=1):
            counts[chosen] += 1
    found = trainable.evaluate(data)
    for name, value in codebook_use(counts).items():
        assert found[name] == pytest.approx(value), name


def test_a_random_codebook_dies_and_one_from_the_data_does_not():
    """The failure of the source's default, and what the gate is for."""
    data = tiny(n_events=1200)
    use = {}
    for name, fields in {"source": {"codebook": "random", "revive_below": 0.0}, "ours": {}}.items():
        torch.manual_seed(0)
        trainable = Autoencoder(data, latent_dim=32, n_codes=128, decay=0.9, **fields)
        epochs = list(fit(trainable, data, Settings(max_epochs=3)))
        use[name] = epochs[-1].metrics["val/codes_used"]
    assert use["source"] < 0.3
    assert use["ours"] > 0.8


@pytest.mark.parametrize("latent", ["none", "linear"])
def test_stacked_losses_are_the_solo_ones(latent):
    data = tiny()
    members = [Autoencoder(data, latent=latent, encoder="gnn", **SMALL) for _ in range(3)]
    batch = data.train(0)[0]
    params, buffers = stack_module_state(members)
    stacked = vmap(lambda p, b: functional_call(members[0], (p, b), (batch,)))(params, buffers)
    for position, member in enumerate(members):
        for name, loss in member(batch).items():
            torch.testing.assert_close(stacked[name][position], loss)


def test_recomputing_changes_nothing():
    data = tiny()
    grads = []
    for recompute in (False, True):
        torch.manual_seed(0)
        trainable = Autoencoder(data, encoder="gnn", **SMALL)
        trainable.recompute = recompute
        trainable(data.train(0)[0])["loss"].backward()
        grads.append({name: param.grad for name, param in trainable.named_parameters()})
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"encoder_width": 0}, r"trainable\.encoder_width: got 0, expected at least 1"),
        ({"decoder_depth": 0}, r"trainable\.decoder_depth: got 0, expected at least 1"),
        ({"latent_dim": 0}, r"trainable\.latent_dim: got 0, expected at least 1"),
        (
            {"latent": "linear", "latent_rank": 5},
            r"trainable\.latent_rank: got 5, expected 1 to trainable\.latent_dim = 4",
        ),
        ({"n_codes": 1}, r"trainable\.n_codes: got 1, expected at least 2"),
        ({"commitment": -0.1}, r"trainable\.commitment: got -0\.1, expected at least 0"),
        ({"decay": 1.0}, r"trainable\.decay: got 1\.0, expected 0 or more, and below 1"),
        ({"revive_below": 1.0}, r"trainable\.revive_below: got 1\.0, expected 0 \(off\) or more, and below 1"),
    ],
)
def test_wrong_hyperparameters_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        Autoencoder(tiny(), **fields)


# --- configuration


@pytest.mark.parametrize("latent", ["none", "linear", "vq"])
def test_groups_choose_the_parts_and_the_latent_brings_its_gate(latent):
    parts = [f"trainable/latent={latent}", "trainable/encoder=gnn", "trainable.encoder_depth=3"]
    config = load(["trainable=autoencoder", *parts])
    node = config["trainable"]
    assert (node["latent"], node["encoder"], node["decoder"], node["encoder_depth"]) == (latent, "gnn", "mlp", 3)
    assert ("n_codes" in node) == ("val/codes_used" in config["gate"]["thresholds"]) == (latent == "vq")
    assert ("n_codes" in config["search"]["space"]["trainable"]) == (latent == "vq")
