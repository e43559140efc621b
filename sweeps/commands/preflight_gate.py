"""The gate before the first trial: its oracle must pass it, its trivial baseline must not, and gives it its units."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import torch

from gatesweep.core import rng
from gatesweep.core.errors import InputError
from gatesweep.core.gate import Gate
from gatesweep.core.trainable import Data, Metrics, Trainable
from gatesweep.sweeps.commands.preflight_step import describe_trainable_fault
from gatesweep.sweeps.config.build import build_run
from gatesweep.sweeps.config.recorded import read_config
from gatesweep.sweeps.config.schema import Config, make_gate
from gatesweep.sweeps.records.layout import CONFIG

TESTED = ("gate", "trainable", "data")  # sections; a resumed sweep in which they are as before is not tested again


def check_gate(config: Config) -> tuple[Config, list[str]]:
    """Test the gate; return the configuration with the baseline that was measured, and lines to print.

    The lines say the unit of each threshold, and where the trainable has neither oracle nor baseline, that nothing was
    tested. The random generators are as before when this returns. Raises InputError for a gate that the oracle misses
    or the baseline passes.
    """
    gate, lines = make_gate(config.gate), []
    if gate.rules and config.data and not _is_tested(config):  # a function has no data, and neither oracle nor baseline
        name, oracle, trivial = _measure_both(config)
        _refuse(gate, name, oracle, trivial)
        if oracle is None and trivial is None:
            lines.append(
                f"warning: not tested, may be out of reach or pass without learning: {name} has no oracle, no trivial"
            )
        config = config.replace(gate=config.gate.replace(baseline=_baseline(gate, trivial)))
    return config, [f"gate: {line}" for line in [*lines, *make_gate(config.gate).unit_lines]]


def _is_tested(config: Config) -> bool:
    """Return True for a resumed sweep whose gate was settled when it began."""
    if not config.resume:
        return False
    before, now = read_config(Path(config.resume) / CONFIG).to_dict(), config.to_dict()
    return all(before[section] == now[section] for section in TESTED)


def _measure_both(config: Config) -> tuple[str, Metrics | None, Metrics | None]:
    """Return the trainable's name, and the metrics of its oracle and of its trivial baseline; None without one."""
    before = rng.state()
    try:
        trainable, data = build_run(config)
        trainable.eval()
        return type(trainable).__name__, _measure("oracle", trainable, data), _measure("trivial", trainable, data)
    finally:
        rng.restore(before)


def _measure(name: str, trainable: Trainable, data: Data) -> Metrics | None:
    """Return the metrics of the oracle or of the trivial baseline as the gate reads them; None without one.

    Metrics that are NaN are left out: they are not known. Raises InputError where the trainable's code fails.
    """
    try:
        with torch.no_grad():
            metrics = getattr(trainable, name)(data)
    except NotImplementedError:
        return None
    except InputError:
        raise
    except Exception as error:  # whatever a family raises
        raise InputError(describe_trainable_fault(error, trainable, name)) from error
    if metrics is None:
        return None
    return {f"val/{key}": float(value) for key, value in metrics.items() if not math.isnan(value)}


def _refuse(gate: Gate, name: str, oracle: Metrics | None, trivial: Metrics | None) -> None:
    """Raise InputError for a gate that no trial can pass, or that a trial passes without learning."""
    known = _known_part(gate, oracle or {})
    if missed := known.missed(oracle or {}):
        point = dataclasses.replace(known, bound="point").missed(oracle or {})
        way_out = "" if point else "gate.bound=point, more held-out cases, or "
        raise InputError(
            f"gate.thresholds: no trial can pass, for the exact answer (`oracle` of {name}) has {'; '.join(missed)}: "
            f"expected {way_out}thresholds that it clears; gate.thresholds={{}} only ranks trials"
        )
    known = _known_part(gate, trivial or {})
    if len(known.rules) == len(gate.rules) and known.cleared(trivial or {}):
        values = ", ".join(f"{rule} at {known.compared_value(rule, trivial or {}):.4g}" for rule in known.rules)
        raise InputError(
            f"gate.thresholds: a trial passes without learning, for the trivial baseline (`trivial` of {name}) clears "
            f"{values}: expected a threshold that it misses; gate.thresholds={{}} only ranks trials"
        )


def _known_part(gate: Gate, metrics: Metrics) -> Gate:
    """Return the gate with the thresholds whose metrics are known, and without its objective."""
    thresholds = {metric: rule for metric, rule in gate.thresholds.items() if metric in metrics}
    return dataclasses.replace(gate, thresholds=thresholds, objective=None)


def _baseline(gate: Gate, trivial: Metrics | None) -> dict[str, float]:
    """Return the baseline to record, to four digits; a value that the gate has already is kept."""
    measured = {metric: value for metric, value in (trivial or {}).items() if metric in gate.thresholds}
    rounded = {metric: float(f"{value:.4g}") for metric, value in measured.items() if math.isfinite(value)}
    return {**rounded, **gate.baseline}
