"""Where models run and in which precision."""

from __future__ import annotations

from typing import Literal

import torch

Precision = Literal["auto", "fp32", "bf16"]


def default_device() -> torch.device:
    """The first CUDA device where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def bf16_is_native(device: torch.device) -> bool:
    """Whether bfloat16 matrix products are faster on this device, not emulated."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def uses_bf16(precision: Precision, device: torch.device) -> bool:
    """Whether matrix products run in bfloat16: as configured; `auto` where the device is faster with it."""
    return precision == "bf16" or (precision == "auto" and bf16_is_native(device))
