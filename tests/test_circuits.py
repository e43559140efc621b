"""Circuits: physics against independent solvers, a user's data, the terms of the loss, what evaluation counts."""

from __future__ import annotations

import math
import shutil
import subprocess
from inspect import signature
from itertools import combinations

import networkx
import numpy as np
import pytest
import scipy.signal
import torch
import yaml
from scipy.spatial.distance import cdist

from core.gate import Gate
from sweeps.config import CONFIGS, build, load
from sweeps.schema import make_gate
from sweeps.space import read
from tests.conftest import tiny
from tests.examples import stacks_as_it_trains_alone
from trainables.circuits import losses, metrics
from trainables.circuits.circuit import (
    KINDS,
    NODES,
    OMEGA_0,
    PAIRS,
    RANGES,
    REFERENCE,
    TYPES,
    Circuits,
    connected,
    edit_distance,
    generate,
    keys,
    position,
    save,
)
from trainables.circuits.circuit import load as read_csv
from trainables.circuits.data import SIX, CircuitData
from trainables.circuits.physics import decibels, grid, response, roots
from trainables.circuits.trainable import CircuitVAE

CPU = torch.device("cpu")
OMEGA = grid(CPU, torch.float64)
LATENT = {"topology": 2, "values": 3, "response": 2}


def few(**fields):
    sizes = {"n_train": 120, "n_val": 24, "n_test": 24, "batch_size": 24}
    return CircuitData(device=CPU, seed=0, **(sizes | fields))


def small(data, **fields):
    torch.manual_seed(0)
    sizes = {"latent": LATENT, "hidden": 12, "layers": 1, "decoder_hidden": 12, "samples": 50}
    return CircuitVAE(data, **(sizes | fields))


def circuit(*parts):
    """One circuit of (kind, from, to, value in SI units)."""
    mask, values = np.zeros((1, 10, 3), dtype=bool), np.zeros((1, 10, 3))
    for kind, start, end, value in parts:
        where = (0, *position((kind, start, end)))
        mask[where], values[where] = True, math.log10(value / REFERENCE[KINDS.index(kind)])
    return mask, values


def parts_of(mask, values):
    """(kind, from, to, value in SI units) of one circuit."""
    for pair, kind in np.argwhere(mask):
        value = 10 ** values[pair, kind] * REFERENCE[kind]
        yield KINDS[kind], *(NODES[node] for node in PAIRS[pair]), value


def transfer(mask, values, omega=OMEGA):
    return response(torch.from_numpy(mask), torch.from_numpy(values), omega).numpy()


def random_circuits(count, seed=0, density=0.3):
    rng = np.random.default_rng(seed)
    mask = rng.random((8 * count, 10, 3)) < density
    values = rng.uniform(-2, 2, mask.shape) * mask
    proper = connected(mask)
    proper[proper] = roots(mask[proper], values[proper]).defined
    assert proper.sum() >= count
    return mask[proper][:count], values[proper][:count]


# --- physics

# Numerator and denominator by falling powers of s, as textbooks have them, of each type's parts in their order.
TEXTBOOK = {
    "low_pass": lambda r, c: ([1], [r * c, 1]),
    "high_pass": lambda c, r: ([r * c, 0], [r * c, 1]),
    "band_pass": lambda ind, c, r: ([r * c, 0], [ind * c, r * c, 1]),
    "band_stop": lambda r, ind, c: ([ind * c, 0, 1], [ind * c, r * c, 1]),
    "rlc_series": lambda r, ind, c, load: ([load * c, 0], [ind * c, (r + load) * c, 1]),
    "rlc_parallel": lambda r, load, c, ind: ([ind / r, 0], [ind * c, ind * (1 / r + 1 / load), 1]),
    "rlc_low_pass": lambda r, ind, c: ([1], [ind * c, r * c, 1]),
    "rlc_high_pass": lambda r, c, ind: ([ind * c, 0, 0], [ind * c, r * c, 1]),
    "rl_low_pass": lambda ind, r: ([r], [ind, r]),
    "rl_high_pass": lambda r, ind: ([ind, 0], [ind, r]),
}


