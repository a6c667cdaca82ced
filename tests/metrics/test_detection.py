"""Objects found and not found, against pycocotools and by hand."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest

from medseg.core.errors import GeometryError
from medseg.core.geometry import Geometry
from medseg.core.segmentation import InstanceSet
from medseg.metrics.detection import (
    IOU_THRESHOLDS,
    average_precision,
    froc,
    hit_counts,
    match_by_iou,
    match_by_score,
)
from medseg.metrics.object_pairs import compare_objects

EXTENT = 96


def flat(shape):
    return Geometry.from_spacing((*shape, 1), spacing_mm=(1.0, 1.0, 1.0))


def discs(rng, count, *, jitter_from=None):
    """Masks of discs; those of another image, moved and resized, where one is given."""
    i, j = np.mgrid[:EXTENT, :EXTENT]
    centres = rng.uniform(4, EXTENT - 4, (count, 3))
    centres[:, 2] = rng.uniform(2, 12, count)
    if jitter_from is not None:
        kept = jitter_from[rng.random(len(jitter_from)) < 0.8]
        moved = kept + rng.normal(0, 1.5, kept.shape)
        centres = np.concatenate([moved, centres[: count // 3]])
    centres[:, 2] = np.maximum(centres[:, 2], 1.5)
    masks = [(i - a) ** 2 + (j - b) ** 2 <= r**2 for a, b, r in centres]
    return centres, [mask for mask in masks if mask.any()]


def instance_set(masks, classes, scores=None, shape=(EXTENT, EXTENT)):
    return InstanceSet.from_masks(
        [((0, 0, 0), mask[..., None]) for mask in masks],
        flat(shape),
        class_ids=classes,
        scores=scores,
    )


def random_images(num_images, *, seed):
    """Overlapping objects of two classes: masks, classes and scores per image."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(num_images):
        centres, wanted = discs(rng, int(rng.integers(0, 14)))
        _, given = discs(rng, 9, jitter_from=centres)
        # Scores with ties, as quantised confidences have.
        images.append(
            (
                wanted,
                rng.integers(1, 3, len(wanted)),
                given,
                rng.integers(1, 3, len(given)),
                np.round(rng.random(len(given)), 1).astype(np.float32),
            )
        )
    return images


def pairs_of(images, class_id):
    return [
        compare_objects(
            instance_set(wanted, classes),
            instance_set(given, given_classes, scores),
            class_ids=[class_id],
            case=str(n),
        )[0]
        for n, (wanted, classes, given, given_classes, scores) in enumerate(images)
    ]


def coco_precision(images, area_ranges):
    """AP of pycocotools, shape (thresholds, classes, area ranges)."""
    coco_module = pytest.importorskip("pycocotools.coco")
    evaluation = pytest.importorskip("pycocotools.cocoeval")
    mask_module = pytest.importorskip("pycocotools.mask")
    truth, found = [], []
    for n, (wanted, classes, given, given_classes, scores) in enumerate(images, start=1):
        for mask, class_id in zip(wanted, classes, strict=True):
            runs = mask_module.encode(np.asfortranarray(mask.astype(np.uint8)))
            area = int(mask.sum())
            truth.append(
                {"id": len(truth) + 1, "image_id": n, "category_id": int(class_id),
                 "segmentation": runs, "area": area, "iscrowd": 0, "bbox": [0, 0, 1, 1]}
            )  # fmt: skip
        for mask, class_id, score in zip(given, given_classes, scores, strict=True):
            runs = mask_module.encode(np.asfortranarray(mask.astype(np.uint8)))
            found.append(
                {"image_id": n, "category_id": int(class_id), "segmentation": runs,
                 "score": float(score)}
            )  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        coco = coco_module.COCO()
        coco.dataset = {
            "images": [
                {"id": n + 1, "width": EXTENT, "height": EXTENT} for n in range(len(images))
            ],
            "annotations": truth,
            "categories": [{"id": 1}, {"id": 2}],
        }
        coco.createIndex()
        run = evaluation.COCOeval(coco, coco.loadRes(found), "segm")
        run.params.iouThrs = np.array(IOU_THRESHOLDS)
        run.params.maxDets = [10_000]
        run.params.areaRng = [list(limits) for limits in area_ranges]
        run.params.areaRngLbl = [str(n) for n in range(len(area_ranges))]
        run.evaluate()
        run.accumulate()
    return run.eval["precision"][..., 0].mean(axis=1)


