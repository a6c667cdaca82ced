"""A picture of a result for the eye: three planes of the image with the outlines of its classes or
objects.

Not for diagnosis: the window is a guess and most slices are not shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from medseg.core.atomic import atomic_path
from medseg.core.errors import ConfigError
from medseg.core.identity import Case
from medseg.core.labels import Label
from medseg.core.protocols import ResultKind
from medseg.core.segmentation import (
    LabelMap,
    ProbabilityMap,
    Result,
    UncertaintyMap,
    class_map,
    instances_of,
)
from medseg.core.volume import Volume
from medseg.writers.names import PREVIEW, output_path

_GAP = 4
_WIDEST = 4  # times the height: a plane that is wider is lower instead
_LEGEND_LINE = 14
_AXES = (2, 1, 0)  # across transverse, coronal and sagittal slices
# Soft tissue with liver and vessels apart: 400 HU around 40.
_CT_WINDOW_HU = (-160.0, 240.0)


@dataclass(frozen=True)
class PreviewWriter:
    """Writes `<case key>_preview.png`: a transverse, a coronal and a sagittal slice.

    Each object of a result that tells them apart has an outline of its own, in its class's colour.
    An image of one slice is shown in its own plane alone.
    The slices are those that show most of the classes, the middle ones if the result is empty.
    Pixels are square in millimetres; the patient's right is on the left of the picture. Equal
    results give equal bytes.

    Args:
        height: of the tallest plane, in pixels; all have one scale, and none is wider than four
            times this.
        window: grey values shown as black and white, in the image's unit; without it 400 HU around
            40 for CT, and the 1st to 99th percentile for the rest.
        opacity: of the filled classes, 0 to 1; outlines are always solid.

    Raises:
        ConfigError: a number is out of range.
    """

    height: int = 384
    window: tuple[float, float] | None = None
    opacity: float = 0.25

    def __post_init__(self) -> None:
        if not 32 <= self.height <= 4096:
            raise ConfigError("height", f"is {self.height}", "use 32 to 4096 pixels")
        if not 0 <= self.opacity <= 1:
            raise ConfigError("opacity", f"is {self.opacity}", "use 0 to 1")
        if self.window is not None and not -np.inf < self.window[0] < self.window[1] < np.inf:
            raise ConfigError(
                "window", f"is {self.window}", "give two numbers, the lower one first"
            )

    @property
    def takes(self) -> tuple[ResultKind, ...]:
        return ("label_map", "instances")

    def write(self, result: Result, case: Case, *, folder: Path) -> list[Path]:
        path = output_path(folder, case, f"{PREVIEW}.png")
        image = case.read_image().reoriented("RAS")
        labels, parts = (one.reoriented("RAS") for one in _classes_and_parts(result))
        low, high = self.window or _window(image)
        grey = np.clip((image.array[0].astype(np.float32) - low) / (high - low), 0, 1) * 255
        present = [
            label
            for label in (labels.labels.foreground if labels.labels else _numbered(labels))
            if (labels.array == label.class_id).any()
        ]
        extent_mm = np.multiply(labels.geometry.shape, labels.geometry.spacing_mm)
        flat = [axis for axis in _AXES if labels.array.shape[axis] == 1]
        axes = flat if len(flat) == 1 else _AXES
        tallest = float(max(extent_mm[1 if axis == 2 else 2] for axis in axes))
        widest = float(max(extent_mm[1 if axis == 0 else 0] for axis in axes))
        scale = self.height / max(tallest, widest / _WIDEST)
        planes = [
            self._plane(grey, labels, parts.array, axis, position, present, scale)
            for axis, position in zip(_AXES, _positions(labels, present), strict=True)
            if axis in axes
        ]
        with atomic_path(path) as unfinished:
            _joined(planes, present).save(unfinished, format="PNG", pnginfo=PngInfo())
        return [path]

    def _plane(
        self,
        grey: NDArray[np.float32],
        labels: LabelMap,
        parts: NDArray[Any],
        axis: int,
        position: int,
        present: list[Label],
        scale: float,
    ) -> Image.Image:
        """One plane at `scale` pixels per millimetre; `parts` are outlined one by one."""
        across, up = [other for other in range(3) if other != axis]
        spacing = labels.geometry.spacing_mm
        plane = _as_picture(grey, axis, position)
        numbers = _as_picture(labels.array, axis, position)
        size = (
            max(1, round(plane.shape[1] * spacing[across] * scale)),
            max(1, round(plane.shape[0] * spacing[up] * scale)),
        )
        picture = Image.fromarray(plane.astype(np.uint8)).resize(size, Image.Resampling.BILINEAR)
        rims = _rims(_enlarged(_as_picture(parts, axis, position), size))
        pixels = np.repeat(np.asarray(picture, np.float32)[..., None], 3, axis=2)
        for label in present:
            inside = _enlarged(numbers == label.class_id, size)
            colour = np.array(label.rgb, np.float32)
            pixels[inside] += self.opacity * (colour - pixels[inside])
            pixels[inside & rims] = colour
        return Image.fromarray(pixels.round().astype(np.uint8))


def _classes_and_parts(result: Result) -> tuple[LabelMap, LabelMap]:
    """The class of each voxel, and the number of what is outlined as one: a class or an object."""
    assert not isinstance(result, UncertaintyMap)  # see `takes`
    if isinstance(result, ProbabilityMap):
        result = LabelMap(result.array.argmax(axis=0), result.geometry, result.labels)
    classes = class_map(result)
    if isinstance(result, LabelMap):
        return classes, classes
    objects = instances_of(result).array.astype(np.int32)
    highest = int(classes.array.max(initial=0))
    parts = np.where(objects > 0, objects + highest, classes.array)
    return classes, LabelMap(parts, classes.geometry)


def _numbered(labels: LabelMap) -> list[Label]:
    return [Label(f"class {n}", int(n)) for n in np.unique(labels.array) if n > 0]


def _window(image: Volume) -> tuple[float, float]:
    if image.modality == "CT":
        return _CT_WINDOW_HU
    step = max(1, image.array[0].size // 1_000_000)
    sample = image.array[0].ravel()[::step]
    low, high = np.percentile(sample, (1, 99))
    return float(low), float(high if high > low else low + 1)


def _positions(labels: LabelMap, present: list[Label]) -> tuple[int, int, int]:
    """Slice numbers along S, A and R that show most of the classes, each counted by its own size.

    A slice through a small tumour is worth more than one through the organ alone. The middle slices
    if the result is empty.
    """
    found = []
    for axis in _AXES:
        others = tuple(other for other in range(3) if other != axis)
        shown = np.zeros(labels.array.shape[axis])
        for label in present:
            area = (labels.array == label.class_id).sum(axis=others)
            shown += area / area.sum()
        found.append(int(shown.argmax()) if present else shown.size // 2)
    return found[0], found[1], found[2]


def _as_picture(volume: NDArray[Any], axis: int, position: int) -> NDArray[Any]:
    """A slice of an RAS volume: head or front above, the patient's right, or front, on the left."""
    return np.asarray(volume.take(position, axis).T[::-1, ::-1])