@pytest.mark.parametrize("name", TYPES)
def test_each_type_is_the_filter_of_the_textbook(name):
    made = generate([name], [20], np.random.default_rng(1))
    found, curves = roots(made.mask, made.values), transfer(made.mask, made.values)
    for row in range(20):
        sizes = []
        for part in TYPES[name]:
            pair, kind = position(part)
            sizes.append(10 ** made.values[row, pair, kind] * REFERENCE[kind])
        numerator, denominator = TEXTBOOK[name](*sizes)
        _, expected = scipy.signal.freqs(numerator, denominator, OMEGA.numpy() * OMEGA_0)
        np.testing.assert_allclose(curves[row], expected, rtol=1e-7, atol=1e-12)
        zeros, poles, _ = scipy.signal.tf2zpk(numerator, denominator)
        assert same_set(found.poles[row] * OMEGA_0, poles)
        assert same_set(found.zeros[row] * OMEGA_0, zeros[zeros != 0])
        assert found.at_origin[row] == (zeros == 0).sum()


def same_set(found, expected):
    found = found[np.isfinite(found)]
    order = [np.lexsort((one.imag, np.abs(one).round(3))) for one in (found, expected)]
    return len(found) == len(expected) and np.allclose(found[order[0]], expected[order[1]], rtol=1e-5)


def nodal(mask, values, s):
    """VOUT/VIN at each s by a dense solve of the nodal equations, with VIN at 1 V."""
    y = np.zeros((len(s), 5, 5), dtype=complex)
    for pair, (a, b) in enumerate(PAIRS):
        size = 10.0 ** values[pair]
        branch = mask[pair, 0] / size[0] + mask[pair, 1] * s * size[1] + mask[pair, 2] / (s * size[2])
        y[:, [a, b, a, b], [a, b, b, a]] += branch[:, None] * np.array([1, 1, -1, -1])
    unknown = [2, *(node for node in (3, 4) if y[0, node, node] != 0)]
    return np.linalg.solve(y[:, unknown][:, :, unknown], -y[:, unknown, 1, None])[:, 0, 0]


def test_200_random_circuits_agree_with_a_dense_nodal_solve_and_with_their_poles_and_zeros():
    mask, values = random_circuits(200)
    exact = np.array([nodal(m, v, 1j * OMEGA.numpy()) for m, v in zip(mask, values, strict=True)])
    scale = np.abs(exact) + 1e-9
    assert (np.abs(transfer(mask, values) - exact) / scale).max() < 1e-6
    found = roots(mask, values)
    assert found.stable.all()  # of passive circuits
    for row in range(200):
        zeros, poles = (one[row][np.isfinite(one[row])] for one in (found.zeros, found.poles))
        zeros = np.append(zeros, np.zeros(max(found.at_origin[row], 0)))
        poles = np.append(poles, np.zeros(max(-found.at_origin[row], 0)))
        _, shape = scipy.signal.freqs_zpk(zeros, poles, 1, OMEGA.numpy())
        gain = exact[row] / shape  # one number, if poles and zeros are right
        assert np.abs(gain / np.median(gain.real) - 1).max() < 1e-5


@pytest.mark.skipif(
    shutil.which("ngspice") is None,
    reason="ngspice is no Python package; the tests above check as many circuits without it",
)
def test_ngspice_agrees_on_200_circuits(tmp_path):
    made = generate(list(TYPES), [20] * 10, np.random.default_rng(2))
    lines = ["filters, driven by one source", "V1 VIN 0 AC 1"]
    for row in range(len(made)):
        for number, (kind, *ends, value) in enumerate(parts_of(made.mask[row], made.values[row])):
            nodes = " ".join({"GND": "0", "VIN": "VIN"}.get(end, f"{end}x{row}") for end in ends)
            lines.append(f"{kind}{row}x{number} {nodes} {value:.12e}")
    low, high = (OMEGA[[0, -1]] * OMEGA_0 / (2 * math.pi)).tolist()
    lines += [".control", "set numdgt=12", f"ac dec 10 {low:.15g} {high:.15g}"]
    lines += [f"print v(VOUTx{row})" for row in range(len(made))] + ["quit 0", ".endc", ".end"]
    (tmp_path / "all.cir").write_text("\n".join(lines) + "\n")
    printed = subprocess.run(
        ["ngspice", "-b", "all.cir"], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
    ).stdout
    rows = [line.replace(",", " ").split() for line in printed.splitlines() if line[:1].isdigit()]
    found = np.array([float(one[2]) + 1j * float(one[3]) for one in rows]).reshape(len(made), len(OMEGA))
    np.testing.assert_allclose(transfer(made.mask, made.values), found, rtol=1e-5, atol=1e-9)


