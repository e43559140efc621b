"""Mixed precision: one autocast context and one gradient scaler, both no-ops in fp32."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch

Precision = Literal["fp32", "bf16", "fp16"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    return nullcontext() if precision == "fp32" else torch.autocast(device.type, DTYPES[precision])


def autocast_disabled(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """Within `autocast`, and out of it again: for what must not be rounded."""
    return nullcontext() if precision == "fp32" else torch.autocast(device.type, enabled=False)


def scaler(precision: Precision, device: torch.device) -> torch.amp.GradScaler:
    """Loss scaling, which only fp16 needs: its gradients underflow below 6e-8."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")
