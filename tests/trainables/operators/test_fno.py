"""The Fourier neural operator: its transform against an FFT, other grids, derivatives, memory, compilation."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest
import torch
from torch import Tensor

from gatesweep.core.loop import fit
from gatesweep.core.precision import autocast
from gatesweep.core.settings import Settings
from gatesweep.trainables.operators.data import OperatorData
from gatesweep.trainables.operators.derivatives import GridField, NetworkField, Stencils
from gatesweep.trainables.operators.fno import FNO, PADDING, Spectral, Transform, coordinate_channels
from gatesweep.trainables.operators.grid import Axis, Grid
from gatesweep.trainables.operators.operator import PhysicsOperator
from tests.support.examples import CPU, stacks_as_it_trains_alone

TORUS = Grid(Axis(24, periodic=True), Axis(32, periodic=True))
TIMES = Grid(Axis(17, periodic=False), Axis(32, periodic=True))
MODES = (4, 5)


def small(**fields: Any) -> OperatorData:
    sizes = {"n_labelled": 6, "n_unlabelled": 12, "n_val": 5, "n_test": 5, "batch_size": 4}
    return OperatorData(**({"device": CPU, "seed": 0} | sizes | fields))


def operator(data: OperatorData, seed: int = 0, **fields: Any) -> PhysicsOperator:
    torch.manual_seed(seed)
    return PhysicsOperator(data, **({"width": 6, "layers": 2, "modes_rows": 4, "modes_columns": 5} | fields))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def amplitudes(field: Tensor, transform: Transform) -> Tensor:
    """(B, channels, 2 rows, columns), complex."""
    return torch.view_as_complex(transform(field).permute(2, 4, 0, 1, 3).contiguous())


def kept(rows: int) -> Tensor:
    """Where an FFT of so many rows has the modes that are kept."""
    return torch.cat([torch.arange(MODES[0]), torch.arange(rows - MODES[0], rows)])


# --- transform


def test_modes_are_those_of_an_fft():
    field = noise(2, 3, 24, 32)
    expected = torch.fft.rfft2(field, norm="forward")[..., kept(24), : MODES[1]]
    torch.testing.assert_close(amplitudes(field, Transform(TORUS, MODES)), expected, rtol=1e-4, atol=1e-6)


def test_an_axis_that_is_not_periodic_is_padded_with_zeros():
    field = noise(2, 3, 17, 32)
    field[..., [0, -1], :] *= 0.5  # the trapezoidal rule's weights
    padded = torch.nn.functional.pad(field, (0, 0, 0, round(16 * (1 + PADDING)) - 17))
    expected = torch.fft.rfft2(padded, norm="forward")[..., kept(20), : MODES[1]]
    field[..., [0, -1], :] *= 2
    torch.testing.assert_close(amplitudes(field, Transform(TIMES, MODES)), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("grid", "rows"), [(TORUS, 24), (TIMES, 20)])
def test_the_inverse_is_that_of_an_fft(grid, rows):
    modes = noise(2, 3, 2 * MODES[0], MODES[1], 2)
    spectrum = torch.zeros(2, 3, rows, 17, dtype=torch.complex64)
    spectrum[:, :, kept(rows), : MODES[1]] = torch.view_as_complex(modes)
    expected = torch.fft.irfft2(spectrum, s=(rows, 32), norm="forward")[..., : grid.shape[0], :]
    found = Transform(grid, MODES).inverse(modes.permute(2, 3, 0, 4, 1))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_spectral_layer_multiplies_each_mode_by_a_complex_matrix():
    torch.manual_seed(0)
    layer, field = Spectral(3, MODES), noise(2, 3, 24, 32)
    spectrum = torch.fft.rfft2(field, norm="forward")
    weight = torch.view_as_complex(layer.weight)
    mixed = torch.zeros_like(spectrum)
    mixed[:, :, kept(24), : MODES[1]] = torch.einsum("bikm,kmio->bokm", spectrum[:, :, kept(24), : MODES[1]], weight)
    expected = torch.fft.irfft2(mixed, s=(24, 32), norm="forward")
    torch.testing.assert_close(layer(field, Transform(TORUS, MODES)), expected, rtol=1e-4, atol=1e-5)


def test_the_same_network_answers_alike_on_a_finer_grid():
    """It is one function; what differs is the rule by which it is integrated in t, and that less and less."""
    torch.manual_seed(0)
    network = FNO(1, 1, coordinates=3, width=8, modes=MODES, layers=3)

    def answer(times: int) -> Tensor:
        grid = TIMES.refined(times)
        t, x = (one.float() for one in grid.coordinates())
        field = (1 + t) * torch.sin(2 * math.pi * x) + torch.cos(4 * math.pi * x - t)
        where, transform = coordinate_channels(grid), Transform(grid, MODES)
        hidden = network.hidden(field[None, None], where, transform, lambda block, *given: block(*given))
        return network.project(hidden)[..., ::times, ::times]

    finest = answer(8)
    errors = [((answer(times) - finest).norm() / finest.norm()).item() for times in (1, 2, 4)]
    assert errors[0] < 0.02 and errors[1] < errors[0] / 3 and errors[2] < errors[1] / 3


# --- derivatives through the network


def test_the_chain_rule_is_exact_where_the_grid_would_alias():
    """The hidden field is band-limited in x: on a grid eight times as fine the projection does not alias."""
    torch.manual_seed(0)
    network = FNO(1, 2, coordinates=0, width=5, modes=MODES, layers=1).double()
    grid, fine = TIMES, TIMES.refined(8)
    spectrum = torch.zeros(3, 5, 17, 17, dtype=torch.complex128)
    spectrum[..., :5] = torch.randn(3, 5, 17, 5, dtype=torch.complex128)
    hidden = torch.fft.irfft(spectrum, n=32, norm="forward")
    finer = torch.fft.irfft(torch.nn.functional.pad(spectrum, (0, 112)), n=256, norm="forward")
    envelope, base = grid.rows.coordinates()[:, None].expand(grid.shape), torch.zeros(3, 2, *grid.shape).double()

    spread = torch.tensor([[[1.0]], [[2.0]]]).double()
    found = NetworkField(hidden, network, base, envelope, spread, Stencils(grid, "spectral").double())
    exact = GridField(envelope[:, :1] * spread * network.project(finer), Stencils(fine, "spectral").double())
    aliased = GridField(found.values, Stencils(grid, "spectral").double())
    torch.testing.assert_close(found.values, exact.values[..., ::8], rtol=1e-9, atol=1e-9)
    for order in (1, 2):
        expected = exact.derivative(axis=1, order=order)[..., ::8]
        size = expected.abs().max()
        assert (
            found.derivative(axis=1, order=order) - expected
        ).abs().max() < 3e-5 * size  # the matrices are of single precision
        assert (aliased.derivative(axis=1, order=order) - expected).abs().max() > 1e-3 * size


@pytest.mark.parametrize("problem", ["burgers", "darcy", "magneto_thermal"])
def test_a_smooth_networks_derivatives_agree_however_they_are_found(problem):
    """Parameters so small that the network is nearly linear: its residual is the same by each of the three ways."""
    grid = {"rows": 33, "columns": 33} if problem == "darcy" else {"rows": 33, "columns": 32}
    fields = {"diffusion": None, "medium": "smooth"} if problem == "darcy" else {}
    data = small(problem=problem, **grid, **fields)
    found = {}
    for residual in ("spectral", "finite_difference", "autograd"):
        trainable = operator(data, residual=residual, modes_rows=2, modes_columns=3)
        with torch.no_grad():
            for block in trainable.network.blocks:
                block.spectral.weight *= 0.3
        found[residual] = trainable(data.train(0)[0])["physics"].item()
    assert found["finite_difference"] == pytest.approx(found["spectral"], rel=0.02)
    assert found["autograd"] == pytest.approx(found["spectral"], rel=0.02)
    assert found["spectral"] > 1e-3


@pytest.mark.parametrize("residual", ["spectral", "autograd"])
def test_residuals_teach_every_parameter_of_the_network(residual):
    data = small()
    trainable = operator(data, residual=residual)
    trainable(data.train(0)[0])["physics"].backward()
    assert all(param.grad is not None and param.grad.abs().max() > 0 for param in trainable.network.parameters())


# --- what the core does to it


def saved_bytes(trainable: PhysicsOperator, batch: Any) -> tuple[int, dict[str, Tensor]]:
    """What the forward pass keeps for the backward pass, parameters and buffers apart; and the gradients."""
    known = {value.untyped_storage().data_ptr() for value in (*trainable.parameters(), *trainable.buffers())}
    kept_bytes = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept_bytes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = trainable(batch)["loss"]
    trainable.zero_grad()
    total = sum(kept_bytes.values())
    loss.backward()
    return total, {name: param.grad.clone() for name, param in trainable.named_parameters()}


def test_recomputed_blocks_keep_their_input_alone_and_give_the_same_gradients():
    data = small()
    batch = data.train(0)[0]
    kept_bytes: dict[bool, list[int]] = {False: [], True: []}
    for layers in (2, 6):
        trainable = operator(data, layers=layers)
        gradients = {}
        for recompute in (False, True):
            trainable.recompute = recompute
            total, gradients[recompute] = saved_bytes(trainable, batch)
            kept_bytes[recompute].append(total)
        for name, gradient in gradients[False].items():
            torch.testing.assert_close(gradients[True][name], gradient, rtol=1e-5, atol=1e-7)
    of_a_layer = {recompute: (more - few) / 4 for recompute, (few, more) in kept_bytes.items()}
    samples = len(batch[0]) + len(batch[2])
    assert of_a_layer[True] == samples * 6 * 17 * 32 * 4  # a hidden field in single precision
    assert of_a_layer[False] > 2 * of_a_layer[True]


def test_half_precision_keeps_residuals_in_full():
    data = small()
    trainable = operator(data)
    batch = data.train(0)[0]
    full, oracle = trainable(batch), trainable.oracle(data)
    with autocast("bf16", CPU):
        half = trainable(batch)
    assert half["loss"] != full["loss"]
    with autocast("bf16", CPU):
        assert trainable.oracle(data) == oracle  # as all that is judged, in full precision
    for name, loss in full.items():
        assert half[name].dtype == torch.float32
        torch.testing.assert_close(half[name], loss, rtol=0.05, atol=1e-4)


@pytest.mark.parametrize("fields", [{}, {"residual": "autograd"}, {"variational": True}, {"balance": "running"}])
def test_stacked_operators_train_as_each_alone(fields):
    data = small()
    members = [
        operator(data, seed, weight_physics=weight, **fields).eval() for seed, weight in enumerate((0.0, 0.1, 3.0))
    ]
    stacks_as_it_trains_alone(members, data.train(0)[0], rtol=1e-4, atol=1e-6)


def test_stacked_operators_have_the_gradients_of_each_alone():
    from torch.func import functional_call, grad, stack_module_state, vmap

    data = small()
    batch = data.train(0)[0]
    members = [operator(data, seed, weight_physics=1.0) for seed in range(2)]
    params, buffers = stack_module_state(members)
    stacked = vmap(grad(lambda p, b: functional_call(members[0], (p, b), (batch,))["loss"]))(params, buffers)
    for position, member in enumerate(members):
        member(batch)["loss"].backward()
        for name, param in member.named_parameters():
            torch.testing.assert_close(stacked[name][position], param.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's compiler of its own
def test_compiled_it_trains_as_it_does_as_written():
    found, began = {}, time.perf_counter()
    for compiled in (False, True):
        data = small(n_labelled=8, n_unlabelled=8)  # batches of one size: another would be compiled again
        trainable = operator(data, layers=1)
        (epoch,) = fit(trainable, data, Settings(max_epochs=1, compile=compiled))
        found[compiled] = epoch.losses
    assert found[True] == pytest.approx(found[False], rel=1e-3)
    assert time.perf_counter() - began < 300