def _enlarged(plane: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """A plane with (width, height) pixels, each with the value of the nearest voxel."""
    rows, columns = (
        ((np.arange(count) + 0.5) * extent / count).astype(np.intp)
        for count, extent in zip(reversed(size), plane.shape, strict=True)
    )
    return np.asarray(plane[np.ix_(rows, columns)])


def _rims(parts: NDArray[Any]) -> NDArray[np.bool_]:
    """Pixels with a neighbour in another part; beyond the plane is none."""
    padded = np.pad(parts.astype(np.int32), 1, constant_values=-1)
    middle = padded[1:-1, 1:-1]
    neighbours = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    return np.logical_or.reduce([other != middle for other in neighbours])


def _joined(planes: list[Image.Image], present: list[Label]) -> Image.Image:
    """The planes side by side, the names of the classes below."""
    width = sum(plane.width for plane in planes) + _GAP * (len(planes) - 1)
    shown = present[:12]
    legend = _LEGEND_LINE * len(shown)
    height = max(plane.height for plane in planes)
    canvas = Image.new("RGB", (width, height + legend))
    left = 0
    for plane in planes:
        canvas.paste(plane, (left, 0))
        left += plane.width + _GAP
    draw = ImageDraw.Draw(canvas)
    for number, label in enumerate(shown):
        top = height + number * _LEGEND_LINE
        draw.rectangle((2, top + 3, 10, top + 11), fill=label.rgb)
        draw.text(
            (16, top + 1), label.name.encode("ascii", "replace").decode(), fill=(255, 255, 255)
        )
    return canvas
