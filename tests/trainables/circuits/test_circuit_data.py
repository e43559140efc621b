"""Circuits: physics against independent solvers, the filter types, the split, a file of one's own."""

from __future__ import annotations

import math
import shutil
import subprocess
from itertools import combinations

import numpy as np
import pytest
import scipy.signal
import torch
from scipy.spatial.distance import cdist

from gatesweep.core.errors import InputError
from gatesweep.trainables.circuits.circuit import (
    OMEGA_0,
    PAIRS,
    RANGES,
    REFERENCE,
    TYPES,
    Circuits,
    connected,
    generate,
    position,
    save,
)
from gatesweep.trainables.circuits.circuit import load as read_csv
from gatesweep.trainables.circuits.physics import decibels, response, roots
from tests.support.circuits import OMEGA, circuit, few, parts_of, random_circuits, small, transfer

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
    reason="no ngspice: apt-get install ngspice; the tests above check as many circuits without it",
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
    assert data.max_counts == {"poles": 2, "zeros": 2, "origin": 1}
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
        ("a,b\n1,2\n", r"mine\.csv, line 1: got 'a,b', expected the columns circuit,type,kind,from,to,value"),
        (HEADER, r"data\.path: got '.*mine\.csv', expected at least one circuit"),
        (HEADER + "a,t,Q,VIN,VOUT,1\n", r"mine\.csv, line 2, kind: got 'Q', expected one of R, C, L"),
        (HEADER + "a,t,R,IN,VOUT,1\n", r"mine\.csv, line 2, from: got 'IN', expected one of GND, VIN"),
        (HEADER + "a,t,R,VIN,N3,1\n", r"mine\.csv, line 2, to: got 'N3', expected one of GND, VIN"),
        (HEADER + "a,t,R,VIN,VIN,1\n", r"mine\.csv, line 2, to: got 'VIN', expected another node"),
        (HEADER + "a,t,R,VIN,VOUT,nan\n", r"mine\.csv, line 2, value: got 'nan', expected a finite number above 0"),
        (HEADER + "a,t,R,VIN,VOUT,-1\n", r"mine\.csv, line 2, value: got '-1', expected a finite number above 0"),
        (HEADER + "a,t,R,VIN,VOUT,0\n", r"mine\.csv, line 2, value: got '0', expected a finite number"),
        (HEADER + "a,t,R,VIN,VOUT\n", r"mine\.csv, line 2: got 5 fields, expected 6, as in the header"),
        (HEADER + "a,t,R,VIN,VOUT,x\na,u,C,VOUT,GND,1\n", r"line 2, value: got 'x'"),
        (
            HEADER + "a,t,R,VIN,VOUT,1\na,u,C,VOUT,GND,1\n",
            r"mine\.csv, line 3, type: got 'u', expected 't', as in earlier rows of circuit 'a'",
        ),
        (HEADER + "\na,t,R,VIN,VOUT,x\n", r"mine\.csv, line 3, value: got 'x'"),
        (HEADER + '"a\nb",t,R,VIN,VOUT,1\na,t,R,VIN,VOUT,x\n', r"mine\.csv, line 4, value: got 'x'"),
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
    with pytest.raises(InputError, match=r"mine\.csv, line 2: got 7 fields, expected 6, as in the header"):
        read_csv(str(tmp_path / "mine.csv"))


def test_bytes_that_are_not_text_and_quotes_left_open_are_told_with_their_line(tmp_path):
    (tmp_path / "mine.csv").write_bytes(HEADER.encode() + b"a,t,R,VIN,VOUT,1\na,\xe9,R,VIN,GND,1\n")
    with pytest.raises(InputError, match=r"mine\.csv, line 3: got the byte 0xe9, expected text in UTF-8"):
        read_csv(str(tmp_path / "mine.csv"))
    (tmp_path / "mine.csv").write_text(HEADER + '"' + "a,t,R,VIN,VOUT,1\n" * 10_000)
    with pytest.raises(InputError, match=r"mine\.csv, line \d+: field larger than .*, expected circuit,type"):
        read_csv(str(tmp_path / "mine.csv"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"types": ["notch"]}, r"data\.types: got 'notch', expected one of low_pass, high_pass"),
        ({"types": []}, r"data\.types: got \[\], expected each type once"),
        ({"types": ["low_pass"] * 2}, r"data\.types: got \['low_pass', 'low_pass'\], expected each type once"),
        ({"n_val": 5}, r"data\.n_val: got 5, expected at least 6, one of each type"),
        ({"path": "mine.csv", "n_val": 0}, r"data\.n_val: got 0, expected at least 1$"),
        ({"batch_size": 121}, r"data\.batch_size: got 121, expected 1 to 120"),
    ],
)
def test_wrong_values_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        few(**fields)
