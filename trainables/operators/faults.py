"""Windows of machines with faulty bearings: impacts at the characteristic orders, through drives and casings."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gatesweep.core.data import generator
from gatesweep.trainables.operators.motor import Bearing, Casing, Drive, Motor

RATE = 12_000  # Hz: vibration and force
SAMPLES = 1024  # of a window
HOLD = 16  # samples for which voltage and torque are held: the drive's controller runs at 750 Hz
BLOCKS = SAMPLES // HOLD
SETTLING = 256  # samples before a window, in which the casing forgets that it was at rest
PLACES = ("outer", "inner", "ball")
SEVERITIES = 3  # fault widths of 0.18, 0.36 and 0.53 mm (7, 14 and 21 mil)
WIDTH = 0.1778  # mm, of the least
CLASSES = ("normal", *(f"{place}_{severity}" for place in PLACES for severity in range(1, SEVERITIES + 1)))
PULSE = 8  # samples of an impact at most
SPEED = 250.0  # rad/s, to which forces are referred
GEOMETRY = Bearing()


@dataclass(frozen=True)
class Windows:
    """Windows (n, ...) of a machine, in float64.

    `inputs` (n, BLOCKS, 2): voltage and load torque. `states` (n, BLOCKS + 1, 3): current, speed and temperature
    between the blocks. `force` (n, SAMPLES), `casing` (n, SAMPLES + 1, 2): x, in units of force, and x'/W. `vibration`
    (n, SAMPLES): x as it is measured. `frequency`, `damping` (n,): W in rad/s and zeta. `label`, `bearing` (n,).
    """

    inputs: Tensor
    states: Tensor
    force: Tensor
    casing: Tensor
    vibration: Tensor
    frequency: Tensor
    damping: Tensor
    label: Tensor
    bearing: Tensor


def simulate(per_class: int, windows: int, data_seed: int, part: int) -> Windows:
    """`windows` windows of each of `per_class` bearings of every class; no bearing is in two parts.

    A bearing has a casing, a load zone, a slip, an impact strength and a level of background force of its own. The
    strength of an impact doubles with each severity and varies by 10 % between bearings and between impacts; its length
    is the time in which a ball passes the fault. The background force lies 0 to 8 dB below the least severe impacts of
    the same bearing (rms), so that the signal-to-noise ratio is 0 to 20 dB over the severities; a normal bearing has it
    alone. Sensor noise lies 10 to 30 dB below the vibration.
    """
    drawn = generator(data_seed, part)
    label = torch.arange(len(CLASSES)).repeat_interleave(per_class)
    own = {name: _uniform((len(label),), low, high, drawn) for name, (low, high) in UNIT.items()}
    own["strength"] = (0.1 * torch.randn(len(label), generator=drawn, dtype=torch.float64)).exp()
    each = torch.arange(len(label)).repeat_interleave(windows)
    unit = {name: value[each] for name, value in own.items()}
    fault = label[each]
    inputs, fine = _drive(len(each), drawn)
    angle = _angle(fine[..., 1])
    impacts = _impacts(angle, fine[:, :-1, 1], fault, unit, drawn)
    force = impacts + _background(angle[:, :-1], fault, unit, drawn)
    casing = Casing(unit["frequency"], unit["damping"], 1 / RATE)
    x = casing.run(force)[:, SETTLING:]
    noise = torch.randn(len(each), SAMPLES, generator=drawn, dtype=torch.float64)
    level = x[:, 1:, 0].square().mean(dim=1, keepdim=True).sqrt()
    vibration = x[:, 1:, 0] + noise * level * 10 ** (-_uniform((len(each), 1), 10, 30, drawn) / 20)
    return Windows(
        inputs=inputs[:, SETTLING // HOLD :],
        states=fine[:, SETTLING::HOLD],
        force=force[:, SETTLING:],
        casing=x,
        vibration=vibration,
        frequency=unit["frequency"],
        damping=unit["damping"],
        label=fault,
        bearing=each,
    )


UNIT = {
    "frequency": (2 * math.pi * 2000, 2 * math.pi * 4000),  # rad/s
    "damping": (0.02, 0.06),
    "slip": (0.01, 0.02),  # of the time between impacts, rms
    "zone": (0.3, 0.7),  # how much the load zone modulates
    "background": (0.0, 8.0),  # dB below the least severe impacts
    "imbalance": (0.1, 0.3),  # of the background
}


def _drive(count: int, drawn: torch.Generator) -> tuple[Tensor, Tensor]:
    """Voltage and torque (count, blocks, 2), and the drive's states (count, samples + 1, 3), settling included."""
    blocks = (SETTLING + SAMPLES) // HOLD
    level = torch.stack([_uniform((count,), 23, 31, drawn), _uniform((count,), 0.1, 0.5, drawn)], dim=-1)
    inputs = level[:, None].repeat(1, blocks, 1)
    for column, (low, high) in enumerate(((-4.0, 4.0), (-0.2, 0.3))):  # two jumps each
        for _ in range(2):
            since = torch.randint(0, blocks, (count, 1), generator=drawn) <= torch.arange(blocks)
            inputs[..., column] += since * _uniform((count, 1), low, high, drawn)
    inputs[..., 1].clamp_(min=0.02)
    motor = Motor()
    start = motor.steady(*level.unbind(dim=-1))
    start[:, 2] = motor.ambient + _uniform((count,), 0, 12, drawn)
    return inputs, Drive(motor, 1 / RATE).run(start, inputs.repeat_interleave(HOLD, dim=1))


