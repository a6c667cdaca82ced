"""Panoptic quality worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from medseg.core.geometry import Geometry
from medseg.core.labels import LabelSet
from medseg.core.segmentation import InstanceSet, LabelMap, PanopticMap
from medseg.metrics.panoptic import mean_quality, panoptic_pairs, panoptic_quality

LABELS = LabelSet.from_mapping(
    {"background": 0, "axon": {"id": 1, "thing": True}, "myelin": 2, "ignore": 255}
)


def panoptic_map(classes, numbers):
    classes, numbers = np.array(classes, np.uint8), np.array(numbers, np.uint8)
    geometry = Geometry.from_spacing((len(classes), 1, 1), spacing_mm=(1.0, 1.0, 1.0))
    return PanopticMap(
        LabelMap(classes.reshape(-1, 1, 1), geometry, LABELS),
        InstanceSet.from_map(numbers.reshape(-1, 1, 1), geometry, labels=LABELS),
    )


def test_quality_is_the_overlap_times_the_share_found():
    # Axons: one with IoU 3/4, one missed, one too many. Myelin: IoU 4/6.
    reference = panoptic_map(
        [1] * 4 + [2] * 5 + [1] * 2 + [0] * 5, [1] * 4 + [0] * 5 + [2] * 2 + [0] * 5
    )
    prediction = panoptic_map(
        [1] * 3 + [2] * 5 + [0] * 4 + [1] * 2 + [0] * 2, [1] * 3 + [0] * 9 + [2] * 2 + [0] * 2
    )

    axon, myelin = (
        panoptic_quality([pairs]) for pairs in panoptic_pairs(reference, prediction, labels=LABELS)
    )

    assert axon.sq == pytest.approx(3 / 4)
    assert axon.rq == pytest.approx(1 / (1 + 0.5 + 0.5))
    assert axon.pq == pytest.approx(3 / 8)
    assert myelin.pq == pytest.approx(4 / 6)
    assert mean_quality([axon, myelin]).pq == pytest.approx((3 / 8 + 4 / 6) / 2)


def test_an_overlap_of_a_half_is_no_match():
    reference = panoptic_map([1, 1, 0, 0], [1, 1, 0, 0])
    prediction = panoptic_map([1, 0, 0, 0], [1, 0, 0, 0])

    axon = panoptic_quality([panoptic_pairs(reference, prediction, labels=LABELS)[0]])

    assert axon.pq == 0
    assert axon.rq == 0
    assert np.isnan(axon.sq)


def test_unannotated_voxels_do_not_count():
    reference = panoptic_map([1, 1, 255, 255, 2, 255], [1, 1, 0, 0, 0, 0])
    prediction = panoptic_map([1, 1, 1, 1, 2, 2], [1, 1, 1, 2, 0, 0])

    axon, myelin = (
        panoptic_quality([pairs]) for pairs in panoptic_pairs(reference, prediction, labels=LABELS)
    )

    assert axon.pq == pytest.approx(1.0)
    assert myelin.pq == pytest.approx(1.0)


def test_a_class_of_no_image_has_no_quality():
    empty = panoptic_map([0, 0], [0, 0])

    qualities = [panoptic_quality([pairs]) for pairs in panoptic_pairs(empty, empty, labels=LABELS)]

    assert all(np.isnan(quality.pq) for quality in qualities)
    assert np.isnan(mean_quality(qualities).pq)
