"""The page of an evaluation: a trial's metrics on a split beside the gate and beside those of val, and its figures."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path

from gatesweep.core.files import write_atomically
from gatesweep.core.gate import Gate, is_interval_end
from gatesweep.core.trainable import Metrics, Split
from gatesweep.sweeps.config.schema import Config, make_gate
from gatesweep.sweeps.records.last_word import judge_split, split_gate
from gatesweep.sweeps.records.layout import REPORT
from gatesweep.sweeps.records.reader import TrialRecord
from gatesweep.sweeps.reports.render import format_choice, format_value, render_template
from gatesweep.sweeps.reports.sections import threshold_row, value_text


def write_evaluation_page(
    folder: Path,
    trial: TrialRecord,
    config: Config,
    split: Split,
    metrics: Metrics,
    figures: Sequence[Path],
    note: str,
) -> Path:
    """Write the page of an evaluation into `folder`; returns its path. `note` says why there are no figures.

    The page contains its figures, so that it can be sent as one file. Raises OSError.
    """
    gate = make_gate(config.gate)
    cleared = judge_split(gate, split, metrics)[0]
    values = {
        "family": config.trainable["_target_"].rpartition(".")[2],
        "trial": trial.name,
        "outcome": trial.outcome,
        "split": split,
        "cleared": cleared,
        "rows": evaluation_rows(gate, split, metrics, trial.metrics),
        "params": [{"name": name, "value": format_choice(value)} for name, value in trial.values.items()],
        "figures": [{"name": path.stem, "content": base64.b64encode(path.read_bytes()).decode()} for path in figures],
        "note": note,
    }
    write_atomically(folder / REPORT, render_template("evaluation.html", values))
    return folder / REPORT


def evaluation_rows(gate: Gate, split: Split, metrics: Metrics, recorded: Mapping[str, float]) -> list[dict[str, str]]:
    """Return a row for each metric of a split, gated ones first: its value, the `recorded` one of val, and the gate."""
    judged = split_gate(gate, split)
    rows = [threshold_row(rule, judged, metrics) | {"gated": "yes"} for rule in judged.rules]
    others = [name for name in metrics if name not in judged.thresholds and not is_interval_end(name, metrics)]
    rows += [
        {"name": name, "value": value_text(name, metrics), "needs": "", "result": "", "tone": "", "gated": ""}
        for name in others
    ]
    return [row | {"recorded": _recorded(row["name"], split, recorded)} for row in rows]


def _recorded(name: str, split: Split, recorded: Mapping[str, float]) -> str:
    return format_value(recorded.get(f"val/{name.removeprefix(f'{split}/')}"))
