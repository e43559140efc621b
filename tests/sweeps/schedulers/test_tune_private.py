"""Private names of Ray Tune that schedulers use: a Ray without them is refused here, by name."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import ray
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
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
        def clone_config(self, trial: Any, epochs: int, donor: Any, donor_epochs: int) -> dict[str, Any]:
            return {"trial": trial.config["trial"], "epochs": epochs, "donor": (donor.config["trial"], donor_epochs)}

    scheduler = Renaming(metric="score", mode="max", hyperparam_mutations={"lr": [0.1, 0.2]})
    clone, best = (Trial("a stub", stub=True, config={"trial": name}) for name in ("clone", "best"))
    for trial, epoch in ((clone, 5), (best, 3)):
        scheduler._trial_state[trial] = SimpleNamespace(last_result={"epoch": epoch})  # type: ignore[assignment]
    config, changes = scheduler._get_new_config(clone, best)
    assert config == {"trial": "clone", "epochs": 5, "donor": ("best", 3)} and not changes


def test_population_based_training_takes_over_the_times_of_a_donor() -> None:
    """CloningScheduler puts them back: a clone counts its own epochs."""
    method = getattr(PopulationBasedTraining, "_exploit", None)
    assert method, f"PopulationBasedTraining._exploit is missing: {PINNED}"
    positions = list(inspect.signature(method).parameters)
    assert positions == ["self", "tune_controller", "trial", "trial_to_clone"], f"_exploit: {PINNED}"
    source = inspect.getsource(method)
    for name in ("last_perturbation_time", "last_train_time"):
        assert f"trial_state.{name} = new_state.{name}" in source, f"_exploit no longer sets {name}: {PINNED}"
