"""Tune's callback of a sweep: each report goes to the trial's folder first, then to the study and the screen."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from pathlib import Path
from typing import Any

from ray import tune

from gatesweep.core.files import write_atomically
from gatesweep.core.function import RETURNED
from gatesweep.core.gate import Gate
from gatesweep.core.loop import CUT_SHORT
from gatesweep.core.record import Event, Record, read_events, was_reopened
from gatesweep.sweeps.config.schema import Config
from gatesweep.sweeps.config.secrets import redact
from gatesweep.sweeps.config.values import to_yaml
from gatesweep.sweeps.execution.alike import AlikeFailures
from gatesweep.sweeps.execution.deaths import Deaths
from gatesweep.sweeps.execution.progress import Progress, say
from gatesweep.sweeps.execution.trial import WORKERS_DIED, trial_config, trial_members
from gatesweep.sweeps.execution.trial_logs import TrialLogs
from gatesweep.sweeps.records.layout import CONFIG, ERROR, EVENTS, TRIAL, trial_folders
from gatesweep.sweeps.search.confirmation import Confirmation
from gatesweep.sweeps.search.searcher import Search

NO_EPOCH: Event = {"epoch": 0, "metrics": {}, "score": None}  # replaces the last epoch of a trial that has none


class Recorder(tune.Callback):
    """Writes the folders of trials, tells the study how each trial ended, and shows progress.

    A report is in the folder before Tune acts on it, so a resumed sweep finds all it needs there. `kind` is TRIAL or
    CONFIRM. Raises DamagedRecord where a trial's record cannot be read.
    """

    def __init__(
        self, sweep: Path, config: Config, gate: Gate, search: Search | Confirmation, kind: str = TRIAL
    ) -> None:
        self.sweep, self.config, self.gate, self.search = sweep, config, gate, search
        past = [event for folder in trial_folders(sweep, kind) for event in read_events(folder / EVENTS)]
        self.offset = max((event.get("elapsed", 0.0) for event in past), default=0.0)
        self.began: float | None = None
        self.over = False  # once the running trials are marked as interrupted: nothing that Tune tells counts
        self.outcomes = Counter(event["outcome"] for event in past if event["event"] == "end")
        self.records: dict[str, Record] = {}
        self.false_starts: Counter[str] = Counter()  # deaths of a trial's process before the trial began
        self.facts: dict[str, dict[str, Any]] = {}  # values of each trial in `records`, and the donor that it copied
        self.deaths, self.alike = Deaths(config), AlikeFailures(config.resources.max_alike)
        self.progress = Progress(config.name, config.num_samples, config.training.max_epochs, self.outcomes)
        self.logs = TrialLogs(sweep, config.logs == "screen")

    @property
    def elapsed(self) -> float:
        """Seconds of sweeping so far, including those before an interruption.

        The clock starts with the first trial whose process is there: the start of Ray and of the first processes takes
        seconds, or minutes on a busy machine, and must not use up a budget.
        """
        return self.offset + (time.monotonic() - self.began if self.began else 0.0)

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """Begin the record of a trial. Members of a stack begin with their first epoch, or are declined."""
        self.began = self.began or time.monotonic()
        if not self.over and "members" not in trial.config:
            self._record(trial.config)

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict[str, Any], **info: Any) -> None:
        """Record the report of a trial, or the reports of a stack's members."""
        elapsed = self.elapsed
        if self.over:
            return None
        if "members" not in trial.config:
            return self._report(trial.config, result, elapsed)
        for config, report in result.get("reports", []):
            self._report(config, report, elapsed)
            if report["done"]:
                self._end(config["trial"], report["outcome"], report["reason"], report.get("traceback"))
            elif report.get("stopped"):
                self._end(config["trial"], "stopped", _scheduler_reason(report["epoch"]))
        for config in result.get("declined", []):
            assert isinstance(self.search, Search), "winners run alone"
            self.search.hand_back(config["trial"], alone=True)
        # A process that replaces a dead one goes on with the members that are left.
        trial.config["members"] = [member for member in trial.config["members"] if member["trial"] in self.search.live]

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """Record the end of a trial. Members of a stack have ended one by one."""
        if self.over or "members" in trial.config:
            return
        last = trial.last_result or {}
        outcome = last.get("outcome") or "stopped"
        reason = last.get("reason") or (_scheduler_reason(last.get("epoch", 0)) if outcome == "stopped" else None)
        if outcome == "failed" and reason and reason.startswith(WORKERS_DIED):
            reason = self.deaths.explain_workers(trial.trial_id, reason)
        self._end(trial.config["trial"], outcome, reason, last.get("traceback"), last.get("is_common", False))

    def on_trial_recover(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """Record that the process of a trial, or of a stack, died, and that another one goes on with it."""
        if self.over:
            return
        reason = self.deaths.explain(trial.trial_id, _error_of(trial))
        for config in trial_members(trial.config):
            if record := self.records.get(config["trial"]):
                record.append("process_died", reason=reason, elapsed=self.elapsed)
        say(f"{trial.config['trial']}: {reason}; it goes on from its last checkpoint in a new process")

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """Record the failure of a trial, or of a stack's members, whose process died."""
        error = _error_of(trial)
        reason = self.deaths.explain(trial.trial_id, error)
        for config in [] if self.over else trial_members(trial.config):
            self._on_process_death(config, reason, error)

    def on_experiment_end(self, trials: list, **info: Any) -> None:
        """Mark trials that still run as interrupted; a sweep that ends by itself has none."""
        self.interrupted()

    def finish_unended(self, stopped: set[str]) -> None:
        """End the trials that a killed sweep left between their last epoch and the record of their end.

        `stopped` names the trials that the scheduler, rebuilt from the record, would have stopped.
        """
        unfinished: list[Any] = self.search.unfinished
        for trial in list(unfinished):
            config = self.search.suggestion(trial)
            name = config["trial"]
            events = read_events(self.sweep / name / EVENTS)
            epochs = [event for event in events if event["event"] == "epoch"]
            ended = next((event for event in events if event["event"] == "end"), None)
            if ended:
                last = epochs[-1] if epochs else NO_EPOCH
                self.search.tell(name, ended["outcome"], last["epoch"], last["metrics"])
            elif epochs and (epochs[-1]["outcome"] or (name in stopped and not was_reopened(events))):
                self._record(config)
                last = epochs[-1]
                self._end(name, last["outcome"] or "stopped", last["reason"] or _scheduler_reason(last["epoch"]))
            else:
                continue
            unfinished.remove(trial)

    def interrupted(self) -> None:
        """Mark the running trials as interrupted; their epochs are recorded, and a resumed sweep goes on with them.

        A mark that cannot be written is left out: a trial without an end counts as interrupted, too.
        """
        for record in [] if self.over else self.records.values():
            with contextlib.suppress(OSError):
                record.append("interrupted", elapsed=self.elapsed)
        self.over = True
        self.progress.close()

    def tick(self) -> None:
        """Write what trials have printed, and draw the progress; called often."""
        self.logs.collect()
        self.progress.tick()

    def close(self, wait: bool = True) -> None:
        """Remove the progress from the screen, and write the last words of the trials; `wait` a moment for them."""
        self.progress.close()
        self.logs.close(wait)

    def _report(self, config: dict[str, Any], result: dict[str, Any], elapsed: float) -> None:
        # Removed from the result itself, so that curves never reach Tune's own state.
        metrics, losses = result.pop("metrics", None), result.pop("losses", None)
        if metrics is None or losses is None:
            self._record(config)
            return
        name, record = config["trial"], self._record(config)
        if (changed := _facts(config)) != self.facts[name]:  # by population-based training
            record.append("values", **changed)
            self._configure(config)
        facts = {"score": result["score"], "outcome": result["outcome"]}
        facts["reason"] = result["reason"] and redact(result["reason"])
        if record.epoch(result["epoch"], metrics, losses, **facts, elapsed=elapsed):
            self.alike.report(name, result["epoch"])
            missed = [] if result["outcome"] in CUT_SHORT else self.gate.missed(metrics)
            gated = {metric: metrics[metric] for metric in self.gate.reads if metric in metrics}
            self.progress.epoch(name, result["epoch"], result["score"], missed, gated)

    def _on_process_death(self, config: dict[str, Any], reason: str, error: str) -> None:
        name = config["trial"]
        if name not in self.records:  # Tune gives up a trial whose process, kept from the trial before, was dead
            self.false_starts[name] += 1
            if self.false_starts[name] <= self.config.resources.max_failures:
                return self.search.hand_back(name)
            self._record(config)
        self._end(name, "failed", reason, error)

    def _record(self, trial: dict[str, Any]) -> Record:
        name = trial["trial"]
        if name not in self.records:
            self._configure(trial)  # before the first event: readers of events expect config.yaml
            self.records[name] = Record(self.sweep / name, trial=name, values=trial["values"], elapsed=self.elapsed)
            self.progress.start(name, self.records[name].epochs)
            self.alike.begin(name, self.records[name].epochs)
        return self.records[name]

    def _configure(self, trial: dict[str, Any]) -> None:
        folder, self.facts[trial["trial"]] = self.sweep / trial["trial"], _facts(trial)
        folder.mkdir(exist_ok=True)
        write_atomically(folder / CONFIG, to_yaml(trial_config(self.config, trial)))

    def _end(
        self, name: str, outcome: str, reason: str | None, detail: str | None = None, is_common: bool = False
    ) -> None:
        record = self.records.pop(name)
        reason, detail = reason and redact(reason), detail and redact(detail)
        values = self.facts.pop(name)["values"]
        if detail:
            (record.directory / ERROR).write_text(detail + "\n")
        last = record.last or NO_EPOCH
        if outcome not in CUT_SHORT and not record.last:
            outcome, reason = "failed", reason or "it reported nothing"
        elif reason == RETURNED and not self.config.data and not last["outcome"]:
            pass  # a function returned: that is no report of its own
        elif outcome not in ("stopped", "failed") and outcome != last["outcome"]:  # the outcome of an unrecorded epoch
            reason = f"it reported to have {outcome}, after epoch {last['epoch']}, whose record says {last['outcome']}"
            outcome = "failed"
        result = record.end(outcome, reason, self.gate)
        self.search.tell(name, outcome, last["epoch"], last["metrics"])
        self.outcomes[outcome] += 1
        if outcome == "failed":
            self.alike.fail(name, reason or "", detail, record.directory / ERROR, is_common)
            self.logs.failed(name, reason or "", detail)
        else:
            self.alike.end(name)
        self.progress.end(name, outcome, last["epoch"], result, values, list(self.gate.reads))


def _facts(config: dict[str, Any]) -> dict[str, Any]:
    """Return a trial's values and, for a copy of another trial, the donor and the trial's own epochs until then."""
    return {key: config[key] for key in ("values", "donor", "epochs") if key in config}


def _error_of(trial: Any) -> str:
    """Return Tune's text about the end of a trial's process."""
    return str(trial.get_error() or "the process died").strip()


def _scheduler_reason(epoch: int) -> str:
    return f"by the scheduler after epoch {epoch}"
