"""Walks: the corpus obeys its rules, the scores agree with a slow count, and generation is exact."""

from __future__ import annotations

import csv
from inspect import signature
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gatesweep.core.errors import InputError
from gatesweep.core.gate import Gate
from gatesweep.core.trainable import Metrics
from gatesweep.trainables.walks import graph as graphs
from gatesweep.trainables.walks.compliance import Judge
from gatesweep.trainables.walks.data import WalkData
from gatesweep.trainables.walks.graph import BlockGraph
from gatesweep.trainables.walks.model import Transformer
from gatesweep.trainables.walks.rules import Process, Rules, draw, random_walks
from gatesweep.trainables.walks.trainable import WalkTransformer
from tests.support.examples import stacks_as_it_trains_alone

CPU = torch.device("cpu")
CONFIGS = Path(__file__).parents[3] / "configs"
CONNECTOME = Path(graphs.__file__).parent / "connectome"
TINY = {
    **{"n_walks": 256, "held_out": 200, "windows": 128, "batch_size": 32, "context": 16, "walk_length": 40},
    **{"n_vertices": 60, "jumpers_per_block": 2, "r_min": 3, "r_max": 8},
}
GATE = Gate(
    {
        "val/edge_compliance": "> 0.95",
        "val/rule_compliance": "> 0.80",
        "val/sampled_edge_compliance": "> 0.95",
        "val/sampled_rule_compliance": "> 0.80",
    },
    objective="val/excess",
    mode="min",
)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def tiny(**fields) -> WalkData:
    return WalkData(**({"device": CPU, "seed": 0} | TINY | fields))


def val(metrics: Metrics) -> Metrics:
    return {f"val/{name}": value for name, value in metrics.items()}


# --- graphs


def test_generated_graph_has_the_density_it_was_asked_for():
    graph = graphs.generate(200, 4, 0.3, 0.05, 0.0, seed=1)
    same = graph.blocks[:, None] == graph.blocks[None, :]
    off_diagonal = ~np.eye(200, dtype=bool)
    assert graph.adjacency[same & off_diagonal].mean() == pytest.approx(0.3, abs=0.02)
    assert graph.adjacency[~same].mean() == pytest.approx(0.05, abs=0.005)
    assert not graph.adjacency.diagonal().any()
    assert len(graphs.largest_component(graph.adjacency)) == 200
    assert graph.out_degree.min() >= graphs.MIN_OUT_DEGREE


def test_zipf_degrees_are_unequal():
    flat, steep = (graphs.generate(200, 4, 0.3, 0.05, zipf, seed=1).out_degree for zipf in (0.0, 0.8))
    assert steep.std() / steep.mean() > 2 * flat.std() / flat.mean()


def test_a_graph_too_sparse_is_an_error():
    with pytest.raises(InputError, match=r"data\.p_in, data\.p_out: got 0\.05 and 0\.01, expected a denser"):
        graphs.generate(40, 4, 0.05, 0.01, 0.5, seed=0)


def test_largest_component_of_two_cycles_and_a_bridge():
    adjacency = np.zeros((8, 8), dtype=bool)
    for cycle in ([0, 1, 2], [3, 4, 5, 6]):
        for u, v in pairwise([*cycle, cycle[0]]):
            adjacency[u, v] = True
    adjacency[2, 3] = adjacency[6, 7] = True
    assert graphs.largest_component(adjacency).tolist() == [3, 4, 5, 6]


def test_connectome_is_the_published_one():
    with (CONNECTOME / "edges.csv").open() as edges, (CONNECTOME / "blocks.csv").open() as blocks:
        assert len(list(csv.DictReader(edges))) == 7425
        labels = [row["block"] for row in csv.DictReader(blocks)]
    assert {name: labels.count(name) for name in "KPOI"} == {"K": 101, "P": 58, "O": 29, "I": 21}
    graph = graphs.load(CONNECTOME)
    assert len(graph.blocks) == 126
    assert graph.block_names == ("I", "K", "O")  # no projection neuron is fed back to
    assert np.bincount(graph.blocks).tolist() == [21, 95, 10]