@pytest.mark.parametrize("seed", range(3))
def test_average_precision_is_that_of_pycocotools(seed):
    images = random_images(12, seed=seed)
    ranges = [(0, 1e10), (0, 60), (60, 200), (200, 1e10)]
    expected = coco_precision(images, ranges)

    for class_id in (1, 2):
        pairs = pairs_of(images, class_id)
        for n, limits in enumerate(ranges):
            for t, threshold in enumerate(IOU_THRESHOLDS):
                ours = average_precision(pairs, threshold, size_mm3=limits)
                assert ours == pytest.approx(expected[t, class_id - 1, n], abs=1e-9)


def test_overlaps_are_those_of_masks_compared_one_by_one():
    wanted, classes, given, given_classes, scores = random_images(3, seed=5)[0]

    pairs = compare_objects(
        instance_set(wanted, np.ones_like(classes)),
        instance_set(given, np.ones_like(given_classes), scores),
        class_ids=[1],
    )[0]

    expected = np.array([[(a & b).sum() / (a | b).sum() for b in given] for a in wanted])
    ours = np.zeros_like(expected)
    ours[pairs.reference, pairs.prediction] = pairs.iou
    assert np.allclose(ours, expected, atol=1e-12)
    assert classes.shape == pairs.reference_mm3.shape


def test_volumes_count_millimetres_in_3d():
    geometry = Geometry.from_spacing((8, 8, 8), spacing_mm=(0.5, 1.0, 3.0))
    array = np.zeros(geometry.shape, np.uint8)
    array[:2, :3, :4] = 1
    moved = np.zeros_like(array)
    moved[1:3, :3, :4] = 5

    (pairs,) = compare_objects(
        InstanceSet.from_map(array, geometry),
        InstanceSet.from_map(moved, geometry),
        class_ids=[1],
    )

    assert pairs.reference_mm3 == pytest.approx([24 * 1.5])
    assert pairs.iou.tolist() == [pytest.approx(12 / 36)]


def test_hits_are_counted_at_each_threshold():
    # Ten pixels against nine of them, eight of another ten, and one where there is nothing.
    reference, prediction = np.zeros((40, 1), np.uint8), np.zeros((40, 1), np.uint8)
    reference[:10], prediction[:9] = 1, 1
    reference[10:20], prediction[12:20] = 2, 2
    prediction[30:31] = 3

    (pairs,) = compare_objects(
        InstanceSet.from_map(reference[..., None], flat((40, 1))),
        InstanceSet.from_map(prediction[..., None], flat((40, 1))),
        class_ids=[1],
    )
    at_half, at_most = hit_counts(pairs, 0.5), hit_counts(pairs, 0.85)

    assert (at_half.true_positives, at_half.false_positives, at_half.false_negatives) == (2, 1, 0)
    assert at_half.iou == pytest.approx(0.9 + 0.8)
    assert at_half.accuracy == pytest.approx(2 / 3)
    assert at_half.f1 == pytest.approx(4 / 5)
    assert (at_most.true_positives, at_most.false_positives, at_most.false_negatives) == (1, 2, 1)
    assert at_most.precision == pytest.approx(1 / 3)
    assert at_most.sensitivity == pytest.approx(1 / 2)
    assert hit_counts(pairs, 0.8).true_positives == 2
    assert hit_counts(pairs, 0.8, strict=True).true_positives == 1


def test_the_best_overlap_is_matched_first_whatever_the_score():
    # The first prediction has the higher score, the second the better outline.
    wanted = np.zeros((10, 10), np.bool_)
    wanted[:, :6] = True
    rough, good = wanted.copy(), wanted.copy()
    rough[:, 3:6] = False
    good[0, 0] = False

    (pairs,) = compare_objects(
        instance_set([wanted], [1], shape=(10, 10)),
        instance_set([rough, good], [1, 1], [0.9, 0.4], shape=(10, 10)),
        class_ids=[1],
    )

    assert match_by_iou(pairs, 0.1).tolist() == [-1, 0]
    assert match_by_score(pairs, 0.1).tolist() == [0, -1]
    assert hit_counts(pairs.above(0.5), 0.1).iou == pytest.approx(0.5)


