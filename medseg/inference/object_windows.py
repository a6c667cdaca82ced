"""Objects of a whole image from a detector that sees one window at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from medseg.core.errors import ConfigError
from medseg.inference.object_merge import (
    FoundObject,
    WindowObjects,
    cropped,
    flipped,
    join_slices,
    merge_views,
    merge_windows,
    without_overlaps,
)
from medseg.inference.sliding_window import gaussian_importance
from medseg.inference.tiling import window_starts
from medseg.models.detection.objects import Detections
from medseg.tasks.hits import SCORES

_SIGMA = 0.125

MAX_OVERLAP = 0.9
"""More would put a window at every other voxel."""

PART_SCORE = SCORES[0]
"""Least score of what one window shows of an object that others may show as well: the least that
validation tries, so that a score of instances means the same in both.
"""


class FindsObjects(Protocol):
    """What is needed of a detector here."""

    def __call__(self, image: Tensor) -> Any: ...

    def detect(
        self, outputs: Any, *, shape: Sequence[int], max_objects: int, min_score: float
    ) -> list[Detections]: ...

    def semantic_logits(self, outputs: Any, *, shape: Sequence[int]) -> Tensor | None: ...


@dataclass(frozen=True)
class ObjectWindows:
    """How objects are found in an image larger than a window.

    Args:
        min_score: objects of a lower score are left out, after windows have been put together.
        max_objects: most objects of one window, the best ones.
        window_growth: extent of a window over that of the training patch, at most; detectors take
            images of any extent, and the larger a window, the fewer objects it cuts.
        overlap: share of the training patch that neighbouring windows have in common. Objects up to
            this extent are seen whole by one of them.
        keeps_overlaps: objects may share voxels; else each voxel goes to the best one.
        min_left: an object is left out if better ones take all but less than this share of it.
    """

    min_score: float = 0.5
    max_objects: int = 1000
    window_growth: float = 2.0
    overlap: float = 0.5
    keeps_overlaps: bool = False
    min_left: float = 0.5

    def __post_init__(self) -> None:
        for name in ("min_score", "min_left"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ConfigError(f"objects.{name}", f"is {value:g}", "use 0 to 1")
        if self.max_objects < 1:
            raise ConfigError("objects.max_objects", f"is {self.max_objects}", "use 1 or more")
        if not 1 <= self.window_growth < math.inf:
            raise ConfigError(
                "objects.window_growth",
                f"is {self.window_growth:g}",
                "use 1 or more, 1000 for whole images",
            )
        if not 0 <= self.overlap <= MAX_OVERLAP:
            raise ConfigError("objects.overlap", f"is {self.overlap:g}", "use 0 to 0.9")

    def find(
        self,
        detector: FindsObjects,
        image: Tensor,
        *,
        patch_size: tuple[int, ...],
        class_ids: Sequence[int],
        num_classes: int | None = None,
        mirrors: Sequence[tuple[int, ...]] = ((),),
    ) -> tuple[list[FoundObject], Tensor | None]:
        """Objects of an image, best first, and the logits of its classes.

        A 2D network sees slices along K, whose objects are joined.

        Args:
            detector: in evaluation mode, on the image's device.
            image: (C, I, J, K), normalised.
            patch_size: of the training, 2 or 3 numbers.
            class_ids: classes of the objects; others are left out.
            num_classes: channels of the logits that are wanted as well; None wants none.
            mirrors: axes that each view of the image is flipped along.

        Returns:
            Objects in voxels (i, j, k), and logits (num_classes, I, J, K) or None.
        """
        search = _Search(detector, patch_size, tuple(class_ids), num_classes)
        if len(patch_size) == 3:
            return self._find_in(search, image, mirrors)
        slices, planes = [], []
        for k in range(image.shape[3]):
            objects, logits = self._find_in(search, image[..., k], mirrors)
            slices.append(objects)
            planes.append(logits)
        joined = join_slices(slices)
        stacked = [plane for plane in planes if plane is not None]
        return (
            sorted(joined, key=lambda found: -found.score),
            torch.stack(stacked, dim=-1) if stacked else None,
        )

    def chosen(self, objects: Sequence[FoundObject], shape: tuple[int, ...]) -> list[FoundObject]:
        """Those of an image that are kept, apart.

        Args:
            objects: best first.
            shape: of the image.
        """
        return self.apart([found for found in objects if found.score >= self.min_score], shape)

    def apart(self, objects: Sequence[FoundObject], shape: tuple[int, ...]) -> list[FoundObject]:
        """Objects, best first, each voxel for one of them unless overlaps are kept."""
        if self.keeps_overlaps:
            return list(objects)
        return without_overlaps(objects, shape, min_left=self.min_left)

    def _find_in(
        self, search: _Search, image: Tensor, mirrors: Sequence[tuple[int, ...]]
    ) -> tuple[list[FoundObject], Tensor | None]:
        shape = tuple(image.shape[1:])
        views, total = [], None
        for axes in mirrors:
            in_image = tuple(axis + 1 for axis in axes)
            shown = image.flip(in_image) if axes else image  # flipping copies
            objects, logits = self._seen(search, shown, is_alone=len(mirrors) == 1)
            views.append([flipped(found, axes, shape) for found in objects])
            if logits is not None:
                logits = logits.flip(in_image) if axes else logits
                total = logits if total is None else total + logits
        merged = views[0] if len(views) == 1 else merge_views(views, shape)
        return self.chosen(merged, shape), None if total is None else total / len(views)

    def _seen(
        self, search: _Search, image: Tensor, *, is_alone: bool
    ) -> tuple[list[FoundObject], Tensor | None]:
        """All objects that the windows of an image show together, and the logits of its classes."""
        shape = tuple(image.shape[1:])
        detector, patch_size, num_classes = search.detector, search.patch_size, search.num_classes
        window = tuple(
            min(extent, int(size * self.window_growth))
            for extent, size in zip(shape, patch_size, strict=True)
        )
        found = []
        logits = weight = None
        starts = _starts(shape, window, patch_size, self.overlap)
        least = self.min_score
        if len(starts) > 1 or not is_alone:
            least = min(least, PART_SCORE)
        for start in starts:
            stop = tuple(a + n for a, n in zip(start, window, strict=True))
            box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
            outputs = detector(image[(slice(None), *box)][None])
            (detections,) = detector.detect(
                outputs, shape=window, max_objects=self.max_objects, min_score=least
            )
            objects = _objects_of(detections, start, search.class_ids)
            if not self.keeps_overlaps:
                objects = _within_window(objects, start, window, min_left=self.min_left)
            found.append(WindowObjects(start, stop, tuple(objects)))
            if num_classes is not None:
                part = detector.semantic_logits(outputs, shape=window)
                assert part is not None, "Task.check refuses networks without a class map"
                importance = gaussian_importance(window, _SIGMA).to(image.device)
                if logits is None or weight is None:
                    logits = torch.zeros((num_classes, *shape), device=image.device)
                    weight = torch.zeros(shape, device=image.device)
                logits[(slice(None), *box)] += part[0].float() * importance
                weight[box] += importance
        if logits is not None and weight is not None:
            logits /= weight
        return merge_windows(found, shape), logits


@dataclass(frozen=True)
class _Search:
    """What is looked for, and with what; see `ObjectWindows.find`."""

    detector: FindsObjects
    patch_size: tuple[int, ...]
    class_ids: tuple[int, ...]
    num_classes: int | None


def _starts(
    shape: tuple[int, ...], window: tuple[int, ...], patch_size: tuple[int, ...], overlap: float
) -> list[tuple[int, ...]]:
    """First voxels of windows that have `overlap` times the patch in common along each axis."""
    axes = []
    for extent, size, patch in zip(shape, window, patch_size, strict=True):
        share = overlap * patch / size
        axes.append([start[0] for start in window_starts((extent,), (size,), share)])
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(shape))
    return [tuple(int(n) for n in row) for row in grid]


def _objects_of(
    detections: Detections, start: tuple[int, ...], class_ids: Sequence[int]
) -> list[FoundObject]:
    """Detections of some classes in coordinates of the image."""
    detections = detections.to("cpu")
    corners = detections.corners.numpy() + np.array(start)
    found = []
    for n, mask in enumerate(detections.masks):
        class_id = int(detections.classes[n])
        if class_id in class_ids:
            score = min(1.0, max(0.0, float(detections.scores[n])))
            corner = tuple(int(i) for i in corners[n])
            pieces = detections.probabilities
            values = None if pieces is None else pieces[n].float().numpy()
            found.append(cropped(FoundObject(corner, mask.numpy(), class_id, score, values)))
    return found


def _within_window(
    objects: list[FoundObject], start: tuple[int, ...], window: tuple[int, ...], *, min_left: float
) -> list[FoundObject]:
    """Objects of one window, each voxel for the best of them."""
    shifted = [
        replace(found, start=tuple(a - s for a, s in zip(found.start, start, strict=True)))
        for found in objects
    ]
    kept = without_overlaps(shifted, window, min_left=min_left)
    return [
        replace(found, start=tuple(a + s for a, s in zip(found.start, start, strict=True)))
        for found in kept
    ]
