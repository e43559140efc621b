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
    """What else it takes to repeat a run: versions, and the commit (`-dirty` where the code has changed since)."""
    versions = {"python": platform.python_version()}
    for name in ("gatesweep", "torch", "ray", "optuna", "mlflow", "numpy", "hydra-core"):
        with contextlib.suppress(PackageNotFoundError):  # a cluster may have the code uploaded, not installed
            versions[name] = version(name)
    command = ["git", "-C", str(CONFIGS.parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    commit: str | None
    try:
        commit = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):  # uploaded without its history
        commit = os.environ.get("GATESWEEP_COMMIT")
    return {"versions": versions, "git_commit": commit}