def test_float32_responses_are_exact_enough_and_differentiable():
    made = generate(list(TYPES), [20] * 10, np.random.default_rng(3))
    mask = torch.from_numpy(made.mask)
    exact = decibels(response(mask, torch.from_numpy(made.values), OMEGA))
    rounded = decibels(response(mask.float(), torch.from_numpy(made.values).float(), OMEGA.float()))
    assert (rounded - exact).abs().max() < 0.01
    values = torch.from_numpy(made.values[::20]).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: decibels(response(mask[::20], v, OMEGA[::6])), values, atol=1e-4)


def test_shapes_that_are_no_filter_are_told():
    resistor = ("R", "VIN", "VOUT", 1e3)
    to_ground = ("C", "VOUT", "GND", 1e-8)
    loose = circuit(resistor, ("C", "VIN", "GND", 1e-8))
    dangling = circuit(resistor, to_ground, ("L", "VOUT", "N1", 1e-3))
    apart = circuit(resistor, to_ground, ("L", "N1", "N2", 1e-3))
    missing = circuit(("C", "VIN", "GND", 1e-8), ("R", "VOUT", "GND", 1e3))  # in one piece, but VOUT is always 0
    whole = circuit(resistor, to_ground)
    masks = [one[0] for one in (whole, loose, dangling, apart, missing)]
    assert [bool(connected(mask)[0]) for mask in masks] == [True, True, False, False, True]
    defined = [bool(roots(*one).defined[0]) for one in (whole, loose, dangling, apart, missing)]
    assert defined == [True, True, True, True, False]
    assert (transfer(*missing) == 0).all() and np.isfinite(transfer(*apart)).all()
    assert not roots(*missing).stable[0]
    found, expected = roots(*dangling), roots(*whole)
    np.testing.assert_array_equal(found.poles, expected.poles)  # a dead end changes nothing


def test_a_divider_has_no_poles_and_a_lossless_loop_is_stable():
    found = roots(*circuit(("R", "VIN", "VOUT", 1e3), ("R", "VOUT", "GND", 1e3)))
    assert np.isnan(found.poles).all() and found.stable[0] and found.at_origin[0] == 0
    found = roots(*circuit(("L", "VIN", "VOUT", 1e-2), ("C", "VOUT", "GND", 1e-8)))
    np.testing.assert_allclose(found.poles[0, :2], [-1j, 1j], atol=1e-12)
    assert found.stable[0]


# --- data


def test_parts_of_the_split_are_stratified_apart_and_as_large_as_asked():
    data = few(n_train=121, n_val=24)
    sizes = {name: np.bincount(data.part(name).circuits.types).tolist() for name in ("train", "val", "test")}
    assert sizes == {"train": [21, 20, 20, 20, 20, 20], "val": [4] * 6, "test": [4] * 6}
    values = [data.part(name).circuits.values.reshape(-1, 30) for name in ("train", "val", "test")]
    assert all(cdist(one, other).min() > 0 for one, other in combinations(values, 2))
    assert data.filters is few(n_train=121, batch_size=7).filters
    assert not np.array_equal(values[0], few(n_train=121, data_seed=1).part("train").circuits.values.reshape(-1, 30))


def test_generated_values_fill_their_ranges():
    made = generate(list(TYPES), [300] * 10, np.random.default_rng(0))
    assert connected(made.mask).all()
    for kind, (low, high) in enumerate(RANGES):
        logs = made.values[..., kind][made.mask[..., kind]] + np.log10(REFERENCE[kind])
        assert np.log10(low) <= logs.min() < np.log10(low) + 0.01 < np.log10(high) - 0.01 < logs.max() <= np.log10(high)
        assert logs.mean() == pytest.approx(np.log10(low * high) / 2, abs=0.05)


