"""Parameters and tags of runs, made of configurations and of the record's events. No secret passes here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from gatesweep.core.gate import Gate
from gatesweep.core.record import Event
from gatesweep.sweeps.config.schema import Config
from gatesweep.sweeps.config.secrets import redact_values
from gatesweep.sweeps.config.values import flatten
from gatesweep.sweeps.records.layout import CONFIG
from gatesweep.sweeps.records.reader import read_result
from gatesweep.sweeps.tracking.view import proportion_tags

TRIAL_SECTIONS = ("trainable", "data", "training", "seed")
END_TAGS = ("outcome", "gate", "gate.missed", "reason", "gate.intervals", "gate.wilson", "gate.point")
COMMIT_TAG = "mlflow.source.git.commit"  # which MLflow's UI shows


def sweep_parameters(config: Config) -> dict[str, Any]:
    """Return the parameters of the sweep's run: its configuration without the search."""
    return flatten(redact_values({key: value for key, value in config.to_dict().items() if key != "search"}))


def trial_parameters(folder: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a trial's run; `values` are the searched ones. Raises OSError and YAMLError."""
    config = yaml.load((folder / CONFIG).read_bytes(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return {**flatten(redact_values({key: config[key] for key in TRIAL_SECTIONS})), **values}


def end_tags(folder: Path, event: Event, gate: Gate) -> dict[str, str]:
    """Return the tags that say how a trial ended; `event` is its `end`. Raises DamagedRecord and OSError."""
    result, outcome = read_result(folder), event["outcome"]
    return {
        "outcome": outcome,
        "gate": "passed" if outcome == "passed" else "missed",
        "gate.missed": "; ".join(result["missed"]),
        "reason": result["reason"] or "",
        **proportion_tags(gate, result["metrics"]),
    }


def code_tags(start: Event) -> dict[str, str]:
    """Return the tags with the commits of the code; `start` is the sweep's newest start, or empty."""
    code = start.get("code") or {}
    commit = code.get("commit") if code else start.get("git_commit")
    tags = {"gatesweep.version": (start.get("versions") or {}).get("gatesweep")}
    tags |= {"gatesweep.commit": start.get("git_commit"), COMMIT_TAG: commit, "code.source": code.get("module")}
    if code.get("dirty") is not None:
        tags["code.dirty"] = str(code["dirty"]).lower()
    return {key: str(value) for key, value in tags.items() if value}
