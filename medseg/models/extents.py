"""The extents that an image must have for a network, and zeros around images that have others."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from medseg.core.errors import ConfigError


def require_extents(
    shape: Sequence[int],
    *,
    min_size: Sequence[int],
    multiple_of: Sequence[int] | None = None,
    max_size: Sequence[int] | None = None,
) -> None:
    """Raises ConfigError unless an image's extents are ones that a network can take."""
    extents = [int(n) for n in shape]
    wanted = [max(n, least) for n, least in zip(extents, min_size, strict=True)]
    reason = f"smaller than the network's minimum {_dims(min_size)}"
    if multiple_of is not None and wanted == extents:
        wanted = [math.ceil(n / step) * step for n, step in zip(extents, multiple_of, strict=True)]
        reason = f"no multiple of the network's stride {_dims(multiple_of)}"
    if max_size is not None and wanted == extents:
        wanted = [min(n, most) for n, most in zip(extents, max_size, strict=True)]
        reason = f"larger than the {_dims(max_size)} that the network was built for"
    if wanted != extents:
        raise ConfigError(
            "plan.patch_size",
            f"is {_dims(extents)}, {reason}",
            f"set plan.patch_size=[{','.join(map(str, wanted))}]",
        )


def padded(image: Tensor, multiple: Sequence[int]) -> Tensor:
    """(N, C, *S) with zeros after its last voxels, up to multiples of `multiple`."""
    sides: list[int] = []
    for extent, step in zip(reversed(image.shape[2:]), reversed(multiple), strict=True):
        sides += [0, -extent % step]
    return F.pad(image, sides) if any(sides) else image


def _dims(numbers: Sequence[int]) -> str:
    return "x".join(map(str, numbers))
