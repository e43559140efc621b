"""The run of the sweep itself, the parent of its trials' runs: leaderboard, summary, and how the sweep ended."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gatesweep.core.record import read_events
from gatesweep.sweeps.records.layout import (
    CONFIG,
    EVENTS,
    JOURNAL,
    LEADERBOARD,
    OUTCOMES,
    REPORT,
    SUMMARY,
    trial_folders,
)
from gatesweep.sweeps.records.reader import read_json
from gatesweep.sweeps.records.summary import leaderboard, leaderboard_columns
from gatesweep.sweeps.tracking.runs import SweepRuns
from gatesweep.sweeps.tracking.view import LEADERBOARD_TABLE, LOGGED_ARTIFACTS, NOTE, logged_table, sweep_note


def publish_sweep_run(runs: SweepRuns, run: Any, sweep: Path, thresholds: Mapping[str, str], live: bool) -> bool:
    """Send the end of a sweep to its run; return False, having sent no end, for a sweep that has not ended.

    A sweep without a driver that has recorded no end was killed. `thresholds` are the gate's, by metric, and `live` is
    True while a driver is at work. Raises MlflowException and OSError.
    """
    from mlflow.entities import Metric

    path, events, identifier = sweep / SUMMARY, read_events(sweep / EVENTS), run.info.run_id
    runs_again = bool(events) and events[-1]["event"] == "start"  # and the summary is of its earlier end
    if runs_again or not path.exists():
        if not live:
            runs.client.set_terminated(identifier, "KILLED", _last_sign(sweep))
        return False
    client, summary, at = runs.client, read_json(path), int(path.stat().st_mtime * 1000)
    runs.send_files(run, [sweep / name for name in (CONFIG, SUMMARY, LEADERBOARD, JOURNAL, REPORT)])
    client.log_dict(identifier, leaderboard_columns(leaderboard(sweep)), LEADERBOARD_TABLE)
    counts = {key: float(summary[key]) for key in ("trials", *OUTCOMES)}
    tags = {
        LOGGED_ARTIFACTS: logged_table(LEADERBOARD_TABLE),
        "best.trial": (summary["best"] or {}).get("trial", ""),
        NOTE: sweep_note(summary, thresholds),
    }
    runs.send(identifier, [Metric(key, count, at, 0) for key, count in counts.items()], tags=tags)
    interrupted = bool(events) and events[-1]["event"] == "interrupted"  # perhaps before its first trial
    killed = interrupted or summary["interrupted"]
    client.set_terminated(identifier, "KILLED" if killed else "FINISHED", at)
    return True


def _last_sign(sweep: Path) -> int | None:
    """Return the time (ms) of a sweep's last event, or of a trial's; None without one."""
    paths = [sweep / EVENTS, *(folder / EVENTS for folder in trial_folders(sweep))]
    return int(1000 * max((path.stat().st_mtime for path in paths if path.exists()), default=0)) or None
