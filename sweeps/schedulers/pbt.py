"""Population-based training over the leaves of a search space."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import TrialScheduler

from gatesweep.core.errors import InputError
from gatesweep.sweeps.config.schema import Config
from gatesweep.sweeps.schedulers.history import EpochScore
from gatesweep.sweeps.schedulers.mutation import Mutator
from gatesweep.sweeps.schedulers.tune_private import CloningScheduler
from gatesweep.sweeps.search.space import Space


class Population(CloningScheduler):
    """Population-based training: a trial that is behind takes over the weights of a better one, and mutates its values.

    Values stay within their leaves. Those that weights depend on, as a width, are the donor's. A trial counts its own
    epochs, and its record names the donor. `perturbation_interval` is in epochs. `seen` is the history of a resumed
    sweep: reports that are repeated from it are passed over. Raises InputError for an empty space.
    Source: Jaderberg et al., arXiv:1711.09846.
    """

    def __init__(
        self,
        *,
        space: Space,
        config: Config,
        seen: Iterable[Sequence[EpochScore]] = (),
        perturbation_interval: int = 2,
        quantile_fraction: float = 0.25,
        resample_probability: float = 0.25,
    ) -> None:
        if not space:
            raise InputError("search.space: got no leaf, expected one: scheduler=pbt mutates it")
        if resample_probability > 1:
            got = f"scheduler.resample_probability: got {resample_probability}"
            raise InputError(f"{got}, expected a probability from 0 to 1")
        super().__init__(
            time_attr="epoch",
            metric="score",
            mode="max",
            perturbation_interval=perturbation_interval,
            quantile_fraction=quantile_fraction,
            resample_probability=resample_probability,
            custom_explore_fn=lambda config: config,  # unused: `clone_config` mutates
            log_config=False,
        )
        self.mutator = Mutator(space, config, resample_probability)
        self.recorded: dict[str, int] = {}
        for name, epoch, _ in (report for reports in seen for report in reports):
            self.recorded[name] = max(epoch, self.recorded.get(name, 0))

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Add a trial. Tune's check for a search algorithm is passed: ours draws only the first population."""
        super().on_trial_add(SimpleNamespace(search_alg=None), trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Decide, for Tune, after an epoch: the trial goes on as it is, or as a copy of a better one."""
        if result["epoch"] <= self.recorded.get(trial.config["trial"], 0):
            return TrialScheduler.CONTINUE
        return super().on_trial_result(tune_controller, trial, result)

    def clone_config(self, trial: Any, epochs: int, donor: Any, donor_epochs: int) -> dict[str, Any]:
        """Return the configuration of `trial` as a copy of `donor`, whose values it mutates; its name stays its own.

        `epochs` is the number of epochs that the trial has trained itself.
        """
        return {
            "trial": trial.config["trial"],
            "number": trial.config["number"],
            "values": self.mutator.mutate(donor.config["values"]),
            "epochs": epochs,
            "donor": {"trial": donor.config["trial"], "epoch": donor_epochs},
        }