def test_poles_are_points_of_standardised_magnitude_and_phase():
    data = few()
    part = data.part("train")
    there = torch.arange(2) < part.tensors["counts"][:, :1]
    point = part.tensors["poles"][..., 0]
    assert point[there].mean().item() == pytest.approx(0, abs=1e-5)
    assert point[there].std(unbiased=False).item() == pytest.approx(1, abs=1e-5)
    assert (part.tensors["poles"][~there] == 0).all()
    mean, std = data.statistics.pole
    cosine, sine = part.tensors["poles"][..., 1].numpy(), part.tensors["poles"][..., 2].numpy()
    back = np.exp(point.numpy() * std + mean) * (cosine + 1j * sine)
    np.testing.assert_allclose(back[there], part.roots.poles[:, :2][there], rtol=1e-4)
    assert data.most == {"poles": 2, "zeros": 2, "origin": 1}
    assert part.tensors["counts"][0].tolist() == [1, 0, 0]  # low_pass


def test_a_file_round_trips(tmp_path):
    made = generate(list(TYPES), [2] * 10, np.random.default_rng(4))
    save(tmp_path / "mine.csv", made)
    back = read_csv(str(tmp_path / "mine.csv"))
    assert back.names == made.names
    np.testing.assert_array_equal(back.mask, made.mask)
    np.testing.assert_array_equal(back.types, made.types)
    np.testing.assert_allclose(back.values, made.values, atol=1e-13)


HEADER = "circuit,type,kind,from,to,value\n"


def test_parallel_parts_of_a_file_merge(tmp_path):
    rows = ["R,VIN,VOUT,3000", "R,VOUT,VIN,6000", "C,VOUT,GND,1e-8", "C,GND,VOUT,2e-8", "L,N1,GND,3", "L,N1,GND,6"]
    (tmp_path / "one.csv").write_text(HEADER + "".join(f"a,mine,{row}\n" for row in rows))
    back = read_csv(str(tmp_path / "one.csv"))
    assert dict((one[:3], pytest.approx(one[3])) for one in parts_of(back.mask[0], back.values[0])) == {
        ("R", "VIN", "VOUT"): 2000,
        ("C", "GND", "VOUT"): 3e-8,
        ("L", "GND", "N1"): 2,
    }


def test_a_users_circuits_are_split_by_type_and_trained_on(tmp_path):
    divider = circuit(("R", "VIN", "VOUT", 1e3), ("R", "VOUT", "GND", 1e3))
    made = generate(["low_pass", "band_stop"], [20, 20], np.random.default_rng(5))
    mixed = Circuits(
        np.concatenate([made.mask, *[divider[0]] * 20]),
        np.concatenate([made.values, *[divider[1]] * 20]),
        np.repeat([0, 1, 2], 20),
        (*made.names, "divider"),
    )
    save(tmp_path / "mine.csv", mixed)
    data = few(path=str(tmp_path / "mine.csv"), n_train=3, n_val=1, n_test=1, batch_size=12)
    sizes = [np.bincount(data.part(name).circuits.types).tolist() for name in ("train", "val", "test")]
    assert sizes == [[12] * 3, [4] * 3, [4] * 3]
    again = few(path=str(tmp_path / "mine.csv"), n_train=3, n_val=1, n_test=1, batch_size=12, data_seed=1)
    assert not np.array_equal(again.part("train").circuits.values, data.part("train").circuits.values)
    found = small(data)  # a divider has no poles
    loss = found(data.train(0)[0])["loss"]
    loss.backward()
    assert loss.isfinite() and all(param.grad.isfinite().all() for param in found.parameters())
    assert np.isfinite(list(found.eval().evaluate(data).values())).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"data\.path: got '.*mine\.csv', expected a CSV file with the columns circuit,type"),
        ("a,b\n1,2\n", r"data\.path: got 'a,b', expected the columns circuit,type,kind,from,to,value"),
        (HEADER, r"data\.path: got '.*mine\.csv', expected at least one circuit"),
        (HEADER + "a,t,Q,VIN,VOUT,1\n", r"data\.path, line 2, kind: got 'Q', expected one of R, C, L"),
        (HEADER + "a,t,R,IN,VOUT,1\n", r"data\.path, line 2, from: got 'IN', expected one of GND, VIN"),
        (HEADER + "a,t,R,VIN,N3,1\n", r"data\.path, line 2, to: got 'N3', expected one of GND, VIN"),
        (HEADER + "a,t,R,VIN,VIN,1\n", r"data\.path, line 2, to: got 'VIN', expected another node"),
        (HEADER + "a,t,R,VIN,VOUT,nan\n", r"data\.path, line 2, value: got 'nan', expected a finite number above 0"),
        (HEADER + "a,t,R,VIN,VOUT,-1\n", r"data\.path, line 2, value: got '-1', expected a finite number above 0"),
        (HEADER + "a,t,R,VIN,VOUT,0\n", r"data\.path, line 2, value: got '0', expected a finite number"),
        (HEADER + "a,t,R,VIN,VOUT\n", r"data\.path, line 2, value: got None, expected a finite number"),
        (HEADER + "a,t,R,VIN,VOUT,x\na,u,C,VOUT,GND,1\n", r"line 2, value: got 'x'"),
        (HEADER + "a,t,R,VIN,VOUT,1\na,u,C,VOUT,GND,1\n", r"line 3, type: got 'u', expected 't'"),
        (HEADER + "a,t,R,VIN,VOUT,1\n", r"data\.path: got '1 circuits of type t', expected enough .*\(val got 0\)"),
        (
            HEADER + "".join(f"{n},t,R,VIN,GND,1\n" for n in range(20)),
            r"data\.path: got '.*', expected circuits that join VIN to VOUT, and one of type 't' does not",
        ),
    ],
)
def test_files_that_are_wrong_are_told_in_one_line(text, message, tmp_path):
    if text is not None:
        (tmp_path / "mine.csv").write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        few(path=str(tmp_path / "mine.csv"), batch_size=1, n_train=3, n_val=1, n_test=1)
    assert "\n" not in str(error.value)


