"""One training step before the first trial: a step that cannot be taken is said before there is a folder."""

from __future__ import annotations

import dataclasses
import re
import traceback
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import optuna
import torch

import gatesweep
from gatesweep.core import device, rng
from gatesweep.core.device import release_memory
from gatesweep.core.errors import InputError, reason
from gatesweep.core.loop import Run
from gatesweep.core.trainable import Data, Diverged, Metrics, Trainable
from gatesweep.sweeps.commands.faults import keep_traceback
from gatesweep.sweeps.config.build import build_data, build_run
from gatesweep.sweeps.config.functions import missing_arguments
from gatesweep.sweeps.config.schema import Config, make_settings
from gatesweep.sweeps.config.values import check_readable, with_values
from gatesweep.sweeps.execution.figures import check_figures
from gatesweep.sweeps.search.space import Space, suggest_values

POINTS = 2  # of the space, that are tried where the configuration itself cannot take a step


def build_checked(config: Config) -> tuple[Trainable, Data]:
    """Build the trainable and its data. Raises InputError where the code or the memory of one fails."""
    part, node = "data", config.data
    try:
        build_data(config)
        part, node = "trainable", config.trainable
        return build_run(config)
    except InputError:
        raise
    except Exception as error:  # whatever a family raises
        raise InputError(_describe(error, node["_target_"], "constructor", part) + _kept(error, node)) from error


def check_step(config: Config, space: Space) -> None:
    """Raise InputError where neither the configuration nor points of its space can take one training step.

    The step is taken on a run of its own, on the run's device, not compiled, and in one process; the random generators
    are as before when this returns. A trainable that prepares itself in `begin` is left to its trials where it fails.
    """
    before, first = rng.state(), None
    try:
        for point in _points(config, space):
            fault = _step_fault(point)
            if fault is None:
                return
            first = first or fault
    finally:
        rng.restore(before)
        if torch.cuda.is_available():
            release_memory()
    assert first
    text, error = first
    raise InputError(text + (_kept(error, config.trainable) if error else "")) from error


def check_function_run(config: Config, space: Collection[str] = ()) -> None:
    """Raise InputError where a function would be called without an argument that it needs, or cannot run here."""
    check_readable(config)
    device.choose(config.device)
    check_figures(config.figures)
    varied = {key.partition(".")[2].partition(".")[0] for key in space if key.startswith("trainable.")}
    for name in missing_arguments(config.trainable, varied):
        target = config.trainable["_target_"]
        raise InputError(f"trainable.{name}: missing, expected a value: {target} has no default for it")


def check_patience(config: Config, reported: set[str], own_step: bool) -> None:
    """Raise InputError where early stopping reads a metric that is not among those `reported`.

    What a step of the trainable's own reports is known in training only.
    """
    patience = config.training.patience
    if patience is None or patience.metric in reported or (own_step and patience.metric.startswith("train/")):
        return
    expected = f"expected one of {', '.join(sorted(reported))}"
    raise InputError(f"training.patience.metric: got {patience.metric!r}, {expected}")


def evaluate_once(trainable: Trainable, data: Data) -> Metrics:
    """Return the metrics of one evaluation. Raises InputError where the trainable's own code fails in it."""
    try:
        trainable.eval()
        with torch.no_grad():
            return trainable.evaluate(data)
    except InputError:
        raise
    except Exception as error:  # whatever a family raises
        raise InputError(describe_trainable_fault(error, trainable, "evaluate")) from error


def describe_trainable_fault(error: Exception, trainable: Trainable, where: str) -> str:
    """Return a fault of a trainable's code in one line; the traceback is kept in a file."""
    return f"{_describe(error, type(trainable).__name__, where)}; traceback in {keep_traceback(error)}"


def _points(config: Config, space: Space) -> Iterator[Config]:
    """Yield the configuration, then points of its space, each as a trial would have it."""
    yield config
    if space:
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=config.seed))
        for _ in range(POINTS):
            yield with_values(config, suggest_values(study.ask(), space))


def _step_fault(config: Config) -> tuple[str, Exception | None] | None:
    """Take one training step; return in one line what went wrong, and the exception whose traceback may be wanted."""
    settings = dataclasses.replace(make_settings(config), compile=False)
    trainable, run, name = None, None, config.trainable["_target_"]
    try:
        trainable, data = build_run(config)
        run = Run(trainable, settings, lambda module: module)
        run.train_epoch([data.train(0)[0]], {}, [])
    except torch.OutOfMemoryError as error:
        text = settings.out_of_memory_advice(run.batch_size) if run else _describe(error, name, "constructor")
        return text, None
    except Exception as error:  # whatever a family or an optimizer raises
        if trainable is not None and type(trainable).begin is not Trainable.begin:
            return None
        if isinstance(error, InputError | Diverged):
            return (f"{error}, in the first training step" if isinstance(error, Diverged) else str(error)), None
        return _describe(error, name, "training step" if trainable is not None else "constructor"), error
    return None


def _describe(error: Exception, target: str, where: str, part: str = "trainable") -> str:
    """Return a fault of a family's code in one line. `target` is the name of its class, maybe dotted."""
    return f"{part}: the {where} of {target.rpartition('.')[2]} raised {type(error).__name__}: {reason(error)}"


def _kept(error: Exception, node: Mapping[str, Any]) -> str:
    """Keep the traceback of a fault in a file, and return the words that name it; none where a value is at fault.

    That is an error of a library below gatesweep's own families, or below a class of the user's that it does not pass
    through; and memory that no machine has.
    """
    package = str(node["_target_"]).partition(".")[0]
    frames = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    is_own = package != gatesweep.__name__ and any(name.partition(".")[0] == package for name in frames)
    is_memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or re.search(
        "allocate memory|overflow", str(error), re.IGNORECASE
    )
    if is_memory or (isinstance(error, ValueError | OverflowError | OSError) and not is_own):
        return ""
    return f"; traceback in {keep_traceback(error)}"
