"""The Optuna sampler that `search.sampler` names."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from typing import Any

import optuna

from gatesweep.core.errors import InputError
from gatesweep.sweeps.config.options import check_options
from gatesweep.sweeps.config.schema import Config
from gatesweep.sweeps.config.targets import locate
from gatesweep.sweeps.search.feedback import study_directions
from gatesweep.sweeps.search.space import Space, suggest_values

KEY = "search.sampler"
PAST_TRIALS = 3  # of the study in which a sampler is tried


def make_sampler(node: Mapping[str, Any], seed: int, offset: int = 0) -> optuna.samplers.BaseSampler:
    """Make the sampler that `node`, the section `search.sampler`, describes.

    It is seeded with the sweep's `seed` and `offset`, the number of trials asked for so far. Raises InputError for
    an argument that the sampler does not take.
    """
    target = locate(KEY, node)
    fields = {name: value for name, value in node.items() if name != "_target_"}
    check_options(KEY, target, fields, filled_in=("seed",))
    try:
        return target(**fields, seed=(seed * 100_003 + offset) % 2**32)
    except (TypeError, ValueError) as error:
        raise InputError(f"{KEY}: {error}") from error


def check_sampler(config: Config, space: Space) -> None:
    """Raise InputError unless the sampler can be made, and draws a trial of the space after some trials.

    Optuna checks many options only when it uses them, after `n_startup_trials`; so here that option is 1.
    """
    node, directions = config.search.sampler, study_directions(config.search)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the sweep's own draws give them
        make_sampler(node, config.seed)
        if is_exhaustive(node) or not space:
            return
        early = {"n_startup_trials": 1} if "n_startup_trials" in inspect.signature(locate(KEY, node)).parameters else {}
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(config.seed % 2**32), directions=directions)
        for _ in range(PAST_TRIALS):
            trial = study.ask()
            suggest_values(trial, space)
            study.tell(trial, [0.0] * len(directions))
        study.sampler = make_sampler({**node, **early}, config.seed)
        try:
            suggest_values(study.ask(), space)
        except Exception as error:  # of any kind: nothing has checked the options before
            key, got = _option_at_fault({**node, **early}, config, study, space)
            raise InputError(f"{key}: {got}{node['_target_']} cannot draw a trial with it ({error})") from error


def _option_at_fault(node: Mapping[str, Any], config: Config, study: optuna.Study, space: Space) -> tuple[str, str]:
    """Return the key without which the sampler draws, and words for its value; the sampler's where there is none."""
    for name in node.keys() - {"_target_", "n_startup_trials"}:
        try:
            study.sampler = make_sampler({key: value for key, value in node.items() if key != name}, config.seed)
            suggest_values(study.ask(), space)
        except Exception:  # of any kind, as above
            continue
        return f"{KEY}.{name}", f"got {node[name]!r}, but "
    return KEY, ""


def is_exhaustive(node: Mapping[str, Any]) -> bool:
    """Return True if the sampler visits every point of a finite space. Raises InputError for a bad `_target_`."""
    return locate(KEY, node) is optuna.samplers.BruteForceSampler
