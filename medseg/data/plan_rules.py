"""The rules behind a plan: each gives a value and, where it is not obvious, the reason for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from medseg.data.fingerprint import Fingerprint
from medseg.data.plan import Colour

VOXEL_BUDGET = {"cpu": 192_000, "cuda": 2 * 128**3}
"""Voxels per training step. cuda: nnU-Net's usual 2 x 128^3 (Isensee et al. 2021). cpu: about half
a second a step for the U-Net with 16 channels on two cores (docs/benchmarks.md).
"""

BASE_CHANNELS = {"cpu": 16, "cuda": 32}
MIN_FEATURE_SIZE = 4
"""An axis is halved only while the coarsest feature map keeps this many voxels along it (as
nnU-Net).
"""
ANISOTROPY = 3.0
"""Ratio of spacings from which an axis counts as coarse (Isensee et al. 2021)."""
MIN_COVERED = 0.85
"""Share of the wanted extent from which a patch may be rounded down (chosen, untested): a smaller
patch gives more steps in the same time, which learned more in the one case that was measured
(docs/recipe.md).
"""
FEW_OBJECTS = 4
"""Objects in the mean patch from which a larger patch shows a detector more of them."""
OBJECT_SHARE = 1 / 3
"""Most of a patch's extent that a large object takes: its surroundings belong to it (chosen)."""
LEAST_SHARE = 0.25
"""A patch is not shrunk to objects below this share of its voxels (chosen)."""
MAX_STAGES = 6
KEPT_ACROSS = 32
"""Voxels across a structure below which pictures are not made coarser: a disc of this diameter that
is rounded to whole voxels has a Dice of about 0.98 with itself, and logits are interpolated.
"""


def round_to_multiples(target: np.ndarray, factor: np.ndarray) -> tuple[int, ...]:
    """The nearest multiples, but the next larger one where too little would be covered."""
    nearest = np.ceil(target / factor - 0.5) * factor  # a half goes down
    larger = np.ceil(target / factor) * factor
    chosen = np.where(nearest >= MIN_COVERED * target, nearest, larger)
    return tuple(int(n) for n in np.maximum(chosen, factor))


def choose_batch(patch: Sequence[int] | np.ndarray, device: str) -> tuple[int, str]:
    """Patches of a training step on "cpu" or "cuda", and why."""
    if device == "cpu" and len(patch) == 3:
        return 2, "the least, for the most steps in the time that a cpu has (chosen, untested)"
    # In 2D half the patches learn as much in as many steps, and a step takes half as long
    # (docs/recipe.md).
    budget = VOXEL_BUDGET[device] // (2 if device == "cpu" else 1)
    size = int(np.clip(round(budget / np.prod(patch)), 2, 32))
    return size, f"{budget} voxels a step on {device}, at least 2 patches, at most 32"


def choose_orientation(spacings: np.ndarray) -> tuple[str, str]:
    """Axis codes that put the slices last, from the spacings in mm (cases, 3), and why."""
    median = np.median(spacings, axis=0)
    coarse = int(np.argmax(median)) if median.max() > 1.5 * np.median(median) else 2
    axes = [axis for axis in range(3) if axis != coarse] + [coarse]
    codes = "".join("RAS"[axis] for axis in axes)
    return codes, f"last axis along the slices (median spacing {median[coarse]:.3g} mm)"


def choose_spacing(spacings: np.ndarray) -> tuple[list[float], str]:
    """Target spacing in mm from those of the cases (cases, 3), and why."""
    spacing = np.median(spacings, axis=0)
    coarse = int(np.argmax(spacing))
    others = np.delete(spacing, coarse).max()
    reason = "median of the training cases"
    if spacing[coarse] / others > ANISOTROPY:
        # Half of the cases would be blurred along the coarse axis at the median (Isensee et al.
        # 2021).
        spacing[coarse] = max(np.percentile(spacings[:, coarse], 10), others)
        reason += f"; 10th percentile along the coarse axis {coarse}"
    return [float(f"{value:.4g}") for value in spacing], reason


def coarsen_pictures(
    fingerprint: Fingerprint, spacing: Sequence[float], shape: np.ndarray, *, voxels: float
) -> tuple[list[float], str]:
    """A spacing at which more of a picture fits into a patch, as far as its structures allow.

    A small part of a picture does not show where in it something lies, and a network has not seen
    much of large pictures after the steps that a short training has.

    Args:
        fingerprint: of pictures of a single slice.
        spacing: at which they would be used otherwise.
        shape: of the median picture.
        voxels: that a patch may have.

    Returns:
        The spacing, through the slice unchanged, and what to add to its reason.
    """
    diameters = _median_diameters_mm(fingerprint)
    pixels = np.prod(shape[:2])
    if not diameters or pixels <= voxels:
        return list(spacing), ""
    allowed = min(diameters) / (KEPT_ACROSS * max(spacing[:2]))
    factor = min(float(np.sqrt(pixels / voxels)), allowed)
    if factor <= 1:
        return list(spacing), ""
    coarse = [float(f"{value * factor:.4g}") for value in spacing[:2]]
    return [*coarse, spacing[2]], (
        f", times {factor:.2g}, so that a patch shows more of a picture; the median structure of "
        f"the smallest class keeps at least {KEPT_ACROSS} pixels across"
    )