TRIANGLE = "source,target\na,b\nb,c\nc,a\n"
LABELS = "vertex,block\na,x\nb,x\nc,y\n"


@pytest.mark.parametrize(
    ("edges", "blocks", "message"),
    [
        (None, LABELS, r"edges\.csv: no such file, expected a CSV file with the header source,target"),
        (TRIANGLE, None, r"blocks\.csv: no such file, expected a CSV file with the header vertex,block"),
        ("a,b\n", LABELS, r"edges\.csv, line 1: got 'a,b', expected the header 'source,target'"),
        ("source,target\n", LABELS, r"edges\.csv: no rows"),
        ("source,target\na,b\na\n", LABELS, r"edges\.csv, line 3: got 'a', expected source,target"),
        ("source,target\na,d\n", LABELS, r"edges\.csv, line 2: vertex 'd' has no block"),
        ("source,target\na,a\n", LABELS, r"edges\.csv, line 2: got the self loop at 'a'"),
        (TRIANGLE, LABELS + "a,y\n", r"blocks\.csv, line 5: vertex 'a' is listed twice"),
        ("source,target\na,b\n", LABELS, r"largest strongly connected component has 1 vertices in 1 blocks"),
    ],
)
def test_loader_errors_name_the_file_and_the_line(tmp_path, edges, blocks, message):
    for name, text in (("edges.csv", edges), ("blocks.csv", blocks)):
        if text is not None:
            (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        graphs.load(tmp_path)


def test_loader_names_the_line_of_a_byte_that_is_not_text_and_of_a_quote_left_open(tmp_path):
    (tmp_path / "blocks.csv").write_bytes(b"vertex,block\na,x\nb,\xe9\n")
    with pytest.raises(InputError, match=r"blocks\.csv, line 3: got the byte 0xe9, expected text in UTF-8"):
        graphs.load(tmp_path)
    (tmp_path / "blocks.csv").write_text('vertex,block\n"a,x\n' + "b,x\n" * 40_000)
    with pytest.raises(InputError, match=r"blocks\.csv, line \d+: field larger than .*, expected vertex,block"):
        graphs.load(tmp_path)


def test_loader_reads_names_and_keeps_the_component(tmp_path):
    (tmp_path / "edges.csv").write_text(TRIANGLE + "c,d\n")
    (tmp_path / "blocks.csv").write_text(LABELS + "d,y\n")
    graph = graphs.load(tmp_path)
    assert graph.vertex_names == ("a", "b", "c")
    assert graph.adjacency.sum() == 3


# --- rules and walks


def rings() -> tuple[BlockGraph, Rules]:
    """Six vertices in two blocks, with edges to the next three; after vertex 0, be in block 1 in 3 steps."""
    adjacency = np.zeros((6, 6), dtype=bool)
    for u in range(6):
        adjacency[u, [(u + step) % 6 for step in (1, 2, 3)]] = True
    graph = BlockGraph(adjacency, np.array([0, 1, 0, 1, 0, 1]), ("0", "1"), tuple("012345"))
    return graph, Rules(np.array([0]), np.array([3]), np.array([1]))


def test_process_is_the_random_walk_conditioned_on_the_rule():
    """By enumeration of the walks from the jumper over ordinary vertices that meet the rule."""
    graph, rules = rings()
    process = Process(graph, rules)
    chances = {}
    for middle in product(range(1, 6), repeat=3):
        walk = (0, *middle)
        if all(graph.adjacency[u, v] for u, v in pairwise(walk)) and graph.blocks[walk[3]] == 1:
            chances[walk] = np.prod([1 / graph.adjacency[u, 1:].sum() for u in walk[:3]])
    walks = np.array(list(chances))
    expected = np.array(list(chances.values())) / sum(chances.values())
    surprise = process.surprise(walks)
    np.testing.assert_allclose(np.exp(-surprise.sum(axis=1)), expected, rtol=1e-12)

    sampled = process.sample(40_000, 4, np.random.default_rng(0))[::2]  # those that start on the jumper
    frequency = np.array([(sampled == walk).all(axis=1).mean() for walk in walks])
    np.testing.assert_allclose(frequency, expected, atol=0.012)
    entropy = -(expected * np.log(expected)).sum()
    assert process.surprise(sampled).sum(axis=1).mean() == pytest.approx(entropy, abs=0.01)


def test_impossible_steps_have_infinite_surprise():
    graph, rules = rings()
    walks = np.array([[1, 0, 3, 5, 2], [1, 0, 2, 3, 0], [1, 5, 2, 1, 2]])  # misses the rule; visits it again; no edge
    surprise = Process(graph, rules).surprise(walks)
    assert np.isinf(surprise).any(axis=1).tolist() == [True, True, True]


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), r_max=st.integers(4, 12))
def test_every_walk_of_the_corpus_complies(seed, r_max):
    graph = graphs.generate(40, 4, 0.4, 0.08, 0.5, seed)
    rules = draw(graph, 2, 3, r_max, seed)
    walks = Process(graph, rules).sample(200, 32, np.random.default_rng(seed))
    score = Judge(graph, rules, CPU)(torch.from_numpy(walks))
    assert (score.edge.hits, score.edge.total) == (200 * 31, 200 * 31)
    assert score.rule.hits == score.rule.total > 0
    assert np.isin(walks[::2, 0], rules.vertices).all()
    assert np.isfinite(Process(graph, rules).surprise(walks)).all()


