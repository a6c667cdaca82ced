"""Objects of whole images from windows: none lost, none doubled, memory of one window."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import object_cases
import pytest
import torch
from object_networks import BrightObjects

from medseg.core.errors import ConfigError
from medseg.core.geometry import Geometry
from medseg.core.segmentation import InstanceSet
from medseg.inference.network_space import instance_set, panoptic_map
from medseg.inference.object_merge import (
    FoundObject,
    WindowObjects,
    join_slices,
    merge_windows,
    without_overlaps,
)
from medseg.inference.object_predictor import moved_score
from medseg.inference.object_windows import ObjectWindows
from medseg.metrics.detection import hit_counts
from medseg.metrics.object_pairs import compare_objects
from medseg.models.detection.objects import Detections

LABELS = object_cases.NUCLEI


def image_of(numbers):
    """Bright objects on black, brighter from number to number so that scores differ."""
    array = np.where(numbers > 0, 5 + (numbers % 17) / 10, 0.0).astype(np.float32)
    return torch.from_numpy(array)[None]


def found_in(numbers, *, patch_size, windows, network=None):
    image = image_of(numbers)
    network = network or BrightObjects(1, 2, spatial_dims=len(patch_size))
    objects, _ = windows.find(network, image, patch_size=patch_size, class_ids=[1])
    return instance_set(objects, object_cases.instances(numbers).geometry, labels=LABELS)


def f1_at(reference: InstanceSet, prediction: InstanceSet, iou: float) -> float:
    (pairs,) = compare_objects(reference, prediction, class_ids=[1])
    return hit_counts(pairs, iou).f1


@pytest.mark.parametrize(
    ("shape", "patch", "count", "radius"),
    [((300, 260), (64, 64), 160, (2.0, 9.0)), ((60, 56, 52), (24, 24, 24), 40, (2.0, 5.0))],
)
def test_tiled_and_untiled_predictions_are_the_same(shape, patch, count, radius):
    numbers = object_cases.discs(shape, count, radius=radius)
    tiled = ObjectWindows(window_growth=1.0)
    whole = ObjectWindows(window_growth=100.0)

    network = BrightObjects(1, 2, spatial_dims=len(patch))
    found = found_in(numbers, patch_size=patch, windows=tiled, network=network)
    expected = found_in(numbers, patch_size=patch, windows=whole)

    assert len(expected) == numbers.max()
    assert f1_at(expected, found, 0.9) == 1.0
    assert len(network.windows) > 20
    assert set(network.windows) == {patch}


def test_objects_larger_than_windows_become_whole():
    numbers = np.zeros((200, 180, 1), np.uint16)
    numbers[10:190, 20:30] = 1
    numbers[60:150, 60:150] = 2
    numbers[100:110, 20:100] = 0

    found = found_in(numbers, patch_size=(48, 48), windows=ObjectWindows(window_growth=1.0))

    expected = found_in(numbers, patch_size=(48, 48), windows=ObjectWindows(window_growth=9.0))
    assert len(found) == len(expected)
    assert f1_at(expected, found, 0.99) == 1.0


def test_touching_neighbours_at_a_border_stay_apart():
    # Two objects that touch along the border of the first window, each seen cut by one window.
    left = FoundObject((10, 5), np.ones((22, 10), np.bool_), 1, 0.9)
    right_cut = FoundObject((24, 15), np.ones((8, 10), np.bool_), 1, 0.8)
    left_cut = FoundObject((16, 5), np.ones((16, 10), np.bool_), 1, 0.9)
    right = FoundObject((24, 15), np.ones((14, 10), np.bool_), 1, 0.8)
    windows = [
        WindowObjects((0, 0), (32, 32), (left, right_cut)),
        WindowObjects((16, 0), (48, 32), (left_cut, right)),
    ]

    merged = merge_windows(windows, (48, 32))

    assert len(merged) == 2
    assert {found.mask.shape for found in merged} == {(22, 10), (14, 10)}
    assert [found.score for found in merged] == pytest.approx([0.9, 0.8])


def test_other_classes_are_never_joined():
    first = FoundObject((20, 5), np.ones((12, 10), np.bool_), 1, 0.9)
    second = FoundObject((20, 5), np.ones((12, 10), np.bool_), 2, 0.7)
    windows = [
        WindowObjects((0, 0), (32, 32), (first,)),
        WindowObjects((16, 0), (48, 32), (second,)),
    ]

    assert [found.class_id for found in merge_windows(windows, (48, 32))] == [1, 2]


def test_better_objects_take_shared_voxels():
    large = FoundObject((0, 0), np.ones((10, 10), np.bool_), 1, 0.9)
    half_covered = FoundObject((5, 0), np.ones((10, 10), np.bool_), 1, 0.8)
    mostly_covered = FoundObject((0, 0), np.ones((4, 10), np.bool_), 1, 0.7)

    kept = without_overlaps([large, half_covered, mostly_covered], (20, 10))

    assert [found.start for found in kept] == [(0, 0), (10, 0)]
    assert kept[1].mask.shape == (5, 10)


@pytest.mark.parametrize("value", [0, 1])
def test_an_empty_image_and_one_full_object(value):
    numbers = np.full((70, 50, 1), value, np.uint16)

    found = found_in(numbers, patch_size=(32, 32), windows=ObjectWindows(window_growth=1.0))

    assert len(found) == value
    assert found.num_voxels.tolist() == [70 * 50] * value


def test_single_voxels_are_found_once():
    numbers = np.zeros((90, 70, 1), np.uint16)
    numbers[::6, ::5, 0].flat = np.arange(1, 15 * 14 + 1)

    found = found_in(numbers, patch_size=(32, 32), windows=ObjectWindows(window_growth=1.0))

    assert len(found) == 15 * 14
    assert (found.num_voxels == 1).all()


def test_flat_networks_join_their_slices():
    numbers = object_cases.discs((48, 40, 12), 5, radius=(3.0, 5.0))

    found = found_in(numbers, patch_size=(32, 32), windows=ObjectWindows(window_growth=1.0))

    assert len(found) == numbers.max()
    assert f1_at(object_cases.instances(numbers), found, 0.99) == 1.0


def test_slices_without_overlap_stay_apart():
    square = np.ones((4, 4), np.bool_)

    joined = join_slices(
        [[FoundObject((0, 0), square, 1, 0.5)], [FoundObject((6, 6), square, 1, 0.5)]]
    )

    assert len(joined) == 2


def test_low_scores_and_surplus_objects_are_left_out():
    numbers = object_cases.discs((60, 60), 10)

    some = found_in(numbers, patch_size=(64, 64), windows=ObjectWindows(max_objects=4))
    none = found_in(numbers, patch_size=(64, 64), windows=ObjectWindows(min_score=0.99))

    assert len(some) == 4
    assert (np.diff(some.scores) <= 0).all()
    assert len(none) == 0


def test_an_object_has_the_mean_score_of_the_windows_that_would_show_it_whole():
    def views(*scores):
        square = np.ones((6, 6), np.bool_)
        starts = [0, 8, 16, 24]  # the last window has the object at its border
        return [
            WindowObjects(
                (start, 0),
                (start + 32, 32),
                (FoundObject((22, 5), square, 1, score),) if score else (),
            )
            for start, score in zip(starts, scores, strict=True)
        ]

    (agreed,) = merge_windows(views(0.9, 0.6, 0.6, 0.0), (56, 32))
    (doubted,) = merge_windows(views(0.9, 0.0, 0.0, 0.0), (56, 32))

    assert agreed.score == pytest.approx(0.7)
    assert doubted.score == pytest.approx(0.3)


def test_a_view_one_voxel_larger_counts_as_well():
    square, longer = np.ones((6, 6), np.bool_), np.ones((7, 6), np.bool_)
    windows = [
        WindowObjects((0, 0), (32, 32), (FoundObject((18, 5), square, 1, 0.9),)),
        WindowObjects((16, 0), (48, 32), (FoundObject((17, 5), longer, 1, 0.8),)),  # at the border
    ]

    (found,) = merge_windows(windows, (48, 32))

    assert found.start == (18, 5)
    assert found.score == pytest.approx(0.85)


class Unsure(BrightObjects):
    """Gives objects a score of 0.8 in the first window that it is shown and 0.3 in all others."""

    def detect(self, outputs, *, shape, max_objects=1000, min_score=0.05):
        score = 0.8 if len(self.windows) == 1 else 0.3
        if score < min_score:
            return [Detections.none(len(shape))]
        (found,) = super().detect(outputs, shape=shape, max_objects=max_objects, min_score=0.0)
        return [replace(found, scores=torch.full_like(found.scores, score))]


@pytest.mark.parametrize(("min_score", "count"), [(0.5, 1), (0.6, 0)])
def test_the_least_score_is_asked_of_windows_together(min_score, count):
    numbers = np.zeros((64, 32, 1), np.uint16)
    numbers[20:26, 10:16] = 1
    windows = ObjectWindows(window_growth=1.0, min_score=min_score)

    found = found_in(numbers, patch_size=(32, 32), windows=windows, network=Unsure(1, 2))

    assert found.scores.tolist() == pytest.approx([0.55] * count)


def test_stuff_lies_below_things_in_tiles_as_in_one():
    numbers = object_cases.discs((90, 80), 12)
    image = image_of(numbers)
    image[0, 40:, :, 0][numbers[40:, :, 0] == 0] = -3.0
    network = BrightObjects(1, 3)
    results = []
    for growth in (1.0, 9.0):
        objects, logits = ObjectWindows(window_growth=growth).find(
            network, image, patch_size=(32, 32), class_ids=[1], num_classes=3
        )
        instances = instance_set(
            objects, object_cases.instances(numbers).geometry, labels=object_cases.AXONS
        )
        classes = logits.argmax(0).numpy()
        results.append(panoptic_map(classes, instances, labels=object_cases.AXONS))

    tiled, whole = results

    assert np.array_equal(tiled.label_map.array, whole.label_map.array)
    assert (tiled.label_map.array == 1).sum() == (numbers > 0).sum()
    assert (tiled.label_map.array[:40] != 2).all()
    assert (tiled.label_map.array[40:] > 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_score": 1.5}, r"objects\.min_score: is 1\.5; use 0 to 1"),
        ({"overlap": 1.0}, r"objects\.overlap: is 1; use 0 to 0\.9"),
        ({"max_objects": 0}, r"objects\.max_objects: is 0"),
        ({"window_growth": 0.5}, r"objects\.window_growth: is 0\.5"),
        ({"window_growth": math.inf}, r"objects\.window_growth: is inf; use 1 or more"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        ObjectWindows(**options)


def test_grids_of_results_are_those_of_images():
    numbers = object_cases.discs((40, 30), 3)

    found = found_in(numbers, patch_size=(32, 32), windows=ObjectWindows())

    assert isinstance(found.geometry, Geometry)
    assert found.layers.shape == (1, 40, 30, 1)


def test_scores_are_moved_so_that_the_best_becomes_a_half():
    scores = [0.0, 0.05, 0.2, 0.35, 0.9, 1.0]

    moved = [moved_score(score, 0.2, 0.5) for score in scores]

    # Odds of 1 to 4 become even: all odds are multiplied by four.
    assert moved == pytest.approx([0.0, 4 / 23, 0.5, 0.35 * 4 / (0.35 * 4 + 0.65), 36 / 37, 1.0])
    assert [moved_score(score, 0.5, 0.2) for score in moved] == pytest.approx(scores)
    assert moved_score(0.3, 0.5, 0.5) == 0.3
