"""The machine behind the bearing data: against scipy's solvers, its own energy, and the spectra of its faults."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.signal import StateSpace, lsim
from torch import Tensor

from gatesweep.trainables.operators.bearing_figures import envelope_spectrum
from gatesweep.trainables.operators.faults import BLOCKS, CLASSES, GEOMETRY, PLACES, RATE, SAMPLES, simulate
from gatesweep.trainables.operators.motor import FLOWS, Bearing, Casing, Drive, Motor, casing_residual, quadratic

DT = 1 / RATE


def held_inputs(steps: int, n: int = 1) -> Tensor:
    """(n, steps, 2): voltages and torques that jump at every step."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.rand(n, steps, 2, generator=generator, dtype=torch.float64)
    return torch.tensor([20.0, 0.1]) + drawn * torch.tensor([15.0, 0.5])


def derivative(motor: Motor, state: np.ndarray, v: float, tau: float) -> list[float]:
    i, w, T = state
    return [
        (v - motor.resistance * i - motor.constant * w) / motor.inductance,
        (motor.constant * i - motor.friction * w - tau) / motor.inertia,
        (motor.resistance * i**2 + motor.friction * w**2 - motor.cooling * (T - motor.ambient)) / motor.capacity,
    ]


def test_the_drive_is_the_solution_of_its_equations():
    motor, block = Motor(), 16 * DT
    inputs = held_inputs(12)
    start = torch.tensor([[2.0, 210.0, 31.0]], dtype=torch.float64)
    found = Drive(motor, block).run(start, inputs)[0]
    state = start[0].numpy()
    for held, reached in zip(inputs[0].tolist(), found[1:], strict=True):
        exact = solve_ivp(
            lambda t, y, held=held: derivative(motor, y, *held), (0, block), state, rtol=1e-11, atol=1e-12
        )
        state = exact.y[:, -1]
        np.testing.assert_allclose(reached.numpy(), state, rtol=1e-8)
    # Sixteen small steps are one large one.
    fine = Drive(motor, DT).run(start, inputs.repeat_interleave(16, dim=1))[0]
    torch.testing.assert_close(fine[::16], found, rtol=1e-12, atol=0)


def test_energy_is_conserved_exactly():
    """What the source gives = what is stored, lost in copper and friction, and done to the load."""
    drive = Drive(Motor(), 16 * DT)
    inputs = held_inputs(64, n=5)
    states = drive.run(torch.tensor([[2.0, 210.0, 31.0]], dtype=torch.float64).repeat(5, 1), inputs)
    flows = dict(zip(FLOWS, drive.flows(states[:, :-1], inputs).unbind(dim=-1), strict=True))
    assert drive.imbalance(states, inputs).abs().max() < 1e-12 * flows["input"].abs().max()
    summed = flows["input"].sum(dim=1) - sum(flows[name].sum(dim=1) for name in ("copper", "friction", "load"))
    torch.testing.assert_close(summed, drive.stored(states[:, -1]) - drive.stored(states[:, 0]), rtol=1e-10, atol=1e-12)
    # And each flow is the integral of what it says, here by a fine sum in time.
    fine = Drive(Motor(), 16 * DT / 2000)
    path = fine.run(states[:1, 0], inputs[:1, :1].expand(1, 2000, 2))[0]
    i, w = path[:, 0], path[:, 1]
    v, tau = inputs[0, 0]
    for name, power in {"input": v * i, "copper": 0.6 * i * i, "friction": 2e-4 * w * w, "load": tau * w}.items():
        summed = torch.trapezoid(power, dx=16 * DT / 2000)
        torch.testing.assert_close(flows[name][0, 0], summed, rtol=1e-6, atol=0)
    heat = Motor().capacity * (states[:, -1, 2] - states[:, 0, 2])
    assert (heat < (flows["copper"] + flows["friction"]).sum(dim=1)).all()  # the rest is cooled away


def test_quadratic_integrals_of_a_known_decay():
    # y' = -2 y: integral of y^2 exp(2 r t) over T is (1 - exp((2r - 4) T)) / (4 - 2r).
    found = quadratic(torch.tensor([[-2.0]]).double(), torch.ones(1, 1).double(), 0.7, shift=0.3)
    assert found.item() == pytest.approx((1 - math.exp((0.6 - 4) * 0.7)) / 3.4, rel=1e-12)


def test_a_steady_drive_stays():
    motor = Motor()
    v, tau = torch.tensor([24.0, 31.0]).double(), torch.tensor([0.1, 0.4]).double()
    states = Drive(motor, 0.01).run(motor.steady(v, tau), torch.stack([v, tau], dim=-1)[:, None].expand(2, 50, 2))
    torch.testing.assert_close(states[:, -1], states[:, 0], rtol=1e-10, atol=0)
    assert 150 < states[0, 0, 1] < 330  # rad/s


