"""What a report says of a case besides its scores: its grid, what was taken for what, how sure the
model was, and whether the image is like those of the training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import MedsegError
from medseg.core.identity import Case
from medseg.core.labels import LabelSet
from medseg.core.segmentation import InstanceSet, LabelMap
from medseg.core.volume import Volume
from medseg.dicom.scanner import scanner_name
from medseg.inference.calibration import MARGIN
from medseg.inference.postprocess import bounding_box
from medseg.metrics.calibration import NUM_BINS
from medseg.sources.image_files import read_image
from medseg.sources.label_maps import read_label_map


@dataclass(frozen=True, eq=False)
class Reliability:
    """How often the likeliest class is right, by how sure the model is; counts may be added.

    Args:
        num_voxels, confidence, num_right: per bin of the confidence: voxels, the sum of their
            highest probability, and those whose likeliest class is true.
        brier: sum over the voxels of the Brier score.
    """

    num_voxels: NDArray[np.float64]
    confidence: NDArray[np.float64]
    num_right: NDArray[np.float64]
    brier: float

    def __add__(self, other: Reliability) -> Reliability:
        return Reliability(
            self.num_voxels + other.num_voxels,
            self.confidence + other.confidence,
            self.num_right + other.num_right,
            self.brier + other.brier,
        )

    @property
    def expected_calibration_error(self) -> float:
        """See `medseg.metrics.calibration.expected_calibration_error`."""
        total = self.num_voxels.sum()
        return float(np.abs(self.confidence - self.num_right).sum() / total) if total else 0.0

    @property
    def brier_score(self) -> float:
        return float(self.brier / max(1.0, float(self.num_voxels.sum())))


@dataclass(frozen=True, eq=False)
class CaseFacts:
    """A case as a report sees it.

    Args:
        key: case key.
        shape, spacing_mm, orientation: of the reference's grid.
        confusion: per prediction, voxels by class of the reference (rows) and of the prediction.
        reliability: per prediction that has probabilities.
        modality, num_channels: of the image; "" and 0 if there is none.
        foreground: per channel, 1st, 50th and 99th percentile of the image within the reference.
        scanner: make and model, of DICOM images; "" if unknown.
    """

    key: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    orientation: str
    confusion: Mapping[str, NDArray[np.int64]]
    reliability: Mapping[str, Reliability] = field(default_factory=dict)
    modality: str = ""
    num_channels: int = 0
    foreground: tuple[tuple[float, float, float], ...] = ()
    scanner: str = ""


def look_at_case(
    key: str,
    reference: Path,
    predictions: Mapping[str, Path],
    *,
    labels: LabelSet,
    image: Case | None = None,
) -> CaseFacts:
    """Facts of one case.

    Args:
        key: case key.
        reference: label map.
        predictions: label map by name of the model; beside it there may be one of probabilities.
        labels: classes.
        image: the case that the reference belongs to; an image that cannot be read is left out.
    """
    truth = read_label_map(reference, None)
    confusion, reliability = {}, {}
    for name, path in predictions.items():
        try:
            found = read_label_map(path, None)
            if found.array.shape != truth.array.shape:
                continue
            confusion[name] = confusion_counts(truth, found, labels=labels)
            shares = probabilities_path(path)
            if shares.is_file() and not labels.regions:
                counts = reliability_counts(truth.array, read_image(shares).array, labels=labels)
                if counts is not None:
                    reliability[name] = counts
        except MedsegError:
            continue  # the evaluation lists it among its problems
    return image_facts(
        key, truth, labels=labels, image=image, confusion=confusion, reliability=reliability
    )


def image_facts(
    key: str,
    truth: LabelMap,
    *,
    labels: LabelSet,
    image: Case | None,
    confusion: Mapping[str, NDArray[np.int64]] | None = None,
    reliability: Mapping[str, Reliability] | None = None,
) -> CaseFacts:
    """What image and reference tell, with what is known of the predictions.

    Args:
        key: case key.
        truth: the reference.
        labels: classes.
        image: see `look_at_case`.
        confusion, reliability: see `CaseFacts`.
    """
    modality, num_channels = "", 0
    foreground: list[tuple[float, float, float]] = []
    volume = read_volume(image, truth)
    if volume is not None:
        modality, num_channels = volume.modality, volume.num_channels
        mask = class_mask(truth.array, labels)
        for part in volume.array if mask.any() else ():
            low, middle, high = (float(v) for v in np.percentile(part[mask], (1, 50, 99)))
            foreground.append((low, middle, high))
    geometry = truth.geometry
    return CaseFacts(
        key,
        geometry.shape,
        geometry.spacing_mm,
        geometry.orientation,
        confusion or {},
        reliability or {},
        modality,
        num_channels,
        tuple(foreground),
        scanner_name(image.series.paths[0]) if image is not None and image.series else "",
    )


def read_volume(image: Case | None, like: LabelMap | InstanceSet) -> Volume | None:
    """The image of a case if it can be read and lies on the grid of the reference."""
    if image is None:
        return None
    try:
        volume = image.read_image()
    except MedsegError:
        return None
    return volume if volume.spatial_shape == like.geometry.shape else None


def probabilities_path(prediction: Path) -> Path:
    """Where the probabilities that belong to a predicted label map are written."""
    name = prediction.name
    for ending in (".nii.gz", ".nii"):
        name = name.removesuffix(ending)
    return prediction.with_name(f"{name}_probabilities.nii.gz")


def class_mask(array: NDArray[Any], labels: LabelSet) -> NDArray[np.bool_]:
    """Voxels of any foreground class."""
    return np.asarray((array > 0) & (array < len(labels)))


def confusion_counts(
    reference: LabelMap, prediction: LabelMap, *, labels: LabelSet
) -> NDArray[np.int64]:
    """Voxels by class of the reference (rows) and of the prediction; the rest is left out."""
    size = len(labels)
    known = (reference.array >= 0) & (reference.array < size)
    known &= (prediction.array >= 0) & (prediction.array < size)
    pairs = reference.array[known].astype(np.int64) * size + prediction.array[known]
    return np.bincount(pairs, minlength=size * size).reshape(size, size)


def reliability_counts(
    reference: NDArray[Any], probabilities: NDArray[np.floating], *, labels: LabelSet
) -> Reliability | None:
    """Reliability in the box around the reference's foreground, grown by a fifth on each side: far
    away all probabilities are right. None if the channels are not those of the labels.

    Args:
        reference: classes, shape (I, J, K).
        probabilities: shape (C, I, J, K).
        labels: classes, one for each channel.
    """
    mask = class_mask(reference, labels)
    if len(probabilities) != len(labels) or not mask.any():
        return None
    box = tuple(
        slice(max(0, part.start - more), part.stop + more)
        for part in bounding_box(mask)
        for more in [int(np.ceil(MARGIN * (part.stop - part.start)))]
    )
    truth = reference[box].ravel()
    known = (truth >= 0) & (truth < len(labels))
    truth = truth[known].astype(np.int64)
    shares = probabilities[(slice(None), *box)].reshape(len(labels), -1)[:, known]
    shares = shares.astype(np.float64)
    confidence = shares.max(axis=0)
    is_right = shares.argmax(axis=0) == truth
    bins = np.clip(np.ceil(confidence * NUM_BINS).astype(int) - 1, 0, NUM_BINS - 1)
    own = shares[truth, np.arange(len(truth))]
    return Reliability(
        np.bincount(bins, minlength=NUM_BINS).astype(np.float64),
        np.bincount(bins, confidence, minlength=NUM_BINS).astype(np.float64),
        np.bincount(bins, is_right.astype(np.float64), minlength=NUM_BINS).astype(np.float64),
        float(((shares**2).sum(axis=0) - 2 * own + 1).sum()),
    )
