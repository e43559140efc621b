"""What came of a sweep, derived from its run directories alone: `python sweeps/report.py results/latest` does it again.

That writes `summary.json`, `leaderboard.csv` and `report.html`, for a sweep that was killed before it could, and
prints the leaderboard. While a sweep runs, only the page is written.
"""

from __future__ import annotations

import argparse
import csv
import fcntl
import io
import json
import math
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from gatesweep.core.gate import Gate, proportion
from gatesweep.core.record import Event, plain, read_events, write_atomically

HEAD = 50  # rows of a long leaderboard that a terminal shows
OUTCOMES = ("passed", "stopped", "finished", "diverged", "failed")
TRIAL, CONFIRM = "trial", "confirm"  # how the folders of trials begin, and of their runs on fresh seeds


def write(sweep: Path, seconds: float, facts: dict[str, Any]) -> dict[str, Any]:
    """Write `summary.json` and `leaderboard.csv`; returns the summary."""
    trials = ranked(read_trials(sweep))
    outcomes = Counter(trial.outcome for trial in trials)
    first_seconds, first_epochs = first_pass(trials)
    confirmed, front = confirmations(sweep), pareto(sweep)
    summary = {
        "trials": len(trials),
        **{name: outcomes[name] for name in OUTCOMES},
        "interrupted": outcomes["interrupted"],
        "seconds": round(seconds, 3),
        "first_pass_seconds": first_seconds,
        "first_pass_epochs": first_epochs,
        "epochs": sum(len(trial.epochs) for trial in trials),
        "best": best(trials),
        **({"confirmed": confirmed} if confirmed else {}),
        **({"front": front} if front else {}),
        **facts,
    }
    write_atomically(sweep / "summary.json", json.dumps(summary, indent=1) + "\n")
    write_atomically(sweep / "leaderboard.csv", to_csv(leaderboard(sweep)))
    return summary


def leaderboard(sweep: Path) -> list[dict[str, Any]]:
    """One row a trial, best score first: outcome, epochs, seconds, score, gated metrics and what was varied."""
    from gatesweep.sweeps.front import OF_TRIALS  # here, for it builds on this

    config = yaml.safe_load((sweep / "config.yaml").read_text())
    cost = config["search"].get("cost") or OF_TRIALS[0]
    shown = [*Gate(**config["gate"]).reads, *([] if cost in OF_TRIALS else [cost])]
    confirmed = confirmations(sweep)
    return [row(trial, shown, confirmed) for trial in ranked(read_trials(sweep))]


def row(trial: Trial, shown: list[str], confirmed: dict[str, dict[str, Any]]) -> dict[str, Any]:
    facts = {"trial": trial.name, "outcome": trial.outcome, "epochs": len(trial.epochs)}
    facts |= {"seconds": round(trial.seconds, 1), "score": trial.score, "best_score": trial.best_score}
    if confirmed:
        again = confirmed.get(trial.name)
        facts["confirmed"] = f"{again['passed']} of {again['seeds']}" if again else None
    metrics = {name: trial.metrics.get(name) for name in shown}
    return {**facts, **metrics, **trial.values, "reason": trial.reason}


@dataclass(frozen=True)
class Trial:
    """What a trial's folder says of it."""

    name: str
    outcome: str
    reason: str  # or what it missed
    epochs: list[Event]
    values: dict[str, Any]

    @property
    def score(self) -> float | None:
        """That of its last epoch."""
        return self.epochs[-1]["score"] if self.epochs else None

    @property
    def best_score(self) -> float | None:
        return max((event["score"] for event in self.epochs if event["score"] is not None), default=None)

    @property
    def metrics(self) -> dict[str, float]:
        """Those of its last epoch."""
        return self.epochs[-1]["metrics"] if self.epochs else {}

    @property
    def seconds(self) -> float:
        return sum(event["metrics"].get("system/seconds", 0.0) for event in self.epochs)


