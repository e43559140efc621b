"""Mixed precision: one autocast context and one gradient scaler, both no-ops in fp32."""

from __future__ import annotations

from typing import Literal

import torch

Precision = Literal["fp32", "bf16", "fp16"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, DTYPES[precision], enabled=precision != "fp32")


def scaler(precision: Precision, device: torch.device) -> torch.amp.GradScaler:
    """Loss scaling, which only fp16 needs: its gradients underflow below 6e-8."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")