def test_rules_are_not_met_by_chance():
    graph = graphs.generate(60, 4, 0.3, 0.05, 0.5, 3)
    rules = draw(graph, 2, 3, 8, 3)
    assert len(set(rules.vertices.tolist())) == 8
    assert sorted(rules.steps.tolist()) == [3, 4, 4, 5, 6, 7, 7, 8]
    power = {r: np.linalg.matrix_power(graph.transition(), r) for r in range(3, 9)}
    for vertex, r, target in zip(rules.vertices, rules.steps, rules.targets, strict=True):
        assert target != graph.blocks[vertex]
        assert 0 < power[r][vertex, graph.blocks == target].sum() <= 0.4


def test_rules_that_no_graph_allows_are_an_error():
    graph = graphs.generate(12, 2, 0.9, 0.9, 0.0, 0)  # two blocks, each hit by half of all walks
    with pytest.raises(InputError, match=r"data\.jumpers_per_block: got 2, expected fewer"):
        draw(graph, 2, 3, 6, 0)


# --- compliance


def slow_count(graph: BlockGraph, rules: Rules, walks: list[list[int]]) -> tuple[int, int, dict[int, list[int]]]:
    valid = steps = 0
    by_steps = {int(r): [0, 0] for r in rules.steps}
    for walk in walks:
        for u, v in pairwise(walk):
            steps += 1
            valid += bool(graph.adjacency[u, v])
        for t, u in enumerate(walk):
            for jumper, r, target in zip(rules.vertices, rules.steps, rules.targets, strict=True):
                if u == jumper and t + r < len(walk):
                    by_steps[int(r)][0] += bool(graph.blocks[walk[t + r]] == target)
                    by_steps[int(r)][1] += 1
    return valid, steps, by_steps


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_compliance_agrees_with_a_slow_count(data):
    n, blocks = data.draw(st.integers(3, 9)), data.draw(st.integers(2, 3))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    names = tuple(str(b) for b in range(blocks)), tuple(str(v) for v in range(n))
    graph = BlockGraph(rng.random((n, n)) < 0.5, rng.integers(blocks, size=n), *names)
    count = data.draw(st.integers(1, n))
    rules = Rules(rng.permutation(n)[:count], rng.integers(1, 7, size=count), rng.integers(blocks, size=count))
    walks = rng.integers(n, size=(data.draw(st.integers(1, 6)), data.draw(st.integers(1, 10))))
    score = Judge(graph, rules, CPU)(torch.from_numpy(walks))
    valid, steps, by_steps = slow_count(graph, rules, walks.tolist())
    assert (score.edge.hits, score.edge.total) == (valid, steps)
    assert {r: [count.hits, count.total] for r, count in score.by_steps.items()} == by_steps
    assert (score.rule.hits, score.rule.total) == tuple(np.sum(list(by_steps.values()), axis=0))
    assert score.distinct == len({tuple(walk) for walk in walks.tolist()})