def _angle(speed: Tensor) -> Tensor:
    """(n, samples + 1): the shaft's angle in rad, by the trapezoidal rule."""
    steps = (speed[:, 1:] + speed[:, :-1]) / 2 / RATE
    return torch.cat([torch.zeros_like(steps[:, :1]), steps.cumsum(dim=1)], dim=1)


def _impacts(angle: Tensor, speed: Tensor, fault: Tensor, unit: dict[str, Tensor], drawn: torch.Generator) -> Tensor:
    """(n, samples): half-sine pulses of force, one for each passage of a fault; none where there is no fault."""
    count, samples = speed.shape
    place, severity = _place(fault)
    order = _order(place)
    most = math.ceil(angle.max().item() / (2 * math.pi) * order.max().item() * 1.2) + 3
    gaps = 1 + unit["slip"][:, None] * torch.randn(count, most, generator=drawn, dtype=torch.float64)
    first = torch.rand(count, 1, generator=drawn, dtype=torch.float64)
    at = (2 * math.pi / order)[:, None] * (gaps.cumsum(dim=1) - gaps[:, :1] + first)  # angles of impacts
    after = torch.searchsorted(angle.contiguous(), at.contiguous()).clamp(1, samples)
    low, high = angle.gather(1, after - 1), angle.gather(1, after)
    time = after - 1 + ((at - low) / (high - low)).clamp(0, 1)  # in samples
    here = speed.gather(1, after - 1)
    # An outer race stands still; an inner race and a ball pass through the load zone, with the shaft and the cage.
    turns = torch.tensor([0.0, 1.0, GEOMETRY.orders["cage"]], dtype=torch.float64)[place][:, None] * at
    entry = 2 * math.pi * torch.rand(count, 1, generator=drawn, dtype=torch.float64)
    zone = 1 + (unit["zone"] * (place > 0))[:, None] * (turns + entry).cos()
    jitter = (0.1 * torch.randn(count, most, generator=drawn, dtype=torch.float64)).exp()
    peak = strength(severity) * unit["strength"]
    peak = (peak * (fault > 0))[:, None] * zone * jitter * here / SPEED
    peak = torch.where(at < angle[:, -1:], peak, 0)
    cage = here * (1 - GEOMETRY.ball / GEOMETRY.pitch) / 2 * GEOMETRY.pitch / 2  # mm/s, of the balls' centres
    length = (2 + RATE * WIDTH * severity[:, None] / cage).clamp(max=PULSE - 1)
    start = time.ceil()
    force = torch.zeros(count, samples + PULSE, dtype=torch.float64)
    for offset in range(PULSE):
        phase = (start + offset - time) / length
        pulse = torch.where(phase < 1, (math.pi * phase).sin(), 0)
        force.scatter_add_(1, (start + offset).long().clamp(max=samples + PULSE - 1), peak * pulse)
    return force[:, :samples]


def _background(angle: Tensor, fault: Tensor, unit: dict[str, Tensor], drawn: torch.Generator) -> Tensor:
    """(n, samples): white force of rough surfaces, and the imbalance of the rotor."""
    order = _order(_place(fault)[0])
    share = SPEED / (2 * math.pi) * order * 3 / RATE  # of the time in which there is an impact: some 3 samples each
    level = (share / 2).sqrt() * 10 ** (-unit["background"] / 20)
    white = torch.randn(angle.shape, generator=drawn, dtype=torch.float64)
    phase = 2 * math.pi * torch.rand(len(angle), 1, generator=drawn, dtype=torch.float64)
    turning = unit["imbalance"][:, None] * math.sqrt(2) * (angle + phase).cos()
    return level[:, None] * (white + turning)


def _place(fault: Tensor) -> tuple[Tensor, Tensor]:
    """(n,), (n,): index into PLACES, and severity from 1; a normal bearing has those of some fault."""
    healthy = fault == 0
    index = torch.where(healthy, torch.arange(len(fault)) % len(CLASSES[1:]), fault - 1)
    return index // SEVERITIES, index % SEVERITIES + 1


def _order(place: Tensor) -> Tensor:
    return torch.tensor([GEOMETRY.orders[name] for name in PLACES], dtype=torch.float64)[place]


def strength(severity: Tensor) -> Tensor:
    """The peak force of an impact at SPEED: it doubles with each severity, from 1."""
    return 2.0 ** (severity - 1).double()


def _uniform(shape: tuple[int, ...], low: float, high: float, drawn: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=drawn, dtype=torch.float64)
