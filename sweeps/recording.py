"""The one Tune callback: every report goes to the trial's run directory first, then to the study and the screen."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

from ray import tune
from tqdm import tqdm

from gatesweep.core.gate import Gate
from gatesweep.core.loop import CUT_SHORT
from gatesweep.core.record import Event, Record, read_events, write_atomically
from gatesweep.sweeps.config import to_yaml
from gatesweep.sweeps.confirm import Confirmation
from gatesweep.sweeps.report import TRIAL, trial_folders
from gatesweep.sweeps.scheduler import Seen, in_order
from gatesweep.sweeps.search import Search
from gatesweep.sweeps.trial import members, trial_config

NOTHING: Event = {"epoch": 0, "metrics": {}, "score": None}  # what stands in for the last epoch where there is none


class Recorder(tune.Callback):
    """Writes run directories, tells the study how each trial ended, and shows progress.

    Everything a resumed sweep needs is in the folder before Tune, which keeps nothing of its own, acts on it.
    """

    def __init__(
        self, sweep: Path, config: dict[str, Any], gate: Gate, search: Search | Confirmation, kind: str = TRIAL
    ) -> None:
        self.sweep, self.config, self.gate, self.search = sweep, config, gate, search
        past = [result for folder in trial_folders(sweep, kind) for result in read_events(folder / "events.jsonl")]
        self.offset = max((event.get("elapsed", 0.0) for event in past), default=0.0)
        self.began = time.monotonic()
        self.outcomes = Counter(event["outcome"] for event in past if event["event"] == "end")
        self.records: dict[str, Record] = {}
        self.lost: Counter[str] = Counter()  # times that a trial's process died before it began
        self.values: dict[str, dict[str, Any]] = {}
        self.progress = Progress(config, self.outcomes)

    @property
    def elapsed(self) -> float:
        """Seconds of sweeping so far, those before an interruption included."""
        return self.offset + time.monotonic() - self.began

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        if "members" not in trial.config:  # those of a stack begin with their first epoch, or are declined
            self._record(trial.config)

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict[str, Any], **info: Any) -> None:
        elapsed = self.elapsed
        if "members" not in trial.config:
            return self._report(trial.config, result, elapsed)
        for config, report in result.get("reports", []):
            self._report(config, report, elapsed)
            if report["done"]:
                self._end(config["trial"], report["outcome"], report["reason"], report.get("traceback"))
            elif report.get("stopped"):
                self._end(config["trial"], "stopped", _by_scheduler(report["epoch"]))
        for config in result.get("declined", []):
            assert isinstance(self.search, Search), "winners run alone"
            self.search.hand_back(config["trial"], alone=True)
        # A process that takes the place of a dead one goes on with these.
        trial.config["members"] = [one for one in trial.config["members"] if one["trial"] in self.search.live]

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        if "members" in trial.config:
            return
        last = trial.last_result or {}
        outcome = last.get("outcome") or "stopped"
        reason = last.get("reason") or (_by_scheduler(last.get("epoch", 0)) if outcome == "stopped" else None)
        self._end(trial.config["trial"], outcome, reason, last.get("traceback"))

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        error = str(trial.get_error() or "the process died").strip().splitlines()
        for config in members(trial.config):
            self._lose(config, error)

    def on_experiment_end(self, trials: list, **info: Any) -> None:
        for name in list(self.records):
            self._end(name, "stopped", "the sweep ended")
        self.progress.close()

    def finish_unended(self, stopped: set[str]) -> None:
        """Close the trials that a kill caught between their last epoch, or their stop, and the record of it."""
        unfinished: list[Any] = self.search.unfinished
        for trial in list(unfinished):
            config = self.search.suggestion(trial)
            name = config["trial"]
            events = read_events(self.sweep / name / "events.jsonl")
            epochs = [event for event in events if event["event"] == "epoch"]
            ended = next((event for event in events if event["event"] == "end"), None)
            if ended:
                last = epochs[-1] if epochs else NOTHING
                self.search.tell(name, ended["outcome"], last["epoch"], last["metrics"])
            elif epochs and (epochs[-1]["outcome"] or name in stopped):
                self._record(config)
                last = epochs[-1]
                self._end(name, last["outcome"] or "stopped", last["reason"] or _by_scheduler(last["epoch"]))
            else:
                continue
            unfinished.remove(trial)

    def interrupted(self) -> None:
        """Mark the trials that were running; their epochs are recorded, and `resume` goes on with them."""
        for record in self.records.values():
            record.append("interrupted", elapsed=self.elapsed)
        self.progress.close()

    def _report(self, config: dict[str, Any], result: dict[str, Any], elapsed: float) -> None:
        # Popped in place: curves never reach Tune's own state.
        metrics, losses = result.pop("metrics", None), result.pop("losses", None)
        if metrics is None or losses is None:
            self._record(config)
            return
        name, record = config["trial"], self._record(config)
        if config["values"] != self.values[name]:  # population-based training changed them
            self._configure(config)
            record.append("values", values=config["values"])
        facts = {key: result[key] for key in ("score", "outcome", "reason")}
        if record.epoch(result["epoch"], metrics, losses, **facts, elapsed=elapsed):
            missed = [] if result["outcome"] in CUT_SHORT else self.gate.missed(metrics)
            self.progress.epoch(name, result["epoch"], result["score"], missed)

    def _lose(self, config: dict[str, Any], error: list[str]) -> None:
        name = config["trial"]
        if name not in self.records:  # its process, kept from the trial before, was found dead: Tune gives it up
            self.lost[name] += 1
            if self.lost[name] <= self.config["resources"]["max_failures"]:
                return self.search.hand_back(name)
            self._record(config)
        self._end(name, "failed", error[-1], "\n".join(error))

    def _record(self, trial: dict[str, Any]) -> Record:
        name = trial["trial"]
        if name not in self.records:
            self._configure(trial)  # who reads the first event finds it there
            self.records[name] = Record(self.sweep / name, values=trial["values"], elapsed=self.elapsed)
            self.progress.start(name)
        return self.records[name]

    def _configure(self, trial: dict[str, Any]) -> None:
        folder, self.values[trial["trial"]] = self.sweep / trial["trial"], trial["values"]
        folder.mkdir(exist_ok=True)
        write_atomically(folder / "config.yaml", to_yaml(trial_config(self.config, trial)))

    def _end(self, name: str, outcome: str, reason: str | None, detail: str | None = None) -> None:
        record = self.records.pop(name)
        del self.values[name]
        if detail:
            (record.directory / "error.txt").write_text(detail + "\n")
        last = record.last or NOTHING
        if outcome not in CUT_SHORT and not record.last:
            outcome, reason = "failed", reason or "it reported nothing"
        result = record.end(outcome, reason, self.gate)
        self.search.tell(name, outcome, last["epoch"], last["metrics"])
        self.outcomes[outcome] += 1
        self.progress.end(name, outcome, last["epoch"], result)


def _by_scheduler(epoch: int) -> str:
    return f"by the scheduler after epoch {epoch}"


class Enough(tune.Stopper):
    """Ends the sweep after so many passes, or when its time is up."""

    def __init__(self, recorder: Recorder, config: dict[str, Any]) -> None:
        self.recorder = recorder
        self.passes, self.seconds = config["stop_after_passes"], config["time_budget"]

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        enough = self.passes is not None and self.recorder.outcomes["passed"] >= self.passes
        return enough or (self.seconds is not None and self.recorder.elapsed >= self.seconds)


class Progress:
    """A bar on a terminal, and one line for each trial that ends."""

    def __init__(self, config: dict[str, Any], outcomes: Counter) -> None:
        self.outcomes, self.max_epochs = outcomes, config["training"]["max_epochs"]
        self.running: dict[str, int] = {}
        self.best: tuple[float, str] = (float("-inf"), "")
        layout = "{desc} {percentage:3.0f}%|{bar:16}| {elapsed} ETA {remaining}{postfix}"
        self.bar = tqdm(total=config["num_samples"], disable=None, bar_format=layout, desc=config["name"], leave=False)
        self._show()

    def start(self, name: str) -> None:
        self.running[name] = 0
        self._show()

    def epoch(self, name: str, epoch: int, score: float, missed: list[str]) -> None:
        self.running[name] = epoch
        if score > self.best[0]:
            self.best = (score, "; ".join(missed) or "passes")
        self._show()

    def end(self, name: str, outcome: str, epoch: int, result: dict[str, Any]) -> None:
        self.running.pop(name, None)
        why = result["reason"] or "; ".join(result["missed"])
        with tqdm.external_write_mode():
            print(f"{name} {outcome:9} after {epoch:3} epochs  {why}", flush=True)
        self._show()

    def close(self) -> None:
        self.bar.close()

    def _show(self) -> None:
        done = sum(self.outcomes.values()) + sum(epoch / self.max_epochs for epoch in self.running.values())
        self.bar.n = min(done, self.bar.total) if self.bar.total else done
        counts = [f"{self.outcomes[name]} {name}" for name in ("passed", "stopped", "finished", "diverged", "failed")]
        best = f"best {self.best[0]:.3f}: {self.best[1]}" if self.best[1] else "no epoch yet"
        self.bar.set_postfix_str(f"{len(self.running)} running, {', '.join(counts)}; {best}")


def rungs_seen(sweep: Path) -> list[list[Seen]]:
    """Every recorded epoch's score, in the order in which the sweep heard of them, those of a stack together."""
    seen = [
        (event["elapsed"], (folder.name, event["epoch"], event["score"]))
        for folder in trial_folders(sweep)
        for event in read_events(folder / "events.jsonl")
        if event["event"] == "epoch"
    ]
    return in_order(seen)
