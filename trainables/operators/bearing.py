"""The bearing operator: predicts states of a drive and a casing that obey their equations, and the bearing's fault."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gatesweep.core.data import check_size, require
from gatesweep.core.distributed import mean_count
from gatesweep.core.trainable import Data, Losses, Metrics, Split, Trainable
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

SPREAD = (-14.0, 4.0)  # limits of log variances, in normalised units


class BearingOperator(Trainable):
    """Operator that predicts states and log variances of a window, and a classifier of the bearing's fault.

    The states are current, speed and temperature of the drive, and x of the casing. The inputs are voltage, torque and
    force, the state at the window's beginning, and the casing's frequency and damping. Predicted states match the given
    state at the beginning exactly. The classifier analyses the measured vibration over the angle of the shaft, which
    follows from the predicted speed.

    The loss has five terms, balanced by `balance` (see `Balance`), and the likelihood:
    * states: mean square error of known states, weight 1.
    * classification (`weight_classification`): cross-entropy.
    * physics (`weight_physics`): mean square residual of the four equations over exact steps, in all windows.
    * consistency (`weight_consistency`): mean square imbalance of energy per step, in units of the mean input energy.
    * variational (`weight_variational`): divergence of the predicted distributions from N(0, 1).
    * likelihood: negative log likelihood of known states, weight 1. It trains only the log variances.

    Data without states (`RecordedBearings`) leave only the classifier and the cross-entropy, over the given speed.
    Raises InputError with the key, the value and the expectation if a hyperparameter is wrong.
    """

    stackable = frozenset(
        {"lr", "weight_decay", "weight_classification", "weight_physics", "weight_consistency", "weight_variational"}
    )
    input_mean: Tensor  # (2,): of voltage and torque
    input_std: Tensor  # (2,)
    state_mean: Tensor  # (3,): of current, speed and temperature
    state_std: Tensor  # (3,)
    moved: Tensor  # (3,): rms distance from the state at the window's beginning
    change: Tensor  # (3,): rms change in a block
    given: Tensor  # scalar: mean input energy of a block, J
    shaken: Tensor  # scalar: rms of x over that of the force

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
        for key, size in (sizes | {"filters": filters, "classifier_width": classifier_width}).items():
            check_size(f"trainable.{key}", size)
        limit = (BLOCKS + PADDING) // 2 + 1
        require(1 <= modes <= limit, "trainable.modes", modes, f"1 to {limit}, the frequencies of {BLOCKS} blocks")
        require(0 <= dropout < 1, "trainable.dropout", dropout, "a probability below 1")
        weights = {
            "states": 1.0,
            "classification": weight_classification,
            "physics": weight_physics,
            "consistency": weight_consistency,
            "variational": weight_variational,
        }
        for term, weight in weights.items():
            require(weight >= 0, f"trainable.weight_{term}", weight, "at least 0")
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
        """Return the loss of a batch and its terms, scalars."""
        return self.losses(batch, *self.answer(batch))

    def answer(self, batch: Batch) -> tuple[Tensor, States | None, list[Tensor]]:
        """Return logits (n, classes), predicted states and their log variances, see `states`.

        Where the data have no states, the states are None and the list is empty.
        """
        if not self.has_states:
            return self._logits(batch, self._angle(batch)), None, []
        states, log_vars = self.states(batch)
        return self._logits(batch, self._angle(batch, states.drive)), states, log_vars

    def losses(self, batch: Batch, logits: Tensor, states: States | None, log_vars: list[Tensor]) -> Losses:
        """Return the loss of the results of `answer`, and its terms, scalars."""
        with torch.autocast(logits.device.type, enabled=False):
            classification = F.cross_entropy(logits, batch["label"])
            if states is None:
                return {"loss": classification, "classification": classification}
            means, exact = self._normalised(states, batch), self._normalised(_true(batch), batch)
            known, count = batch["known"], mean_count(batch["known"])
            terms = {
                "states": self._errors(states, batch, count),
                "classification": classification,
                "physics": self._residuals(states, batch),
                "consistency": (self.drive.imbalance(states.drive, batch["inputs"]) / self.given).square().mean(),
                "variational": torch.stack(
                    [kl_standard_normal(m, v) for m, v in zip(means, log_vars, strict=True)]
                ).mean(),
            }
            predictions = zip(means, log_vars, exact, strict=True)
            nats = [gaussian_nll(m.detach(), v, x, known[:, None, None], count) for m, v, x in predictions]
            likelihood = torch.stack(nats).mean()
            loss = self.balance(terms, states.drive, states.casing) + likelihood
            return {"loss": loss, **terms, "likelihood": likelihood}

    def states(self, batch: Batch) -> tuple[States, list[Tensor]]:
        """Predict the states of windows, and the log variances (n, blocks, 3) and (n, 1, 1) of drive and casing.

        The log variances belong to the normalised states, see `_normalised`.
        """
        start, inputs = batch["states"][:, 0], batch["inputs"]
        normalised_start = ((start - self.state_mean) / self.state_std)[:, None].expand(-1, BLOCKS, -1)
        time = torch.linspace(-1, 1, BLOCKS, device=start.device)[:, None].expand(len(start), BLOCKS, 1)
        features = torch.cat([(inputs - self.input_mean) / self.input_std, normalised_start, time], dim=-1)
        hidden = F.pad(self.lift(features), (0, 0, 0, PADDING))
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
            return States(drive, shape * level), [log_var.clamp(*SPREAD) for log_var in log_vars]

    @torch.no_grad()
    def evaluate(self, data: Data, split: Split = "val") -> Metrics:
        """Return the terms of the loss and all metrics of a split, see `bearing_metrics`."""
        assert isinstance(data, BearingData)
        held = data.part(split)
        logits, states, log_vars = self.answer(held)
        terms = {name: float(term) for name, term in self.losses(held, logits, states, log_vars).items()}
        judged = terms | self._judged(held, data.classes, logits.softmax(dim=1), states)
        if states is None:
            return judged
        means, exact = self._normalised(states, held), self._normalised(_true(held), held)
        spread = [log_var.expand_as(mean) for log_var, mean in zip(log_vars, means, strict=True)]
        per_state = ([*drive.unbind(dim=-1), casing] for drive, casing in (means, spread, exact))
        return judged | metrics.calibration(*per_state)

    def oracle(self, data: Data) -> Metrics:
        """Return the metrics of the true classes and states."""
        assert isinstance(data, BearingData)
        held = data.part("val")
        sure = F.one_hot(held["label"], len(data.classes)).float()
        return self._judged(held, data.classes, sure, _true(held) if self.has_states else None)

    def trivial(self, data: Data) -> Metrics:
        """Return the metrics of class frequencies in training as probabilities, and of states that do not change."""
        assert isinstance(data, BearingData)
        held, labels = data.part("val"), data.part("train")["label"]
        shares = torch.bincount(labels, minlength=len(data.classes)) / len(labels)
        still = None
        if self.has_states:
            exact = _true(held)
            still = States(exact.drive[:, :1].expand_as(exact.drive), torch.zeros_like(exact.casing))
        return self._judged(held, data.classes, shares.expand(len(held["label"]), -1), still)

    def figures(self, data: Data, split: Split = "val") -> dict[str, Callable[[], Figure]]:
        """Return figures of a split's windows by kind, drawn when called; `states` and `residuals` need states."""
        assert isinstance(data, BearingData)
        held = data.part(split)

        def probabilities() -> Tensor:
            """Return the probabilities (n, classes)."""
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

    def _angle(self, batch: Batch, drive: Tensor | None = None) -> Tensor:
        """Return the shaft's angle in rad at each sample, (n, samples).

        It follows from a drive's states (n, blocks + 1, 3), or from the speed in the batch. It has no gradient: the
        classifier must not change the speed.
        """
        if drive is None:
            steps = torch.arange(1, batch["vibration"].shape[1] + 1, device=batch["speed"].device)
            return batch["speed"][:, None] * steps / self.rate
        speed = drive[..., 1].detach()
        between = (torch.arange(HOLD, device=speed.device) + 0.5) / HOLD
        within = speed[:, :-1, None] + (speed[:, 1:] - speed[:, :-1])[..., None] * between
        return within.flatten(1).cumsum(dim=1) / self.rate

    def _logits(self, batch: Batch, angle: Tensor) -> Tensor:
        """Return the logits (n, classes)."""
        return self.recomputed(self.analysis, batch["vibration"], angle)

    def _errors(self, states: States, batch: Batch, count: Tensor) -> Tensor:
        """Return the mean square error of known states, each in units of its rms, a scalar.

        The rms of the drive's states is that of their distance from the window's beginning.
        """
        means, exact = self._normalised(states, batch), self._normalised(_true(batch), batch)
        drive, casing = ((mean - target).square().mean(dim=1) for mean, target in zip(means, exact, strict=True))
        errors = torch.cat([drive, casing / exact[1].square().mean(dim=1).clamp(min=1e-12)], dim=1)
        return weighted_mean(errors, batch["known"][:, None], count)

    def _residuals(self, states: States, batch: Batch) -> Tensor:
        """Return the mean square residual of the four equations, a scalar, in the units of `metrics.physics`."""
        off = (states.drive[:, 1:] - self.drive.step(states.drive[:, :-1], batch["inputs"])) / self.change
        shake = casing_residual(states.casing, batch["force"], batch["taps"])
        return (off.square().mean(dim=(0, 1)).sum() + shake.square().mean()) / 4

    def _normalised(self, states: States, batch: Batch) -> list[Tensor]:
        """Return the drive's distance from its beginning (n, blocks, 3), and x over the rms force (n, samples, 1).

        Both have an rms of about 1.
        """
        drive = (states.drive[:, 1:] - states.drive[:, :1]) / self.moved
        level = batch["force"].square().mean(dim=1, keepdim=True).sqrt().clamp(min=1e-12)
        return [drive, (states.casing[:, 1:] / level / self.shaken)[..., None]]

    def _speed(self, batch: Batch) -> Tensor:
        """Return the mean speed of windows in rad/s, (n,), predicted where the data have states."""
        return self.states(batch)[0].drive[..., 1].mean(dim=1) if self.has_states else batch["speed"]

    def _bands(self, batch: Batch) -> tuple[States, Tensor, Tensor]:
        """Return predicted states and the standard deviations of drive (n, blocks, 3) and casing (n, 1)."""
        states, log_vars = self.states(batch)
        level = batch["force"].square().mean(dim=1, keepdim=True).sqrt() * self.shaken
        return states, (0.5 * log_vars[0]).exp() * self.moved, (0.5 * log_vars[1][..., 0]).exp() * level

    def _judged(self, part: Batch, classes: tuple[str, ...], probabilities: Tensor, states: States | None) -> Metrics:
        judged = metrics.classification(part, classes, probabilities)
        return judged if states is None else judged | metrics.physics(part, self.drive, self.change, states)


def _true(batch: Batch) -> States:
    return States(batch["states"], batch["casing"])
