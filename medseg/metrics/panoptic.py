"""Panoptic quality: how well things and stuff are told apart and outlined.

Source: Kirillov et al. 2019, CVPR.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from medseg.core.labels import LabelSet
from medseg.core.segmentation import PanopticMap
from medseg.metrics.detection import HitCounts, hit_counts
from medseg.metrics.object_pairs import ObjectPairs, compare_objects, compare_regions

MATCHED_ABOVE = 0.5
"""A pair of segments with a larger IoU is a match; no segment can have two."""


@dataclass(frozen=True)
class PanopticQuality:
    """Quality of one class.

    Args:
        pq: sq times rq; nan if neither reference nor prediction has the class.
        sq: mean IoU of the matched segments; nan if none is.
        rq: F1 of the segments.
    """

    pq: float
    sq: float
    rq: float

    @classmethod
    def of(cls, counts: HitCounts) -> PanopticQuality:
        """Of matches with an IoU above 0.5."""
        matched = counts.true_positives
        rq = counts.f1
        sq = counts.iou / matched if matched else float("nan")
        return cls(sq * rq if matched else rq, sq, rq)


def panoptic_pairs(
    reference: PanopticMap, prediction: PanopticMap, *, labels: LabelSet, case: str = ""
) -> list[ObjectPairs]:
    """Overlaps of every foreground class: object by object for things, as a whole for stuff."""
    things = [label.class_id for label in labels.foreground if label.is_thing]
    stuff = [label.class_id for label in labels.foreground if not label.is_thing]
    ignored = reference.instances.ignored
    if labels.ignore_id is not None:
        ignored = reference.label_map.array == labels.ignore_id
    objects = replace(reference.instances, ignored=ignored)
    found = compare_objects(
        objects, prediction.instances, class_ids=things, case=case
    ) + compare_regions(
        reference.label_map,
        prediction.label_map,
        class_ids=stuff,
        ignored=ignored,
        case=case,
    )
    return sorted(found, key=lambda pairs: pairs.class_id)


def panoptic_quality(cases: Sequence[ObjectPairs]) -> PanopticQuality:
    """Quality of one class over the segments of all cases together."""
    counts = HitCounts()
    for pairs in cases:
        counts += hit_counts(pairs, MATCHED_ABOVE, strict=True)
    return PanopticQuality.of(counts)


def mean_quality(qualities: Sequence[PanopticQuality]) -> PanopticQuality:
    """Mean over classes; a class without a value is left out."""

    def mean(values: Sequence[float]) -> float:
        known = [value for value in values if not np.isnan(value)]
        return float(np.mean(known)) if known else float("nan")

    return PanopticQuality(
        mean([quality.pq for quality in qualities]),
        mean([quality.sq for quality in qualities]),
        mean([quality.rq for quality in qualities]),
    )