def _median_diameters_mm(fingerprint: Fingerprint) -> list[float]:
    """Per class, the diameter of a disc of the area of its median part in the median picture."""
    num_classes = max(len(case.components) for case in fingerprint.cases)
    diameters = []
    for index in range(num_classes):
        areas = [
            part.median_mm3 / case.spacing_mm[2]
            for case in fingerprint.cases
            if len(case.components) > index and (part := case.components[index]) is not None
        ]
        if areas:
            diameters.append(float(2 * np.sqrt(np.median(areas) / np.pi)))
    return diameters


def shrink_to_budget(shape: np.ndarray, spacing: Sequence[float], voxels: float) -> np.ndarray:
    """Shape cut along its physically longest axes until it holds at most `voxels`."""
    target = np.array(shape, dtype=float)
    while np.prod(target) > voxels:
        longest = int(np.argmax(target * np.array(spacing)))
        target[longest] -= 1
    return target


def few_objects_in(patch: np.ndarray, extents: np.ndarray, shapes: np.ndarray) -> bool:
    """True if there are objects, but fewer than FEW_OBJECTS in the mean patch.

    Args:
        patch: voxels along each axis.
        extents: of all objects, (n, dims).
        shapes: of all cases, (cases, dims).
    """
    share = float(np.prod(patch) / np.prod(shapes.astype(float), axis=1).sum())
    return 0 < len(extents) * share < FEW_OBJECTS


def shrink_to_objects(patch: np.ndarray, extents: np.ndarray) -> tuple[np.ndarray, str]:
    """A patch that large objects fill by OBJECT_SHARE along each axis, and what to add to its
    reason.

    A detector learns from as many boxes of a patch whatever its extent, and where objects are few,
    from one or two of them. A smaller patch then costs less for as much to learn from.

    Args:
        patch: voxels along each axis that there is time for.
        extents: of all objects, (n, dims).
    """
    large = np.quantile(extents, 0.95, axis=0) / OBJECT_SHARE
    smaller = np.minimum(patch, np.maximum(large, 2 * MIN_FEATURE_SIZE))
    share = np.prod(smaller) / np.prod(patch)
    if share < LEAST_SHARE:
        # Back on the way to the whole patch, all axes by the same ratio of it.
        smaller = patch * (smaller / patch) ** (np.log(LEAST_SHARE) / np.log(share))
    if (smaller >= patch).all():
        return patch, ""
    return smaller, f", and to {1 / OBJECT_SHARE:g} times the extent of large objects"


def choose_strides(patch: np.ndarray, spacing: Sequence[float]) -> list[tuple[int, ...]]:
    """What each stage divides the axes of a patch by; the first divides by 1.

    Args:
        patch: voxels along each axis.
        spacing: of these voxels, in mm.
    """
    size, current = np.array(patch, dtype=float), np.array(spacing, dtype=float)
    strides = [(1,) * len(size)]
    while len(strides) < MAX_STAGES:
        # An axis waits until the others have become as coarse, so that features stay isotropic.
        ready = (size / 2 >= MIN_FEATURE_SIZE) & (
            current < 2 * current[size / 2 >= MIN_FEATURE_SIZE].min(initial=np.inf)
        )
        if not ready.any():
            break
        step = np.where(ready, 2, 1)
        strides.append(tuple(int(n) for n in step))
        size, current = size / step, current * step
    if len(strides) < 2:
        strides.append((1,) * len(size))
    return strides


def choose_kernels(
    strides: Sequence[Sequence[int]], spacing: Sequence[float]
) -> list[tuple[int, ...]]:
    """Kernel size of each stage: 3 along an axis, 1 while it is far coarser than the finest."""
    current = np.array(spacing, dtype=float)
    kernels = []
    for step in strides:
        current = current * np.array(step)
        kernels.append(tuple(1 if value > ANISOTROPY * current.min() else 3 for value in current))
    return kernels


def choose_colour(fingerprint: Fingerprint) -> tuple[Colour | None, str]:
    """How channels of pictures are brought to one number, None where they have it, and why."""
    kinds = {case.colours for case in fingerprint.cases}
    is_mixed = len({case.num_channels for case in fingerprint.cases}) > 1
    if "equal" in kinds and "colour" not in kinds:
        return "grey", "red, green and blue are the same in every picture, so one of them is used"
    if is_mixed:
        return "rgb", "some pictures are grey and some coloured, so grey is repeated three times"
    return None, "all images have the same channels"


def choose_normalisation(
    fingerprint: Fingerprint, modality: str, colour: Colour | None
) -> tuple[list[dict[str, Any]], str]:
    """Normalisation of each channel, as in plan.yaml, and why."""
    num_channels = 1 if colour == "grey" else fingerprint.num_channels
    if modality == "CT":
        rows = [
            {"kind": "clip_zscore", "low": low, "high": high, "mean": mean, "std": max(std, 1e-6)}
            for mean, std, low, high in fingerprint.intensity[:num_channels]
        ]
        return (
            rows,
            "CT: clipped to the foreground's 0.5 and 99.5 percentiles, its mean and deviation",
        )
    kinds = {case.colours for case in fingerprint.cases}
    values = [row for case in fingerprint.cases for row in case.value_range]
    if "colour" in kinds and all(low >= 0 and high <= 255 for low, high in values):
        return (
            [{"kind": "scale_255"} for _ in range(num_channels)],
            "colours of 8 bits: divided by 255, so that their ratios stay",
        )
    return (
        [{"kind": "zscore"} for _ in range(num_channels)],
        f"{modality}: each image by its own mean and deviation, as its units are arbitrary",
    )
