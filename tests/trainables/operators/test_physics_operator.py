"""The physics-informed operator: what it is given, its losses, what its gate tells apart, its data."""

from __future__ import annotations

from inspect import signature
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from gatesweep.core.loop import fit
from gatesweep.core.settings import Settings
from gatesweep.sweeps.config.build import build_run
from gatesweep.sweeps.config.compose import compose_config
from gatesweep.sweeps.config.groups import CONFIGS
from gatesweep.sweeps.config.schema import make_gate
from gatesweep.trainables.operators.data import PROBLEM_KEYS, OperatorData
from gatesweep.trainables.operators.operator import PhysicsOperator
from tests.support.examples import CPU

SIZES = {"rows": 9, "columns": 16, "n_labelled": 6, "n_unlabelled": 24, "n_val": 6, "n_test": 5, "batch_size": 4}
PROBLEMS: dict[str, dict[str, Any]] = {
    "heat": {"problem": "heat", "boundary": "periodic"},
    "insulated": {"problem": "heat", "boundary": "insulated", "columns": 17},
    "burgers": {},
    "advection": {"problem": "advection_diffusion", "speed": 1.0},
    "magneto_thermal": {"problem": "magneto_thermal"},
    "darcy": {"problem": "darcy", "medium": "smooth", "diffusion": None, "rows": 17, "columns": 17},
    "two_phase": {"problem": "darcy", "medium": "two_phase", "diffusion": None, "rows": 17, "columns": 17},
}


def small(**fields: Any) -> OperatorData:
    return OperatorData(**({"device": CPU, "seed": 0} | SIZES | fields))


def operator(data: OperatorData, seed: int = 0, **fields: Any) -> PhysicsOperator:
    torch.manual_seed(seed)
    return PhysicsOperator(data, **({"width": 6, "layers": 2, "modes_rows": 3, "modes_columns": 4} | fields))


def trained(data: OperatorData, epochs: int = 4, **fields: Any) -> dict[str, float]:
    *_, last = fit(operator(data, lr=0.01, **fields), data, Settings(max_epochs=epochs, clip_norm=1.0))
    return last.metrics


# --- what is given


@pytest.mark.parametrize("name", PROBLEMS)
def test_what_is_given_is_built_in_on_any_grid(name):
    data = small(**PROBLEMS[name])
    trainable = operator(data)
    for refined, at in ((False, trainable.coarse), (True, trainable.fine)):
        inputs, exact = data.held_out(refined=refined)
        of, _ = trainable.predict(inputs, at)
        given = at.envelope == 0
        torch.testing.assert_close(of.values[..., given], exact[..., given], rtol=0, atol=1e-6)
        assert (of.values - exact)[..., ~given].abs().max() > 0.01 * exact.abs().max()


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_network_that_gives_the_answer_leaves_no_loss_but_the_grids(name):
    """`answer` is what the network has to say: put in its place, it makes predictions the solutions."""
    data = small(**PROBLEMS[name], n_unlabelled=0)
    trainable = operator(data).eval()
    batch = data.train(0)[0]
    inputs, exact, _ = batch
    answer = torch.zeros_like(exact)
    trainable.problem.free(answer).copy_(trainable.answer(inputs, exact))
    wrong = trainable(batch)
    trainable.network.project = lambda hidden: answer
    right = trainable(batch)
    assert right["data"] < 1e-5
    assert trainable.answer(inputs, exact).square().mean().sqrt().item() == pytest.approx(1.0, rel=0.5)
    for name_of, loss in right.items():
        assert loss < (0.6 if name == "two_phase" and name_of != "data" else 0.15) * wrong[name_of], name_of


# --- losses


def test_the_terms_of_the_loss_are_those_that_apply():
    every = {"loss", "data", "physics", "conservation", "boundary", "likelihood", "kl"}
    burgers, insulated = small(), small(**PROBLEMS["insulated"])
    batch = burgers.train(0)[0]
    assert operator(burgers)(batch).keys() == every - {"boundary", "likelihood", "kl"}
    assert operator(burgers, residual="none")(batch).keys() == every - {"boundary", "likelihood", "kl", "physics"}
    assert operator(insulated, variational=True)(insulated.train(0)[0]).keys() == every
    found = operator(burgers, weight_physics=2.0, weight_conservation=3.0)(batch)
    expected = found["data"] + 2 * found["physics"] + 3 * found["conservation"]
    torch.testing.assert_close(found["loss"], expected)


def test_unsolved_samples_teach_by_the_equation_alone():
    data = small()
    trainable = operator(data)
    inputs, exact, unsolved = data.train(0)[0]
    found, other = trainable((inputs, exact, unsolved)), trainable((inputs, exact, unsolved.flip(-1) * 2))
    assert found["data"] == other["data"]
    assert found["physics"] != other["physics"] and found["conservation"] != other["conservation"]


