"""Few box sizes that stand for the many of a data set."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NUM_SIZES = 16
"""Rows kept: enough for five levels of three anchors, few enough to read in a plan."""
SPECKS = 0.05
"""Most of the objects, smallest first, that are left without a row of their own (chosen)."""
_ROUNDS = 50


def representative_sizes(
    extents: NDArray[np.floating], *, num_sizes: int = NUM_SIZES
) -> list[list[float]]:
    """Sizes such that every object's box is near one of them in ratio, small ones first.

    Means of k-means on logarithms, since a box of 5 voxels differs from one of 10 as one of 50 does
    from one of 100. Centres begin far apart, so that rare large objects have a row as well. Rare
    small ones have none: for specks of an annotation every step would compute a finer level. The
    result depends on the set of extents alone.

    Args:
        extents: (n, dims), voxels of network space, one row for each object of the data set.
        num_sizes: most rows of the result.
    """
    if not len(extents):
        return []
    points = np.log(np.maximum(np.asarray(extents, dtype=np.float64), 1.0))
    points, counts = np.unique(points, axis=0, return_counts=True)
    centres = points[[int(np.argmin(np.abs(points - np.median(points, axis=0)).sum(1)))]]
    while len(centres) < min(num_sizes, len(points)):
        nearest = ((points[:, None] - centres) ** 2).sum(2).min(1)
        if nearest.max() <= 0:
            break
        centres = np.vstack([centres, points[int(np.argmax(nearest))]])
    for _ in range(_ROUNDS):
        owner = ((points[:, None] - centres) ** 2).sum(2).argmin(1)
        moved = np.stack(
            [
                np.average(points[owner == n], axis=0, weights=counts[owner == n])
                if (owner == n).any()
                else centre
                for n, centre in enumerate(centres)
            ]
        )
        if np.allclose(moved, centres):
            break
        centres = moved
    sizes = np.exp(centres)
    order = np.lexsort((*sizes.T, sizes.prod(1)))
    owned = np.bincount(owner, weights=counts, minlength=len(centres))[order]
    are_specks = np.cumsum(owned) <= SPECKS * owned.sum()
    return [[round(float(value), 1) for value in row] for row in sizes[order][~are_specks]]
