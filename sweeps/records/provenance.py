"""Provenance of a run: versions of the libraries, and the commit of the code."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from gatesweep.sweeps.config.groups import CONFIGS


def provenance() -> dict[str, Any]:
    """Return `versions`, of Python and the libraries, and `git_commit`, with `-dirty` where files have changed since.

    The commit is None where the code has no history and `GATESWEEP_COMMIT` is not set.
    """
    versions = {"python": platform.python_version()}
    for name in ("gatesweep", "torch", "ray", "optuna", "mlflow", "numpy", "hydra-core"):
        with contextlib.suppress(PackageNotFoundError):  # on a cluster the code may be uploaded, not installed
            versions[name] = version(name)
    command = ["git", "-C", str(CONFIGS.parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    commit: str | None
    try:
        commit = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):  # the code was uploaded without its history
        commit = os.environ.get("GATESWEEP_COMMIT")
    return {"versions": versions, "git_commit": commit}