def test_physics_helps_where_solutions_are_few():
    """The same network with and without the residual: fewer errors, and far smaller residuals."""
    data = small(problem="heat", boundary="periodic", n_labelled=2, n_unlabelled=64)
    without, with_physics = (trained(data, 10, weight_physics=weight) for weight in (0.0, 1.0))
    assert with_physics["val/residual_rms"] < 0.5 * without["val/residual_rms"]
    assert with_physics["val/rel_l2"] < without["val/rel_l2"]
    assert with_physics["val/rel_l2_double"] < without["val/rel_l2_double"]


def test_conservation_holds_mass():
    data = small()
    without, with_mass = (trained(data, weight_conservation=weight) for weight in (0.0, 30.0))
    assert with_mass["val/drift"] < 0.6 * without["val/drift"]


def test_the_boundary_is_learned_where_it_is_not_built_in():
    data = small(**PROBLEMS["insulated"])
    without, with_boundary = (trained(data, weight_boundary=weight) for weight in (0.0, 3.0))
    assert with_boundary["val/edge_error"] < 0.7 * without["val/edge_error"]


@pytest.mark.parametrize("balance", ["fixed", "running", "gradient", "uncertainty"])
@pytest.mark.parametrize("residual", ["spectral", "autograd"])
def test_every_balance_learns_with_every_residual(balance, residual):
    data = small()
    trainable = operator(data, balance=balance, residual=residual, lr=0.01)
    first, *_, last = fit(trainable, data, Settings(max_epochs=4, clip_norm=1.0))
    assert last.metrics["val/rel_l2"] < first.metrics["val/rel_l2"]
    assert last.metrics["val/residual_rms"] < first.metrics["val/residual_rms"]


def test_a_variance_of_ones_own_is_learned_and_judged():
    data = small(n_labelled=24, n_unlabelled=0)
    found = []
    for weight in (0.0, 0.3):
        weights = {"weight_likelihood": weight, "weight_kl": 0.0, "weight_physics": 0.1, "weight_conservation": 0.1}
        trainable = operator(data, variational=True, **weights, lr=0.01)
        *_, last = fit(trainable, data, Settings(max_epochs=15, clip_norm=1.0))
        found.append(last.metrics["val/coverage_error"])
    assert found[1] < 0.6 * found[0]
    held, log_variance = data.held_out(), trainable.predict(data.held_out()[0], trainable.coarse)[1]
    assert log_variance is not None and log_variance.shape == data.problem.free(held[1]).shape


# --- metrics


def test_metrics_of_fields_whose_errors_are_known():
    data = small()
    trainable = operator(data)
    inputs, exact = data.held_out()
    size = exact[:, 0, 0].square().mean(dim=1).sqrt()

    def judged(fields: Tensor) -> dict[str, float]:
        return trainable._judged(trainable.coarse, inputs, fields, exact)

    louder = judged(1.1 * exact)
    assert louder["rel_l2"] == pytest.approx(0.1, rel=1e-4)
    assert louder["given_error"] == pytest.approx(0.1 * exact[:, :, 0].abs().max().item(), rel=1e-4)
    assert louder["residual_ratio"] > 1
    t = data.grid.rows.coordinates().float()[:, None]
    heavier = judged(exact + 0.2 * t)
    assert heavier["drift"] == pytest.approx((0.2 / size).mean().item(), rel=1e-3)
    assert heavier["given_error"] == 0
    growing = judged(exact[:, :, :1] * (1 + t))  # energy 4 times that of the start
    assert growing["energy_increase"] == pytest.approx(3.0, rel=1e-4)


@pytest.mark.parametrize("noise", [0.02, 0.1])
def test_noise_on_the_solution_fails_the_gate_by_its_residual(noise):
    config = compose_config(["trainable=physics_operator"])
    data = OperatorData(device=CPU, **{key: one for key, one in config.data.items() if key != "_target_"})
    trainable = operator(data)
    inputs, exact = data.held_out()
    shake = noise * exact.std() * torch.randn(exact.shape, generator=torch.Generator().manual_seed(0))
    shake[:, :, 0] = 0
    found = trainable._judged(trainable.coarse, inputs, exact + shake, exact) | {"rel_l2_double": 0.0}
    missed = make_gate(config.gate).missed({f"val/{name}": value for name, value in found.items()})
    assert any("residual_ratio" in one for one in missed)
    assert any("energy_increase" in one for one in missed)


@pytest.mark.parametrize("name", ["operator_heat", "operator_darcy", "operator_magneto_thermal", "operator_burgers"])
def test_the_gates_of_other_problems_pass_solutions_and_stop_those_who_know_nothing(name):
    config = compose_config([f"experiment={name}", "resources=cpu", "device=cpu"])
    trainable, data = build_run(config)
    gate = make_gate(config.gate)
    found = [one(data) for one in (trainable.oracle, trainable.trivial)]
    passed, failed = (gate.missed({f"val/{key}": value for key, value in one.items()}) for one in found)
    assert passed == []
    assert any("rel_l2" in one for one in failed)


