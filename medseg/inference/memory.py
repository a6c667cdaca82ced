"""What prediction of an image takes in memory, and how it is kept within a budget."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import psutil
import torch
from torch import Tensor, nn

from medseg.core.errors import MedsegError
from medseg.core.free_memory import free_memory
from medseg.inference.live_bytes import LiveBytes
from medseg.inference.tiling import Tiling
from medseg.inference.upsample import CHUNK_BYTES

logger = logging.getLogger(__name__)

GIB = 2**30
WORKSPACE = 1.25
"""What a convolution needs beside its tensors. Chosen: 1.0 to 1.2 for the U-Nets measured."""
RESERVE = 0.25 * GIB
"""Python objects, code that is loaded late, fragments."""


@dataclass(frozen=True)
class MemoryUse:
    """How an image is computed, and the memory that takes.

    Args:
        dtype: of the logits that are added up.
        batch: patches computed at once.
        parts: bytes of each part of the whole, by name.
    """

    dtype: torch.dtype
    batch: int
    parts: dict[str, float]

    @property
    def total(self) -> float:
        """Bytes."""
        return sum(self.parts.values())

    def __str__(self) -> str:
        shown = ", ".join(f"{name} {size / GIB:.2f}" for name, size in self.parts.items())
        return f"{self.total / GIB:.1f} GiB of memory ({shown})"


@dataclass(frozen=True)
class Progress:
    """How far the prediction of an image has come.

    Args:
        done, total: windows.
        seconds: since the first began.
        memory: what it takes.
        estimate_s: what all windows were expected to take before the first; nan if unknown.
    """

    done: int
    total: int
    seconds: float
    memory: MemoryUse
    estimate_s: float = float("nan")

    @property
    def expected_seconds(self) -> float:
        """Of all windows, measured once some are done; nan if unknown."""
        return self.seconds * self.total / self.done if self.done else self.estimate_s


def plan_memory(
    tiling: Tiling,
    *,
    channels: int,
    result_bytes: float,
    patch_bytes: float,
    batch: int,
    budget_gib: float | None,
    where: str = "image",
    others_bytes: float = 0.0,
) -> MemoryUse:
    """The fastest and most precise way within the budget.

    Logits are added up in single precision with fewer patches at once, if need be, before half
    precision is taken.

    Args:
        tiling: of the image.
        channels: of the logits.
        result_bytes: what results of the image's size will take.
        patch_bytes: what the network takes for a patch, its input and output included.
        batch: patches that should be computed at once.
        budget_gib: None takes what is free, and at least tries.
        where: name of the image, for messages.
        others_bytes: what other bundles of an ensemble will hold at the same time.

    Raises:
        MedsegError: the budget does not suffice.
    """
    present = float(psutil.Process().memory_info().rss)
    limit = budget_gib * GIB if budget_gib is not None else present + 0.9 * float(free_memory())
    threads = torch.get_num_threads()
    uses = []
    for dtype in (torch.float32, torch.float16):
        slab = float(np.prod(tiling.slab_shape)) * (channels * dtype.itemsize + 4)
        for at_once in _halved(batch):
            parts = {
                "already taken": present,
                "results": result_bytes,
                "slab of logits": slab,
                "network": at_once * patch_bytes * WORKSPACE,
                "interpolation": threads * 2.0 * CHUNK_BYTES,
                "reserve": RESERVE,
            }
            if others_bytes:
                parts["other bundles"] = others_bytes
            uses.append(MemoryUse(dtype, at_once, parts))
            if uses[-1].total <= limit:
                return uses[-1]
    least = min(uses, key=lambda use: use.total)
    if budget_gib is None:
        logger.warning("%s may take %s, and %.1f are free", where, least, limit / GIB)
        return least
    raise MedsegError(
        where,
        f"takes at least {least}, inference.memory_budget_gib allows {budget_gib:g}",
        f"set inference.memory_budget_gib={np.ceil(least.total / GIB):.0f}, or use a model with a "
        "smaller patch or larger voxels",
        code="E_MEMORY",
    )


def patch_bytes(
    networks: Sequence[nn.Module], *, in_channels: int, out_channels: int, window: Sequence[int]
) -> float:
    """Bytes that a network takes for one patch: its tensors in single precision, found without
    computing anything, and the copies of its logits that blending makes.
    """
    voxels = float(np.prod(window))
    blending = 3 * 4 * out_channels * voxels
    with LiveBytes() as live, torch.no_grad():
        try:
            network = copy.deepcopy(networks[0]).to("meta")
            network(torch.empty(1, in_channels, *window, device="meta"))
        except (RuntimeError, NotImplementedError, TypeError) as error:
            # Some operators have no version that computes shapes alone.
            logger.debug("memory of a patch is estimated", exc_info=error)
            return 4 * voxels * (in_channels + 64) + blending
    return live.most + blending


def on_device(image: Tensor, device: str) -> Tensor:
    """The image on the device, or on the CPU if it does not fit there."""
    from medseg.inference.engines import is_out_of_memory

    try:
        return image.to(device)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        logger.warning("the image does not fit into the memory of %s: it stays on the CPU", device)
        return image


def _halved(batch: int) -> list[int]:
    sizes = [batch]
    while sizes[-1] > 1:
        sizes.append(sizes[-1] // 2)
    return sizes
