"""Which number format a device computes fastest in without loss of accuracy."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

from medseg.core.errors import ConfigError

Precision = Literal["bf16-mixed", "16-mixed", "32-true"]


def best_device() -> str:
    """ "cuda" where there is a usable GPU, else "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def device_of(accelerator: str) -> str:
    """ "cuda" or "cpu" for a Lightning accelerator name."""
    if accelerator in ("gpu", "cuda"):
        if not torch.cuda.is_available():
            raise ConfigError(
                "trainer.accelerator", "is gpu, but no GPU can be used here", "set trainer=cpu"
            )
        return "cuda"
    return best_device() if accelerator == "auto" else "cpu"


def best_precision(device: str) -> Precision:
    """bf16 where the device multiplies it natively, else fp16 on GPUs and fp32 on CPUs."""
    if device.startswith("cuda"):
        return (
            "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
        )
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16-mixed" if native else "32-true"


def autocast(device: str, precision: str) -> AbstractContextManager[None]:
    """Context in which a network computes in the given precision."""
    kind = torch.device(device).type
    if precision == "bf16-mixed":
        return torch.autocast(kind, dtype=torch.bfloat16)
    if precision == "16-mixed":
        return torch.autocast(kind, dtype=torch.float16)
    return nullcontext()
