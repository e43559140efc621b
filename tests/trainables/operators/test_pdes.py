"""Differential equations: matrices of derivatives, references against other solutions, residuals, what is conserved."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from gatesweep.core.data import generator
from gatesweep.trainables.operators import reference
from gatesweep.trainables.operators.darcy import Darcy
from gatesweep.trainables.operators.derivatives import GridField, Stencils, interior
from gatesweep.trainables.operators.grid import Axis, Grid, along, derivative_matrix
from gatesweep.trainables.operators.magneto_thermal import MagnetoThermal
from gatesweep.trainables.operators.problems import AdvectionDiffusion, Burgers, InsulatedHeat, Problem

RING, ROD = Axis(32, periodic=True), Axis(17, periodic=False)
PROBLEMS: dict[str, Problem] = {
    "heat": AdvectionDiffusion(0.05),
    "insulated": InsulatedHeat(0.05),
    "advection": AdvectionDiffusion(0.02, speed=0.7),
    "burgers": Burgers(0.05),
    "magneto_thermal": MagnetoThermal(0.02),
    "darcy": Darcy("smooth"),
}


def drawn(problem: Problem, count: int = 4) -> Tensor:
    return problem.draw(count, generator(3))


def weights(grid: Grid) -> tuple[Tensor, Tensor]:
    return grid.rows.quadrature(), grid.columns.quadrature()


def of_field(fields: Tensor, grid: Grid, residual="spectral") -> GridField:
    stencils = Stencils(grid, residual)
    for name, axis in (("matrix_0", grid.rows), ("matrix_1", grid.columns)):
        kind = "spectral" if residual == "spectral" else "finite_difference"
        for order in (1, 2):  # in double precision, for what the equations leave over is small
            stencils.register_buffer(f"{name}_{order}", derivative_matrix(axis, order, kind), persistent=False)
    return GridField(fields, stencils)


# --- derivatives


@pytest.mark.parametrize("order", [1, 2])
def test_spectral_derivatives_are_those_of_waves(order):
    x = RING.coordinates()
    for wave in (1, 5, 15):
        turn = 2 * math.pi * wave
        found = derivative_matrix(RING, order, "spectral") @ torch.sin(turn * x + 0.3)
        exact = turn * torch.cos(turn * x + 0.3) if order == 1 else -(turn**2) * torch.sin(turn * x + 0.3)
        torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-9 * turn**order)
    fastest = torch.cos(2 * math.pi * 16 * x)  # half the sampling rate: its sine is not seen
    expected = 0 * x if order == 1 else -((32 * math.pi) ** 2) * fastest
    torch.testing.assert_close(derivative_matrix(RING, order, "spectral") @ fastest, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("order", [1, 2])
def test_differences_are_exact_for_polynomials_at_the_ends_too(order):
    x = ROD.coordinates()
    for power in range(5):
        found = derivative_matrix(ROD, order, "finite_difference") @ x**power
        falling = math.prod(power - one for one in range(order))
        exact = falling * x ** (power - order) if power >= order else 0 * x
        torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("periodic", [True, False])
def test_differences_are_of_fourth_order_inside(order, periodic):
    errors = []
    for points in (32, 64):
        axis = Axis(points, periodic)
        x = axis.coordinates()
        found = derivative_matrix(axis, order, "finite_difference") @ torch.sin(2 * math.pi * x)
        turn = 2 * math.pi
        exact = turn * torch.cos(turn * x) if order == 1 else -(turn**2) * torch.sin(turn * x)
        errors.append((found - exact)[2:-2].abs().max().item())
    assert 13 < errors[0] / errors[1] < 20


def test_refined_axes_hold_the_coarse_points_and_weights_integrate():
    for axis in (RING, ROD):
        torch.testing.assert_close(axis.refined(3).coordinates()[::3], axis.coordinates())
        assert axis.quadrature().sum().item() == pytest.approx(1.0)
    assert (ROD.quadrature() @ ROD.coordinates()).item() == pytest.approx(0.5)
    assert (RING.quadrature() @ torch.cos(2 * math.pi * RING.coordinates()).square()).item() == pytest.approx(0.5)


def test_axes_are_not_mixed_up():
    grid = Grid(ROD, RING)
    t, x = grid.coordinates()
    field = t**3 * torch.sin(2 * math.pi * x)
    rows = along(derivative_matrix(ROD, 1, "spectral"), field, 0)
    torch.testing.assert_close(rows, 3 * t**2 * torch.sin(2 * math.pi * x))
    columns = along(derivative_matrix(RING, 1, "spectral"), field, 1)
    torch.testing.assert_close(columns, t**3 * 2 * math.pi * torch.cos(2 * math.pi * x))


# --- references


def test_burgers_is_what_cole_and_hopf_say():
    """u = -2 nu phi_x / phi, where phi = c + exp(-nu (2 pi)^2 t) cos(2 pi x) solves the heat equation."""
    viscosity, c, turn = 0.03, 1.3, 2 * math.pi
    x, times = Axis(128, periodic=True).coordinates(), torch.linspace(0, 1, 9, dtype=torch.float64)

    def exact(t: Tensor) -> Tensor:
        fading = torch.exp(-viscosity * turn**2 * t[:, None])
        return 2 * viscosity * turn * fading * torch.sin(turn * x) / (c + fading * torch.cos(turn * x))

    found = reference.burgers(exact(times[:1]), times, viscosity)
    torch.testing.assert_close(found[0], exact(times), rtol=0, atol=1e-8)


@pytest.mark.parametrize(("viscosity", "tolerance"), [(0.05, 1e-6), (0.02, 1e-5), (0.01, 1e-3)])
def test_burgers_has_converged_in_time_and_space(viscosity, tolerance):
    problem = Burgers(viscosity)
    start = drawn(problem, 20)
    times = torch.linspace(0, 1, 5, dtype=torch.float64)

    def solve(points: int, steps: int) -> Tensor:
        at = reference.series(start, Axis(points, periodic=True).coordinates())
        return reference.burgers(at, times, viscosity, steps=steps)[..., :: points // 128]

    used = solve(128, 512)
    for other in (solve(128, 1024), solve(256, 1024)):
        assert ((used - other).norm(dim=(1, 2)) / other.norm(dim=(1, 2))).max() < tolerance


def test_burgers_agrees_with_a_method_of_lines():
    problem, axis = Burgers(0.05), Axis(64, periodic=True)
    start = drawn(problem, 1)
    u = reference.series(start, axis.coordinates())
    first, second = (derivative_matrix(axis, order, "spectral").numpy() for order in (1, 2))
    found = solve_ivp(
        lambda t, u: -u * (first @ u) + 0.05 * (second @ u), (0, 1), u[0].numpy(), "Radau", [1.0], rtol=1e-9, atol=1e-11
    )
    grid = problem.grid(5, 64)
    exact = problem.solve(start, grid)[0, 0, -1]
    np.testing.assert_allclose(found.y[:, 0], exact.numpy(), atol=1e-6)


def test_darcy_is_of_second_order_for_a_solution_made_up():
    """u = sin(pi x) sin(2 pi y) in a = 2 + sin(x + 3 y): the source follows."""
    errors = []
    for points in (17, 33, 65):
        x, y = np.meshgrid(*[np.linspace(0, 1, points)] * 2, indexing="ij")
        u, a = np.sin(np.pi * x) * np.sin(2 * np.pi * y), 2 + np.sin(x + 3 * y)
        slope_x, slope_y = np.cos(x + 3 * y), 3 * np.cos(x + 3 * y)
        u_x, u_y = (
            np.pi * np.cos(np.pi * x) * np.sin(2 * np.pi * y),
            2 * np.pi * np.sin(np.pi * x) * np.cos(2 * np.pi * y),
        )
        source = -(slope_x * u_x + slope_y * u_y - 5 * np.pi**2 * a * u)
        errors.append(np.abs(reference.darcy(a, source) - u).max())
    assert 3.7 < errors[0] / errors[1] < 4.3 and 3.7 < errors[1] / errors[2] < 4.3
    assert errors[2] < 2e-3


def test_darcy_keeps_the_flux_where_the_medium_jumps():
    """Across layers a = 1 and 4 that meet in the middle, far from the other sides, u is that of one dimension."""
    points = 81
    a = np.where(np.arange(points) < points // 2 + 0.5, 1.0, 4.0)[:, None] * np.ones(points)
    u = reference.darcy(a)
    slopes = np.diff(u[:, 40]) * (points - 1)  # on the faces between rows: the jump is on that after row 40
    flux = 2 * a[1:, 40] * a[:-1, 40] / (a[1:, 40] + a[:-1, 40]) * slopes
    assert slopes[39] / slopes[41] > 3  # the slope jumps, as a does, ...
    assert np.abs(np.diff(flux)).max() < 0.02  # ... and the flux does not


def test_magneto_thermal_agrees_with_another_solver():
    problem, grid = MagnetoThermal(0.02), MagnetoThermal(0.02).grid(5, 48)
    start = drawn(problem, 2)
    found = problem.solve(start, grid)
    inputs = problem.inputs(start, grid)
    first, second = (derivative_matrix(grid.columns, order, "spectral").numpy() for order in (1, 2))
    spatial = reference.series(problem._parts(start)[2], grid.columns.coordinates())
    for sample in range(2):
        f, p = problem._parts(start)[3][sample].tolist()

        def rate(t, flat, sample=sample, f=f, p=p):
            a, warmth = flat.reshape(2, -1)
            source = spatial[sample].numpy() * math.cos(2 * math.pi * (f * t + p))
            eta = problem.diffusion * (1 + problem.rise * warmth)
            heat = problem.diffusion * second @ warmth + problem.heating * (first @ a) ** 2
            return np.concatenate([eta * (second @ a) + source, heat])

        start_fields = inputs[sample, :2, 0].numpy().ravel()
        other = solve_ivp(rate, (0, 1), start_fields, "Radau", grid.rows.coordinates().numpy(), rtol=1e-8, atol=1e-10)
        expected = other.y.T.reshape(5, 2, 48).transpose(1, 0, 2)
        np.testing.assert_allclose(found[sample].numpy(), expected, atol=2e-6)


def test_a_potential_that_neither_heats_nor_is_heated_fades_as_heat_does():
    problem = replace(MagnetoThermal(0.02), rise=0.0, heating=0.0)
    start, grid = drawn(problem, 3), problem.grid(9, 32)
    potential, warmth, source, _ = problem._parts(start)
    source.zero_()
    heat = AdvectionDiffusion(0.02)
    found = problem.solve(start, grid)
    for field, coefficients in ((0, potential), (1, warmth)):
        torch.testing.assert_close(found[:, field], heat.solve(coefficients, grid)[:, 0], rtol=0, atol=1e-6)


# --- residuals


@pytest.mark.parametrize("residual", ["spectral", "finite_difference"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_solutions_leave_less_and_less_of_the_equation_as_the_grid_is_refined(name, residual):
    problem, left = PROBLEMS[name], []
    start = drawn(problem)
    for rows, columns in ((17, 33 if name in ("insulated", "darcy") else 32), (33, 65 if name == "darcy" else 64)):
        grid = problem.grid(rows, columns)
        inputs = problem.inputs(start, grid)
        of = of_field(problem.solve(start, grid), grid, residual)
        rate = problem.rate(inputs, of).square().mean().sqrt()
        left.append((interior(problem.residual(inputs, of), grid).square().mean().sqrt() / rate).item())
    assert left[1] < 0.05
    assert left[0] / left[1] > 1.8


@pytest.mark.parametrize("name", ["heat", "insulated", "advection", "burgers", "magneto_thermal"])
def test_the_residual_sees_a_wrong_coefficient(name):
    problem = PROBLEMS[name]
    grid = problem.grid(33, 65 if name == "insulated" else 64)
    start = drawn(problem)
    inputs, of = problem.inputs(start, grid), of_field(problem.solve(start, grid), grid)
    wrong = replace(problem, diffusion=1.2 * problem.diffusion)
    right, other = (interior(one.residual(inputs, of), grid).square().mean().sqrt() for one in (problem, wrong))
    assert other > 4 * right


def test_darcy_by_volumes_and_by_derivatives_is_the_same_equation():
    problem = Darcy("smooth")
    grid = problem.grid(65, 65)
    start = drawn(problem, 2)
    inputs = problem.inputs(start, grid)
    field = problem.envelope(grid) * torch.sin(3 * grid.coordinates()[1])  # no solution: residuals are large
    of = of_field(field.expand(2, 1, *grid.shape), grid)

    class Other:  # not a field on a grid, as far as the problem knows
        values, stencils = of.values, of.stencils
        derivative = staticmethod(of.derivative)

    volumes, derivatives = (interior(problem.residual(inputs, one), grid) for one in (of, Other()))
    assert volumes.abs().max() > 5
    assert (volumes - derivatives).norm() < 0.003 * derivatives.norm()


# --- what is given and what is conserved


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_envelope_vanishes_where_the_base_is_the_solution_and_only_there(name):
    problem = PROBLEMS[name]
    grid = problem.grid(9, 17)
    start = drawn(problem)
    base, exact, envelope = (
        problem.base(problem.inputs(start, grid)),
        problem.solve(start, grid),
        problem.envelope(grid),
    )
    given = envelope.abs() < 1e-12
    torch.testing.assert_close(base[..., given], exact[..., given], rtol=0, atol=1e-9)
    assert not (problem.free(envelope).abs() < 1e-12).any()
    assert problem.free(envelope).numel() == (~given).sum()


@pytest.mark.parametrize("name", PROBLEMS)
def test_solutions_conserve_and_what_is_off_is_measured(name):
    problem = PROBLEMS[name]
    grid = problem.grid(33, 65 if name in ("insulated", "darcy") else 64)
    start = drawn(problem)
    inputs, exact = problem.inputs(start, grid), problem.solve(start, grid)
    drift = problem.drift(inputs, of_field(exact, grid), weights(grid))
    assert drift.abs().max() < (0.02 if name in ("darcy", "magneto_thermal") else 1e-6)
    if name == "darcy":
        off = problem.drift(inputs, of_field(1.1 * exact, grid), weights(grid))
        torch.testing.assert_close(off, 1.1 * drift + 0.1)
        return
    field = len(problem.fields) - 1
    size = problem.base(inputs)[:, field, 0].square() @ weights(grid)[1]
    moved = exact.clone()
    moved[:, field] += 0.1
    off = problem.drift(inputs, of_field(moved, grid), weights(grid))
    torch.testing.assert_close(off - drift, (0.1 / size.sqrt())[:, None].expand_as(drift))


@pytest.mark.parametrize("name", ["heat", "insulated", "advection", "burgers"])
def test_energy_only_falls(name):
    problem = PROBLEMS[name]
    grid = problem.grid(17, 33 if name == "insulated" else 32)
    exact = problem.solve(drawn(problem), grid)
    energy = problem.energy(exact, weights(grid))
    assert energy is not None and (energy.diff(dim=1) < 1e-12).all()
    torch.testing.assert_close(energy, exact[:, 0].square() @ weights(grid)[1])


def test_insulated_ends_have_no_slope():
    problem = PROBLEMS["insulated"]
    grid = problem.grid(17, 65)
    of = of_field(problem.solve(drawn(problem), grid), grid)
    edge = problem.edge(of)
    assert edge is not None and edge.shape == (4, 1, 17, 2)
    assert edge.abs().max() < 0.02 * of.derivative(axis=1, order=1).abs().max()
    assert PROBLEMS["heat"].edge(of) is None


def test_random_functions_have_the_size_and_spread_that_they_should():
    found = reference.series(reference.draw_series(4000, generator(0), mean=0.25), RING.coordinates())
    assert found.mean(dim=1).std().item() == pytest.approx(0.25, rel=0.05)
    about = found - found.mean(dim=1, keepdim=True)
    assert about.square().mean().sqrt().item() == pytest.approx(0.6, rel=0.05)
    smooth, phases = Darcy("smooth"), Darcy("two_phase")
    grid = smooth.grid(33, 33)
    log = smooth.inputs(smooth.draw(500, generator(0)), grid).log()
    assert log.mean().item() == pytest.approx(0.0, abs=0.05)
    assert 0.4 < log.std().item() < 0.8
    media = phases.inputs(phases.draw(500, generator(0)), grid)
    assert set(media.unique().tolist()) == {3.0, 12.0}
    assert (media == 12).double().mean().item() == pytest.approx(0.5, abs=0.05)
