"""Evaluate a trained model on a split of its data: metrics beside the gate, figures, one page and a JSON file."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from gatesweep.core.errors import InputError
from gatesweep.core.record import json_safe
from gatesweep.core.reporting import Last
from gatesweep.core.trainable import SPLITS, MissingSplit, Split
from gatesweep.sweeps.commands.cli import NONE_PASSED, PASSED, run_command
from gatesweep.sweeps.commands.load import evaluate_loaded, load
from gatesweep.sweeps.config.recorded import read_config
from gatesweep.sweeps.config.schema import make_gate
from gatesweep.sweeps.execution.figures import draw_split
from gatesweep.sweeps.records.last_word import judge_split
from gatesweep.sweeps.records.layout import CONFIG, EVENTS, SCALARS, is_sweep, require_sweep, trial_folders
from gatesweep.sweeps.records.reader import TrialRecord, rank_trials, read_trial, read_trials
from gatesweep.sweeps.records.text import text_table
from gatesweep.sweeps.reports.evaluation import evaluation_rows, write_evaluation_page

METRICS = "metrics.json"


def main(argv: Sequence[str] | None = None) -> int:
    """The command `gatesweep evaluate`; returns its exit code."""
    return run_command("evaluate", argv)


def evaluate_command(arguments: argparse.Namespace) -> int:
    """Evaluate a trial, write what comes out and print it; returns the exit code. Raises InputError."""
    name, split = _read_words(arguments.words)
    trial = _trial_folder(arguments.folder, name)
    loaded = load(trial)
    metrics = evaluate_loaded(loaded, trial, split)
    assert not isinstance(loaded, Last)
    record, config = read_trial(trial), read_config(trial / CONFIG)
    gate = make_gate(config.gate)
    cleared, missed = judge_split(gate, split, metrics)
    folder = trial / f"evaluation_{split}"
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            figures, note = draw_split(folder, *loaded, split), ""
        except MissingSplit as why:
            figures, note = [], str(why)
        facts = {
            "trial": trial.name,
            "split": split,
            "cleared": cleared,
            "missed": missed,
            "metrics": json_safe(metrics),
        }
        (folder / METRICS).write_text(json.dumps(facts, indent=1) + "\n")
        page = write_evaluation_page(folder, record, config, split, metrics, figures, note)
    except OSError as error:
        raise InputError(f"evaluate: got {str(trial)!r}, expected a folder that can be written ({error})") from error
    print("\n".join(_lines(split, cleared, evaluation_rows(gate, split, metrics, record.metrics), record)))
    print(f"report {page}")
    return NONE_PASSED if cleared is False else PASSED


def _read_words(words: Sequence[str]) -> tuple[str | None, Split]:
    """Return the trial and the split that were typed. Raises InputError."""
    name, split = None, "test"
    for word in words:
        key, is_value, value = word.partition("=")
        if is_value and key == "split" and value in SPLITS:
            split = value
        elif is_value:
            raise InputError(f"got {word!r}, expected split={', split='.join(SPLITS)}")
        elif name is not None:
            raise InputError(f"got {word!r} behind {name!r}, expected one trial")
        else:
            name = word
    return name, next(known for known in SPLITS if known == split)


def _trial_folder(folder: Path, name: str | None) -> Path:
    """Return the folder of a trial of a sweep, by default the best; or `folder` itself, that of a run.

    Raises InputError.
    """
    if not is_sweep(folder) and (folder / SCALARS).exists() and (folder / EVENTS).exists():
        if name is not None:
            raise InputError(f"got {name!r} behind {str(folder)!r}, which is a run already, expected no trial")
        return folder.resolve()
    sweep = require_sweep(folder).resolve()
    if name is None:
        scored = [trial for trial in rank_trials(read_trials(sweep)) if trial.score is not None]
        if not scored:
            raise InputError(f"evaluate: {str(folder)!r} has no trial with an epoch yet")
        return sweep / scored[0].name
    trials = [path.name for path in (*trial_folders(sweep), *trial_folders(sweep, "confirm"))]
    if name not in trials:
        shown = ", ".join(trials[:5]) + (", ..." if len(trials) > 5 else "")
        raise InputError(f"evaluate: got {name!r}, expected a trial of {str(folder)!r}: {shown or 'it has none'}")
    return sweep / name


def _lines(split: Split, cleared: bool | None, rows: list[dict[str, str]], record: TrialRecord) -> list[str]:
    """Return the table of gated metrics, or of all, and the verdict, as text."""
    how = {True: f"clears the gate on {split}", False: f"misses the gate on {split}", None: f"no verdict on {split}"}
    table = [[row["name"], row["recorded"], row["value"], row["needs"], row["result"]] for row in rows]
    columns = ["metric", "val, recorded", split, "gate", ""]
    return [text_table(columns, table), f"{record.name} ({record.outcome}): {how[cleared]}"]
