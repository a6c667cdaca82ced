"""Whether an exported network finds the objects that PyTorch finds, on patches of images."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, isfinite

import torch
from torch import Tensor

from medseg.export.parity import Parity
from medseg.inference.object_windows import FindsObjects
from medseg.models.detection.objects import Detections
from medseg.models.detection.outputs import flat

MAX_MISSED = 0.01
"""Share of the objects that the other engine may not find: which of two boxes is left out can turn
on the last digit.
"""
MANY = 20
"""From so many objects on, one may be another, though that be more than MAX_MISSED."""
SAME_SCORE = 1e-3
SAME_MASK = 0.01
"""Share of an object's voxels in which its mask may differ; one voxel always may."""
MAX_OBJECTS = 100
MIN_SCORE = 0.05


def require_same_objects(
    name: str, given: FindsObjects, wanted: FindsObjects, patches: Sequence[Tensor]
) -> Parity:
    """Compares every output and the objects that are found with it on every patch.

    Args:
        name: of the format.
        given: with the exported network.
        wanted: PyTorch's.
        patches: (1, C, *patch) each.

    Raises:
        MedsegError: the export deviates.
    """
    largest, missed, count = 0.0, 0, 0
    for patch in patches:
        shape = tuple(patch.shape[2:])
        with torch.no_grad():
            expected, outputs = wanted(patch), given(patch)
        reference, found = flat(expected), flat(outputs)
        for key, values in reference.items():
            scale = max(float(values.std()), 1e-6)
            difference = float((found[key] - values).abs().max()) / scale
            largest = max(largest, difference if isfinite(difference) else inf)
        before, after = (
            detector.detect(maps, shape=shape, max_objects=MAX_OBJECTS, min_score=MIN_SCORE)[0]
            for detector, maps in ((wanted, expected), (given, outputs))
        )
        missed += num_unpaired(before, after, shape)
        count += len(before) + len(after)
    parity = Parity(len(patches), largest, missed / max(1, count), num_objects=count)
    one_each = 2 / count if count >= MANY else 0.0
    parity.require(name, max_changed=max(MAX_MISSED, one_each))
    return parity


def num_unpaired(one: Detections, other: Detections, shape: Sequence[int]) -> int:
    """Objects of both that have no partner: of the same class, and nearly the same score and mask.

    Args:
        one, other: objects of an image.
        shape: of the image.
    """
    left = list(range(len(other)))
    for n in range(len(one)):
        partner = next((m for m in left if _is_same(one, n, other, m, shape)), None)
        if partner is not None:
            left.remove(partner)
    num_pairs = len(other) - len(left)
    return len(one) + len(other) - 2 * num_pairs


def _is_same(one: Detections, n: int, other: Detections, m: int, shape: Sequence[int]) -> bool:
    if one.classes[n] != other.classes[m]:
        return False
    if abs(float(one.scores[n] - other.scores[m])) > SAME_SCORE:
        return False
    differing = int((one.mask(n, shape) != other.mask(m, shape)).sum())
    return differing <= max(1, SAME_MASK * int(one.masks[n].sum()))
