"""Check a trainable or a function of the user's against the contract."""

from __future__ import annotations

import argparse
import inspect
import re
import sys
import typing
from pathlib import Path
from typing import Any

import optuna
import torch

from gatesweep.core.errors import InputError, reason
from gatesweep.sweeps.commands.cli import FAULT, PASSED
from gatesweep.sweeps.commands.contract import CHECKS, Contract, NotPromised
from gatesweep.sweeps.commands.contract_ranks import BrokenPromise
from gatesweep.sweeps.commands.faults import keep_traceback
from gatesweep.sweeps.commands.preflight_step import build_checked, check_function_run
from gatesweep.sweeps.config.compose import compose_config
from gatesweep.sweeps.config.groups import group_choices
from gatesweep.sweeps.config.own import SHORT, compose_own, dotted_target, normal_node, read_own_file, split_own_file
from gatesweep.sweeps.config.schema import Config
from gatesweep.sweeps.config.secrets import redact
from gatesweep.sweeps.config.targets import is_plain_function, locate
from gatesweep.sweeps.config.trust import trust_typed
from gatesweep.sweeps.config.values import with_values
from gatesweep.sweeps.search.space import read_space, suggest_values

EPOCHS, DEVICE = 3, "cpu"  # unless others are typed; on a GPU two runs may differ in bits


def check_command(arguments: argparse.Namespace) -> int:
    """Run every check, and print a line for each; returns the exit code. Raises InputError."""
    config = _checked_config(arguments.words)
    torch.set_num_threads(config.resources.threads)
    if config.data:
        build_checked(config)
    else:
        check_function_run(config)
    contract, failed = Contract(config), 0
    width = max(map(len, CHECKS))
    for name, check in CHECKS.items():
        try:
            result, words = "passed", check(contract)
        except InputError:
            raise
        except NotPromised as why:
            result, words = "-", str(why)
        except BrokenPromise as fault:
            result, words = "failed", str(fault)
        except Exception as fault:  # whatever the user's code raises
            result, words = "failed", f"{type(fault).__name__}: {reason(fault)}; traceback in {keep_traceback(fault)}"
        failed += result == "failed"
        print(f"{result:<7} {name:<{width}}  {redact(' '.join(words.split()))}", flush=True)
        if failed and name == "trains":
            break
    return FAULT if failed else PASSED


def _checked_config(words: list[str]) -> Config:
    """Return the configuration that the words of the command mean. Raises InputError."""
    file, rest = split_own_file(words)
    targets = [word for word in rest if "=" not in word]
    if len(targets) + (file is not None) > 1:
        raise InputError(f"check: got {' and '.join([*targets, *([str(file)] if file else [])])}, expected one of them")
    overrides = [_long_key(word) if targets else word for word in rest if word not in targets]
    typed = {word.partition("=")[0] for word in overrides}
    is_short = file is not None or bool(targets)
    if not typed & {"max_epochs", "training.max_epochs"}:
        overrides.append(f"{'' if is_short else 'training.'}max_epochs={EPOCHS}")
    if "device" not in typed:
        overrides.append(f"device={DEVICE}")
    if file is not None:
        return _point_of(compose_own(read_own_file(file), overrides), typed)
    if not targets:
        return compose_config(overrides)
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    return _config_of(dotted_target("check", targets[0]), overrides)


def _point_of(config: Config, typed: set[str]) -> Config:
    """Return the configuration with a point of its space, but for what is typed."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=config.seed))
    values = suggest_values(study.ask(), read_space(config))
    return with_values(config, {key: value for key, value in values.items() if key not in typed})


def _config_of(target: str, overrides: list[str]) -> Config:
    """Return the configuration of a class or function; its data are those that are typed, or that it asks for."""
    node: dict[str, Any] = {"trainable": {"_target_": target}}
    trust_typed(node)
    found = locate("trainable", node["trainable"])
    typed = [word for word in overrides if re.match(r"data=[\w.]+[:.]\w+$", word)]
    if not is_plain_function(found):
        name = dotted_target("data", typed[-1].partition("=")[2]) if typed else _data_of(found)
        if name is None:
            raise InputError(f"data: missing, expected data=module:Class: the constructor of {target} does not say it")
        node["data"] = {"_target_": name}
    trust_typed(node)
    return compose_own(normal_node(node), [word for word in overrides if word not in typed])


def _data_of(trainable: Any) -> str | None:
    """Return the dotted name of the class that the first argument of a constructor is annotated with, or None."""
    names = list(inspect.signature(trainable).parameters)
    try:
        found = typing.get_type_hints(trainable.__init__).get(names[0]) if names else None
    except Exception:  # an annotation that is there for type checkers alone
        return None
    has_batches = inspect.isclass(found) and all(callable(getattr(found, name, None)) for name in ("train", "val"))
    is_general = found is not None and found.__module__.startswith("gatesweep.core.")
    return f"{found.__module__}.{found.__qualname__}" if found and has_batches and not is_general else None


def _long_key(word: str) -> str:
    """Return KEY=VALUE with a key that no configuration has under `trainable`: it is an argument."""
    root = re.split(r"[.=]", word.lstrip("+~"), maxsplit=1)[0]
    known = {*Config.model_fields, *SHORT, *(name.partition("/")[0] for name in group_choices())}
    return word if root in known or "/" in word.partition("=")[0] else f"trainable.{word}"
