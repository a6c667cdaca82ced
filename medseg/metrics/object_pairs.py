"""Which objects of a reference and of a prediction overlap, and by how much; counted once per case.

A table of common voxels replaces the comparison of each mask with each other, so that thousands of
objects cost no more than the image has voxels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import GeometryError
from medseg.core.segmentation import InstanceSet, LabelMap

_MAX_TABLE = 2**22
# A prediction that lies in unannotated voxels by more than this is no false positive (Kirillov et
# al. 2019).
_MOSTLY = 0.5


@dataclass(frozen=True, eq=False)
class ObjectPairs:
    """The objects of one class in one case, and the pairs that share voxels.

    Args:
        case: its key.
        class_id: of all these objects.
        reference_mm3: volume of each reference object, shape (r,).
        prediction_mm3: volume of each predicted object, shape (p,).
        scores: of the predicted objects, shape (p,).
        unjudged: predicted objects that lie mostly where nobody annotated, shape (p,).
        reference, prediction: positions of the objects of each pair, shape (m,).
        iou: intersection over union of each pair, shape (m,); unannotated voxels do not count.
    """

    case: str
    class_id: int
    reference_mm3: NDArray[np.float64]
    prediction_mm3: NDArray[np.float64]
    scores: NDArray[np.floating]
    unjudged: NDArray[np.bool_]
    reference: NDArray[np.int64]
    prediction: NDArray[np.int64]
    iou: NDArray[np.float64]

    def above(self, min_score: float) -> ObjectPairs:
        """The same without predicted objects of a lower score."""
        kept = self.scores >= min_score
        position = np.cumsum(kept) - 1
        pairs = kept[self.prediction]
        return ObjectPairs(
            self.case,
            self.class_id,
            self.reference_mm3,
            self.prediction_mm3[kept],
            self.scores[kept],
            self.unjudged[kept],
            self.reference[pairs],
            position[self.prediction[pairs]],
            self.iou[pairs],
        )


def compare_objects(
    reference: InstanceSet,
    prediction: InstanceSet,
    *,
    class_ids: Sequence[int],
    case: str = "",
) -> list[ObjectPairs]:
    """The objects of each class, and how reference and prediction overlap.

    Args:
        reference, prediction: on one grid. Voxels without annotation are taken off the predicted
            objects.
        class_ids: classes to compare; objects of different classes are no pair.
        case: key of the case.

    Raises:
        GeometryError: the grids differ.
    """
    require_one_grid(reference, prediction, case=case)
    sizes = prediction.num_voxels.astype(np.float64)
    hidden = _ignored_voxels(prediction, reference.ignored)
    first, second, common = _common_voxels(reference, prediction)
    union = reference.num_voxels[first] + (sizes - hidden)[second] - common
    iou = common / np.maximum(union, 1)
    unjudged = hidden > _MOSTLY * np.maximum(sizes, 1)
    voxel_mm3 = reference.geometry.voxel_volume_mm3
    found = []
    for class_id in class_ids:
        of_reference = reference.class_ids == class_id
        of_prediction = prediction.class_ids == class_id
        pairs = of_reference[first] & of_prediction[second]
        found.append(
            ObjectPairs(
                case,
                class_id,
                reference.num_voxels[of_reference] * voxel_mm3,
                sizes[of_prediction] * voxel_mm3,
                prediction.scores[of_prediction],
                unjudged[of_prediction],
                (np.cumsum(of_reference) - 1)[first[pairs]],
                (np.cumsum(of_prediction) - 1)[second[pairs]],
                iou[pairs],
            )
        )
    return found


def compare_regions(
    reference: LabelMap,
    prediction: LabelMap,
    *,
    class_ids: Sequence[int],
    ignored: NDArray[np.bool_] | None,
    case: str = "",
) -> list[ObjectPairs]:
    """Each class as one object, for stuff that cannot be counted.

    Args:
        reference, prediction: on one grid.
        class_ids: classes to compare.
        ignored: voxels without annotation.
        case: key of the case.
    """
    require_one_grid(reference, prediction, case=case)
    known = np.ones(reference.array.shape, np.bool_) if ignored is None else ~ignored
    voxel_mm3 = reference.geometry.voxel_volume_mm3
    found = []
    for class_id in class_ids:
        wanted = (reference.array == class_id) & known
        whole = prediction.array == class_id
        given = whole & known
        r, p, everywhere = int(wanted.sum()), int(given.sum()), int(whole.sum())
        common = int((wanted & given).sum())
        pair = np.zeros(int(common > 0), np.int64)
        found.append(
            ObjectPairs(
                case,
                class_id,
                np.array([r * voxel_mm3] if r else [], np.float64),
                np.array([everywhere * voxel_mm3] if everywhere else [], np.float64),
                np.ones(int(everywhere > 0)),
                np.array([everywhere - p > _MOSTLY * everywhere] if everywhere else [], np.bool_),
                pair,
                pair,
                np.array([common / (r + p - common)] if common else [], np.float64),
            )
        )
    return found


def require_one_grid(
    reference: InstanceSet | LabelMap, prediction: InstanceSet | LabelMap, *, case: str
) -> None:
    """Raises E_GRID unless both lie on one grid, to a tenth of a voxel."""
    tolerance_mm = 0.1 * min(reference.geometry.spacing_mm)
    difference = reference.geometry.difference(prediction.geometry, tolerance_mm=tolerance_mm)
    if difference is not None:
        raise GeometryError(
            case or "case",
            f"the reference's and the prediction's grids differ: {difference}",
            "predict on the image that the reference was drawn on",
            code="E_GRID",
        )


def _ignored_voxels(
    instances: InstanceSet, ignored: NDArray[np.bool_] | None
) -> NDArray[np.float64]:
    """Voxels of each object that are not to count."""
    counts = np.zeros(len(instances) + 1)
    if ignored is not None:
        for layer in instances.layers:
            counts += np.bincount(layer[ignored], minlength=len(counts))
    return counts[1:]


def _common_voxels(
    reference: InstanceSet, prediction: InstanceSet
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Positions of the objects of each overlapping pair, and the number of voxels they share."""
    width = len(prediction) + 1
    table_size = (len(reference) + 1) * width
    keys, counts = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for layer in reference.layers:
        for other in prediction.layers:
            both = (layer > 0) & (other > 0)
            key = layer[both].astype(np.int64) * width + other[both]
            if table_size <= _MAX_TABLE:
                table = np.bincount(key, minlength=table_size)
                keys.append(np.flatnonzero(table))
                counts.append(table[keys[-1]])
            else:
                values, number = np.unique(key, return_counts=True)
                keys.append(values)
                counts.append(number)
    # An object lies in one layer, so no pair comes from two pairs of layers.
    key = np.concatenate(keys)
    return key // width - 1, key % width - 1, np.concatenate(counts)
