"""Build the trainable and the data that a configuration names."""

from __future__ import annotations

import json
from functools import cache

from gatesweep.core import device, rng
from gatesweep.core.trainable import Data, Trainable
from gatesweep.sweeps.config.schema import Config
from gatesweep.sweeps.config.targets import locate
from gatesweep.sweeps.config.values import check_readable


def build_run(config: Config) -> tuple[Trainable, Data]:
    """Build the trainable, on its device and initialised from `seed`, and its data.

    The runs of one process share the data of equal configurations. Raises InputError where a `_target_` cannot be
    imported, a value is hidden, or this machine has no such device, and whatever a constructor raises.
    """
    check_readable(config)
    data = build_data(config)
    rng.seed_everything(config.seed)
    fields = {name: value for name, value in config.trainable.items() if name != "_target_"}
    return locate("trainable", config.trainable)(data, **fields).to(device.choose(config.device)), data


def build_data(config: Config) -> Data:
    """Build the data, on the run's device. Raises as `build_run` does."""
    return _cached_data(json.dumps(config.data, sort_keys=True), str(device.choose(config.device)))


@cache
def _cached_data(node: str, device_name: str) -> Data:
    """Build the data of `node`, the section `data` as JSON."""
    values = json.loads(node)
    fields = {name: value for name, value in values.items() if name != "_target_"}
    return locate("data", values)(device=device_name, **fields)
