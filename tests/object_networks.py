"""A detector that needs no training: bright connected parts of the image are its objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn

from medseg.models.detection.masks import detections_from_maps
from medseg.models.detection.objects import Detections, Objects


class BrightObjects(nn.Module):
    """Finds the connected parts of the first channel above a level, and forgets what lies outside.

    Masks are exact, so whatever is lost or doubled was lost or doubled by the code around it. The
    brightness of an object is its score. Training lowers a term that depends on one number.

    Args:
        in_channels: image channels.
        out_channels: classes with background; objects are of class 1, the rest of a class map is
            class 2 below the level -level.
        level: that objects exceed.
    """

    tasks: ClassVar[tuple[str, ...]] = ("instance", "panoptic")

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        spatial_dims: int = 2,
        level: float = 1.0,
        object_sizes: Any = None,
    ) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.level = level
        self.stride = (1,) * spatial_dims
        self.min_size = (1,) * spatial_dims
        self.gain = nn.Parameter(torch.tensor(0.9))
        self.windows: list[tuple[int, ...]] = []

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        self.windows.append(tuple(image.shape[2:]))
        return {"image": image[:, :1] * (self.gain / self.gain.detach())}

    def losses(
        self,
        outputs: dict[str, Any],
        objects: Sequence[Objects],
        semantic: Tensor | None = None,
    ) -> dict[str, Tensor]:
        assert len(objects) == len(outputs["image"])
        return {"gain": (self.gain - 1).square(), "connected": 0 * outputs["image"].sum()}

    def detect(
        self,
        outputs: dict[str, Any],
        *,
        shape: Sequence[int],
        max_objects: int = 1000,
        min_score: float = 0.05,
    ) -> list[Detections]:
        assert tuple(outputs["image"].shape[2:]) == tuple(shape)
        return [self._found(image[0], max_objects, min_score) for image in outputs["image"]]

    def semantic_logits(self, outputs: dict[str, Any], *, shape: Sequence[int]) -> Tensor | None:
        image = outputs["image"]
        logits = torch.zeros((len(image), self.out_channels, *shape))
        logits[:, 1] = image[:, 0] - self.level
        if self.out_channels > 2:
            logits[:, 2] = -image[:, 0] - self.level
        return logits

    def _found(self, image: Tensor, max_objects: int, min_score: float) -> Detections:
        pixels = image.detach().float().cpu().numpy()
        parts, _ = ndimage.label(pixels > self.level)
        found = []
        for n, box in enumerate(ndimage.find_objects(parts), start=1):
            mask = parts[box] == n
            score = float(np.clip(pixels[box][mask].mean() / 10, 0, 1))
            if score >= min_score:
                found.append((score, tuple(part.start for part in box), mask))
        found = sorted(found, key=lambda entry: -entry[0])[:max_objects]
        if not found:
            return Detections.none(pixels.ndim)
        corners = torch.tensor([corner for _, corner, _ in found])
        extents = torch.tensor([mask.shape for _, _, mask in found])
        return Detections(
            torch.cat([corners, corners + extents], dim=1).float(),
            torch.tensor([score for score, _, _ in found]),
            torch.ones(len(found), dtype=torch.long),
            corners,
            tuple(torch.from_numpy(mask) for _, _, mask in found),
        )


class TouchingBalls(BrightObjects):
    """Two soft balls that touch obliquely, whatever the image shows."""

    middles: ClassVar[tuple[tuple[float, ...], ...]] = ((4.6, 4.2, 4.4), (8.1, 7.3, 6.8))
    softness: ClassVar[tuple[float, ...]] = (1.5, 5.0)

    def _found(self, image: Tensor, max_objects: int, min_score: float) -> Detections:
        axes = np.meshgrid(*(np.arange(n) for n in image.shape), indexing="ij")
        maps = [
            np.clip(0.5 + (2.9 - np.linalg.norm(np.subtract(np.stack(axes, -1), m), axis=-1)) / s,
                    0, 1)
            for m, s in zip(self.middles, self.softness, strict=True)
        ]  # fmt: skip
        values = torch.from_numpy(np.stack(maps).astype(np.float32))
        return detections_from_maps(values, torch.tensor([0.9, 0.8]), torch.tensor([1, 1]))


class Overflowing(BrightObjects):
    """Gives maps that hold no number."""

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"image": super().forward(image)["image"] / 0 * 0}
