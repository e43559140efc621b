"""Provenance of a sweep: versions of the libraries, the commits of gatesweep and of the user's code, and that code."""

from __future__ import annotations

import contextlib
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from gatesweep.sweeps.config.schema import Config
from gatesweep.sweeps.records.repository import Git
from gatesweep.sweeps.records.source import keep_source, modules_of, own_modules, sources_of

LIBRARIES = ("gatesweep", "torch", "ray", "optuna", "mlflow", "numpy", "hydra-core")
DIRT = {True: "-dirty", False: "", None: "-unchecked"}
KEYS = ("versions", "git_commit", "code")  # of the summary


def provenance(config: Config | None = None, sweep: Path | None = None) -> dict[str, Any]:
    """Return `versions`, of Python and the libraries, `git_commit`, that of gatesweep, and `code`, of the trainable.

    A commit ends in `-dirty` where files have changed since, where there are sources that git does not know, or where
    a loaded source is not what the commit holds, and in `-unchecked` where git took too long. It is None where the code
    has no history and `GATESWEEP_COMMIT` is not set. `code` describes the classes that `config` names: module, file and
    commit of the trainable, `dirty` where a module of any of them, or one that they import, is not what that commit
    holds (None: not known), and the archive of their sources in the folder `sweep`, with what it lacks.
    """
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):  # on a cluster the code may be uploaded, not installed
            versions[name] = version(name)
    git = Git(without=Path(config.results) if config else None)
    own = git.state(Path(__file__).resolve())
    dirty = git.dirty(own, [module.path for module in own_modules()])
    commit = f"{own.commit}{DIRT[dirty]}" if own.commit else os.environ.get("GATESWEEP_COMMIT")
    code = _code(config, sweep, git) if config else None
    return {"versions": versions, "git_commit": commit, **({"code": code} if code else {})}


def code_line(code: dict[str, Any] | None) -> str | None:
    """Return the provenance of the trainable's code in one line; None where it is not recorded."""
    if not code:
        return None
    state = {True: ", changed or not committed since", False: "", None: ", changes not known"}[code.get("dirty")]
    return f"code {code['module']}, commit {code.get('commit') or 'not known'}{state}"


def _code(config: Config, sweep: Path | None, git: Git) -> dict[str, Any] | None:
    """Return the provenance of the classes that a configuration names; copy their sources into the folder `sweep`."""
    values = config.to_dict()
    modules = modules_of([values.pop("trainable"), values.pop("data"), values])
    if not modules:
        return None
    state, sources = git.state(modules[0].path), sources_of(modules)
    code: dict[str, Any] = {
        "module": modules[0].name,
        "file": str(modules[0].path),
        "commit": state.commit,
        "dirty": git.dirty(state, [module.path for module in sources if module is modules[0] or not module.is_own]),
    }
    if sweep:
        code["source"], missing = keep_source(sweep, sources)
        if missing:
            code["source_lacks"] = missing
    return code