def test_evaluation_repeats_itself_and_draws_no_global_numbers():
    data = small()
    trainable = operator(data, variational=True).eval()
    before = torch.get_rng_state()
    found = trainable.evaluate(data)
    assert found == trainable.evaluate(data)
    assert torch.equal(before, torch.get_rng_state())
    assert trainable.oracle(data).keys() == trainable.trivial(data).keys() < found.keys()
    assert trainable.evaluate(data, "test") != found


def test_the_finer_grid_is_judged_when_it_is_due():
    data = small()
    found = [epoch.metrics for epoch in fit(operator(data, double_every=3), data, Settings(max_epochs=6))]
    assert ["val/rel_l2_double" in metrics for metrics in found] == [True, False, False, True, False, True]
    assert all("val/rel_l2" in metrics for metrics in found)


# --- data


@pytest.mark.parametrize("name", PROBLEMS)
def test_held_out_samples_are_the_same_on_both_grids_and_whatever_is_solved(name):
    data, more = small(**PROBLEMS[name]), small(**PROBLEMS[name], n_labelled=9, n_unlabelled=30)
    for part, count in (("val", 6), ("test", 5)):
        coarse, fine = data.held_out(part), data.held_out(part, refined=True)
        for one, other, again in zip(coarse, fine, more.held_out(part), strict=True):
            assert len(one) == count and one.isfinite().all()
            torch.testing.assert_close(other[..., ::2, ::2], one, rtol=1e-5, atol=1e-5)
            assert torch.equal(one, again)
    assert not torch.equal(data.held_out("val")[1][:5], data.held_out("test")[1])
    torch.testing.assert_close(more.labelled[1][:6], data.labelled[1], rtol=1e-3, atol=1e-5)


def test_an_epoch_passes_over_the_unsolved_samples_and_again_and_again_over_the_solved_ones():
    data = small()
    batches = data.train(0)
    assert [tuple(map(len, batch)) for batch in batches] == [(4, 4, 4)] * 6
    seen = torch.cat([unsolved for *_, unsolved in batches])
    assert len(seen.flatten(1).unique(dim=0)) == 24
    inputs, fields = data.labelled
    for given, known, _ in batches:
        rows = [(inputs == one).flatten(1).all(dim=1).nonzero().item() for one in given]
        assert len(set(rows)) == 4
        assert torch.equal(known, fields[rows])
    assert [tuple(map(len, batch)) for batch in small(n_unlabelled=0).train(0)] == [(4, 4, 0), (2, 2, 0)]
    assert [tuple(map(len, batch)) for batch in small(n_labelled=2).train(1)] == [(2, 2, 4)] * 6


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"diffusion": 0.0}, r"data\.diffusion: got 0\.0, expected above 0"),
        ({"diffusion": None}, r"data\.diffusion: got None, expected a value: data\.problem=burgers needs one"),
        ({"speed": 1.0}, r"data\.speed: got 1\.0, expected null: data\.problem=burgers has none"),
        ({"problem": "heat"}, r"data\.boundary: got None, expected a value: data\.problem=heat needs one"),
        ({"rows": 4}, r"data\.rows: got 4, expected at least 5"),
        ({"n_val": 0}, r"data\.n_val: got 0, expected at least 1"),
        ({"batch_size": 25}, r"data\.batch_size: got 25, expected 1 to 24"),
        ({"n_unlabelled": 0, "batch_size": 7}, r"data\.batch_size: got 7, expected 1 to 6"),
    ],
)
def test_wrong_data_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        small(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 0}, r"trainable\.width: got 0, expected at least 1"),
        ({"modes_rows": 6}, r"trainable\.modes_rows: got 6, expected 1 to 5, what the grid of the data resolves"),
        ({"modes_columns": 9}, r"trainable\.modes_columns: got 9, expected 1 to 8"),
        ({"weight_physics": -1.0}, r"trainable\.weight_physics: got -1\.0, expected at least 0"),
        ({"double_every": 0}, r"trainable\.double_every: got 0, expected at least 1"),
    ],
)
def test_wrong_hyperparameters_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        operator(small(), **fields)
    two_phase = small(**PROBLEMS["two_phase"])
    with pytest.raises(ValueError, match=r"trainable\.residual: got 'autograd', expected spectral, finite_difference"):
        operator(two_phase, residual="autograd")


@pytest.mark.parametrize("name", ["burgers", "heat", "advection_diffusion", "darcy", "magneto_thermal"])
def test_data_files_ask_for_what_their_problem_needs(name):
    fields = yaml.safe_load((CONFIGS / "data" / f"{name}.yaml").read_text())
    assert fields.pop("_target_") == f"{OperatorData.__module__}.OperatorData"
    assert fields.keys() == signature(OperatorData).parameters.keys() - {"device", "seed"}
    assert fields["problem"] == name
    given = {key for key in ("diffusion", "speed", "boundary", "medium") if fields[key] is not None}
    assert given == set(PROBLEM_KEYS[name])
