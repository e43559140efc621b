"""Simulated windows of machines with faulty bearings: impacts at the characteristic orders shake a casing."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gatesweep.core.data import generator
from gatesweep.trainables.operators.motor import Bearing, Casing, Drive, Motor

RATE = 12_000  # Hz: sampling rate of vibration and force
SAMPLES = 1024  # of a window
HOLD = 16  # samples in which voltage and torque are constant: the drive's controller runs at 750 Hz
BLOCKS = SAMPLES // HOLD  # of HOLD samples
SETTLING = 256  # samples simulated before a window, so that the start from rest has no effect on it
PLACES = ("outer", "inner", "ball")
SEVERITIES = 3  # fault widths of 0.18, 0.36 and 0.53 mm (7, 14 and 21 mil)
WIDTH = 0.1778  # mm, of the least severe fault
CLASSES = ("normal", *(f"{place}_{severity}" for place in PLACES for severity in range(1, SEVERITIES + 1)))
PULSE = 8  # samples, the maximum length of an impact
SPEED = 250.0  # rad/s, the reference speed of impact forces
GEOMETRY = Bearing()
PROPERTIES = {  # ranges of the uniform properties of a bearing; the order is that of the random draws
    "frequency": (2 * math.pi * 2000, 2 * math.pi * 4000),  # rad/s
    "damping": (0.02, 0.06),
    "slip": (0.01, 0.02),  # rms jitter of the time between impacts, as a fraction of it
    "zone": (0.3, 0.7),  # depth of the modulation by the load zone
    "background": (0.0, 8.0),  # dB below the least severe impacts
    "imbalance": (0.1, 0.3),  # relative to the rms of the white background
}


@dataclass(frozen=True)
class Windows:
    """Windows of machines, float64. Forces have an arbitrary unit, and so has x."""

    inputs: Tensor  # (n, BLOCKS, 2): voltage in V and load torque in N m
    states: Tensor  # (n, BLOCKS + 1, 3): current in A, speed in rad/s, temperature in degrees C at the ends of blocks
    force: Tensor  # (n, SAMPLES)
    casing: Tensor  # (n, SAMPLES + 1, 2): x and x'/W
    vibration: Tensor  # (n, SAMPLES): x with sensor noise
    frequency: Tensor  # (n,): W in rad/s
    damping: Tensor  # (n,): zeta
    label: Tensor  # (n,), int64: index into CLASSES
    bearing: Tensor  # (n,), int64: number of the bearing, from 0


def simulate(per_class: int, windows: int, data_seed: int, part: int) -> Windows:
    """Simulate `windows` windows for each of `per_class` bearings of every class.

    `part` numbers the parts of a data set: each has its own bearings and its own random numbers. Each bearing has its
    own casing, load zone, slip, impact strength and level of background force. The strength of an impact doubles with
    each severity, and varies by 10 % between bearings and between impacts. Its length is the time in which a ball
    passes the fault. The background force is 0 to 8 dB below the least severe impacts of the same bearing (rms), so the
    signal-to-noise ratio is 0 to 20 dB over the severities. A normal bearing has only the background. Sensor noise is
    10 to 30 dB below the vibration.
    """
    drawn = generator(data_seed, part)
    label = torch.arange(len(CLASSES)).repeat_interleave(per_class)
    per_bearing = {name: _uniform((len(label),), low, high, drawn) for name, (low, high) in PROPERTIES.items()}
    per_bearing["strength"] = (0.1 * torch.randn(len(label), generator=drawn, dtype=torch.float64)).exp()
    bearing = torch.arange(len(label)).repeat_interleave(windows)
    properties = {name: value[bearing] for name, value in per_bearing.items()}
    fault = label[bearing]
    inputs, fine = _drive(len(bearing), drawn)
    angle = _angle(fine[..., 1])
    impacts = _impacts(angle, fine[:, :-1, 1], fault, properties, drawn)
    force = impacts + _background(angle[:, :-1], fault, properties, drawn)
    casing = Casing(properties["frequency"], properties["damping"], 1 / RATE)
    x = casing.run(force)[:, SETTLING:]
    noise = torch.randn(len(bearing), SAMPLES, generator=drawn, dtype=torch.float64)
    level = x[:, 1:, 0].square().mean(dim=1, keepdim=True).sqrt()
    vibration = x[:, 1:, 0] + noise * level * 10 ** (-_uniform((len(bearing), 1), 10, 30, drawn) / 20)
    return Windows(
        inputs=inputs[:, SETTLING // HOLD :],
        states=fine[:, SETTLING::HOLD],
        force=force[:, SETTLING:],
        casing=x,
        vibration=vibration,
        frequency=properties["frequency"],
        damping=properties["damping"],
        label=fault,
        bearing=bearing,
    )


def strength(severity: Tensor) -> Tensor:
    """Return the peak force of an impact at SPEED, which doubles with each severity from 1; same shape, float64."""
    return 2.0 ** (severity - 1).double()


def _drive(count: int, drawn: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return voltage and torque (count, blocks, 2) and the drive's states (count, samples + 1, 3), with settling."""
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
    """Return the shaft's angle in rad by the trapezoidal rule, same shape as `speed` (n, samples + 1) in rad/s."""
    steps = (speed[:, 1:] + speed[:, :-1]) / 2 / RATE
    return torch.cat([torch.zeros_like(steps[:, :1]), steps.cumsum(dim=1)], dim=1)


