"""What to try next: an Optuna study, told what really became of each trial."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from ray.tune.search import Searcher

from core.gate import HOPELESS, Gate
from core.trainable import Metrics
from sweeps.schema import locate
from sweeps.space import Space, suggest

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)  # TPE's `group`, the journal


class Search(Searcher):
    """Asks an Optuna study for Tune, and tells it: the objective, the gate's constraints, PRUNED and FAIL.

    The study lives in the sweep's folder and its sampler is seeded by trial, so that a resumed sweep goes on as if it
    had never stopped. Trials that an interruption left running are handed out again, under their number.
    """

    def __init__(self, config: Mapping[str, Any], space: Space, gate: Gate, sweep: Path | None) -> None:
        super().__init__()
        self.config, self.space, self.gate = config, space, gate
        self.exhaustive = is_exhaustive(config)
        self.study = open_study(sweep)
        self.live: dict[str, optuna.Trial] = {}
        left = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        self.unfinished = [self._again(one) for one in left]
        self.exhausted = False

    def is_over(self) -> bool:
        """Whether there is no trial left to begin."""
        asked, most = len(self.study.get_trials(deepcopy=False)), self.config["num_samples"]
        return not self.unfinished and (self.exhausted or (most is not None and asked >= most))

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict, **spec: Any) -> bool:
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if self.is_over():
            return None if self.live else Searcher.FINISHED  # one that runs may be handed back yet
        return self.suggestion(self.unfinished.pop(0) if self.unfinished else self._ask())

    def hand_back(self, name: str) -> None:
        """Take a trial back that never began, to hand it out again."""
        self.unfinished.append(self.live.pop(name))

    def suggestion(self, trial: optuna.Trial) -> dict[str, Any]:
        """The Tune configuration of an Optuna trial; the same each time it is asked for."""
        values = suggest(trial, self.space, self.exhaustive)
        name = f"trial_{trial.number:04d}"
        self.live[name] = trial
        return {"trial": name, "number": trial.number, "values": values}

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        """Nothing: `tell` is called with the trial's outcome, which Tune does not know."""

    def tell(self, name: str, outcome: str, epoch: int, metrics: Metrics) -> None:
        """Tell the study how trial `name` ended.

        A diverged one is as far from the gate as can be, which keeps the sampler away; a failed one says nothing.
        """
        trial = self.live.pop(name)
        trial.set_user_attr("outcome", outcome)
        if outcome == "failed":
            return self._tell(trial, TrialState.FAIL)
        diverged = outcome == "diverged"
        constraints = dict.fromkeys(self.gate.thresholds, -HOPELESS) if diverged else self.gate.constraints(metrics)
        for metric, value in constraints.items():
            trial.set_constraint(metric, value)
        value = HOPELESS if diverged else self.gate.objective_value(metrics)
        if value != value:  # no objective, or not a number
            value = HOPELESS if self.gate.objective else self.gate.score(metrics)
        if outcome in ("passed", "finished"):
            return self._tell(trial, TrialState.COMPLETE, value)
        trial.report(value, epoch)
        self._tell(trial, TrialState.PRUNED)

    def _ask(self) -> optuna.Trial:
        self.study.sampler = make_sampler(self.config, len(self.study.get_trials(deepcopy=False)))
        return self.study.ask()

    def _again(self, trial: optuna.trial.FrozenTrial) -> optuna.Trial:
        """A trial that an interruption left; values that it came before are drawn as they would have been."""
        draft = optuna.create_study(sampler=make_sampler(self.config, trial.number), direction="maximize")
        draft.add_trials(self.study.get_trials(deepcopy=False)[: trial.number])
        drawn = draft.ask()
        suggest(drawn, self.space, self.exhaustive)
        for name in drawn.params.keys() - trial.params.keys():
            shape = drawn.distributions[name]
            value = shape.to_internal_repr(drawn.params[name])
            self.study._storage.set_trial_param(trial._trial_id, name, value, shape)
        return optuna.Trial(self.study, trial._trial_id)

    def _tell(self, trial: optuna.Trial, state: TrialState, value: float | None = None) -> None:
        try:
            self.study.tell(trial, value, state=state)
        except RuntimeError:
            if not self.exhaustive:
                raise
            self.exhausted = True  # the sampler's way to say so: it calls `Study.stop`, which is for `optimize` alone


def open_study(sweep: Path | None) -> optuna.Study:
    """The study of a sweep: `study.journal` in its folder (`optuna-dashboard <sweep>/study.journal` shows it).

    One without a folder is in memory.
    """
    if sweep is None:
        return optuna.create_study(direction="maximize")
    path = sweep / "study.journal"
    path.with_name(path.name + ".lock").unlink(missing_ok=True)  # a killed sweep's; the folder itself is locked
    storage = JournalStorage(JournalFileBackend(str(path)))
    name = next(iter(optuna.get_all_study_names(storage)), sweep.name)  # the folder may have had another name
    return optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True)


def make_sampler(config: Mapping[str, Any], offset: int = 0) -> optuna.samplers.BaseSampler:
    """The sampler that `search.sampler` names, seeded by the sweep's seed and how many trials were asked for."""
    node = dict(config["search"]["sampler"])
    target = locate("search.sampler", node)
    del node["_target_"]
    accepted = inspect.signature(target).parameters
    for name in node:
        if name not in accepted:
            raise ValueError(f"search.sampler.{name}: unknown key, expected one of {', '.join(accepted)}")
    return target(**node, seed=config["seed"] * 100_003 + offset)


def is_exhaustive(config: Mapping[str, Any]) -> bool:
    """Whether the sampler visits every point of a finite space."""
    return locate("search.sampler", config["search"]["sampler"]) is optuna.samplers.BruteForceSampler
