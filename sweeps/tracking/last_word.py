"""The last word on a trial in MLflow: its metrics on the test split, and whether they clear the gate."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from gatesweep.core.gate import Gate
from gatesweep.sweeps.records.last_word import judge_split, read_last_word, verdict_word
from gatesweep.sweeps.records.layout import TEST
from gatesweep.sweeps.tracking.names import metric_key
from gatesweep.sweeps.tracking.points import mlflow_number
from gatesweep.sweeps.tracking.runs import SweepRuns

TEST_SENT_TAG = "sweep.sent.test"  # a hash of what MLflow has


def publish_last_word(runs: SweepRuns, run: Any, trial: Path, gate: Gate) -> None:
    """Send the last word on a trial to its run, unless it is there. Raises MlflowException, OSError, DamagedRecord."""
    from mlflow.entities import Metric

    word = read_last_word(trial)
    if word is None:
        return
    content, at = hashlib.sha256((trial / TEST).read_bytes()).hexdigest(), int(1000 * (trial / TEST).stat().st_mtime)
    if run.data.tags.get(TEST_SENT_TAG) == content:
        return
    points = [Metric(metric_key(name), mlflow_number(value), at, word.epoch) for name, value in word.metrics.items()]
    missed = word.reason or "; ".join(judge_split(gate, "test", word.metrics)[1])
    tags = {"gate.test": verdict_word(gate, word) or "", "gate.test.missed": missed, TEST_SENT_TAG: content}
    runs.send(run.info.run_id, points, tags=tags)