def _impacts(
    angle: Tensor, speed: Tensor, fault: Tensor, properties: dict[str, Tensor], drawn: torch.Generator
) -> Tensor:
    """Return half-sine pulses of force, (n, samples), one for each passage of a fault; 0 where there is no fault."""
    count, samples = speed.shape
    place, severity = _place(fault)
    order = _order(place)
    limit = math.ceil(angle.max().item() / (2 * math.pi) * order.max().item() * 1.2) + 3
    gaps = 1 + properties["slip"][:, None] * torch.randn(count, limit, generator=drawn, dtype=torch.float64)
    first = torch.rand(count, 1, generator=drawn, dtype=torch.float64)
    impact_angle = (2 * math.pi / order)[:, None] * (gaps.cumsum(dim=1) - gaps[:, :1] + first)  # rad
    after = torch.searchsorted(angle.contiguous(), impact_angle.contiguous()).clamp(1, samples)
    low, high = angle.gather(1, after - 1), angle.gather(1, after)
    time = after - 1 + ((impact_angle - low) / (high - low)).clamp(0, 1)  # in samples
    impact_speed = speed.gather(1, after - 1)
    # A fault of the outer race does not move, so the load zone does not modulate it. A fault of the inner race passes
    # through the load zone once per turn of the shaft, and a fault of a ball once per turn of the cage.
    turns = torch.tensor([0.0, 1.0, GEOMETRY.orders["cage"]], dtype=torch.float64)[place][:, None] * impact_angle
    entry = 2 * math.pi * torch.rand(count, 1, generator=drawn, dtype=torch.float64)
    zone = 1 + (properties["zone"] * (place > 0))[:, None] * (turns + entry).cos()
    jitter = (0.1 * torch.randn(count, limit, generator=drawn, dtype=torch.float64)).exp()
    peak = strength(severity) * properties["strength"]
    peak = (peak * (fault > 0))[:, None] * zone * jitter * impact_speed / SPEED
    peak = torch.where(impact_angle < angle[:, -1:], peak, 0)
    # Speed of the balls' centres in mm/s.
    cage = impact_speed * (1 - GEOMETRY.ball / GEOMETRY.pitch) / 2 * GEOMETRY.pitch / 2
    length = (2 + RATE * WIDTH * severity[:, None] / cage).clamp(max=PULSE - 1)
    start = time.ceil()
    force = torch.zeros(count, samples + PULSE, dtype=torch.float64)
    for offset in range(PULSE):
        phase = (start + offset - time) / length
        pulse = torch.where(phase < 1, (math.pi * phase).sin(), 0)
        force.scatter_add_(1, (start + offset).long().clamp(max=samples + PULSE - 1), peak * pulse)
    return force[:, :samples]


def _background(angle: Tensor, fault: Tensor, properties: dict[str, Tensor], drawn: torch.Generator) -> Tensor:
    """Return the white force of rough surfaces plus the imbalance of the rotor, (n, samples)."""
    order = _order(_place(fault)[0])
    share = SPEED / (2 * math.pi) * order * 3 / RATE  # fraction of the time with an impact, at 3 samples each
    level = (share / 2).sqrt() * 10 ** (-properties["background"] / 20)
    white = torch.randn(angle.shape, generator=drawn, dtype=torch.float64)
    phase = 2 * math.pi * torch.rand(len(angle), 1, generator=drawn, dtype=torch.float64)
    turning = properties["imbalance"][:, None] * math.sqrt(2) * (angle + phase).cos()
    return level[:, None] * (white + turning)


def _place(fault: Tensor) -> tuple[Tensor, Tensor]:
    """Return the index into PLACES and the severity from 1, (n,) each. A normal bearing has those of some fault."""
    healthy = fault == 0
    index = torch.where(healthy, torch.arange(len(fault)) % len(CLASSES[1:]), fault - 1)
    return index // SEVERITIES, index % SEVERITIES + 1


def _order(place: Tensor) -> Tensor:
    return torch.tensor([GEOMETRY.orders[name] for name in PLACES], dtype=torch.float64)[place]


def _uniform(shape: tuple[int, ...], low: float, high: float, drawn: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=drawn, dtype=torch.float64)
