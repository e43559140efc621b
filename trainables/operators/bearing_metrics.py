"""Metrics of bearing models: classification, calibration, errors of states, and residuals of their equations."""

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
    """States of n windows, predicted or exact, in the units of the data."""

    drive: Tensor  # (n, blocks + 1, 3): current in A, speed in rad/s, temperature in degrees C
    casing: Tensor  # (n, samples + 1): x in units of force


def classification(part: Batch, classes: tuple[str, ...], probabilities: Tensor) -> Metrics:
    """Judge the probabilities (n, classes) of n windows.

    * balanced_accuracy: mean recall of the classes. Its interval is that of a proportion of as many windows as tell as
      much: K**2 / sum(1 / n_k) for K classes of n_k windows, so all windows where the classes are equally frequent.
    * ece: expected calibration error.
    * bearing_accuracy: accuracy for whole bearings, by the mean log probability of their windows.
    * fault_accuracy: accuracy of the place of the fault, whatever its severity.
    * severity_accuracy: share of correct severities among windows with the correct place of a fault.

    The accuracies have their Wilson intervals beside them, see `core.gate.proportion`.
    """
    label, answer = part["label"], probabilities.argmax(dim=1)
    fault, severity = _kinds(classes, label.device)
    right, same = answer == label, fault[answer] == fault[label]
    graded = same & (severity[label] > 0)
    counts = torch.unique(label, return_counts=True)[1].double()
    independent = float(len(counts) ** 2 / (1 / counts).sum())
    accuracy = balanced(label, answer)
    judged = proportion("balanced_accuracy", accuracy * independent, independent)
    judged |= {"balanced_accuracy": accuracy, "ece": expected_calibration_error(probabilities, label)}
    bearings, index = part["bearing"].unique(return_inverse=True)
    votes = torch.zeros(len(bearings), len(classes), dtype=torch.float64, device=label.device)
    votes.index_add_(0, index, probabilities.double().clamp(min=1e-12).log())
    bearing_label = torch.zeros_like(bearings).scatter(0, index, label)
    judged |= proportion("bearing_accuracy", int((votes.argmax(dim=1) == bearing_label).sum()), len(bearings))
    judged |= proportion("fault_accuracy", int(same.sum()), len(label))
    return judged | proportion("severity_accuracy", int((right & graded).sum()), int(graded.sum()))


def balanced(label: Tensor, answer: Tensor) -> float:
    """Return the mean recall over the classes that occur, for labels and answers (n,)."""
    recalls = [(answer[label == index] == index).double().mean() for index in label.unique()]
    return float(torch.stack(recalls).mean())


def physics(part: Batch, drive: Drive, scale: Tensor, states: States) -> Metrics:
    """Return the residuals of states in their equations, and their errors.

    * residual_*: rms of the difference between a state and the exact step from the state before. For the drive it is in
      units of the rms change in a step, `scale` (3,). For the casing it is in units of the rms that the force adds in a
      step, so a casing at rest has 1.
    * ode_residual: root mean square of these four.
    * energy_error: |input - losses - work on the load - change of stored energy| of a window, mean over windows, over
      the mean of |input|.
    * error_*: rms error over the rms of the exact state. For the drive, the rms is that of the distance from the state
      at the window's beginning, so a prediction that does not change has 1.
    * state_error: the largest of these four.
    """
    exact, inputs = part["states"], part["inputs"]
    off = (states.drive[:, 1:] - drive.step(states.drive[:, :-1], inputs)) / scale
    shake = casing_residual(states.casing, part["force"], part["taps"])
    residuals = torch.cat([off.square().mean(dim=(0, 1)), shake.square().mean()[None]]).sqrt().tolist()
    drive_errors = (states.drive - exact).square().mean(dim=(0, 1)) / (exact - exact[:, :1]).square().mean(dim=(0, 1))
    casing_errors = (states.casing - part["casing"]).square().mean(dim=1) / part["casing"].square().mean(dim=1)
    errors = torch.cat([drive_errors, casing_errors.mean()[None]]).sqrt().tolist()
    supplied = drive.flows(exact[:, :-1], inputs)[..., 0].sum(dim=1).abs().mean()
    missing = drive.imbalance(states.drive, inputs).sum(dim=1).abs().mean()
    return {
        "ode_residual": math.sqrt(sum(residual**2 for residual in residuals) / len(residuals)),
        "energy_error": float(missing / supplied),
        "state_error": max(errors),
        **{f"residual_{name}": value for name, value in zip(STATES, residuals, strict=True)},
        **{f"error_{name}": value for name, value in zip(STATES, errors, strict=True)},
    }


def calibration(means: list[Tensor], log_vars: list[Tensor], targets: list[Tensor]) -> Metrics:
    """Return `coverage_error`, the mean over states of `uncertainty.coverage_error`.

    Each list has one tensor per state; the three tensors of a state have the same shape.
    """
    errors = [coverage_error(*state) for state in zip(means, log_vars, targets, strict=True)]
    return {"coverage_error": sum(errors) / len(errors)}


def _kinds(classes: tuple[str, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the number of the fault and the severity of classes named `fault_severity` or `fault`, (classes,) each.

    The severity is 0 where the name has none.
    """
    split = [name.rpartition("_") if name.rpartition("_")[2].isdigit() else (name, "", "0") for name in classes]
    faults = list(dict.fromkeys(fault for fault, _, _ in split))
    numbers = torch.tensor([faults.index(fault) for fault, _, _ in split], device=device)
    return numbers, torch.tensor([int(severity) for _, _, severity in split], device=device)
