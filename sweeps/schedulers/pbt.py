"""Population-based training over the leaves of a search space."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from ray import tune

from gatesweep.core.errors import InputError
from gatesweep.sweeps.schedulers.tune_private import CloningScheduler
from gatesweep.sweeps.search.leaves import Categorical, Float, Int
from gatesweep.sweeps.search.space import Space


class Population(CloningScheduler):
    """Population-based training over every unconditional, non-composed leaf of the search space.

    `perturbation_interval` is in epochs. Raises InputError for a space without such a leaf.
    Source: Jaderberg et al., arXiv:1711.09846.
    """

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
        """Add a trial. Tune's check for a search algorithm is passed: ours draws only the first population."""
        super().on_trial_add(SimpleNamespace(search_alg=None), trial)

    def clone_config(self, trial: Any, config: dict[str, Any]) -> dict[str, Any]:
        """Keep the name and number of the trial, which are those of its folder."""
        return {**config, "trial": trial.config["trial"], "number": trial.config["number"]}


def _mutations(leaf: Any) -> Any:
    """The values or the range that a leaf may change to, in Tune's terms; None for a leaf that keeps its value."""
    if isinstance(leaf, Categorical) and not leaf.when:
        return list(leaf.choices)
    if isinstance(leaf, Float) and not leaf.when:
        return (tune.loguniform if leaf.log else tune.uniform)(leaf.low, leaf.high)
    if isinstance(leaf, Int) and not leaf.when:
        return (tune.lograndint if leaf.log else tune.randint)(leaf.low, leaf.high + 1)
    return None