def test_nothing_checked_is_nothing_shown():
    graph, rules = rings()
    metrics = Judge(graph, rules, CPU)(torch.tensor([[0, 1, 2]])).metrics()
    assert [metrics[f"rule_compliance{end}"] for end in ("", "_low", "_high")] == [0.0, 0.0, 1.0]
    assert metrics["edge_compliance"] == 1.0


def test_copies_of_a_walk_do_not_narrow_the_interval():
    graph, rules = rings()
    judge, walks = Judge(graph, rules, CPU), torch.tensor([[0, 1, 2, 3], [0, 2, 4, 5]])
    once, often = judge(walks).metrics(), judge(walks.repeat(50, 1)).metrics()
    assert once == often


# --- the model


@pytest.mark.parametrize("positions", ["rotary", "learned"])
@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cached_generation_is_the_uncached_one_past_the_context(positions, sampled, dtype):
    torch.manual_seed(0)
    shape = {"d_model": 32, "n_layers": 3, "n_heads": 4, "dropout": 0.1}
    model = Transformer(50, 12, positions=positions, **shape).to(dtype).eval()
    with torch.no_grad():
        model.head.weight *= 8  # else its choices would hardly depend on the walk
    starts = torch.arange(50).repeat(2)
    walks = [
        model.generate(starts, 40, torch.Generator().manual_seed(1) if sampled else None, cached=cached)
        for cached in (True, False)
    ]
    assert torch.equal(*walks)
    assert torch.equal(walks[0][:, 0], starts)
    assert len(torch.unique(walks[0], dim=0)) == (100 if sampled else 50)


@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_each_layer_sees_the_last_context_tokens_and_no_future(positions):
    torch.manual_seed(0)
    model = Transformer(20, 5, d_model=16, n_layers=2, n_heads=2, positions=positions, dropout=0.0).eval()
    walk = torch.randint(20, (1, 30))
    changed = walk.clone()
    changed[0, 10] = (walk[0, 10] + 1) % 20
    moved = (model(walk) != model(changed)).any(-1)[0].nonzero().flatten().tolist()
    assert moved == list(range(10, 10 + 2 * (5 - 1) + 1))  # each of two layers hands it on by context - 1


@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_logits_depend_on_distances_only(positions):
    torch.manual_seed(0)
    model = Transformer(20, 4, d_model=16, n_layers=1, n_heads=2, positions=positions, dropout=0.0).eval()
    walk = torch.randint(20, (1, 30))
    torch.testing.assert_close(model(walk)[:, 20:], model(walk[:, 10:])[:, 10:])


# --- data


def test_training_windows_are_a_pure_function_of_seed_and_epoch():
    data, again = tiny(), tiny()
    assert data.corpus is again.corpus
    for one, other in zip(data.train(3), again.train(3), strict=True):
        assert torch.equal(one[0], other[0])
    assert not torch.equal(data.train(3)[0][0], data.train(4)[0][0])
    assert not torch.equal(data.train(3)[0][0], tiny(seed=1).train(3)[0][0])
    assert torch.equal(data.val()[0][0], tiny(seed=1).val()[0][0])
    assert tiny(batch_size=16).corpus is data.corpus


