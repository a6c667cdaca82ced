"""Which number format a device computes fastest in without loss of accuracy."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Literal

import torch

from medseg.core.errors import ConfigError

Precision = Literal["bf16-mixed", "16-mixed", "32-true"]

LEAST_SPEEDUP = 1.2
"""From which on bf16 is worth its rounding."""

SIDE, REPEATS = 384, 7
"""Of the products that are timed: some milliseconds each."""


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
    """bf16 where the device is faster with it, else fp16 on GPUs and fp32 on CPUs.

    CPUs that have instructions for it are timed, once in a process: of two kinds with AVX512-BF16,
    one takes half of the time in bf16 and the other twice as much.
    """
    if device.startswith("cuda"):
        return (
            "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
        )
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16-mixed" if native and bf16_speedup() >= LEAST_SPEEDUP else "32-true"


@cache
def bf16_speedup() -> float:
    """Time of a matrix product in fp32 over that in bf16 on this CPU, the best of some each."""
    kinds = (torch.float32, torch.bfloat16)
    matrices = {kind: torch.ones(SIDE, SIDE, dtype=kind) for kind in kinds}
    times: dict[torch.dtype, list[float]] = {kind: [] for kind in kinds}
    for _ in range(REPEATS + 1):  # the first one prepares
        for kind, matrix in matrices.items():
            start = time.perf_counter()
            torch.mm(matrix, matrix)
            times[kind].append(time.perf_counter() - start)
    fp32, bf16 = (min(times[kind][1:]) for kind in kinds)
    return fp32 / bf16


def autocast(device: str, precision: str) -> AbstractContextManager[None]:
    """Context in which a network computes in the given precision."""
    kind = torch.device(device).type
    if precision == "bf16-mixed":
        return torch.autocast(kind, dtype=torch.bfloat16)
    if precision == "16-mixed":
        return torch.autocast(kind, dtype=torch.float16)
    return nullcontext()
