"""Simulated collision events: four top quarks, or two top quarks and a Higgs boson, as what a detector would list."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

TOP, W, HIGGS, BOTTOM = 172.5, 80.4, 125.0, 4.7  # masses in GeV; everything else is massless
TOP_PT, HIGGS_PT = 120.0, 110.0  # mean transverse momenta of their gamma distributions, GeV
HADRONIC = 0.67  # of W bosons decay to two quarks, the others to a lepton and a neutrino
ISR_JETS = 3
MAX_ETA, MIN_JET_PT, MIN_LEPTON_PT = 2.5, 25.0, 15.0
PAD, JET, B_JET, ELECTRON, MUON = 0, 1, 2, 3, 5  # a negative lepton's id is one more: e+ 3, e- 4, mu+ 5, mu- 6
NEUTRINO = -1  # never listed: it is the missing momentum


@dataclass(frozen=True)
class Events:
    """Tokens of events: `ids` (n, T), 0 where there is none, and `objects` (n, T, 3): pT in GeV, eta, phi.

    `met` (n, 2) is the missing transverse momentum, its size in GeV and its phi; `signal` (n,) says which events
    hold four tops, where that is known.
    """

    ids: Ints
    objects: Floats
    met: Floats
    signal: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def hardest(self, tokens: int) -> Events:
        """The same events with their `tokens` hardest objects in falling order of pT, padding last."""
        pt = np.where(self.ids > PAD, self.objects[..., 0], -np.inf)
        order = np.argsort(-pt, axis=1, kind="stable")[:, :tokens]
        ids = np.take_along_axis(self.ids, order, axis=1)
        objects = np.take_along_axis(self.objects, order[..., None], axis=1)
        return replace(self, ids=ids, objects=np.where(ids[..., None] > PAD, objects, 0.0))


def simulate(n_events: int, max_tokens: int, seed: int) -> Events:
    """Every second event is signal (four tops), the others are background (two tops and a Higgs boson to b quarks).

    The momenta of the mothers are drawn independently of each other; their decays are exact and isotropic.
    """
    rng = np.random.default_rng(seed)
    signal = np.arange(n_events) % 2 == 0
    parts = [
        _observe(*four_tops(int(signal.sum()), rng), rng),
        _observe(*two_tops_higgs(int((~signal).sum()), rng), rng),
    ]
    width = max(part.ids.shape[1] for part in parts)
    joined = Events(np.zeros((n_events, width), np.int64), np.zeros((n_events, width, 3)), np.zeros((n_events, 2)))
    for part, rows in zip(parts, (signal, ~signal), strict=True):
        joined.ids[rows, : part.ids.shape[1]] = part.ids
        joined.objects[rows, : part.ids.shape[1]] = part.objects
        joined.met[rows] = part.met
    return replace(joined.hardest(max_tokens), signal=signal)


def four_tops(n: int, rng: np.random.Generator) -> tuple[Ints, Floats]:
    """Ids (n, 12) and four-momenta (n, 12, 4) of what four tops, alternating in charge, decay to."""
    return _join([decay_top(mother(n, TOP, TOP_PT, rng), sign, rng) for sign in (1, -1, 1, -1)])


def two_tops_higgs(n: int, rng: np.random.Generator) -> tuple[Ints, Floats]:
    """Ids (n, 8) and four-momenta (n, 8, 4) of what a top, an antitop and a Higgs boson decay to."""
    tops = [decay_top(mother(n, TOP, TOP_PT, rng), sign, rng) for sign in (1, -1)]
    pair = np.stack(two_body(mother(n, HIGGS, HIGGS_PT, rng), BOTTOM, BOTTOM, rng), axis=1)
    return _join([*tops, (np.full((n, 2), B_JET), pair)])


def mother(n: int, mass: float, mean_pt: float, rng: np.random.Generator) -> Floats:
    """(n, 4) four-momenta (E, px, py, pz): pT from a gamma distribution of shape 2, normal rapidity, uniform phi."""
    pt = rng.gamma(2.0, mean_pt / 2, n)
    rapidity, phi = rng.normal(size=n), rng.uniform(-np.pi, np.pi, n)
    transverse = np.hypot(mass, pt)
    energy, along = transverse * np.cosh(rapidity), transverse * np.sinh(rapidity)
    return np.stack([energy, pt * np.cos(phi), pt * np.sin(phi), along], axis=-1)


def decay_top(top: Floats, sign: int, rng: np.random.Generator) -> tuple[Ints, Floats]:
    """Ids (n, 3) and four-momenta (n, 3, 4): the b quark, and the W's two quarks, or its lepton and neutrino.

    `sign` is the charge of the W boson.
    """
    n = len(top)
    boson, bottom = two_body(top, W, BOTTOM, rng)
    first, second = two_body(boson, 0.0, 0.0, rng)
    lepton = np.where(rng.random(n) < 0.5, ELECTRON, MUON) + (sign < 0)
    hadronic = rng.random(n) < HADRONIC
    ids = [np.full(n, B_JET), np.where(hadronic, JET, lepton), np.where(hadronic, JET, NEUTRINO)]
    return np.stack(ids, axis=1), np.stack([bottom, first, second], axis=1)


def two_body(parent: Floats, mass_1: float, mass_2: float, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Four-momenta (n, 4) of the two daughters of a decay that is isotropic in the parent's rest frame."""
    n = len(parent)
    mass = invariant_mass(parent)
    size = np.sqrt((mass**2 - (mass_1 + mass_2) ** 2) * (mass**2 - (mass_1 - mass_2) ** 2)) / (2 * mass)
    cos, phi = rng.uniform(-1, 1, n), rng.uniform(-np.pi, np.pi, n)
    sin = np.sqrt(1 - cos**2)
    momentum = size[:, None] * np.stack([sin * np.cos(phi), sin * np.sin(phi), cos], axis=-1)
    rest = np.concatenate([np.hypot(size, mass_1)[:, None], momentum], axis=-1)
    first = boost(rest, parent)
    return first, parent - first


