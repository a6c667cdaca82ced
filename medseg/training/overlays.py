"""Slices with the contours of reference and prediction, as an RGB picture."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from medseg.core.labels import LabelSet

NUM_SLICES = 3
TILE_PIXELS = 280
REFERENCE_RGB = (60, 220, 60)


def contour_overview(
    image: NDArray[np.floating],
    reference: NDArray[np.integer],
    prediction: NDArray[np.integer],
    *,
    labels: LabelSet,
    spacing_mm: tuple[float, ...],
) -> NDArray[np.uint8]:
    """Slices through the reference side by side: its contours in green, the prediction's in label
    colours.

    Args:
        image: (I, J, K), any intensity range.
        reference, prediction: (I, J, K), class numbers.
        labels: gives names and colours.
        spacing_mm: along i and j; pixels are drawn square in mm.

    Returns:
        uint8, shape (height, width, 3).
    """
    low, high = np.percentile(image, (1, 99))
    grey = np.clip((image - low) / max(high - low, 1e-6), 0, 1) * 255
    tiles = []
    for k in _slices(reference):
        width, height = _tile_size(image.shape[:2], spacing_mm[:2])
        # i runs to the patient's right and j to the front, so pictures are turned to radiological
        # view.
        tile = Image.fromarray(_view(grey[..., k]).astype(np.uint8)).resize((width, height))
        pixels = np.array(tile.convert("RGB"))
        for label in labels.foreground:
            for map_, colour in ((reference, REFERENCE_RGB), (prediction, label.rgb)):
                mask = Image.fromarray(_view(map_[..., k] == label.class_id)).resize(
                    (width, height), Image.Resampling.NEAREST
                )
                inside = np.asarray(mask)
                pixels[inside & ~ndimage.binary_erosion(inside, iterations=2)] = colour
        tiles.append(pixels)
    picture = Image.fromarray(np.concatenate(tiles, axis=1))
    canvas = Image.new("RGB", (picture.width, picture.height + 18), (20, 20, 20))
    canvas.paste(picture, (0, 18))
    draw = ImageDraw.Draw(canvas)
    draw.text((4, 3), "reference", fill=REFERENCE_RGB)
    x = 70
    for label in labels.foreground:
        draw.text((x, 3), label.name, fill=label.rgb)
        x += 8 * len(label.name) + 10
    return np.asarray(canvas)


def _slices(reference: NDArray[np.integer]) -> list[int]:
    """Slice numbers at a quarter, half and three quarters of the labelled range along k."""
    filled = np.flatnonzero((reference > 0).any(axis=(0, 1)))
    low, high = (filled[0], filled[-1]) if filled.size else (0, reference.shape[2] - 1)
    wanted = np.linspace(low, high, NUM_SLICES + 2)[1:-1].round().astype(int)
    return [int(k) for k in np.unique(wanted)]


def _tile_size(shape: tuple[int, ...], spacing_mm: tuple[float, ...]) -> tuple[int, int]:
    width_mm, height_mm = shape[0] * spacing_mm[0], shape[1] * spacing_mm[1]
    scale = TILE_PIXELS / max(width_mm, height_mm)
    return max(8, round(width_mm * scale)), max(8, round(height_mm * scale))


def _view(plane: NDArray[Any]) -> NDArray[Any]:
    """A plane (i, j) as rows from front to back and columns from the patient's right to left."""
    return np.ascontiguousarray(plane[::-1, ::-1].T)
