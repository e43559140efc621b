"""What is held against a model of bearings: which faults it names, how sure it is, and whether its states obey."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gatesweep.core.gate import proportion
from gatesweep.core.trainable import Metrics
from gatesweep.trainables.operators.bearing_data import Batch
from gatesweep.trainables.operators.motor import Drive, casing_residual
from gatesweep.trainables.operators.uncertainty import coverage_error, expected_calibration_error

STATES = ("current", "speed", "temperature", "casing")


@dataclass(frozen=True)
class States:
    """States of windows (n, ...) as they are predicted, in the units of the data.

    `drive` (n, blocks + 1, 3), `casing` (n, samples + 1).
    """

    drive: Tensor
    casing: Tensor


def classification(part: Batch, classes: tuple[str, ...], probabilities: Tensor) -> Metrics:
    """Of probabilities (n, classes) of windows.

    `balanced_accuracy` is the mean of the classes' recalls, `bearing_accuracy` that of whole bearings by the mean of
    their windows' log probabilities. `fault_accuracy` leaves the severity out, `severity_accuracy` is the share of
    right severities among right faults. `ece` is the expected calibration error.
    """
    label, answer = part["label"], probabilities.argmax(dim=1)
    fault, severity = _kinds(classes, label.device)
    right, same = answer == label, fault[answer] == fault[label]
    graded = same & (severity[label] > 0)
    found = {"balanced_accuracy": balanced(label, answer), "ece": expected_calibration_error(probabilities, label)}
    bearings, place = part["bearing"].unique(return_inverse=True)
    votes = torch.zeros(len(bearings), len(classes), dtype=torch.float64, device=label.device)
    votes.index_add_(0, place, probabilities.double().clamp(min=1e-12).log())
    theirs = torch.zeros_like(bearings).scatter(0, place, label)
    found |= proportion("bearing_accuracy", int((votes.argmax(dim=1) == theirs).sum()), len(bearings))
    found |= proportion("fault_accuracy", int(same.sum()), len(label))
    return found | proportion("severity_accuracy", int((right & graded).sum()), int(graded.sum()))


def balanced(label: Tensor, answer: Tensor) -> float:
    """The mean over classes, of those that occur, of the share of its samples (n,) that are answered rightly."""
    recalls = [(answer[label == one] == one).double().mean() for one in label.unique()]
    return float(torch.stack(recalls).mean())


def physics(part: Batch, drive: Drive, scale: Tensor, found: States) -> Metrics:
    """How far states are from their equations and from the truth.

    `residual_*` is the rms of what a step leaves unexplained, in units of the rms change in a step (`scale` (3,), for
    the drive) or of what the force adds (casing): 1 is a state that stands still. `ode_residual` is the rms of all.
    `energy_error` is the mean of |what is given and neither stored, lost nor done to the load| over a window, in units
    of the mean of |what is given|. `error_*` is relative: 1 is, for the drive, the state that the window began with.
    """
    exact, inputs = part["states"], part["inputs"]
    off = (found.drive[:, 1:] - drive.step(found.drive[:, :-1], inputs)) / scale
    shake = casing_residual(found.casing, part["force"], part["taps"])
    residuals = torch.cat([off.square().mean(dim=(0, 1)), shake.square().mean()[None]]).sqrt().tolist()
    wrong = (found.drive - exact).square().mean(dim=(0, 1)) / (exact - exact[:, :1]).square().mean(dim=(0, 1))
    shaken = (found.casing - part["casing"]).square().mean(dim=1) / part["casing"].square().mean(dim=1)
    errors = torch.cat([wrong, shaken.mean()[None]]).sqrt().tolist()
    given = drive.flows(exact[:, :-1], inputs)[..., 0].sum(dim=1).abs().mean()
    lost = drive.imbalance(found.drive, inputs).sum(dim=1).abs().mean()
    return {
        "ode_residual": math.sqrt(sum(one**2 for one in residuals) / len(residuals)),
        "energy_error": float(lost / given),
        "state_error": max(errors),
        **{f"residual_{name}": value for name, value in zip(STATES, residuals, strict=True)},
        **{f"error_{name}": value for name, value in zip(STATES, errors, strict=True)},
    }


def calibration(means: list[Tensor], log_vars: list[Tensor], targets: list[Tensor]) -> Metrics:
    """`coverage_error` of each state's intervals (see `uncertainty.coverage_error`), the mean over the four."""
    errors = [coverage_error(*one) for one in zip(means, log_vars, targets, strict=True)]
    return {"coverage_error": sum(errors) / len(errors)}


def _kinds(classes: tuple[str, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """(classes,) each: the number of the fault, and the severity, of classes named `fault_severity` or `fault`."""
    split = [name.rpartition("_") if name.rpartition("_")[2].isdigit() else (name, "", "0") for name in classes]
    faults = list(dict.fromkeys(fault for fault, _, _ in split))
    numbers = torch.tensor([faults.index(fault) for fault, _, _ in split], device=device)
    return numbers, torch.tensor([int(severity) for _, _, severity in split], device=device)
