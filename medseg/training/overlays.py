"""Slices in three planes with the contours of reference and prediction, as an RGB picture."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from medseg.core.labels import LabelSet
from medseg.tasks.parts import Parts

TILE_PIXELS = 280
PLANE_PIXELS = 420
REFERENCE_RGBS = ((60, 220, 60), (255, 220, 60), (60, 200, 255), (255, 90, 220))
"""Green, yellow, blue, pink: the reference has the one least like the colours of the labels."""
_NEAR = ndimage.iterate_structure(ndimage.generate_binary_structure(2, 1), 2)
_HEADER = 18
_GROUND = (20, 20, 20)


def contour_overview(
    image: NDArray[np.floating],
    reference: Parts,
    prediction: Parts | None,
    *,
    labels: LabelSet,
    spacing_mm: tuple[float, ...],
) -> NDArray[np.uint8]:
    """A transverse, a coronal and a sagittal slice through the middle of the reference.

    Each part has its contour. The reference's have a colour of their own, the prediction's those of
    the labels; without a prediction the reference has these.

    Args:
        image: (I, J, K) along R, A and S, any intensity range; a 2D image has one voxel along K and
            is shown in its own plane alone, larger.
        reference, prediction: parts (I, J, K).
        labels: gives names and colours.
        spacing_mm: along i, j and k; pixels are drawn square in mm.

    Returns:
        uint8, shape (height, width, 3); the longest extent has TILE_PIXELS, of a 2D image
        PLANE_PIXELS.
    """
    low, high = np.percentile(image, (1, 99))
    grey = np.clip((image - low) / max(high - low, 1e-6), 0, 1) * 255
    extents_mm = np.multiply(image.shape, spacing_mm)
    axes = (2,) if image.shape[2] == 1 else (2, 1, 0)
    shown = [extents_mm[other] for axis in axes for other in range(3) if other != axis]
    scale = (PLANE_PIXELS if len(axes) == 1 else TILE_PIXELS) / max(shown)
    tiles = []
    own = reference_rgb(labels)
    layers: list[tuple[Parts, tuple[int, int, int] | None]] = [(reference, None)]
    if prediction is not None:
        layers = [(reference, own), (prediction, None)]
    for axis in axes:
        position = _middle(reference, axis)
        across, up = (other for other in range(3) if other != axis)
        size = (
            max(8, round(extents_mm[across] * scale)),
            max(8, round(extents_mm[up] * scale)),
        )
        tile = Image.fromarray(_view(grey, axis, position).astype(np.uint8)).resize(size)
        pixels = np.array(tile.convert("RGB"))
        for parts, colour in layers:
            classes = _contours(parts, axis, position, size)
            for label in labels.foreground:
                pixels[classes == label.class_id] = colour or label.rgb
        tiles.append(pixels)
    names = [(label.name, label.rgb) for label in labels.foreground]
    if prediction is not None:
        names.insert(0, ("reference", own))
    return _joined(tiles, names)


def reference_rgb(labels: LabelSet) -> tuple[int, int, int]:
    """The colour of REFERENCE_RGBS whose nearest label colour is farthest away."""
    taken = [label.rgb for label in labels.foreground]
    return max(
        REFERENCE_RGBS, key=lambda own: min((math.dist(own, rgb) for rgb in taken), default=0.0)
    )


def _joined(
    tiles: list[NDArray[np.uint8]], names: list[tuple[str, tuple[int, int, int]]]
) -> NDArray[np.uint8]:
    """Tiles side by side below a line of names, each in its colour."""
    width = sum(tile.shape[1] for tile in tiles)
    height = max(tile.shape[0] for tile in tiles)
    canvas = Image.new("RGB", (width, height + _HEADER), _GROUND)
    left = 0
    for tile in tiles:
        canvas.paste(Image.fromarray(tile), (left, _HEADER))
        left += tile.shape[1]
    draw = ImageDraw.Draw(canvas)
    x = 4
    for name, colour in names:
        draw.text((x, 3), name.encode("ascii", "replace").decode(), fill=colour)
        x += 6 * len(name) + 12
    return np.asarray(canvas)


def _contours(
    parts: Parts, axis: int, position: int, size: tuple[int, int]
) -> NDArray[np.integer[Any]]:
    """The class of each pixel that lies within two of its part's border, 0 elsewhere."""
    view = Image.fromarray(_view(parts.numbers, axis, position).astype(np.int32))
    numbers = np.asarray(view.resize(size, Image.Resampling.NEAREST))
    filters = (ndimage.minimum_filter, ndimage.maximum_filter)
    near = [each(numbers, footprint=_NEAR, mode="constant", cval=-1) for each in filters]
    at_border = (near[0] != numbers) | (near[1] != numbers)
    return np.where(at_border, parts.classes[numbers], 0)


def _middle(reference: Parts, axis: int) -> int:
    """The slice halfway through the labelled range, or through the image without any."""
    others = tuple(other for other in range(3) if other != axis)
    filled = np.flatnonzero((reference.classes > 0)[reference.numbers].any(axis=others))
    return int(filled[len(filled) // 2]) if filled.size else reference.numbers.shape[axis] // 2


def _view(volume: NDArray[Any], axis: int, position: int) -> NDArray[Any]:
    """A slice as rows from front (or head) downwards and columns from the patient's right (or
    front) to the left (or back).
    """
    return np.ascontiguousarray(volume.take(position, axis).T[::-1, ::-1])