def test_more_than_a_row_holds_is_told(tmp_path):
    (tmp_path / "mine.csv").write_text(HEADER + "a,t,R,VIN,VOUT,1,2\n")
    with pytest.raises(ValueError, match=r"data\.path, line 2: got 'more fields', expected 6, as the header has"):
        read_csv(str(tmp_path / "mine.csv"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"types": ["notch"]}, r"data\.types: got 'notch', expected one of low_pass, high_pass"),
        ({"types": []}, r"data\.types: got \[\], expected each type once"),
        ({"types": ["low_pass"] * 2}, r"data\.types: got \['low_pass', 'low_pass'\], expected each type once"),
        ({"n_val": 5}, r"data\.n_val: got 5, expected at least 6, one of each type"),
        ({"batch_size": 121}, r"data\.batch_size: got 121, expected 1 to 120"),
    ],
)
def test_wrong_values_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        few(**fields)


# --- losses


def test_chamfer_is_the_distance_of_sets_however_many_there_are():
    rng = np.random.default_rng(0)
    found = torch.from_numpy(rng.normal(size=(4, 3, 3)))
    exact = torch.from_numpy(rng.normal(size=(4, 2, 3)))
    count = torch.tensor([2, 1, 0, 2])  # the third is a circuit without poles
    expected = []
    for row in range(4):
        there = exact[row, : count[row]].numpy()
        square = cdist(found[row].numpy(), there, "sqeuclidean")
        expected.append(square.min(axis=0).mean() + square.min(axis=1).mean() if len(there) else 0.0)
    found.requires_grad_()
    loss = losses.chamfer(found, exact, count)
    assert loss.item() == pytest.approx(np.mean(expected))
    loss.backward()
    assert found.grad.isfinite().all() and (found.grad[2] == 0).all() and (found.grad[1] != 0).any()
    flipped = losses.chamfer(found[3:, [2, 0, 1]], exact[3:, [1, 0]], count[3:])
    assert flipped.item() == pytest.approx(expected[3])


def test_kl_is_torchs():
    mean, log_variance = torch.randn(50, 4), torch.randn(50, 4)
    posterior = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    expected = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).mean(dim=0)
    torch.testing.assert_close(losses.kl(mean, log_variance), expected)


def test_the_weights_of_the_loss_weigh_their_terms():
    data = few()
    batch = data.train(0)[0]

    def terms(**fields):
        found = small(data, kl_warmup=0.5, **fields).eval()
        found.progress.fill_(0.25)
        return {name: term.item() for name, term in found(batch).items()}

    one = terms(weight_kl=0.2, weight_values=2.0, weight_chamfer=0.3, weight_response=0.7, weight_reconstruction=1.5)
    roots_of = one["poles"] + 0.5 * one["zeros"] + one["counts"]
    expected = 1.5 * (one["topology"] + 2.0 * one["values"]) + 0.3 * roots_of + 0.7 * one["response"]
    assert one["loss"] == pytest.approx(expected + 0.5 * 0.2 * one["kl"], rel=1e-5)
    bits = terms(free_bits=1e3, weight_kl=0.2, weight_kl_topology=3.0)
    none = terms(weight_kl=0.0)
    assert bits["loss"] - none["loss"] == pytest.approx(0.5 * 0.2 * 1e3 * (3.0 * 2 + 3 + 2), rel=1e-4)
    assert "response" not in terms(weight_response=0.0)