@dataclass(frozen=True)
class Sweep:
    """What a sweep's folder says of it, while it runs as well."""

    folder: Path
    config: dict[str, Any]
    events: list[Event]  # its own, not its trials'
    trials: list[Trial]  # the best first

    @property
    def gate(self) -> Gate:
        return Gate(**self.config["gate"])

    @property
    def ended(self) -> bool:
        return bool(self.events) and self.events[-1]["event"] == "end"

    @property
    def interrupted(self) -> bool:
        return bool(self.events) and self.events[-1]["event"] == "interrupted"

    @property
    def seconds(self) -> float:
        """Of sweeping, those before an interruption included, as far as they are recorded."""
        epochs = [event for trial in self.trials for event in trial.epochs]
        return max((event.get("elapsed", 0.0) for event in [*self.events, *epochs]), default=0.0)

    def heard(self) -> list[tuple[str, Event]]:
        """Every trial's epochs with its name, in the order in which the sweep heard of them."""
        epochs = [(trial.name, event) for trial in self.trials for event in trial.epochs]
        return sorted(epochs, key=lambda one: (one[1]["elapsed"], one[0]))

    @property
    def facts(self) -> dict[str, Any]:
        """Versions and commit, of its newest start."""
        return next((event for event in reversed(self.events) if event["event"] == "start"), {})


def read(sweep: Path) -> Sweep:
    config = yaml.safe_load((sweep / "config.yaml").read_text())
    return Sweep(sweep, config, read_events(sweep / "events.jsonl"), ranked(read_trials(sweep)))


def read_trials(sweep: Path) -> list[Trial]:
    return [read_trial(folder) for folder in trial_folders(sweep)]


def read_trial(folder: Path) -> Trial:
    events, result = read_events(folder / "events.jsonl"), read_result(folder)
    epochs = [event for event in events if event["event"] == "epoch"]
    reason = result["reason"] or "; ".join(result["missed"])
    return Trial(folder.name, result["outcome"], reason, epochs, varied(events))


def ranked(trials: list[Trial]) -> list[Trial]:
    """The best first: those that passed, by their score, then the others by theirs."""
    worst = -math.inf
    return sorted(
        trials, key=lambda one: (one.outcome == "passed", worst if one.score is None else one.score), reverse=True
    )


def pareto(sweep: Path) -> list[dict[str, Any]]:
    """Where `search.cost` names one: the trials that passed and that no other beats in objective and cost."""
    from gatesweep.sweeps.front import front  # here, for it builds on this

    config = yaml.safe_load((sweep / "config.yaml").read_text())
    cost = config["search"].get("cost")
    return front(read_trials(sweep), Gate(**config["gate"]), cost) if cost else []


def pareto_lines(front: list[dict[str, Any]]) -> list[str]:
    """What `pareto` says, a line a trial."""
    facts = [[f"{name} {_cell(value)}" for name, value in one.items() if name != "trial"] for one in front]
    return [f"front: {one['trial']}, {', '.join(said)}" for one, said in zip(front, facts, strict=True)]


def trial_folders(sweep: Path, kind: str = TRIAL) -> list[Path]:
    return sorted(path.parent for path in sweep.glob(f"{kind}_*/events.jsonl"))


def confirmations(sweep: Path) -> dict[str, dict[str, Any]]:
    """By trial: of its runs on fresh seeds that have ended, how many passed, and the rate with its Wilson interval."""
    found: dict[str, list[bool]] = {}
    for folder in trial_folders(sweep, CONFIRM):
        if (outcome := read_result(folder)["outcome"]) in OUTCOMES:
            found.setdefault(confirmed_name(folder), []).append(outcome == "passed")
    return {
        name: {"passed": sum(runs), "seeds": len(runs), **proportion("rate", sum(runs), len(runs))}
        for name, runs in found.items()
    }


def confirmed_name(folder: Path) -> str:
    """The trial that a run on a fresh seed is of."""
    return f"{TRIAL}_{folder.name.split('_')[1]}"


