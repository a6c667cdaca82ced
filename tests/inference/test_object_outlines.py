"""Outlines between voxels: probabilities of masks, from the network to the grid of the scan."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from medseg.inference.object_merge import (
    FoundObject,
    WindowObjects,
    join_slices,
    merge_windows,
    probabilities_of,
    without_overlaps,
)
from medseg.inference.object_predictor import resized
from medseg.inference.object_windows import ObjectWindows
from medseg.models.detection.masks import detections_from_maps
from medseg.models.detection.objects import Detections

COARSE, FINE = (12, 12, 8), (30, 30, 20)


def ball(shape, *, centre, radius, softness):
    """Shares of voxels of a grid over the unit cube: 0.5 on the sphere."""
    axes = [(np.arange(n) + 0.5) / n - c for n, c in zip(shape, centre, strict=True)]
    distance = np.sqrt(sum(np.square(axis) for axis in np.meshgrid(*axes, indexing="ij")))
    return np.clip(0.5 + (radius - distance) / softness, 0, 1).astype(np.float32)


def found_in(probabilities, *, score=0.9):
    """The object that a detector finds which gives these probabilities."""
    maps = torch.from_numpy(np.ascontiguousarray(probabilities))[None]
    return of(detections_from_maps(maps, torch.tensor([score]), torch.tensor([1])))


def of(detections: Detections) -> FoundObject:
    return FoundObject(
        tuple(detections.corners[0].tolist()),
        detections.masks[0].numpy(),
        int(detections.classes[0]),
        float(detections.scores[0]),
        None if detections.probabilities is None else detections.probabilities[0].numpy(),
    )


def whole(found, shape):
    mask = np.zeros(shape, np.bool_)
    mask[found.region] = found.mask
    return mask


def iou(one, other):
    return (one & other).sum() / (one | other).sum()


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("centre", [0.5, 0.1, 0.93])
def test_probabilities_agree_with_the_mask_and_are_zero_beyond_the_image(dims, centre):
    shape = (14,) * dims
    probabilities = ball(shape, centre=(centre,) * dims, radius=0.25, softness=0.2)

    found = found_in(probabilities)

    inside = found.probabilities[(slice(1, -1),) * dims]
    assert np.array_equal(inside >= 0.5, found.mask)
    around = np.pad(probabilities, 1)[
        tuple(slice(part.start, part.stop + 2) for part in found.region)
    ]
    assert np.array_equal(found.probabilities, around)


@pytest.mark.parametrize("centre", [(0.47, 0.52, 0.55), (0.44, 0.5, 0.48), (0.06, 0.5, 0.95)])
def test_a_small_ball_keeps_its_outline_on_a_finer_grid(centre):
    truth = ball(FINE, centre=centre, radius=0.24, softness=0.01) >= 0.5
    soft = found_in(ball(COARSE, centre=centre, radius=0.24, softness=0.3))
    hard = replace(soft, probabilities=None)

    kept = resized(soft, COARSE, FINE)

    assert np.array_equal(kept.probabilities[1:-1, 1:-1, 1:-1] >= 0.5, kept.mask)
    assert iou(whole(kept, FINE), truth) > 0.88
    assert iou(whole(kept, FINE), truth) > iou(whole(resized(hard, COARSE, FINE), FINE), truth)


def test_what_a_better_object_took_is_impossible_for_others():
    left = ball((16, 16, 16), centre=(0.4, 0.5, 0.5), radius=0.22, softness=0.3)
    right = ball((16, 16, 16), centre=(0.6, 0.5, 0.5), radius=0.22, softness=0.3)

    first, second = without_overlaps([found_in(left), found_in(right, score=0.8)], (16, 16, 16))

    taken = whole(first, (16, 16, 16))
    assert np.array_equal(probabilities_at(first, (16,) * 3)[first.region], left[first.region])
    assert (probabilities_at(second, (16,) * 3)[taken] == 0).all()
    assert second.mask.sum() > 100


def test_windows_that_show_an_object_whole_agree_on_its_outline():
    wide = found_in(ball((32, 16), centre=(0.5, 0.5), radius=0.2, softness=0.1))
    narrow = found_in(ball((32, 16), centre=(0.5, 0.5), radius=0.16, softness=0.1))
    windows = [
        WindowObjects((0, 0), (28, 16), (wide,)),
        WindowObjects((4, 0), (32, 16), (replace(narrow, score=0.7),)),
    ]

    (found,) = merge_windows(windows, (32, 16))

    assert found.score == pytest.approx(0.8)
    assert narrow.mask.sum() < found.mask.sum() < wide.mask.sum()
    mean = (probabilities_at(wide, (32, 16)) + probabilities_at(narrow, (32, 16))) / 2
    assert np.allclose(probabilities_at(found, (32, 16))[found.region], mean[found.region])


def probabilities_at(found, shape):
    around = np.zeros([extent + 2 for extent in shape], np.float32)
    around[tuple(slice(part.start, part.stop + 2) for part in found.region)] = probabilities_of(
        found
    )
    return around[(slice(1, -1),) * len(shape)]


def test_parts_of_a_cut_object_are_joined_with_the_higher_probability():
    probabilities = ball((40, 16), centre=(0.5, 0.5), radius=0.35, softness=0.2)
    parts = [
        WindowObjects((0, 0), (24, 16), (found_in(probabilities * (np.arange(40) < 24)[:, None]),)),
        WindowObjects(
            (16, 0), (40, 16), (found_in(probabilities * (np.arange(40) >= 16)[:, None]),)
        ),
    ]

    (found,) = merge_windows(parts, (40, 16))

    assert np.array_equal(whole(found, (40, 16)), probabilities >= 0.5)
    assert np.allclose(probabilities_at(found, (40, 16))[found.region], probabilities[found.region])


def test_slices_keep_their_outlines_when_they_are_joined():
    disc = found_in(ball((14, 14), centre=(0.52, 0.47), radius=0.25, softness=0.2))

    (found,) = join_slices([[], [disc], [disc], []])

    assert found.mask.shape[2] == 2
    larger = resized(found, (14, 14, 4), (35, 35, 4))
    of_one = resized(
        replace(disc, start=(*disc.start, 0), mask=disc.mask[..., None], probabilities=None),
        (14, 14, 1),
        (35, 35, 1),
    )
    truth = ball((35, 35), centre=(0.52, 0.47), radius=0.25, softness=0.01) >= 0.5
    assert larger.mask.shape[2] == 2
    assert iou(whole(larger, (35, 35, 4))[..., 1], truth) > 0.95
    assert iou(whole(larger, (35, 35, 4))[..., 1], truth) > iou(
        whole(of_one, (35, 35, 1))[..., 0], truth
    )


class KnowsTheBall:
    """A detector that finds one object, whose mask is the image."""

    def __call__(self, image):
        return image

    def detect(self, outputs, *, shape, max_objects=1000, min_score=0.05):
        return [detections_from_maps(outputs[0], torch.tensor([0.9]), torch.tensor([1]))]

    def semantic_logits(self, outputs, *, shape):
        return None


def test_outlines_survive_windows():
    probabilities = ball(COARSE, centre=(0.47, 0.52, 0.55), radius=0.24, softness=0.3)

    (found,), _ = ObjectWindows().find(
        KnowsTheBall(), torch.from_numpy(probabilities)[None], patch_size=(12, 12, 8), class_ids=[1]
    )

    assert np.allclose(probabilities_at(found, COARSE)[found.region], probabilities[found.region])
    assert probabilities_of(found).min() < 0.5 < probabilities_of(found).max()
