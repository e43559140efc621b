"""Mixed precision: one autocast context and one gradient scaler. Both do nothing in fp32."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch

Precision = Literal["fp32", "bf16", "fp16"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """Return the context in which matrix products and convolutions run in `precision`."""
    return nullcontext() if precision == "fp32" else torch.autocast(device.type, DTYPES[precision])


def autocast_disabled(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """Return a context that switches `autocast` off inside it, for operations that need float32."""
    return nullcontext() if precision == "fp32" else torch.autocast(device.type, enabled=False)


def grad_scaler(precision: Precision, device: torch.device) -> torch.amp.GradScaler:
    """Return the loss scaler, enabled in fp16 only: fp16 gradients underflow below 6e-8."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")
