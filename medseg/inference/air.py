"""Windows that show nothing but air, which may be left out on request."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from math import inf

from torch import Tensor

from medseg.core.errors import ConfigError
from medseg.data.plan import Plan
from medseg.inference.tiling import Tiling

logger = logging.getLogger(__name__)

AIR_BELOW_HU = -900.0
"""CT values of air around the patient. Chosen: lung is denser than -900 but for emphysema, and a
window of nothing but emphysema is far smaller than any patch.
"""


def air_levels(plan: Plan) -> list[float]:
    """Up to which value a voxel of each channel of a normalised image may be air; inf where the
    channel cannot tell.

    Raises:
        ConfigError: no channel is a CT.
    """
    levels = []
    for rule in plan.normalisation or ():
        if rule["kind"] == "clip_zscore":  # Hounsfield units
            highest = max(AIR_BELOW_HU, float(rule["low"]))
            levels.append((highest - float(rule["mean"])) / float(rule["std"]))
        else:
            levels.append(inf)
    if all(level == inf for level in levels):
        raise ConfigError(
            "inference.skip_air",
            "is true, but air has known values in CT alone, which this bundle takes none of",
            "leave it out",
        )
    return levels


def without_air(tiling: Tiling, image: Tensor, levels: Sequence[float]) -> Tiling:
    """The tiling without windows in which no channel that can tell exceeds its level.

    Args:
        tiling: of the image.
        image: (C, I, J, K), normalised.
        levels: one per channel.
    """
    chosen = set()
    for start in tiling.starts if tiling.chosen is None else tiling.chosen:
        box = [
            slice(max(0, first - margin), max(0, first - margin) + size)
            for first, margin, size in zip(start, tiling.margin, tiling.window, strict=True)
        ]
        window = image[(slice(None), *box)]
        tolerance = 1e-4  # of rounding in normalisation
        if any(
            level < inf and float(channel.max()) > level + tolerance
            for channel, level in zip(window, levels, strict=True)
        ):
            chosen.add(start)
    logger.info("%d of %d windows show more than air", len(chosen), tiling.num_windows)
    return replace(tiling, chosen=frozenset(chosen))
