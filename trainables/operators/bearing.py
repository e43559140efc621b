"""The bearing operator: states of a drive and a casing that obey their equations, and the fault of the bearing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gatesweep.core.data import require
from gatesweep.core.distributed import mean_count
from gatesweep.core.trainable import Data, Losses, Metrics, Trainable
from gatesweep.trainables.operators import bearing_figures as figures
from gatesweep.trainables.operators import bearing_metrics as metrics
from gatesweep.trainables.operators.balance import Balance, Mode
from gatesweep.trainables.operators.bearing_data import Batch, BearingData, scales
from gatesweep.trainables.operators.bearing_metrics import States
from gatesweep.trainables.operators.bearing_model import PADDING, FourierBlock, Heads, Modes, OrderAnalysis
from gatesweep.trainables.operators.faults import BLOCKS, HOLD, RATE
from gatesweep.trainables.operators.motor import Drive, Motor, casing_residual
from gatesweep.trainables.operators.uncertainty import gaussian_nll, kl_standard_normal, weighted_mean

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SPREAD = (-14.0, 4.0)  # of log variances, in normalised units


class BearingOperator(Trainable):
    """States (i, w, T) and x of a window with their log variances, and the logits of its class.

    Given are voltage, torque and force, the state at the window's beginning and the casing's modal properties; the
    class is told from the measured vibration over the angle that the predicted speed makes. States begin exactly where
    they are given. The loss balances errors of known states, cross-entropy, residuals of the four equations over an
    exact step (every window), energy that is given and found nowhere, and the divergence of the predicted distributions
    from a normal one; the log variances learn apart from that, by their likelihood. Where the data have no states
    (files) the equations say nothing that could be checked, and the classes are all that is learned.
    """

    stackable = frozenset(
        {"lr", "weight_decay", "weight_classification", "weight_physics", "weight_consistency", "weight_variational"}
    )
    input_mean: Tensor  # (2,) and so is `input_std`: of voltage and torque
    input_std: Tensor
    state_mean: Tensor  # (3,) and so are the next three: of current, speed and temperature
    state_std: Tensor
    moved: Tensor  # rms distance from the window's beginning
    change: Tensor  # rms change in a block
    given: Tensor  # mean energy given in a block, J
    shaken: Tensor  # rms of x over that of the force

    def __init__(
        self,
        data: BearingData,
        *,
        width: int = 24,
        modes: int = 48,
        layers: int = 2,
        casing_modes: int = 1,
        casing_width: int = 64,
        filters: int = 4,
        classifier_width: int = 64,
        dropout: float = 0.2,
        balance: Mode = "fixed",
        weight_classification: float = 1.0,
        weight_physics: float = 0.1,
        weight_consistency: float = 0.05,
        weight_variational: float = 0.02,
        lr: float = 1e-2,
        weight_decay: float = 1e-3,
    ) -> None:
        super().__init__(lr=lr, weight_decay=weight_decay)
        sizes = {"width": width, "layers": layers, "casing_modes": casing_modes, "casing_width": casing_width}
        for field, size in (sizes | {"filters": filters, "classifier_width": classifier_width}).items():
            require(size >= 1, f"trainable.{field}", size, "at least 1")
        most = (BLOCKS + PADDING) // 2 + 1
        require(1 <= modes <= most, "trainable.modes", modes, f"1 to {most}, the frequencies of {BLOCKS} blocks")
        require(0 <= dropout < 1, "trainable.dropout", dropout, "a probability below 1")
        weights = {
            "states": 1.0,
            "classification": weight_classification,
            "physics": weight_physics,
            "consistency": weight_consistency,
            "variational": weight_variational,
        }
        for field, weight in weights.items():
            require(weight >= 0, f"trainable.weight_{field}", weight, "at least 0")
        self.has_states, self.rate = data.has_states, data.rate
        self.analysis = OrderAnalysis(len(data.classes), filters, classifier_width, dropout)
        if not self.has_states:
            return
        self.balance = Balance(weights, balance)
        self.drive = Drive(Motor(), HOLD / RATE, torch.float32)
        self.lift = nn.Linear(6, width)
        self.blocks = nn.ModuleList(FourierBlock(width, modes, linear=layer == 0) for layer in range(layers))
        self.heads = Heads(width)
        self.casing = Modes(casing_modes, casing_width, data.rate)
        for name, scale in scales(data.part("train"), self.drive).items():
            self.register_buffer(name, scale)

    def forward(self, batch: Batch) -> Losses:
        return self.losses(batch, *self.answer(batch))

    def answer(self, batch: Batch) -> tuple[Tensor, States | None, list[Tensor]]:
        """Logits (n, classes), and, where the data have states, these and their log variances."""
        if not self.has_states:
            return self._logits(batch, self._angle(batch)), None, []
        found, log_vars = self.states(batch)
        return self._logits(batch, self._angle(batch, found.drive)), found, log_vars

    def losses(self, batch: Batch, logits: Tensor, found: States | None, log_vars: list[Tensor]) -> Losses:
        """The terms of the loss, of what `answer` says."""
        with torch.autocast(logits.device.type, enabled=False):
            classification = F.cross_entropy(logits, batch["label"])
            if found is None:
                return {"loss": classification, "classification": classification}
            means, exact = self._normalised(found, batch), self._normalised(_true(batch), batch)
            parts = list(zip(means, log_vars, exact, strict=True))
            known, count = batch["known"], mean_count(batch["known"])
            terms = {
                "states": self._errors(found, batch, count),
                "classification": classification,
                "physics": self._residuals(found, batch),
                "consistency": (self.drive.imbalance(found.drive, batch["inputs"]) / self.given).square().mean(),
                "variational": torch.stack([kl_standard_normal(*one[:2]) for one in parts]).mean(),
            }
            nats = [gaussian_nll(m.detach(), v, x, known[:, None, None], count) for m, v, x in parts]
            likelihood = torch.stack(nats).mean()
            loss = self.balance(terms, found.drive, found.casing) + likelihood
            return {"loss": loss, **terms, "likelihood": likelihood}

    def states(self, batch: Batch) -> tuple[States, list[Tensor]]:
        """States of windows, and the log variances (n, blocks, 3) and (n, 1, 1) of what `_normalised` makes of them."""
        start, inputs = batch["states"][:, 0], batch["inputs"]
        begun = ((start - self.state_mean) / self.state_std)[:, None].expand(-1, BLOCKS, -1)
        time = torch.linspace(-1, 1, BLOCKS, device=start.device)[:, None].expand(len(start), BLOCKS, 1)
        given = torch.cat([(inputs - self.input_mean) / self.input_std, begun, time], dim=-1)
        hidden = F.pad(self.lift(given), (0, 0, 0, PADDING))
        for block in self.blocks:
            hidden = self.recomputed(block, hidden)
        rates, spread = self.heads(hidden[:, :BLOCKS])
        level = batch["force"].square().mean(dim=1, keepdim=True).sqrt().clamp(min=1e-12)
        first = torch.stack([batch["casing"][:, 0], batch["rate"]], dim=1) / level
        shape, blur = self.recomputed(self.casing, batch["force"] / level, first, batch["frequency"], batch["damping"])
        with torch.autocast(start.device.type, enabled=False):
            path = (rates.float() * self.change).cumsum(dim=1)
            drive = start[:, None] + torch.cat([torch.zeros_like(path[:, :1]), path], dim=1)
            log_vars = [spread.float(), blur[..., None]]
            return States(drive, shape * level), [one.clamp(*SPREAD) for one in log_vars]

    def _angle(self, batch: Batch, drive: Tensor | None = None) -> Tensor:
        """(n, samples): the shaft's angle in rad at each sample, of a drive's states (n, blocks + 1, 3) or a speed that
        is given; without a gradient, for no angle is worth a better class than the right one."""
        if drive is None:
            steps = torch.arange(1, batch["vibration"].shape[1] + 1, device=batch["speed"].device)
            return batch["speed"][:, None] * steps / self.rate
        speed = drive[..., 1].detach()
        between = (torch.arange(HOLD, device=speed.device) + 0.5) / HOLD
        within = speed[:, :-1, None] + (speed[:, 1:] - speed[:, :-1])[..., None] * between
        return within.flatten(1).cumsum(dim=1) / self.rate

    def _logits(self, batch: Batch, angle: Tensor) -> Tensor:
        return self.recomputed(self.analysis, batch["vibration"], angle)

    def _errors(self, found: States, batch: Batch, count: Tensor) -> Tensor:
        """Mean square error of known states: of each in units of its rms, that of the drive from its beginning on."""
        means, exact = self._normalised(found, batch), self._normalised(_true(batch), batch)
        drive, casing = ((mean - one).square().mean(dim=1) for mean, one in zip(means, exact, strict=True))
        each = torch.cat([drive, casing / exact[1].square().mean(dim=1).clamp(min=1e-12)], dim=1)
        return weighted_mean(each, batch["known"][:, None], count)

    def _residuals(self, found: States, batch: Batch) -> Tensor:
        """Mean square residual of the four equations, in the units of `metrics.physics`."""
        off = (found.drive[:, 1:] - self.drive.step(found.drive[:, :-1], batch["inputs"])) / self.change
        shake = casing_residual(found.casing, batch["force"], batch["taps"])
        return (off.square().mean(dim=(0, 1)).sum() + shake.square().mean()) / 4

    def _normalised(self, states: States, batch: Batch) -> list[Tensor]:
        """(n, blocks, 3), (n, samples, 1): distances from the beginning, and x over the force, of unit size."""
        drive = (states.drive[:, 1:] - states.drive[:, :1]) / self.moved
        level = batch["force"].square().mean(dim=1, keepdim=True).sqrt().clamp(min=1e-12)
        return [drive, (states.casing[:, 1:] / level / self.shaken)[..., None]]

    @torch.no_grad()
    def evaluate(self, data: Data, part: str = "val") -> Metrics:
        assert isinstance(data, BearingData)
        held = data.part(part)
        logits, found, log_vars = self.answer(held)
        terms = {name: float(term) for name, term in self.losses(held, logits, found, log_vars).items()}
        judged = terms | self._judged(held, data.classes, logits.softmax(dim=1), found)
        if found is None:
            return judged
        means, exact = self._normalised(found, held), self._normalised(_true(held), held)
        spread = [one.expand_as(mean) for one, mean in zip(log_vars, means, strict=True)]
        return judged | metrics.calibration(*([*one[0].unbind(dim=-1), one[1]] for one in (means, spread, exact)))

    def oracle(self, data: Data) -> Metrics:
        """The true classes and states."""
        assert isinstance(data, BearingData)
        held = data.part("val")
        sure = F.one_hot(held["label"], len(data.classes)).float()
        return self._judged(held, data.classes, sure, _true(held) if self.has_states else None)

    def trivial(self, data: Data) -> Metrics:
        """The class that most training windows belong to, as sure as it is common; states that stay as they were."""
        assert isinstance(data, BearingData)
        held, labels = data.part("val"), data.part("train")["label"]
        shares = torch.bincount(labels, minlength=len(data.classes)) / len(labels)
        still = None
        if self.has_states:
            exact = _true(held)
            still = States(exact.drive[:, :1].expand_as(exact.drive), torch.zeros_like(exact.casing))
        return self._judged(held, data.classes, shares.expand(len(held["label"]), -1), still)

    def figures(self, data: Data) -> dict[str, Callable[[], Figure]]:
        assert isinstance(data, BearingData)
        held = data.part("val")

        def probabilities() -> Tensor:
            return self.answer(held)[0].softmax(dim=1)

        drawn = {
            "confusion": lambda: figures.draw_confusion(held["label"], probabilities(), data.classes),
            "reliability": lambda: figures.draw_reliability(held["label"], probabilities()),
            "envelope": lambda: figures.draw_envelopes(held, data.classes, self._speed(held), data.rate),
        }
        if not self.has_states:
            return drawn
        return drawn | {
            "states": lambda: figures.draw_states(held, *self._bands(held)),
            "residuals": lambda: figures.draw_residuals(held, self.states(held)[0], self.drive, self.change),
        }

    def _speed(self, batch: Batch) -> Tensor:
        """(n,): the mean speed of windows in rad/s, as predicted where it is not given."""
        return self.states(batch)[0].drive[..., 1].mean(dim=1) if self.has_states else batch["speed"]

    def _bands(self, batch: Batch) -> tuple[States, Tensor, Tensor]:
        """States of windows, and the standard deviations of the drive's (n, blocks, 3) and the casing's (n, 1)."""
        found, log_vars = self.states(batch)
        level = batch["force"].square().mean(dim=1, keepdim=True).sqrt() * self.shaken
        return found, (0.5 * log_vars[0]).exp() * self.moved, (0.5 * log_vars[1][..., 0]).exp() * level

    def _judged(self, part: Batch, classes: tuple[str, ...], probabilities: Tensor, found: States | None) -> Metrics:
        judged = metrics.classification(part, classes, probabilities)
        return judged if found is None else judged | metrics.physics(part, self.drive, self.change, found)


def _true(batch: Batch) -> States:
    return States(batch["states"], batch["casing"])
