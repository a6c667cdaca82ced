"""Options of networks that find objects, checked before anything is built of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from medseg.core.errors import ConfigError


def require_at_least(least: int, **options: float | None) -> None:
    """Raises ConfigError for an option below a number; None is what the network chooses itself."""
    for name, value in options.items():
        if value is not None and not least <= value < math.inf:
            raise ConfigError(f"model.{name}", f"is {value:g}", f"use {least} or more")


def require_share(**options: float) -> None:
    """Raises ConfigError for an option that is not within 0 and 1."""
    for name, value in options.items():
        if not (math.isfinite(value) and 0 <= value <= 1):
            raise ConfigError(f"model.{name}", f"is {value:g}", "use 0 to 1")


def require_sizes(spatial_dims: int, object_sizes: Sequence[Sequence[float]] | None) -> None:
    """Raises ConfigError unless all sizes of objects have a positive number for each axis."""
    for row in object_sizes or ():
        if len(row) != spatial_dims or not all(0 < extent < math.inf for extent in row):
            raise ConfigError(
                "model.object_sizes",
                f"has {list(row)}",
                f"give {spatial_dims} numbers of voxels above 0 for each size",
            )
