"""Simulated collision events: four top quarks, or two top quarks and a Higgs boson, as a detector would record them.

Energies, momenta and masses are in GeV, angles in radians. A four-momentum is (E, px, py, pz).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

TOP, W, HIGGS, BOTTOM = 172.5, 80.4, 125.0, 4.7  # masses in GeV; all other particles are massless
TOP_PT, HIGGS_PT = 120.0, 110.0  # mean transverse momenta in GeV
HADRONIC = 0.67  # probability that a W boson decays to two quarks, not to a lepton and a neutrino
ISR_JETS = 3  # jets of initial-state radiation in each event
MAX_ETA, MIN_JET_PT, MIN_LEPTON_PT = 2.5, 25.0, 15.0  # acceptance of the detector: |eta|, and pT in GeV
PAD, JET, B_JET, ELECTRON, MUON = 0, 1, 2, 3, 5  # the id depends on the charge: e+ 3, e- 4, mu+ 5, mu- 6
NEUTRINO = -1  # never recorded: it becomes missing momentum


@dataclass(frozen=True)
class Events:
    """Recorded objects of n events: `ids` (n, T), 0 for padding, and `objects` (n, T, 3) with pT, eta and phi.

    `met` (n, 2) is the missing transverse momentum: its size and its phi. `signal` (n,) is true for events with four
    tops; it is None for events from a file.
    """

    ids: Ints
    objects: Floats
    met: Floats
    signal: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        """Return the number of events n."""
        return len(self.ids)

    def hardest(self, tokens: int) -> Events:
        """Return the events with their `tokens` objects of largest pT, in descending order; padding comes last."""
        pt = np.where(self.ids > PAD, self.objects[..., 0], -np.inf)
        order = np.argsort(-pt, axis=1, kind="stable")[:, :tokens]
        ids = np.take_along_axis(self.ids, order, axis=1)
        objects = np.take_along_axis(self.objects, order[..., None], axis=1)
        return replace(self, ids=ids, objects=np.where(ids[..., None] > PAD, objects, 0.0))


def simulate(n_events: int, max_tokens: int, seed: int) -> Events:
    """Simulate signal (four tops) and background (two tops and a Higgs boson that decays to b quarks), alternately.

    The momenta of tops and Higgs bosons are independent of each other. Their decays conserve four-momentum and are
    isotropic in the rest frame. Each event keeps its `max_tokens` objects of largest pT; pT is in GeV.
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
    """Simulate the decay products of two tops and two antitops: ids (n, 12) and four-momenta (n, 12, 4)."""
    return _join([decay_top(mother(n, TOP, TOP_PT, rng), sign, rng) for sign in (1, -1, 1, -1)])


def two_tops_higgs(n: int, rng: np.random.Generator) -> tuple[Ints, Floats]:
    """Simulate the decay products of a top, an antitop and a Higgs boson: ids (n, 8) and four-momenta (n, 8, 4)."""
    tops = [decay_top(mother(n, TOP, TOP_PT, rng), sign, rng) for sign in (1, -1)]
    pair = np.stack(two_body(mother(n, HIGGS, HIGGS_PT, rng), BOTTOM, BOTTOM, rng), axis=1)
    return _join([*tops, (np.full((n, 2), B_JET), pair)])


def mother(n: int, mass: float, mean_pt: float, rng: np.random.Generator) -> Floats:
    """Draw four-momenta (n, 4): pT of a gamma distribution of shape 2, standard normal rapidity, uniform phi."""
    pt = rng.gamma(2.0, mean_pt / 2, n)
    rapidity, phi = rng.normal(size=n), rng.uniform(-np.pi, np.pi, n)
    transverse = np.hypot(mass, pt)
    energy, pz = transverse * np.cosh(rapidity), transverse * np.sinh(rapidity)
    return np.stack([energy, pt * np.cos(phi), pt * np.sin(phi), pz], axis=-1)


