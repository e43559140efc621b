"""Winners on the test split, once the search has ended: each in a process of Ray's, so that no fault ends the sweep."""

from __future__ import annotations

import warnings
from pathlib import Path

import ray
import torch
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from gatesweep.core.cache import cache_name, join_cache
from gatesweep.core.errors import InputError, reason
from gatesweep.core.evaluation import require_split
from gatesweep.core.trainable import Metrics, MissingSplit, split_batches
from gatesweep.sweeps.commands.load import evaluate
from gatesweep.sweeps.commands.signals import raise_if_interrupted
from gatesweep.sweeps.config.build import build_data
from gatesweep.sweeps.config.schema import Config
from gatesweep.sweeps.config.secrets import redact
from gatesweep.sweeps.config.targets import locate
from gatesweep.sweeps.config.trust import Trust, adopt_trust, current_trust
from gatesweep.sweeps.records.last_word import LastWord, read_last_word, write_last_word
from gatesweep.sweeps.records.layout import CONFIRM, trial_folders
from gatesweep.sweeps.records.reader import TrialRecord, rank_trials, read_trial, read_trials

POLL = 0.5  # seconds between looks for a signal
UNTOLD = "a function says how it does on test by reporting test/... metrics beside val/..., which no decision reads"


def write_last_words(folder: Path, config: Config) -> None:
    """Evaluate the winners of a sweep on test, and write what comes out into their folders.

    Winners are the best `confirm.test` trials that passed, and runs on fresh seeds that passed. Those that have their
    metrics already are left out. A fault is written in their place. Raises KeyboardInterrupt, and OSError where a file
    cannot be written.
    """
    winners = [(path, trial) for path, trial in _winners(folder, config) if _is_open(path)]
    absent = _absent_split(config) if winners else ""
    for path, trial in winners:
        epoch = trial.epochs[-1]["epoch"] if trial.epochs else 0
        if not config.data:
            metrics = {name: value for name, value in trial.metrics.items() if name.startswith("test/")}
            word = LastWord(epoch, metrics, "" if metrics else UNTOLD)
        elif absent:
            word = LastWord(epoch, {}, absent)
        else:
            word = LastWord(epoch, *_evaluate_elsewhere(path, config))
        write_last_word(path, word)


def _is_open(path: Path) -> bool:
    """Return True for a trial without metrics on test; a fault is tried again."""
    word = read_last_word(path)
    return word is None or bool(word.reason)


def _absent_split(config: Config) -> str:
    """Return a sentence that says why no trial of a sweep can be evaluated on test; empty where they may be."""
    if not config.data:
        return ""
    try:
        require_split(locate("trainable", config.trainable).evaluate, "test")
        split_batches(build_data(config), "test")
    except MissingSplit as why:
        return str(why)
    except Exception:  # a trial may have other data, and says itself what is wrong with them
        return ""
    return ""


def _winners(folder: Path, config: Config) -> list[tuple[Path, TrialRecord]]:
    if not config.confirm.test:
        return []
    passed = [trial for trial in rank_trials(read_trials(folder)) if trial.outcome == "passed"][: config.confirm.test]
    again = [trial for path in trial_folders(folder, CONFIRM) if (trial := read_trial(path)).outcome == "passed"]
    return [(folder / trial.name, trial) for trial in [*passed, *again]]


def _evaluate_elsewhere(path: Path, config: Config) -> tuple[Metrics, str]:
    """Evaluate a trial in another process of this machine, where its folder is; returns the metrics, or the fault."""
    here = next(node for node in ray.nodes() if node["NodeID"] == ray.get_runtime_context().get_node_id())
    gpus = config.resources.gpus_per_worker
    options = {
        "num_cpus": 0,
        "num_gpus": gpus if here["Resources"].get("GPU", 0) >= gpus else 0,
        "max_retries": 0,
        "scheduling_strategy": NodeAffinitySchedulingStrategy(here["NodeID"], soft=False),
    }
    arguments = (str(path), config.resources.threads, cache_name(), current_trust())
    answer = ray.remote(**options)(_evaluate_trial).remote(*arguments)
    while not ray.wait([answer], timeout=POLL)[0]:
        raise_if_interrupted()
    try:
        return ray.get(answer)
    except RayError as fault:  # its process died
        return {}, redact(reason(fault).partition(". ")[0])


def _evaluate_trial(path: str, threads: int, cache: str | None, trust: Trust) -> tuple[Metrics, str]:
    """Evaluate a trial on test, in a process of its own; returns the metrics, or the fault."""
    warnings.simplefilter("ignore")  # nobody would see them here
    torch.set_num_threads(threads)
    adopt_trust(trust)
    join_cache(cache)
    try:
        return evaluate(path, "test"), ""
    except InputError as fault:
        return {}, redact(reason(fault))
    except BaseException as fault:  # whatever the trainable's code raises, SystemExit too
        return {}, redact(f"{type(fault).__name__}: {reason(fault)}")