def test_what_the_values_part_holds_does_not_change_the_topology():
    found = small(few()).eval()
    z = torch.randn(8, 7)
    moved = z + torch.tensor([0, 0, 1, 1, 1, 1, 1.0])
    (logits, values), (same, others) = found.decoder.circuit(z), found.decoder.circuit(moved)
    assert torch.equal(logits, same) and not torch.equal(values, others)
    z.requires_grad_()
    (slope,) = torch.autograd.grad(found.decoder.circuit(z)[1].square().sum(), z)
    assert (slope[:, :2] == 0).all() and (slope[:, 2:5] != 0).all() and (slope[:, 5:] == 0).all()
    poles, moved_poles = found.decoder.roots(z)[0], found.decoder.roots(z + torch.tensor([1.0] * 5 + [0, 0]))[0]
    assert torch.equal(poles, moved_poles)


def test_the_network_has_the_size_of_the_source():
    trainable, _ = build(load(["trainable=circuit_vae"]))
    sizes = [sum(param.numel() for param in part.parameters()) for part in (trainable.encoder, trainable.decoder)]
    assert sizes == pytest.approx([68_915, 33_004], rel=0.1)
    assert sum(param.numel() for param in trainable.parameters()) == pytest.approx(101_919, rel=0.1)


def test_messages_do_not_cross_pairs_where_nothing_lies():
    found = small(few(), layers=3).eval()
    mask = torch.zeros(1, 10, 3)
    values = torch.randn(1, 10, 3)
    assert torch.equal(found.encoder(mask, values)[0], found.encoder(mask, values + 1)[0])
    nodes = []
    for layer in found.encoder.layers:
        layer.register_forward_hook(lambda module, inputs, output: nodes.append(output[0]))
    found.encoder(mask, values)
    mask[0, PAIRS.index((1, 2)), 0] = mask[0, PAIRS.index((2, 4)), 1] = 1
    found.encoder(mask, values)
    changed = [(one != other).any(dim=-1).tolist() for one, other in zip(nodes[:3], nodes[3:], strict=True)]
    assert changed == [[False, True, True, False, True]] * 3


# --- what evaluation counts


def graph(mask):
    made = networkx.Graph()
    for node, name in enumerate(NODES):
        made.add_node(node, role="internal" if node > 2 else name)
    for pair, (u, v) in enumerate(PAIRS):
        if mask[pair].any():
            made.add_edge(u, v, parts=frozenset(np.flatnonzero(mask[pair])))
    return made


def test_edit_distance_is_networkxs():
    mask, _ = random_circuits(14, density=0.15)
    mask = np.concatenate([mask, generate(list(TYPES), [1] * 10, np.random.default_rng(0)).mask])
    for one, other in list(combinations(range(len(mask)), 2))[::9]:
        expected = networkx.graph_edit_distance(
            graph(mask[one]),
            graph(mask[other]),
            node_subst_cost=lambda a, b: 0 if a["role"] == b["role"] else 1000,
            node_del_cost=lambda node: 1000,
            node_ins_cost=lambda node: 1000,
            edge_subst_cost=lambda a, b: len(a["parts"] ^ b["parts"]),
            edge_del_cost=lambda edge: len(edge["parts"]),
            edge_ins_cost=lambda edge: len(edge["parts"]),
        )
        assert edit_distance(mask[[one]], mask[[other]]).tolist() == [expected]


def test_internal_nodes_have_no_names():
    first = circuit(("R", "VIN", "N1", 1), ("L", "N1", "VOUT", 1), ("C", "VOUT", "GND", 1))[0]
    second = circuit(("R", "VIN", "N2", 1), ("L", "N2", "VOUT", 1), ("C", "VOUT", "GND", 1))[0]
    assert edit_distance(first, second).tolist() == [0]
    assert keys(first) == keys(second)
    assert keys(first) != keys(circuit(("R", "VIN", "N1", 1), ("L", "N1", "VOUT", 1), ("C", "VIN", "GND", 1))[0])


