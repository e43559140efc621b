"""What can be known to be wrong before the first trial, found out before there is a folder."""

from __future__ import annotations

import urllib.request
from typing import Any

import torch

from core.trainable import owns_step
from sweeps import figures, scheduler, search
from sweeps.config import build, override
from sweeps.schema import make_gate, make_settings
from sweeps.space import Float, Space


def check_tracking(uri: str | None) -> None:
    """Raise ValueError unless an MLflow server answers at an http(s) `uri`."""
    if uri is None or uri.startswith(("sqlite:///", "postgresql")):
        return
    if not uri.startswith(("http://", "https://")):
        raise ValueError(f"tracking.uri: got {uri!r}, expected http://host:port, sqlite:///file or postgresql://...")
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=5):
            return
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise ValueError(f"tracking.uri: got {uri!r}, expected a running MLflow server ({reason})") from error


def check_search(config: dict[str, Any], space: Space) -> None:
    """The sampler and the scheduler can be made, and suit the space."""
    scheduler.make(config, space)
    search.make_sampler(config)
    if search.is_exhaustive(config):
        for key, leaf in space.items():
            if isinstance(leaf, Float) and leaf.step is None and leaf.low < leaf.high:
                raise ValueError(f"search.space.{key}.step: missing, expected one: search=grid needs a finite space")
    elif config["num_samples"] is None:
        raise ValueError("num_samples: got None, expected a number of trials (null is for search=grid)")


def check_run(config: dict[str, Any], space: Space) -> None:
    """A run can be built, at every corner of the search space too, and reports what its gate reads."""
    torch.set_num_threads(config["resources"]["threads"])
    trainable, data = build(config)
    make_settings(config).check(trainable)
    with torch.no_grad():
        reported = {f"train/{name}" for name in trainable(data.train(0)[0])}
        trainable.eval()
        reported |= {f"val/{name}" for name in trainable.evaluate(data)}
    gate = make_gate(config)
    if owns_step(trainable):  # what such a step reports is seen only in training
        reported |= {metric for metric in gate.reads if metric.startswith("train/")}
    figures.check(config["figures"], trainable, data)
    gate.require(dict.fromkeys(reported | {"train/grad_norm"}, 0.0))
    for key, leaf in space.items():
        for values in leaf.extremes(key):
            try:
                build(override(config, values))
            except Exception as error:  # whatever a family raises about its arguments
                shown = ", ".join(f"{name}={value}" for name, value in values.items())
                raise ValueError(f"search.space.{key}: {shown} cannot be built: {error}") from error