def boost(rest: Floats, frame: Floats) -> Floats:
    """(n, 4): four-momenta of the rest frame of `frame` as seen where `frame` has its own four-momentum."""
    mass = invariant_mass(frame)
    along = (rest[:, 1:] * frame[:, 1:]).sum(axis=-1)
    energy = (frame[:, 0] * rest[:, 0] + along) / mass
    factor = (rest[:, 0] + energy) / (frame[:, 0] + mass)
    return np.concatenate([energy[:, None], rest[:, 1:] + factor[:, None] * frame[:, 1:]], axis=-1)


def invariant_mass(momentum: Floats) -> Floats:
    """(...,) masses of four-momenta (..., 4) in GeV."""
    square = momentum[..., 0] ** 2 - (momentum[..., 1:] ** 2).sum(axis=-1)
    return np.sqrt(np.maximum(square, 0.0))


def _join(parts: list[tuple[Ints, Floats]]) -> tuple[Ints, Floats]:
    ids, momenta = zip(*parts, strict=True)
    return np.concatenate(ids, axis=1), np.concatenate(momenta, axis=1)


def _observe(ids: Ints, momenta: Floats, rng: np.random.Generator) -> Events:
    """What a detector would list: with jets radiated before the collision, smeared, and within its acceptance."""
    n = len(ids)
    pt = np.hypot(momenta[..., 1], momenta[..., 2])
    eta, phi = np.arcsinh(momenta[..., 3] / pt), np.arctan2(momenta[..., 2], momenta[..., 1])
    unseen = (momenta[..., 1:3] * (ids == NEUTRINO)[..., None]).sum(axis=1) + rng.normal(0, 10, (n, 2))
    met = np.stack([np.hypot(unseen[:, 0], unseen[:, 1]), np.arctan2(unseen[:, 1], unseen[:, 0])], axis=-1)

    isr = (n, ISR_JETS)
    ids = np.concatenate([ids, np.full(isr, JET)], axis=1)
    pt = np.concatenate([pt, 15 + rng.exponential(25, isr)], axis=1)
    eta = np.concatenate([eta, rng.normal(0, 1.8, isr)], axis=1)
    phi = np.concatenate([phi, rng.uniform(-np.pi, np.pi, isr)], axis=1)

    lepton = ids >= ELECTRON
    resolution = np.where(lepton, 0.01, np.sqrt(0.8**2 / pt + 0.04**2))
    pt = pt * (1 + resolution * rng.normal(size=pt.shape))
    listed = (ids != NEUTRINO) & (np.abs(eta) < MAX_ETA) & (pt > np.where(lepton, MIN_LEPTON_PT, MIN_JET_PT))
    return Events(np.where(listed, ids, PAD), np.stack([pt, eta, phi], axis=-1), met)
