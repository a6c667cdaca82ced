"""References from image files: whole numbers, declared classes, on the grid of their image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import GeometryError, LabelError
from medseg.core.geometry import Geometry
from medseg.core.labels import LabelSet
from medseg.core.segmentation import LabelMap
from medseg.sources.image_files import read_image
from medseg.sources.read_rules import ReadRules
from medseg.sources.voxels import num_not_finite

# Scaled labels (slope 1/255 and the like) come back this close to whole numbers in float32.
_INTEGER_TOLERANCE = 1e-3


def read_label_map(
    path: Path,
    labels: LabelSet | None,
    *,
    geometry: Geometry | None = None,
    rules: ReadRules | None = None,
) -> LabelMap:
    """The label map in an image file.

    Args:
        path: image file with one channel; floats are accepted if they are whole numbers.
        labels: declared classes; None accepts every whole number.
        geometry: grid of the image that the label map must agree with; the result carries it.
        rules: what to accept of the file.

    Raises:
        LabelError: E_LABEL_NAN, E_LABEL_NOT_INTEGER, E_LABEL_VALUES, E_LABEL_CHANNELS.
        GeometryError: E_GRID_MISMATCH.
        InputError: the file cannot be read rightly.
    """
    volume = read_image(path, rules=rules, as_labels=True)
    if volume.num_channels != 1:
        raise LabelError(
            path,
            f"has {volume.num_channels} channels, a label map has one",
            "save it as one number per voxel",
            code="E_LABEL_CHANNELS",
        )
    if geometry is not None:
        refuse_other_grid(volume.geometry, geometry, path=path)
    array = whole_numbers(volume.array[0], path)
    refuse_unknown_values(array, labels, path=path)
    return LabelMap(array, geometry or volume.geometry, labels)


def refuse_other_grid(found: Geometry, wanted: Geometry, *, path: Path) -> None:
    """Raises E_GRID_MISMATCH if two grids that must agree do not.

    Corners may lie 0.01 mm or a hundredth of the voxel apart, whichever is more, but never more
    than a tenth of a voxel: tools round header numbers to that.
    """
    smallest = min(wanted.spacing_mm)
    tolerance_mm = min(max(0.01, 0.01 * smallest), 0.1 * smallest)
    difference = found.difference(wanted, tolerance_mm=tolerance_mm)
    if difference:
        raise GeometryError(
            path,
            f"does not lie on the grid of its image: {difference}",
            "resample it to the image's grid, or pair it with the right image",
            code="E_GRID_MISMATCH",
        )


def refuse_unknown_values(
    array: NDArray[Any], labels: LabelSet | None, *, path: str | Path
) -> None:
    """Raises E_LABEL_VALUES if there are numbers that no class of `labels` has."""
    unknown = labels.unknown_values(array) if labels is not None else []
    if unknown and labels is not None:
        shown = ", ".join(f"{value:g}" for value in unknown[:8])
        known = ", ".join(f"{label.class_id} {label.name}" for label in labels.labels[:8])
        raise LabelError(
            path,
            f"holds {shown}{' and more' if len(unknown) > 8 else ''}, but the labels are {known}"
            + (" and more" if len(labels) > 8 else ""),
            "correct the file or declare the missing labels",
            code="E_LABEL_VALUES",
        )


def whole_numbers(array: NDArray[Any], path: Path) -> NDArray[Any]:
    """The array in the smallest integer type that holds it."""
    if array.dtype.kind == "f":
        if count := num_not_finite(array):
            raise LabelError(
                path,
                f"{count} voxels are NaN or infinite, labels are whole numbers",
                "give unlabelled voxels the number 0, or a number named 'ignore' in the labels",
                code="E_LABEL_NAN",
            )
        rounded = np.rint(array)
        off = np.abs(array - rounded)
        if count := int(np.count_nonzero(off > _INTEGER_TOLERANCE)):
            example = float(array[np.unravel_index(int(off.argmax()), off.shape)])
            raise LabelError(
                path,
                f"{count} voxels are not whole numbers, such as {example:g}",
                "this looks like an image or like interpolated labels; give label numbers",
                code="E_LABEL_NOT_INTEGER",
            )
        array = rounded
    low, high = float(array.min()), float(array.max())
    for dtype in (np.uint8, np.int16, np.int32, np.int64):
        limits = np.iinfo(dtype)
        if limits.min <= low and high <= limits.max:
            return array.astype(dtype, order="K", copy=False)
    raise LabelError(
        path,
        f"holds numbers up to {high:g}, too large for labels",
        "give label numbers",
        code="E_LABEL_NOT_INTEGER",
    )