@pytest.mark.parametrize(("hertz", "zeta"), [(2000.0, 0.06), (3900.0, 0.02)])
def test_the_casing_is_that_of_scipy(hertz, zeta):
    omega = 2 * math.pi * hertz
    force = torch.randn(1, 300, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    casing = Casing(torch.tensor([omega], dtype=torch.float64), torch.tensor([zeta], dtype=torch.float64), DT)
    found = casing.run(force)[0]
    system = StateSpace([[0, 1], [-(omega**2), -2 * zeta * omega]], [[0], [omega**2]], np.eye(2), np.zeros((2, 1)))
    padded = np.append(force[0].numpy(), 0.0)
    _, exact, _ = lsim(system, padded, np.arange(301) * DT, interp=False)
    np.testing.assert_allclose(found[:, 0], exact[:, 0], rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(found[:, 1], exact[:, 1] / omega, rtol=1e-8, atol=1e-9)


def test_residual_of_the_casing_is_zero_for_its_solution_alone():
    frequency, damping = torch.tensor([2e4, 1.4e4]).double(), torch.tensor([0.03, 0.05]).double()
    force = torch.randn(2, 200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    casing = Casing(frequency, damping, DT)
    x = casing.run(force)[..., 0]
    assert casing_residual(x, force, casing.taps).abs().max() < 1e-10
    assert casing_residual(x.float(), force.float(), casing.taps.float()).abs().max() < 1e-4
    rms = casing_residual(torch.zeros_like(x), force, casing.taps).square().mean(dim=-1).sqrt()
    torch.testing.assert_close(rms, torch.ones_like(rms))
    other = Casing(1.02 * frequency, damping, DT).run(force)[..., 0]
    assert (casing_residual(other, force, casing.taps).square().mean(dim=-1).sqrt() > 0.05).all()


def test_characteristic_orders_are_those_of_the_6205():
    """Source: Smith and Randall, Mech. Syst. Signal Process. 64 (2015) 100, table 2; the ball strikes once a spin."""
    orders = Bearing().orders
    assert orders["outer"] == pytest.approx(3.5848, abs=5e-4)
    assert orders["inner"] == pytest.approx(5.4152, abs=5e-4)
    assert orders["ball"] == pytest.approx(2.357, abs=5e-4)
    assert orders["cage"] == pytest.approx(0.3983, abs=5e-4)
    assert orders["outer"] + orders["inner"] == pytest.approx(9)  # each ball passes both races
    assert orders["outer"] == pytest.approx(9 * orders["cage"])
    tilted = Bearing(contact=0.5).orders
    assert tilted["outer"] > orders["outer"] and tilted["inner"] < orders["inner"]


# --- simulated faults


def test_windows_solve_their_equations():
    windows = simulate(1, 3, data_seed=0, part=0)
    drive = Drive(Motor(), (SAMPLES // BLOCKS) / RATE)
    torch.testing.assert_close(
        drive.step(windows.states[:, :-1], windows.inputs), windows.states[:, 1:], rtol=1e-10, atol=1e-9
    )
    casing = Casing(windows.frequency, windows.damping, 1 / RATE)
    state = windows.casing[:, 0]
    for sample in range(40):
        state = torch.einsum("nij,nj->ni", casing.step, state) + casing.push * windows.force[:, sample, None]
        torch.testing.assert_close(state, windows.casing[:, sample + 1])
    moved = (windows.states - windows.states[:, :1]).abs().amax(dim=1).median(dim=0).values
    assert (moved > torch.tensor([1.0, 10.0, 0.2])).all()  # A, rad/s, K


def test_each_fault_shows_at_its_own_order():
    windows = simulate(6, 4, data_seed=1, part=0)
    orders = torch.tensor([GEOMETRY.orders[place] for place in PLACES])
    mean = windows.states[..., 1].mean(dim=1)
    steady = (windows.states[..., 1] / mean[:, None] - 1).abs().amax(dim=1) < 0.05  # the figure's spectrum is for these
    found = envelope_spectrum(windows.vibration, mean, orders, RATE)
    for index, name in enumerate(CLASSES):
        shown = found[(windows.label == index) & steady].mean(dim=0)
        if name == "normal":
            assert shown.max() < 0.35
        elif name.endswith(("2", "3")):
            place = PLACES.index(name[:-2])
            assert shown.argmax() == place and shown[place] > 0.4, name


def test_severities_differ_in_force_and_signal_to_noise_and_bearings_in_resonance():
    windows = simulate(20, 2, data_seed=2, part=0)
    rms = windows.force.square().mean(dim=1).sqrt()
    normal = rms[windows.label == 0].median()
    for place in range(3):
        levels = [rms[windows.label == 1 + 3 * place + step].median() for step in range(3)]
        ratios = [20 * math.log10((level**2 / normal**2 - 1).clamp(min=1e-3).sqrt()) for level in levels]
        assert levels[0] < levels[1] < levels[2]
        assert -3 < ratios[0] < 9 and 12 < ratios[2] < 24, ratios  # dB of impacts over the background
    each = {int(b): windows.frequency[windows.bearing == b].unique() for b in windows.bearing.unique()}
    assert all(len(one) == 1 for one in each.values())
    hertz = torch.cat(list(each.values())) / (2 * math.pi)
    assert len(hertz.unique()) == 200 and hertz.min() > 2000 and hertz.max() < 4000
