"""All scores of one case: every class of a prediction against the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from medseg.core.errors import GeometryError, LabelError
from medseg.core.geometry import Geometry
from medseg.core.labels import LabelSet, Region
from medseg.core.segmentation import LabelMap
from medseg.metrics.overlap import count_overlap
from medseg.metrics.surface import SurfaceKind, grown_box, surface_distances

Box = tuple[slice, ...]
Status = Literal["both", "missed", "spurious", "absent"]

_NAN = float("nan")
# Class numbers above this are found by comparing, not by a table with one entry per number.
_MAX_TABLE = 65_535


@dataclass(frozen=True)
class CaseScore:
    """How well one class of one case was segmented.

    Args:
        case: key of the case.
        label, class_id: name and number of the class; of a region, the number of the class that
            it paints.
        status: "both" masks have voxels; "missed": only the reference; "spurious": only the
            prediction; "absent": neither.
        dice, iou, nsd: in [0, 1]; nan if absent, 0.0 if missed or spurious.
        hd95_mm, assd_mm: nan unless status is "both".
        reference_ml, prediction_ml: volumes.
        volume_difference_ml: prediction minus reference.
        relative_volume_difference: the same divided by the reference's volume; nan if that is 0.
    """

    case: str
    label: str
    class_id: int
    status: Status
    dice: float
    iou: float
    nsd: float
    hd95_mm: float
    assd_mm: float
    reference_ml: float
    prediction_ml: float
    volume_difference_ml: float
    relative_volume_difference: float

    @classmethod
    def absent(cls, case: str, label: str, class_id: int) -> CaseScore:
        """The score of a class that neither reference nor prediction holds."""
        return cls(
            case, label, class_id, "absent", _NAN, _NAN, _NAN, _NAN, _NAN, 0.0, 0.0, 0.0, _NAN
        )


def evaluate_case(
    reference: LabelMap,
    prediction: LabelMap,
    *,
    labels: LabelSet | None,
    tolerance_mm: float,
    surface: SurfaceKind = "elements",
    case: str = "",
) -> list[CaseScore]:
    """Scores of every class of one case, background left out; of the regions where the labels have
    some.

    Args:
        reference, prediction: label maps on one grid. Voxels where the reference holds the ignore
            value belong to no class, and surfaces that touch them are not measured.
        labels: classes to score; None takes the numbers found and calls them label_1, label_2, ...
        tolerance_mm: of the surface Dice.
        surface: what distances run between; see `surface_distances`.
        case: key of the case, for the scores and messages.

    Raises:
        GeometryError: the grids differ.
        LabelError: a map holds values that `labels` does not.
    """
    where = case or "case"
    difference = reference.geometry.difference(
        prediction.geometry, tolerance_mm=_grid_tolerance_mm(reference.geometry)
    )
    if difference is not None:
        raise GeometryError(
            where,
            f"the reference's and the prediction's grids differ: {difference}",
            "predict on the image that the reference was drawn on, or resample one of them",
            code="E_GRID",
        )
    boxes = {"reference": _boxes(reference.array), "prediction": _boxes(prediction.array)}
    structures, ignore_id = _structures(boxes, labels=labels, where=where)
    scores = []
    for structure in structures:
        box: Box | None = None
        for class_id in structure.class_ids:
            for found in boxes.values():
                box = _union(box, found.get(class_id))
        if box is None:
            scores.append(CaseScore.absent(case, structure.name, structure.paints))
            continue
        if ignore_id is not None:
            box = grown_box(box, reference.array.shape)  # surfaces may touch ignored voxels there
        scores.append(
            _score(
                reference.array[box],
                prediction.array[box],
                reference.geometry,
                structure=structure,
                ignore_id=ignore_id,
                tolerance_mm=tolerance_mm,
                surface=surface,
                case=case,
            )
        )
    return scores


def mask_of(array: NDArray[Any], class_ids: Sequence[int]) -> NDArray[np.bool_]:
    """Where an array holds one of the numbers."""
    mask: NDArray[np.bool_] = array == class_ids[0]
    for class_id in class_ids[1:]:
        mask |= array == class_id
    return mask


def measuring_steps_mm(geometry: Geometry) -> NDArray[np.float64]:
    """What `surface_distances` takes as spacing: distances, or a matrix if the grid is sheared."""
    if geometry.is_orthogonal:
        return np.array(geometry.spacing_mm)
    return geometry.affine[:3, :3]


def _grid_tolerance_mm(geometry: Geometry) -> float:
    """0.01 mm or a hundredth of a voxel, whichever is more: tools round header numbers to that.

    Never more than a tenth of a voxel, for microscopy.
    """
    smallest_mm = min(geometry.spacing_mm)
    return min(max(0.01, 0.01 * smallest_mm), 0.1 * smallest_mm)


def _score(
    reference: NDArray[Any],
    prediction: NDArray[Any],
    geometry: Geometry,
    *,
    structure: Region,
    ignore_id: int | None,
    tolerance_mm: float,
    surface: SurfaceKind,
    case: str,
) -> CaseScore:
    """Score of one class or region within a box that holds all its voxels of both label maps."""
    label, class_id = structure.name, structure.paints
    ignored = None if ignore_id is None else reference == ignore_id
    in_reference = mask_of(reference, structure.class_ids)
    in_prediction = mask_of(prediction, structure.class_ids)
    if ignored is not None:
        in_prediction &= ~ignored
    overlap = count_overlap(in_reference, in_prediction, voxel_volume_mm3=geometry.voxel_volume_mm3)
    if not overlap.num_reference and not overlap.num_prediction:
        return CaseScore.absent(case, label, class_id)
    status: Status = "both"
    nsd, hd95_mm, assd_mm = 0.0, _NAN, _NAN
    if not overlap.num_prediction:
        status = "missed"
    elif not overlap.num_reference:
        status = "spurious"
    else:
        distances = surface_distances(
            in_reference,
            in_prediction,
            spacing_mm=measuring_steps_mm(geometry),
            kind=surface,
            ignored=ignored,
        )
        nsd = distances.surface_dice(tolerance_mm)
        hd95_mm, assd_mm = distances.hausdorff_mm(95.0), distances.average_mm()
    return CaseScore(
        case=case,
        label=label,
        class_id=class_id,
        status=status,
        dice=overlap.dice,
        iou=overlap.iou,
        nsd=nsd,
        hd95_mm=hd95_mm,
        assd_mm=assd_mm,
        reference_ml=overlap.reference_ml,
        prediction_ml=overlap.prediction_ml,
        volume_difference_ml=overlap.volume_difference_ml,
        relative_volume_difference=overlap.relative_volume_difference,
    )


def _boxes(array: NDArray[Any]) -> dict[int, Box]:
    """Bounding box of each value that is there, 0 left out, by value."""
    if int(array.min()) >= 0 and (highest := int(array.max())) <= _MAX_TABLE:
        found = enumerate(find_objects(array, max_label=highest), start=1) if highest else ()
        return {value: box for value, box in found if box is not None}
    return {
        int(value): find_objects((array == value).view(np.uint8))[0]
        for value in np.unique(array)
        if value != 0
    }


def _structures(
    boxes: Mapping[str, Mapping[int, Box]], *, labels: LabelSet | None, where: str
) -> tuple[tuple[Region, ...], int | None]:
    """The classes or regions to score, and the ignore value."""
    if labels is None:
        numbers = sorted({value for found in boxes.values() for value in found})
        return tuple(Region(f"label_{n}", (n,), n) for n in numbers), None
    for role, found in boxes.items():
        allowed = {label.class_id for label in labels.labels}
        if role == "reference" and labels.ignore_id is not None:
            allowed.add(labels.ignore_id)
        unknown = sorted(value for value in found if value not in allowed)
        if unknown:
            meaning = ", ".join(f"{label.name} {label.class_id}" for label in labels.labels)
            raise LabelError(
                where,
                f"the {role} holds {_listed(unknown)}, but the labels are {meaning}",
                "give the labels of these files with labels={background: 0, ...}; "
                "a value to leave out is named ignore",
            )
    return labels.structures, labels.ignore_id


def _union(first: Box | None, second: Box | None) -> Box | None:
    if first is None or second is None:
        return first or second
    return tuple(
        slice(min(a.start, b.start), max(a.stop, b.stop))
        for a, b in zip(first, second, strict=True)
    )


def _listed(values: list[int]) -> str:
    shown = ", ".join(str(value) for value in values[:5])
    more = f" and {len(values) - 5} more" if len(values) > 5 else ""
    return f"the value{'s' if len(values) > 1 else ''} {shown}{more}"