def test_what_nobody_annotated_is_neither_right_nor_wrong():
    reference, prediction = np.zeros((12, 1, 1), np.uint8), np.zeros((12, 1, 1), np.uint8)
    reference[:4], prediction[:6] = 1, 1
    prediction[8:11] = 2
    ignored = np.zeros((12, 1, 1), np.bool_)
    ignored[4:6] = ignored[9:] = True

    (pairs,) = compare_objects(
        InstanceSet.from_map(reference, flat((12, 1)), ignored=ignored),
        InstanceSet.from_map(prediction, flat((12, 1))),
        class_ids=[1],
    )
    counts = hit_counts(pairs, 0.5)

    assert counts.iou == pytest.approx(1.0)
    assert (counts.true_positives, counts.false_positives) == (1, 0)
    assert average_precision([pairs], 0.5) == pytest.approx(1.0)


def test_froc_gives_the_share_found_at_each_rate():
    # Two images, four lesions; by score: hit, miss, hit, miss, miss, hit.
    shape = (30, 1)

    def image(wanted, given):
        reference, prediction = np.zeros((30, 1, 1), np.uint8), np.zeros((30, 1, 1), np.uint8)
        for n, place in enumerate(wanted, start=1):
            reference[place] = n
        for n, (place, _) in enumerate(given, start=1):
            prediction[place] = n
        found = InstanceSet.from_map(prediction, flat(shape))
        scored = InstanceSet(
            found.layers,
            found.geometry,
            found.class_ids,
            np.array([score for _, score in given], np.float32),
        )
        return compare_objects(InstanceSet.from_map(reference, flat(shape)), scored, class_ids=[1])[
            0
        ]

    cases = [
        image([0, 2, 4], [(0, 0.9), (10, 0.8), (2, 0.7)]),
        image([6], [(12, 0.6), (14, 0.5), (6, 0.4)]),
    ]

    assert froc(cases, 0.1, rates=(0.25, 0.5, 1.0, 1.5, 8.0)) == (0.25, 0.5, 0.5, 0.75, 0.75)


def test_images_without_objects_have_no_precision_but_false_positives():
    empty = InstanceSet.from_map(np.zeros((5, 5, 1), np.uint8), flat((5, 5)))
    one = InstanceSet.from_map(np.ones((5, 5, 1), np.uint8), flat((5, 5)))

    (nothing,) = compare_objects(empty, empty, class_ids=[1])
    (wrong,) = compare_objects(empty, one, class_ids=[1])
    (missed,) = compare_objects(one, empty, class_ids=[1])

    assert np.isnan(average_precision([nothing], 0.5))
    assert np.isnan(hit_counts(nothing, 0.5).accuracy)
    assert hit_counts(wrong, 0.5).accuracy == 0
    assert np.isnan(froc([wrong], 0.5)[0])
    assert average_precision([missed], 0.5) == 0
    assert average_precision([missed, wrong], 0.5) == 0


def test_thousands_of_touching_objects_all_match():
    shape = (300, 240)
    array = np.arange(1, 300 * 240 + 1, dtype=np.uint32).reshape(*shape, 1)

    (pairs,) = compare_objects(
        InstanceSet.from_map(array, flat(shape)),
        InstanceSet.from_map(array * 3, flat(shape)),
        class_ids=[1],
    )

    assert hit_counts(pairs, 0.95).true_positives == 72_000
    assert average_precision([pairs], 0.95) == pytest.approx(1.0)


def test_other_grids_are_refused():
    one = InstanceSet.from_map(np.ones((5, 5, 1), np.uint8), flat((5, 5)))
    other = InstanceSet.from_map(np.ones((5, 6, 1), np.uint8), flat((5, 6)))

    with pytest.raises(GeometryError, match=r"a: .*grids differ: shape .*; predict on the image"):
        compare_objects(one, other, class_ids=[1], case="a")
