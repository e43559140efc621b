"""The run of the sweep itself, the parent of its trials' runs: leaderboard, summary, and how the sweep ended."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gatesweep.core.record import read_events
from gatesweep.sweeps.records.layout import CONFIG, EVENTS, JOURNAL, LEADERBOARD, OUTCOMES, REPORT, SUMMARY
from gatesweep.sweeps.records.reader import read_json
from gatesweep.sweeps.records.summary import leaderboard, leaderboard_columns
from gatesweep.sweeps.tracking.runs import SweepRuns
from gatesweep.sweeps.tracking.view import LEADERBOARD_TABLE, LOGGED_ARTIFACTS, NOTE, logged_table, sweep_note


def publish_sweep_run(runs: SweepRuns, run: str, sweep: Path, thresholds: Mapping[str, str]) -> bool:
    """Send the end of a sweep; return False, having sent nothing, for a sweep that has not ended or runs again.

    `thresholds` are the gate's, by metric. Raises MlflowException and OSError.
    """
    from mlflow.entities import Metric

    path, events = sweep / SUMMARY, read_events(sweep / EVENTS)
    runs_again = bool(events) and events[-1]["event"] == "start"  # and the summary is of its earlier end
    if runs_again or not path.exists():
        return False
    client, summary, at = runs.client, read_json(path), int(path.stat().st_mtime * 1000)
    runs.log_files(run, [sweep / name for name in (CONFIG, SUMMARY, LEADERBOARD, JOURNAL, REPORT)])
    client.log_dict(run, leaderboard_columns(leaderboard(sweep)), LEADERBOARD_TABLE)
    client.set_tag(run, LOGGED_ARTIFACTS, logged_table(LEADERBOARD_TABLE))
    counts = {key: float(summary[key]) for key in ("trials", *OUTCOMES)}
    client.log_batch(run, metrics=[Metric(key, count, at, 0) for key, count in counts.items()])
    client.set_tag(run, "best.trial", (summary["best"] or {}).get("trial", ""))
    client.set_tag(run, NOTE, sweep_note(summary, thresholds))
    client.set_terminated(run, "KILLED" if summary["interrupted"] else "FINISHED", at)
    return True
