"""Objects that touch, cut apart where they are narrow."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.segmentation import watershed

from medseg.core.components import components
from medseg.core.segmentation import InstanceSet, LabelMap

_SMOOTHING = 1.0  # voxels; the ripple of a distance transform on a grid is below one


def split_touching(
    label_map: LabelMap, *, apart_mm: float, smallest_mm3: float = 0.0
) -> InstanceSet:
    """The objects of all foreground classes: connected parts, cut by a watershed on the distance
    to their rim.

    Args:
        label_map: classes.
        apart_mm: middles of two objects are at least this far from each other.
        smallest_mm3: smaller objects are left out.

    Source: Vincent and Soille 1991, IEEE TPAMI 13(6):583.
    """
    spacing = label_map.geometry.spacing_mm
    highest = int(label_map.array.max(initial=0))
    parts = components(label_map, range(1, highest + 1))
    found = np.zeros(label_map.array.shape, np.int32)
    classes: list[int] = []
    fewest = max(1.0, smallest_mm3 / label_map.geometry.voxel_volume_mm3)
    for number, class_id in enumerate(parts.class_ids, start=1):
        box, mask = parts.mask(number)
        padded = np.pad(mask, 1)
        flat = [n for n, extent in enumerate(label_map.array.shape) if extent == 1]
        inside = np.asarray(padded.take(1, axis=flat[0]) if flat else padded)
        steps = [step for n, step in enumerate(spacing) if n not in flat[:1]]
        cut = _cut(inside, steps, apart_mm=apart_mm)
        if flat:
            cut = np.expand_dims(cut, flat[0])
        cut = cut[tuple(slice(1, -1) if n not in flat[:1] else slice(None) for n in range(3))]
        sizes = np.bincount(cut.ravel())
        sizes[0] = 0
        kept = np.flatnonzero(sizes >= fewest)
        table = np.zeros(len(sizes), np.int32)
        table[kept] = len(classes) + 1 + np.arange(len(kept))
        found[box] += table[cut]
        classes += [int(class_id)] * len(kept)
    return InstanceSet.from_map(
        found,
        label_map.geometry,
        class_of=lambda numbers: np.array(classes, int)[np.asarray(numbers) - 1],
        labels=label_map.labels,
        ignored=parts.ignored,
    )


def _cut(mask: np.ndarray, spacing_mm: list[float], *, apart_mm: float) -> np.ndarray:
    """Numbers from 1 for the pieces of one connected part."""
    reach = max(1, round(apart_mm / min(spacing_mm)))
    if max(mask.shape) - 2 <= reach:  # without the rim: too small for two middles
        return mask.astype(np.int32)
    distance = ndimage.distance_transform_edt(mask, sampling=spacing_mm)
    smooth = ndimage.gaussian_filter(distance, _SMOOTHING)
    peaks = peak_local_max(
        smooth, min_distance=reach, labels=mask.astype(np.uint8), exclude_border=False
    )
    if len(peaks) < 2:
        return mask.astype(np.int32)
    markers = np.zeros(mask.shape, np.int32)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    return np.asarray(watershed(-smooth, markers, mask=mask))
