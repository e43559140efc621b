"""The one private name of Lightning that is used here; its test fails where a release renames it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import lightning as L
from lightning.pytorch.trainer import call


def check_before_launch(check: Callable[[L.Trainer], None]) -> None:
    """Call `check` with the Trainer of every `fit`, `validate`, `test` and `predict` of this process, before it begins.

    No hook of a callback comes before a strategy has started the processes of its other devices.
    """
    launch = call._call_and_handle_interrupt

    @functools.wraps(launch)
    def checked(trainer: L.Trainer, *args: Any, **options: Any) -> Any:
        check(trainer)
        return launch(trainer, *args, **options)

    call._call_and_handle_interrupt = checked