@pytest.mark.parametrize("windowing", ["random", "chunk"])
def test_windows_are_cut_from_the_corpus_with_their_surprise(windowing):
    data = tiny(windowing=windowing)
    batches = data.train(0)
    assert [len(tokens) for tokens, _ in batches] == [32] * 4
    walks, surprise = data.corpus.train
    known = {}
    for walk, row in zip(walks.tolist(), surprise.tolist(), strict=True):
        for offset in range(len(walk) - 16) if windowing == "random" else (0, 17):
            known[tuple(walk[offset : offset + 17])] = row[offset : offset + 16]
    for tokens, row in batches:
        for window, expected in zip(tokens.tolist(), row.tolist(), strict=True):
            assert known[tuple(window)] == expected


def test_chunks_of_one_epoch_are_all_different():
    data = tiny(windowing="chunk", windows=10_000, batch_size=64)
    assert data.windows == 256 * 2
    windows = torch.cat([tokens for tokens, _ in data.train(0)])
    assert len(torch.unique(windows, dim=0)) == len(windows) == 512


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"batch_size": 129},
            r"data\.batch_size: got 129, expected 1 to 128, the training samples of an epoch",
        ),
        ({"batch_size": 0}, r"data\.batch_size: got 0, expected 1 to 128"),
        ({"r_max": 13}, r"data\.r_max: got 13, expected at most 12, three quarters of data\.context"),
        ({"r_max": 2}, r"data\.r_max: got 2, expected at least 3"),
        ({"walk_length": 16}, r"data\.walk_length: got 16, expected at least 17"),
        ({"p_in": 1.5}, r"data\.p_in: got 1\.5, expected a probability above 0"),
        ({"windowing": "whole"}, r"data\.windowing: got 'whole', expected one of random, chunk"),
        ({"n_vertices": 8}, r"data\.n_vertices: got 8, expected at least 12"),
        (
            {"graph_dir": "nowhere"},
            r"data\.graph_dir: got 'nowhere', expected a folder with edges\.csv",
        ),
    ],
)
def test_wrong_values_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        tiny(**fields)


PRESETS = sorted((CONFIGS / "data").glob("walks_*.yaml"))


@pytest.mark.parametrize("file", PRESETS, ids=lambda file: file.stem)
def test_presets_name_every_field(file):
    fields = yaml.safe_load(file.read_text())
    assert fields.pop("_target_") == f"{WalkData.__module__}.WalkData"
    assert fields.keys() == set(signature(WalkData).parameters) - {"device", "seed"}


def test_defaults_are_those_of_the_small_preset():
    fields = yaml.safe_load((CONFIGS / "data" / "walks_small.yaml").read_text())
    defaults = {name: parameter.default for name, parameter in signature(WalkData).parameters.items()}
    assert all(defaults[name] == value for name, value in fields.items() if name != "_target_")
    fields = yaml.safe_load((CONFIGS / "trainable" / "walk_transformer.yaml").read_text())["trainable"]
    defaults = {name: parameter.default for name, parameter in signature(WalkTransformer).parameters.items()}
    assert all(defaults[name] == value for name, value in fields.items() if name != "_target_")


# --- the trainable


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"d_model": 30}, r"trainable\.d_model: got 30, expected a multiple of trainable\.n_heads = 4"),
        ({"d_model": 12}, r"trainable\.d_model: got 12, expected an even multiple of trainable\.n_heads = 4"),
        ({"n_layers": 0}, r"trainable\.n_layers: got 0, expected at least 1"),
        ({"sampled_every": 0}, r"trainable\.sampled_every: got 0, expected at least 1"),
        ({"dropout": 1.0}, r"trainable\.dropout: got 1\.0, expected a probability below 1"),
        ({"positions": "sine"}, r"trainable\.positions: got 'sine', expected one of rotary, learned"),
        ({"sequences": 201}, r"trainable\.sequences: got 201, expected 1 to 200, the held-out walks"),
    ],
)
def test_wrong_hyperparameters_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        WalkTransformer(tiny(), **({"sequences": 200, "n_heads": 4} | fields))