def decay_top(top: Floats, sign: int, rng: np.random.Generator) -> tuple[Ints, Floats]:
    """Decay tops (n, 4) to a b quark and a W boson, and the W to two quarks or to a lepton and a neutrino.

    `sign` is the charge of the W boson, 1 or -1. Returns ids (n, 3) and four-momenta (n, 3, 4), the b quark first.
    """
    n = len(top)
    boson, bottom = two_body(top, W, BOTTOM, rng)
    first, second = two_body(boson, 0.0, 0.0, rng)
    lepton = np.where(rng.random(n) < 0.5, ELECTRON, MUON) + (sign < 0)
    hadronic = rng.random(n) < HADRONIC
    ids = [np.full(n, B_JET), np.where(hadronic, JET, lepton), np.where(hadronic, JET, NEUTRINO)]
    return np.stack(ids, axis=1), np.stack([bottom, first, second], axis=1)


def two_body(parent: Floats, mass_1: float, mass_2: float, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Decay parents (n, 4) to two particles of these masses, isotropically in the rest frame: two arrays (n, 4)."""
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
    """Boost four-momenta (n, 4) from the rest frame of `frame` (n, 4) to the frame where it has this four-momentum."""
    mass = invariant_mass(frame)
    product = (rest[:, 1:] * frame[:, 1:]).sum(axis=-1)
    energy = (frame[:, 0] * rest[:, 0] + product) / mass
    factor = (rest[:, 0] + energy) / (frame[:, 0] + mass)
    return np.concatenate([energy[:, None], rest[:, 1:] + factor[:, None] * frame[:, 1:]], axis=-1)


def invariant_mass(momentum: Floats) -> Floats:
    """Return the masses (...,) of four-momenta (..., 4); a negative square counts as 0."""
    square = momentum[..., 0] ** 2 - (momentum[..., 1:] ** 2).sum(axis=-1)
    return np.sqrt(np.maximum(square, 0.0))


def _join(parts: list[tuple[Ints, Floats]]) -> tuple[Ints, Floats]:
    ids, momenta = zip(*parts, strict=True)
    return np.concatenate(ids, axis=1), np.concatenate(momenta, axis=1)


def _observe(ids: Ints, momenta: Floats, rng: np.random.Generator) -> Events:
    """Record decay products as a detector would: add jets of initial-state radiation, smear pT, cut on acceptance.

    `ids` (n, k), `momenta` (n, k, 4). Neutrinos only add to the missing momentum, with 10 GeV of noise on px and py.
    """
    n = len(ids)
    pt = np.hypot(momenta[..., 1], momenta[..., 2])
    eta, phi = np.arcsinh(momenta[..., 3] / pt), np.arctan2(momenta[..., 2], momenta[..., 1])
    invisible = (momenta[..., 1:3] * (ids == NEUTRINO)[..., None]).sum(axis=1) + rng.normal(0, 10, (n, 2))
    met_x, met_y = invisible.T
    met = np.stack([np.hypot(met_x, met_y), np.arctan2(met_y, met_x)], axis=-1)

    shape = (n, ISR_JETS)
    ids = np.concatenate([ids, np.full(shape, JET)], axis=1)
    pt = np.concatenate([pt, 15 + rng.exponential(25, shape)], axis=1)
    eta = np.concatenate([eta, rng.normal(0, 1.8, shape)], axis=1)
    phi = np.concatenate([phi, rng.uniform(-np.pi, np.pi, shape)], axis=1)

    lepton = ids >= ELECTRON
    resolution = np.where(lepton, 0.01, np.sqrt(0.8**2 / pt + 0.04**2))  # relative, of pT
    pt = pt * (1 + resolution * rng.normal(size=pt.shape))
    recorded = (ids != NEUTRINO) & (np.abs(eta) < MAX_ETA) & (pt > np.where(lepton, MIN_LEPTON_PT, MIN_JET_PT))
    return Events(np.where(recorded, ids, PAD), np.stack([pt, eta, phi], axis=-1), met)
