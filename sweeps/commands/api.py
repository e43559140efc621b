"""Sweeps from Python, in a script or a notebook: `sweep`, `open_sweep` and the `Result` of both."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gatesweep.core.cache import cache_scope
from gatesweep.core.errors import InputError
from gatesweep.core.gate import Gate
from gatesweep.core.record import SCALARS
from gatesweep.core.reporting import Last
from gatesweep.core.trainable import Data, Metrics, Split, Trainable
from gatesweep.sweeps.commands.load import evaluate, load
from gatesweep.sweeps.commands.resume import configure
from gatesweep.sweeps.commands.run import sweep_to_end
from gatesweep.sweeps.commands.signals import handle_signals
from gatesweep.sweeps.config.effects import check_effects
from gatesweep.sweeps.config.groups import group_choices
from gatesweep.sweeps.config.own import compose_own, dotted_target, merge_values, normal_node, typed_keys
from gatesweep.sweeps.config.recorded import read_config
from gatesweep.sweeps.config.schema import Config, check_config, make_gate
from gatesweep.sweeps.config.trust import trust_object, trust_typed
from gatesweep.sweeps.config.values import set_values
from gatesweep.sweeps.execution.alike import FailedAlike
from gatesweep.sweeps.execution.progress import silence
from gatesweep.sweeps.records.last_word import LastWord, last_words, verdict_word
from gatesweep.sweeps.records.layout import CONFIG, REPORT, TRIAL, require_sweep
from gatesweep.sweeps.records.reader import TrialRecord, rank_trials, read_trials
from gatesweep.sweeps.search.space import check_typed_keys

if TYPE_CHECKING:
    import pandas

SHOWN = 20  # trials in a notebook


def sweep(
    what: Callable[..., Any] | type[Trainable] | str | None = None,
    *,
    space: Mapping[str, Any] | None = None,
    gate: Mapping[str, Any] | Gate | None = None,
    max_epochs: int | None = None,
    num_samples: int | None = None,
    data: type[Data] | Mapping[str, Any] | str | None = None,
    results: str | Path | None = None,
    resume: str | Path | None = None,
    verbose: int = 1,
    **overrides: Any,
) -> Result:
    """Sweep a function or a Trainable, and return what came out.

    Args:
        what: a function, a subclass of Trainable, or "module:name". It may be of a script or a notebook.
        space: by name, a tuple (low, high) or (low, high, "log") for a range, a list of choices, or a leaf as in YAML.
        gate: thresholds by metric, {"val/accuracy": "> 0.95"}, or a Gate.
        max_epochs: epochs of a trial; an epoch is a report.
        num_samples: the number of trials.
        data: the data of a Trainable: a class, or its `_target_` and arguments.
        results: the folder of sweeps.
        resume: the folder of an earlier sweep to go on with; the arguments that are given change its configuration.
        verbose: 0 shows nothing.
        overrides: further keys of a configuration: scheduler="none", seed=1, training={"keep_checkpoints": 1}.

    Raises InputError for bad input, before there is a folder; KeyboardInterrupt and OSError once the end is recorded,
    with the words to go on; RuntimeError where all trials fail alike. The handlers of signals are as before then.
    """
    given: dict[str, Any] = {"space": space, "gate": gate, "max_epochs": max_epochs, "num_samples": num_samples}
    given |= {"data": data, "results": None if results is None else str(results), **overrides}
    values = {key: value for key, value in given.items() if value is not None}
    with handle_signals(owns_process=False), cache_scope():
        target = None if what is None else _target_name(what)
        config = _new_config(target, values) if resume is None else _resumed_config(target, Path(resume), values)
        if verbose:
            end = sweep_to_end(config, _words_to_resume)
        else:
            with silence():
                end = sweep_to_end(config, _words_to_resume)
    if isinstance(end.interruption, FailedAlike):
        raise RuntimeError(f"{end.interruption}; once it is mended, go on with {_words_to_resume(end.folder)}")
    if end.interruption is not None:
        reason = " ".join([*map(str, end.interruption.args), "go on with", _words_to_resume(end.folder)])
        raise type(end.interruption)(reason)
    return Result(end.folder)


def open_sweep(folder: str | Path) -> Result:
    """Return what a sweep has come to, also while it runs. Raises InputError where the folder is none of a sweep."""
    return Result(require_sweep(Path(folder)).resolve())


class Result:
    """A sweep's folder, read when it is asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def trials(self) -> pandas.DataFrame:
        """One row a trial, the best first: what was varied, outcome, epochs, metrics, and why it ended so.

        Winners have their metrics on test, too, and the column `test` says how the gate judges them.
        """
        import pandas

        trials, words = self._ranked(), last_words(self.folder, TRIAL)
        gate = make_gate(read_config(self.folder / CONFIG).gate) if words else None
        index = pandas.Index([trial.name for trial in trials], name="trial")
        return pandas.DataFrame([_row(trial, gate, words.get(trial.name)) for trial in trials], index=index)

    @property
    def best(self) -> Trial | None:
        """The best trial; None while there is none."""
        return next((Trial(self.folder, trial) for trial in self._ranked()), None)

    @property
    def curves(self) -> pandas.DataFrame:
        """Every metric of every trial, one row an epoch; the index is trial and epoch."""
        import pandas

        trials = [Trial(self.folder, trial) for trial in self._ranked() if trial.epochs]
        curves = {trial.name: trial.curves for trial in trials}
        return pandas.concat(curves, names=["trial"]) if curves else pandas.DataFrame()

    @property
    def passed(self) -> list[Trial]:
        """The trials that passed the gate, the best first."""
        return [Trial(self.folder, trial) for trial in self._ranked() if trial.outcome == "passed"]

    @property
    def report(self) -> Path:
        """The page of the sweep."""
        return self.folder / REPORT

    def load(self, trial: str | None = None) -> tuple[Trainable, Data] | Last:
        """Return a trial's model as `gatesweep.load` does, by default the best. Raises InputError."""
        name = trial or (self.best.name if self.best else None)
        if name is None:
            raise InputError(f"load: {str(self.folder)!r} has no trial yet")
        return load(self.folder / name)

    def __repr__(self) -> str:
        return f"<sweep {self.folder.name}: {len(self.passed)} of {len(self._ranked())} trials passed>"

    def _repr_html_(self) -> str:
        import html

        return f"<p>{html.escape(repr(self))}</p>{self.trials.head(SHOWN).to_html()}"

    def _ranked(self) -> list[TrialRecord]:
        return rank_trials(read_trials(self.folder))


