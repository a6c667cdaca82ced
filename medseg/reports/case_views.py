"""A case as a page shows it: grey values, label maps and surfaces around the structures, packed.

Not for diagnosis: large regions are shown on a coarser grid, in 8 bits, with a guessed window.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.measure import marching_cubes

from medseg.core.errors import MedsegError
from medseg.core.identity import Case
from medseg.core.labels import LabelSet
from medseg.core.segmentation import LabelMap
from medseg.core.volume import Volume
from medseg.inference.postprocess import bounding_box
from medseg.metrics.case_scores import mask_of
from medseg.reports.case_facts import class_mask, read_volume
from medseg.sources.label_maps import read_label_map

MAX_VOXELS = 700_000
"""Of one case on the page; packed, such a case takes about 0.6 MB."""
MAX_TRIANGLES = 1_500
"""Of one surface: what a canvas turns smoothly."""
MARGIN_MM = 10.0
_SURFACE_VOXELS = 300_000  # more are not looked at one by one: they give too many triangles
_CT_WINDOW_HU = (-160.0, 240.0)


@dataclass(frozen=True)
class CaseView:
    """A case, packed.

    Args:
        key: case key.
        packed: base64 of gzip of a header in JSON, a line feed, and the arrays that it names.
    """

    key: str
    packed: str


def view_case(
    key: str,
    reference: Path,
    predictions: Mapping[str, Path],
    *,
    labels: LabelSet,
    image: Case | None = None,
    max_voxels: int = MAX_VOXELS,
) -> CaseView:
    """What is shown of a case: the box around all structures with a margin.

    Args:
        key: case key.
        reference: label map.
        predictions: label map by name of the model; one that cannot be read is left out.
        labels: classes.
        image: the case that the reference belongs to; without it, label maps lie on black.
        max_voxels: a larger box is shown on a coarser grid.
    """
    truth = read_label_map(reference, None)
    maps = {"reference": truth}
    for name, path in predictions.items():
        try:
            found = read_label_map(path, None)
        except MedsegError:
            continue
        if found.array.shape == truth.array.shape:
            maps[f"prediction {name}"] = LabelMap(found.array, truth.geometry)
    volume = read_volume(image, truth)
    turned = {name: found.reoriented("RAS") for name, found in maps.items()}
    spacing = turned["reference"].geometry.spacing_mm
    mask = class_mask(turned["reference"].array, labels)
    for found in turned.values():
        mask |= class_mask(found.array, labels)
    box = box_around(mask, spacing)
    view = Frame.around(box, spacing, max_voxels)
    grey = view.grey(volume)
    arrays: list[NDArray[Any]] = [grey]
    surfaces = []
    for name, found in turned.items():
        arrays.append(found.array[view.grid].astype(np.uint8))
        for structure in labels.structures:
            mask = mask_of(found.array[box], structure.class_ids)
            vertices, triangles = surface(mask, spacing)
            if len(triangles):
                surfaces.append(
                    {"map": name, "label": structure.name, "vertices": len(vertices),
                     "triangles": len(triangles), "class": structure.paints}
                )  # fmt: skip
                arrays += [vertices, triangles]
    header = {**view.header(len(grey)), "maps": list(turned), "surfaces": surfaces}
    return CaseView(key, packed(header, arrays))


def packed(header: Mapping[str, Any], arrays: Sequence[NDArray[Any]]) -> str:
    """What a page unpacks: see `CaseView`."""
    body = json.dumps(header).encode() + b"\n"
    body += b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)
    return base64.b64encode(gzip.compress(body, 6, mtime=0)).decode()


@dataclass(frozen=True)
class Frame:
    """The part of a case that is shown, and how coarsely.

    Args:
        box: in voxels.
        steps: voxels along each axis of which one is shown.
        spacing_mm: of the voxels.
    """

    box: tuple[slice, slice, slice]
    steps: tuple[int, int, int]
    spacing_mm: tuple[float, ...]

    @classmethod
    def around(
        cls, box: tuple[slice, slice, slice], spacing_mm: tuple[float, ...], max_voxels: int
    ) -> Frame:
        """A box with no more than a number of voxels shown."""
        return cls(box, _steps(box, spacing_mm, max_voxels), spacing_mm)

    @property
    def grid(self) -> tuple[slice, ...]:
        """The voxels of a label map that are shown: those in the corners of the blocks."""
        return tuple(
            slice(part.start, part.stop, step)
            for part, step in zip(self.box, self.steps, strict=True)
        )

    def grey(self, volume: Volume | None) -> NDArray[np.uint8]:
        """Grey values or colours, averaged over the blocks, shape (channels, I, J, K); no channel
        without a volume.
        """
        if volume is None:
            return np.zeros((0, 1, 1, 1), np.uint8)
        levels = _grey(volume.reoriented("RAS").array, volume.modality)
        return np.asarray(_block_means(levels[(slice(None), *self.box)], self.steps), np.uint8)

    def header(self, channels: int) -> dict[str, Any]:
        """What the page must know of the grid."""
        shape = [len(range(part.start, part.stop, part.step)) for part in self.grid]
        spacing = [float(step * mm) for step, mm in zip(self.steps, self.spacing_mm, strict=True)]
        extent = [n * mm for n, mm in zip(shape, spacing, strict=True)]
        return {
            "shape": shape,
            "spacing": spacing,
            "extent": extent,
            "step": list(self.steps),
            "channels": channels,
        }


def surface(
    mask: NDArray[np.bool_], spacing_mm: tuple[float, ...]
) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """Triangles around a mask, few enough to be drawn.

    Returns:
        Positions in 1/65535 of the box's extent along each axis, shape (n, 3); and the numbers of
        the corners of each triangle, shape (m, 3). Flat images have none.

    Source: Lewiner et al. 2003, J. Graphics Tools 8(2):1 (marching cubes, as in scikit-image).
    """
    empty = np.zeros((0, 3), np.uint16)
    if min(mask.shape) < 2 or not mask.any():
        return empty, empty
    step = max(1, round((mask.size / _SURFACE_VOXELS) ** (1 / 3)))
    while True:
        blocks = _cubic(step, spacing_mm, mask.shape)
        coarse = _block_means(mask.astype(np.float32)[None], blocks)[0]
        padded = np.pad(coarse, 1)
        if padded.max() <= 0.5:  # thinner than a block: what is left of it is shown
            padded = padded / padded.max()
        vertices, faces, *_ = marching_cubes(padded, 0.5)
        if len(faces) <= MAX_TRIANGLES:
            break
        step += 1
    # Voxel centres of blocks, without the padding, as shares of the extent.
    places = (vertices - 1 + 0.5) * blocks / np.array(mask.shape)
    scaled = np.clip(places, 0, 1) * 65535
    return scaled.round().astype(np.uint16), faces.astype(np.uint16)


def _cubic(
    step: int, spacing_mm: tuple[float, ...], shape: tuple[int, ...]
) -> tuple[int, int, int]:
    """Blocks `step` voxels of the finest axis wide, about as wide along the others."""
    finest = min(mm for mm, n in zip(spacing_mm, shape, strict=True) if n > 1)
    i, j, k = (
        max(1, min(n // 2, round(step * finest / mm))) if n > 1 else 1
        for mm, n in zip(spacing_mm, shape, strict=True)
    )
    return i, j, k


def box_around(
    mask: NDArray[np.bool_], spacing_mm: tuple[float, ...]
) -> tuple[slice, slice, slice]:
    """The box around a mask with a margin; the whole grid around an empty one."""
    if not mask.any():
        i, j, k = (slice(0, n) for n in mask.shape)
        return i, j, k
    i, j, k = (
        slice(max(0, part.start - more), min(n, part.stop + more))
        for part, n, mm in zip(bounding_box(mask), mask.shape, spacing_mm, strict=True)
        for more in [int(np.ceil(max(MARGIN_MM / mm, 0.15 * (part.stop - part.start))))]
    )
    return i, j, k


def _steps(
    box: tuple[slice, ...], spacing_mm: tuple[float, ...], max_voxels: int
) -> tuple[int, int, int]:
    """Voxels along each axis of which one is shown; the finest axis gives way first."""
    extents = np.array([part.stop - part.start for part in box])
    steps = np.ones(3, int)
    while np.prod(-(-extents // steps)) > max_voxels:
        sizes = np.where(extents > steps, np.array(spacing_mm) * steps, np.inf)
        steps[int(sizes.argmin())] += 1
    return int(steps[0]), int(steps[1]), int(steps[2])


def _grey(array: NDArray[Any], modality: str) -> NDArray[np.uint8]:
    """One channel, or the three of a picture, in 8 bits."""
    is_picture = array.shape[3] == 1 and len(array) in (3, 4)
    chosen = array[:3] if is_picture else array[:1]
    low, high = _CT_WINDOW_HU
    if modality != "CT":
        step = max(1, chosen[0].size // 500_000)
        sample = chosen.reshape(len(chosen), -1)[:, ::step]
        low, high = (float(v) for v in np.nanpercentile(sample, (1, 99)))
        high = high if high > low else low + 1
    scaled = np.nan_to_num((chosen.astype(np.float32) - low) / (high - low))
    return np.asarray(np.clip(scaled, 0, 1) * 255, np.uint8)


def _block_means(array: NDArray[Any], steps: tuple[int, int, int]) -> NDArray[Any]:
    """Means over blocks along the last three axes; the last blocks may be smaller."""
    if steps == (1, 1, 1):
        return array
    rest = [(0, 0), *((0, -n % s) for n, s in zip(array.shape[1:], steps, strict=True))]
    padded = np.pad(array, rest, mode="edge")
    c, i, j, k = padded.shape
    a, b, d = steps
    parts = padded.reshape(c, i // a, a, j // b, b, k // d, d)
    means: NDArray[Any] = np.asarray(parts.mean(axis=(2, 4, 6), dtype=np.float32))
    return means.astype(array.dtype)
