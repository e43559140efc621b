"""Build the trainable and the data that a configuration names."""

from __future__ import annotations

import json
from functools import cache

from gatesweep.core import device, rng
from gatesweep.core.trainable import Data, Trainable
from gatesweep.sweeps.config.schema import Config
from gatesweep.sweeps.config.targets import locate


def build_run(config: Config) -> tuple[Trainable, Data]:
    """The trainable, on its device and initialised from `seed`, and its data, shared by the runs of a process."""
    place = device.choose(config.device)
    data = _data(json.dumps(config.data, sort_keys=True), str(place))
    rng.seed_everything(config.seed)
    fields = {name: value for name, value in config.trainable.items() if name != "_target_"}
    return locate("trainable", config.trainable)(data, **fields).to(place), data


@cache
def _data(node: str, place: str) -> Data:
    fields = json.loads(node)
    return locate("data", fields)(device=place, **{name: value for name, value in fields.items() if name != "_target_"})
