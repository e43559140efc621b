"""Distributed hyperparameter sweeps for models that must comply.

In the repository this folder holds links to `core`, `sweeps`, `trainables`, `configs` and the files of `integrations`,
which lie beside it. So they are `gatesweep.core`, `gatesweep.lightning` and so on in a checkout as well as installed,
and have no other name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gatesweep.core.gate import Gate
    from gatesweep.core.reporting import last, report
    from gatesweep.core.trainable import Data, Diverged, Trainable
    from gatesweep.sweeps.commands.api import open_sweep, sweep
    from gatesweep.sweeps.commands.load import evaluate, load

__version__ = "0.1.0"
__all__ = ["Data", "Diverged", "Gate", "Trainable", "evaluate", "last", "load", "open_sweep", "report", "sweep"]

_HOMES = {
    "Data": "gatesweep.core.trainable",
    "Diverged": "gatesweep.core.trainable",
    "Gate": "gatesweep.core.gate",
    "Trainable": "gatesweep.core.trainable",
    "evaluate": "gatesweep.sweeps.commands.load",
    "last": "gatesweep.core.reporting",
    "load": "gatesweep.sweeps.commands.load",
    "open_sweep": "gatesweep.sweeps.commands.api",
    "report": "gatesweep.core.reporting",
    "sweep": "gatesweep.sweeps.commands.api",
}


def __getattr__(name: str) -> Any:
    """Import a name of `__all__` when it is first used: the command's help must not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'gatesweep' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
