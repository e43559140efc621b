"""Private names of Ray Tune that schedulers use: a Ray without them is refused here, by name."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import ray
from ray.tune.execution.tune_controller import TuneController
from ray.tune.schedulers import PopulationBasedTraining

from gatesweep.sweeps.schedulers.tune_private import CloningScheduler, call_trial_method

PINNED = f"expected as in the pinned ray 2.60.0, got ray {ray.__version__}"


def test_a_controller_schedules_a_task_of_a_trial() -> None:
    method = getattr(TuneController, "_schedule_trial_task", None)
    assert method, f"TuneController._schedule_trial_task is missing: {PINNED}"
    positions = list(inspect.signature(method).parameters)[1:4]
    assert positions == ["trial", "method_name", "args"], f"TuneController._schedule_trial_task: {PINNED}"
    calls: list[Any] = []
    controller = SimpleNamespace(_schedule_trial_task=lambda *arguments: calls.append(arguments))
    call_trial_method(controller, "a trial", "drop", ["trial_0001"])
    assert calls == [("a trial", "drop", (["trial_0001"],))]


def test_population_based_training_makes_the_configuration_of_a_clone() -> None:
    method = getattr(PopulationBasedTraining, "_get_new_config", None)
    assert method, f"PopulationBasedTraining._get_new_config is missing: {PINNED}"
    positions = list(inspect.signature(method).parameters)
    assert positions == ["self", "trial", "trial_to_clone"], f"PopulationBasedTraining._get_new_config: {PINNED}"

    class Renaming(CloningScheduler):
        def clone_config(self, trial: Any, config: dict[str, Any]) -> dict[str, Any]:
            return {**config, "trial": trial.config["trial"]}

    scheduler = Renaming(metric="score", mode="max", hyperparam_mutations={"lr": [0.1, 0.2]})
    clone, best = (SimpleNamespace(config={"trial": name, "lr": 0.1}) for name in ("clone", "best"))
    config, changes = scheduler._get_new_config(clone, best)
    assert config["trial"] == "clone" and config["lr"] in (0.1, 0.2) and "lr" in changes