@pytest.mark.parametrize("fields", [{}, {"graph_dir": "connectome"}])
def test_the_oracle_passes_and_what_has_not_learned_fails(fields):
    data = tiny(**fields)
    torch.manual_seed(0)
    trainable = WalkTransformer(data, d_model=16, n_layers=1, n_heads=2, sequences=200).eval()
    oracle, trivial, untrained = (
        val(m) for m in (trainable.oracle(data), trainable.trivial(data), trainable.evaluate(data))
    )
    assert GATE.cleared(oracle)
    assert oracle["val/rule_compliance"] == oracle["val/edge_compliance"] == 1.0
    assert oracle["val/excess"] == 0.0
    assert oracle.keys() == trivial.keys() == untrained.keys()
    assert trivial["val/edge_compliance"] == 1.0
    assert trivial["val/rule_compliance"] < 0.6
    assert trivial["val/excess"] > 0
    assert not GATE.cleared(trivial)
    assert not GATE.cleared(untrained)
    assert GATE.score(oracle) > GATE.score(trivial) > GATE.score(untrained)


def test_evaluation_repeats_itself_and_draws_no_global_numbers():
    data = tiny()
    trainable = WalkTransformer(data, d_model=16, n_layers=1, n_heads=2, sequences=200).eval()
    before = torch.get_rng_state()
    assert trainable.evaluate(data) == trainable.evaluate(data)
    assert torch.equal(before, torch.get_rng_state())


def test_walks_are_sampled_where_that_is_due():
    data = tiny()
    trainable = WalkTransformer(data, d_model=16, n_layers=1, n_heads=2, sequences=200, sampled_every=3).eval()
    trainable.max_epochs = 5
    for trainable.epoch in range(1, 6):
        found = trainable.evaluate(data)
        assert ("sampled_rule_compliance" in found) == (trainable.epoch in (1, 4, 5))
        assert {"edge_compliance", "rule_compliance", "excess", "loss"} < found.keys()


def test_training_learns_the_edges_and_lowers_the_excess():
    data = tiny(windows=1024)
    torch.manual_seed(0)
    trainable = WalkTransformer(data, d_model=32, n_layers=1, n_heads=2, sequences=200, lr=1e-2)
    before = trainable.eval().evaluate(data)
    optimizer = trainable.train().optimizers()["main"]
    for epoch in range(3):
        for batch in data.train(epoch):
            optimizer.zero_grad()
            trainable(batch)["loss"].backward()
            optimizer.step()
    after = trainable.eval().evaluate(data)
    assert after["edge_compliance"] > 0.9 > before["edge_compliance"]
    assert 0 < after["excess"] < 0.7 * before["excess"]


@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_stacked_losses_are_the_solo_ones(positions):
    data = tiny()
    members = [WalkTransformer(data, d_model=16, n_heads=2, sequences=200, positions=positions) for _ in range(3)]
    stacks_as_it_trains_alone(members, data.train(0)[0])


def test_every_parameter_gets_a_gradient_and_recomputing_changes_nothing():
    data = tiny()
    grads = []
    for recompute in (False, True):
        torch.manual_seed(0)
        trainable = WalkTransformer(data, d_model=16, n_heads=2, sequences=200, positions="learned", dropout=0.1)
        trainable.recompute = recompute
        torch.manual_seed(1)
        trainable(data.train(0)[0])["loss"].backward()
        grads.append({name: param.grad for name, param in trainable.named_parameters()})
    for name, grad in grads[0].items():
        assert grad is not None and grad.abs().sum() > 0, name
        torch.testing.assert_close(grad, grads[1][name])


def test_random_walks_use_edges_only():
    graph, _ = rings()
    walks = random_walks(graph, np.arange(6), 200, np.random.default_rng(0))
    assert graph.adjacency[walks[:, :-1], walks[:, 1:]].all()
    counts = np.bincount((walks[:, 1:] - walks[:, :-1]).ravel() % 6, minlength=6)
    assert counts[1:4].min() > 0.28 * counts.sum()
