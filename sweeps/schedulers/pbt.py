"""Population-based training over the leaves of a search space."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from ray import tune
from ray.tune.schedulers import PopulationBasedTraining

from gatesweep.core.errors import InputError
from gatesweep.sweeps.search.leaves import Categorical, Float, Int
from gatesweep.sweeps.search.space import Space


class Population(PopulationBasedTraining):
    """Population-based training over every unconditional, non-composed leaf of the search space."""

    def __init__(
        self,
        *,
        space: Space,
        perturbation_interval: int = 2,
        quantile_fraction: float = 0.25,
        resample_probability: float = 0.25,
    ) -> None:
        mutations = {key: values for key, leaf in space.items() if (values := _mutations(leaf)) is not None}
        if not mutations:
            raise InputError(
                "search.space: got no float, int or categorical leaf, expected one: scheduler=pbt mutates it"
            )
        super().__init__(
            time_attr="training_iteration",
            metric="score",
            mode="max",
            perturbation_interval=perturbation_interval,
            quantile_fraction=quantile_fraction,
            resample_probability=resample_probability,
            hyperparam_mutations={"values": mutations},
        )

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        # Tune allows no searcher beside it; ours only draws the first population.
        super().on_trial_add(SimpleNamespace(search_alg=None), trial)

    def _get_new_config(self, trial: Any, trial_to_clone: Any) -> Any:
        config, changes = super()._get_new_config(trial, trial_to_clone)
        return {**config, "trial": trial.config["trial"], "number": trial.config["number"]}, changes


def _mutations(leaf: Any) -> Any:
    """What a leaf may change to, in Tune's terms."""
    if isinstance(leaf, Categorical) and not leaf.when:
        return list(leaf.choices)
    if isinstance(leaf, Float) and not leaf.when:
        return (tune.loguniform if leaf.log else tune.uniform)(leaf.low, leaf.high)
    if isinstance(leaf, Int) and not leaf.when:
        return (tune.lograndint if leaf.log else tune.randint)(leaf.low, leaf.high + 1)
    return None