def confirmed_lines(confirmed: dict[str, dict[str, Any]]) -> list[str]:
    """What `confirmations` says, a line a trial."""
    return [
        f"{name} passed on {one['passed']} of {one['seeds']} fresh seeds: {one['rate']:.0%}, "
        f"95 % interval {one['rate_low']:.0%} to {one['rate_high']:.0%}"
        for name, one in confirmed.items()
    ]


def read_result(folder: Path) -> dict[str, Any]:
    """A trial's `result.json`; of one that has not ended, what stands in for it."""
    path = folder / "result.json"
    return json.loads(path.read_text()) if path.exists() else {"outcome": "interrupted", "reason": None, "missed": []}


def best(trials: list[Trial]) -> dict[str, Any] | None:
    """The first of `trials`, if it has a score."""
    if not trials or trials[0].score is None:
        return None
    top = trials[0]
    facts = {"trial": top.name, "outcome": top.outcome, "score": top.score, "epochs": top.epochs[-1]["epoch"]}
    return {**facts, "params": top.values, "metrics": plain(top.metrics)}


def varied(events: list[Event]) -> dict[str, Any]:
    """What a trial's searched values are; population-based training changes them on the way."""
    return next((event["values"] for event in reversed(events) if "values" in event), {})


def first_pass(trials: list[Trial]) -> tuple[float | None, int | None]:
    """Seconds of the sweep until a trial passed, and the epochs that all trials together had trained by then."""
    epochs = [event for trial in trials for event in trial.epochs]
    moments = [event["elapsed"] for event in epochs if event["outcome"] == "passed"]
    if not moments:
        return None, None
    return round(min(moments), 3), sum(event["elapsed"] <= min(moments) for event in epochs)


def to_csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, _columns(rows), lineterminator="\n")
    writer.writeheader()
    writer.writerows({"rank": rank, **row} for rank, row in enumerate(rows, 1))
    return text.getvalue()


def to_table(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """The leaderboard as MLflow's UI shows a table: columns, and data by rows, floats to four digits."""
    columns = _columns(rows)
    values = [[{"rank": rank, **row}.get(name) for name in columns] for rank, row in enumerate(rows, 1)]
    short = [[float(f"{value:.4g}") if isinstance(value, float) else value for value in line] for line in values]
    return {"columns": columns, "data": plain(short)}


def _columns(rows: list[dict[str, Any]]) -> list[str]:
    return ["rank", *dict.fromkeys(name for row in rows for name in row if name != "reason"), "reason"]


def to_text(rows: list[dict[str, Any]]) -> str:
    """The leaderboard as a table for a terminal; of a long one, its head."""
    if len(rows) > 2 * HEAD:
        return f"{to_text(rows[:HEAD])}\n... and {len(rows) - HEAD} more, in leaderboard.csv"
    columns = [
        name for name in dict.fromkeys(name for row in rows for name in row) if name not in ("reason", "best_score")
    ]
    table = [[_short(name) for name in columns]] + [[_cell(row.get(name)) for name in columns] for row in rows]
    widths = [max(len(line[column]) for line in table) for column in range(len(columns))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in table)


def _short(name: str) -> str:
    return name.removeprefix("val/").rpartition(".")[2]


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def is_running(sweep: Path) -> bool:
    """Whether a driver holds the sweep's folder."""
    if not (sweep / ".lock").exists():
        return False
    with (sweep / ".lock").open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path, help="folder of a sweep, e.g. results/latest")
    folder = parser.parse_args().sweep
    if not (folder / "config.yaml").exists():
        parser.error(f"sweep: got {str(folder)!r}, expected the folder of a sweep (it has no config.yaml)")
    from gatesweep.sweeps.pages import page  # here, for it builds on this

    sweep = read(folder.resolve())
    if not is_running(folder):
        write(folder, sweep.seconds, {key: sweep.facts.get(key) for key in ("versions", "git_commit")})
    print(to_text(leaderboard(folder)))
    print(f"report {page.write(folder.resolve())}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