def test_pole_errors_are_decades_and_count_missing_poles():
    exact = np.array([[-1, -100, np.nan], [-1 + 1j, -1 - 1j, np.nan]])
    found = np.array([[-10, -100, np.nan], [-(2**0.5), np.nan, np.nan]])
    assert sorted(metrics.pole_errors(found, exact)) == pytest.approx([0, 0, 1, metrics.UNMATCHED])


def test_reconstruction_is_judged_by_the_decoded_circuit():
    part = few().part("val")
    perfect = metrics.reconstruction(part, part.circuits.mask, part.circuits.values)
    assert perfect["topology_accuracy"] == perfect["stable"] == 1.0
    assert perfect["db_error"] < 1e-4 and perfect["pole_error_p95"] == perfect["value_error"] == 0.0
    # All impedances ten times as large: poles stay. All capacitors and inductors ten times as large: a decade off.
    scaled = part.circuits.values + part.circuits.mask * np.array([1, -1, 1])
    again = metrics.reconstruction(part, part.circuits.mask, scaled)
    assert again["value_error"] == pytest.approx(1) and again["pole_error_p95"] < 1e-9 and again["db_error"] < 1e-4
    slower = metrics.reconstruction(part, part.circuits.mask, part.circuits.values + part.circuits.mask * [0, 1, 1])
    assert [slower[f"pole_error_{end}"] for end in ("median", "p95")] == pytest.approx([1, 1])
    mask = part.circuits.mask.copy()
    mask[0] = False
    broken = metrics.reconstruction(part, mask, part.circuits.values * mask)
    assert broken["topology_accuracy"] == broken["stable"] == pytest.approx(23 / 24)


def test_generated_circuits_are_judged():
    data = few()
    training = data.part("train").circuits
    mask = np.concatenate([training.mask[:40], training.mask[:10]])
    values = np.concatenate([training.values[:40], training.values[:10]])
    mask[0] = False  # nothing at all
    values[1] += mask[1] * 2.5  # a decade and more outside
    mask[4], values[4] = circuit(("C", "VIN", "GND", 1e-8), ("R", "VOUT", "GND", 1e3))  # VOUT does not follow VIN
    new = circuit(("R", "VIN", "N1", 1e3), ("R", "N1", "VOUT", 1e3), ("C", "VOUT", "GND", 1e-8))
    mask[2:4], values[2:4] = new[0], new[1]
    found = metrics.generation(mask, values, training.mask, data.statistics)
    assert found["prior_valid"] == pytest.approx(47 / 50)
    assert found["prior_novel"] == pytest.approx(2 / 47)
    assert found["prior_distinct"] == len({*training.types[:40].tolist(), "new"})


def test_the_latents_layout_is_read():
    part = few().part("val")
    by_type = torch.zeros(24, 5)
    by_type[:, :3] = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))[part.tensors["type"]] * 10
    found = metrics.layout(by_type, part)
    assert found["silhouette"] == pytest.approx(1.0) and found["active"] == 3
    shape = torch.from_numpy(part.circuits.mask).flatten(1).double()
    assert metrics.layout(shape, part)["edit_correlation"] > 0.95
    nothing = metrics.layout(torch.zeros(24, 5), part)
    assert nothing["edit_correlation"] == nothing["active"] == 0.0


def test_evaluation_repeats_itself_and_draws_no_global_numbers():
    data = few()
    found = small(data).eval()
    before = torch.get_rng_state()
    assert found.evaluate(data) == found.evaluate(data)
    assert torch.equal(before, torch.get_rng_state())
    assert found.evaluate(data, "test") != found.evaluate(data)
    assert found.oracle(data).keys() == found.trivial(data).keys() <= found.evaluate(data).keys()


