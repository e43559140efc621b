"""The circuit VAE: the terms of its loss, its size, what evaluation counts, its presets."""

from __future__ import annotations

from inspect import signature
from itertools import combinations

import networkx
import numpy as np
import pytest
import torch
import yaml
from scipy.spatial.distance import cdist

from gatesweep.core.gate import Gate
from gatesweep.sweeps.config.build import build_run
from gatesweep.sweeps.config.compose import compose_config
from gatesweep.sweeps.config.groups import CONFIGS
from gatesweep.sweeps.config.schema import make_gate
from gatesweep.sweeps.search.space import read_space
from gatesweep.trainables.circuits import losses, metrics
from gatesweep.trainables.circuits.circuit import (
    NODES,
    PAIRS,
    TYPES,
    edit_distance,
    generate,
    keys,
)
from gatesweep.trainables.circuits.data import SIX, CircuitData
from gatesweep.trainables.circuits.trainable import CircuitVAE
from tests.conftest import tiny
from tests.support.circuits import CPU, LATENT, circuit, few, random_circuits, small
from tests.support.examples import stacks_as_it_trains_alone

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
    trainable, _ = build_run(compose_config(["trainable=circuit_vae"]))
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
    config = compose_config(["experiment=circuit_vae"])
    space = read_space(config)
    assert sum(config.trainable["latent"].values()) == space["trainable.latent"].total
    assert {"trainable.weight_kl", "trainable.weight_values", "trainable.weight_chamfer"} <= space.keys()


def test_the_reference_gate_is_passed_by_the_data_alone():
    config = compose_config(["experiment=circuit_reference"])
    trainable, data = build_run(config)
    gate: Gate = make_gate(config.gate)
    found = [
        {f"val/{name}": value for name, value in one(data).items()} for one in (trainable.oracle, trainable.trivial)
    ]
    assert gate.cleared(found[0]) and not gate.cleared(found[1])


def test_figures_show_every_type():
    trainable, data = build_run(tiny("circuit_vae"))
    drawn = {kind: draw() for kind, draw in trainable.eval().figures(data).items()}
    assert drawn.keys() == {"latent", "bode", "poles_zeros"}
    assert [axis.get_title() for axis in drawn["bode"].axes] == list(SIX)
    assert len(drawn["latent"].axes[0].collections) == len(SIX)