class Trial:
    """One trial of a sweep: `name`, `outcome`, `reason`, `values`, `metrics` of the last epoch, and its `folder`."""

    def __init__(self, sweep: Path, record: TrialRecord) -> None:
        self.name, self.folder = record.name, sweep / record.name
        self.outcome, self.reason = record.outcome, record.reason
        self.values, self.metrics = _short_values(record), record.metrics

    @property
    def curves(self) -> pandas.DataFrame:
        """Every metric, one row an epoch."""
        import pandas

        return pandas.read_csv(self.folder / SCALARS, index_col="epoch")

    def load(self) -> tuple[Trainable, Data] | Last:
        """Return the model as `gatesweep.load` does."""
        return load(self.folder)

    def evaluate(self, split: Split = "test") -> Metrics:
        """Return the metrics of the model on a split of its data, as `gatesweep.evaluate` does. Raises InputError."""
        return evaluate(self.folder, split)

    def __repr__(self) -> str:
        return f"<{self.name} {self.outcome}: {self.values}>"


def _words_to_resume(folder: Path) -> str:
    return f"gatesweep.sweep(..., resume={str(folder)!r})"


def _new_config(target: str | None, values: dict[str, Any]) -> Config:
    """Compose the configuration of a new sweep. Raises InputError."""
    if target is None:
        raise InputError("sweep: got nothing to train, expected a function, a Trainable or 'module:name'; or resume=")
    fixed = values.pop("trainable", None) or {}
    data = values.pop("data", None)
    if isinstance(data, Mapping):
        data = {key: _target_name(value) if key == "_target_" else value for key, value in data.items()}
    elif data is not None:
        data = {"_target_": _target_name(data)}
    node = normal_node({**values, "trainable": {"_target_": target, **fixed}, **({"data": data} if data else {})})
    trust_typed(node)
    config = compose_own(node)
    check_typed_keys(typed_keys(node), config)
    check_effects(typed_keys(node), config)
    return config


def _resumed_config(target: str | None, folder: Path, values: dict[str, Any]) -> Config:
    """Return the configuration of an earlier sweep, with changes. Raises InputError."""
    trust_typed({"_target_": target})
    config = configure([f"resume={str(folder)!r}"])
    if target and target != config.trainable["_target_"]:
        raise InputError(f"resume: got {str(folder)!r}, a sweep of {config.trainable['_target_']}, not of {target}")
    if not values:
        return config
    for key in ("trainable", "data", "results"):
        if key in values:
            raise InputError(f"{key}: got {values[key]!r}, expected none with resume=: it is recorded")
    node = normal_node({**values, "trainable": config.trainable, "data": config.data})
    for key, value in node.items():
        if key in group_choices() and isinstance(value, str):
            raise InputError(f"{key}: got {value!r}, expected keys: the sweep is already composed")
    if "space" in node:
        node.setdefault("search", {})["space"] = set_values({}, node.pop("space"))
    changed = {**merge_values(config.to_dict(), node), **{key: node[key] for key in ("gate",) if key in node}}
    return check_config(changed)


def _target_name(what: Any) -> str:
    """Return the dotted name of a function or class; one that no other process could import is handed over itself."""
    if isinstance(what, str):
        return dotted_target("sweep", what)
    function = getattr(what, "func", what)  # of functools.partial
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    if not callable(what) or module is None or name is None:
        raise InputError(f"sweep: got {what!r}, expected a function, a class or 'module:name'")
    if module != "__main__" and getattr(sys.modules.get(module), name, None) is what:
        trust_typed({"_target_": f"{module}.{name}"})
        return f"{module}.{name}"
    target = f"{module}.{re.sub(r'[^0-9A-Za-z_]+', '_', name).strip('_') or 'function'}"
    trust_object(target, what)
    return target


def _row(trial: TrialRecord, gate: Gate | None, word: LastWord | None) -> dict[str, Any]:
    """Return the row of a trial: later names do not hide earlier ones.

    `gate` is None where no trial of the sweep has a last word.
    """
    measured = trial.metrics | (word.metrics if word else {})
    metrics = {name: value for name, value in measured.items() if not name.startswith("system/")}
    verdict = {"test": verdict_word(gate, word)} if gate else {}
    row = {"outcome": trial.outcome, **verdict, "epochs": len(trial.epochs), **metrics, "why": trial.reason}
    return {**_short_values(trial), **row}


def _short_values(trial: TrialRecord) -> dict[str, Any]:
    """Return the values of a trial; those of the trainable without their section."""
    return {key.removeprefix("trainable."): value for key, value in trial.values.items()}