def test_training_learns_the_circuits():
    data = few(n_train=600, types=["low_pass", "band_stop"], n_val=40, n_test=40)
    torch.manual_seed(0)
    found = CircuitVAE(data, latent=LATENT, hidden=24, layers=2, decoder_hidden=32, samples=100, weight_kl=0.02)
    before = found.eval().evaluate(data)
    optimizer = found.train().optimizers()["main"]
    for epoch in range(10):
        for batch in data.train(epoch):
            optimizer.zero_grad()
            found(batch)["loss"].backward()
            optimizer.step()
    after = found.eval().evaluate(data)
    assert before["topology_accuracy"] == 0 < 0.95 < after["topology_accuracy"]
    for name in ("value_error", "db_error", "pole_error_p95"):
        assert after[name] < 0.5 * before[name]


def test_stacked_losses_are_the_solo_ones():
    data = few()
    weights = ({"weight_kl": 0.01, "weight_chamfer": 2.0}, {"weight_kl": 1.0, "free_bits": 0.5, "kl_warmup": 0.0})
    members = [small(data, **one).eval() for one in weights]
    for member in members:
        member.progress.fill_(0.1)
    stacks_as_it_trains_alone(members, data.train(0)[0], rtol=1e-4, atol=1e-5)


# --- presets


@pytest.mark.parametrize("file", ["circuits", "circuits_reference"])
def test_presets_name_every_field(file):
    fields = yaml.safe_load((CONFIGS / "data" / f"{file}.yaml").read_text())
    assert fields.pop("_target_") == f"{CircuitData.__module__}.CircuitData"
    assert fields.keys() == set(signature(CircuitData).parameters) - {"device", "seed"}


def test_defaults_are_those_of_the_presets():
    fields = yaml.safe_load((CONFIGS / "data" / "circuits.yaml").read_text())
    defaults = {name: parameter.default for name, parameter in signature(CircuitData).parameters.items()}
    assert all(defaults[name] == value for name, value in fields.items() if name != "_target_")
    fields = yaml.safe_load((CONFIGS / "trainable" / "circuit_vae.yaml").read_text())["trainable"]
    defaults = {name: parameter.default for name, parameter in signature(CircuitVAE).parameters.items()}
    assert fields.pop("latent") == {"topology": 8, "values": 8, "response": 8}
    assert all(defaults[name] == value for name, value in fields.items() if name != "_target_")


def test_the_reference_is_the_sources_120_circuits():
    fields = yaml.safe_load((CONFIGS / "data" / "circuits_reference.yaml").read_text())
    data = CircuitData(device=CPU, seed=0, **{name: value for name, value in fields.items() if name != "_target_"})
    assert [np.bincount(data.part(name).circuits.types).tolist() for name in ("train", "val", "test")] == [
        [16] * 6,
        [2] * 6,
        [2] * 6,
    ]
    assert data.filters.names == SIX


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"latent": {"topology": 2, "values": 3}},
            r"trainable\.latent: got \{.*\}, expected sizes of topology, values",
        ),
        ({"latent": LATENT | {"values": 0}}, r"trainable\.latent\.values: got 0, expected at least 1"),
        ({"layers": 0}, r"trainable\.layers: got 0, expected at least 1"),
        ({"weight_kl": -1.0}, r"trainable\.weight_kl: got -1\.0, expected at least 0"),
        ({"kl_warmup": 2.0}, r"trainable\.kl_warmup: got 2\.0, expected a fraction of the run, 0 to 1"),
    ],
)
def test_wrong_hyperparameters_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        small(few(), **fields)


def test_the_sweep_splits_the_latent():
    config = load(["experiment=circuit_vae"])
    space = read(config)
    assert sum(config["trainable"]["latent"].values()) == space["trainable.latent"].total
    assert {"trainable.weight_kl", "trainable.weight_values", "trainable.weight_chamfer"} <= space.keys()


def test_the_reference_gate_is_passed_by_the_data_alone():
    config = load(["experiment=circuit_reference"])
    trainable, data = build(config)
    gate: Gate = make_gate(config)
    found = [
        {f"val/{name}": value for name, value in one(data).items()} for one in (trainable.oracle, trainable.trivial)
    ]
    assert gate.cleared(found[0]) and not gate.cleared(found[1])


def test_figures_show_every_type():
    trainable, data = build(tiny("circuit_vae"))
    drawn = {kind: draw() for kind, draw in trainable.eval().figures(data).items()}
    assert drawn.keys() == {"latent", "bode", "poles_zeros"}
    assert [axis.get_title() for axis in drawn["bode"].axes] == list(SIX)
    assert len(drawn["latent"].axes[0].collections) == len(SIX)
