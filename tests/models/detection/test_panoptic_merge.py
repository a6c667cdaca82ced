from __future__ import annotations

import torch

from medseg.models.detection.objects import Detections
from medseg.models.detection.panoptic_merge import merge_panoptic


def in_a_row(*spans, classes):
    """Detections in an image of one row, from (start, end) along it, best first."""
    count = len(spans)
    return Detections(
        torch.tensor([[0.0, a, 1, b] for a, b in spans]).reshape(-1, 4),
        torch.linspace(0.9, 0.5, count),
        torch.tensor(classes),
        torch.tensor([[0, a] for a, _ in spans]).reshape(-1, 2),
        tuple(torch.ones(1, b - a, dtype=torch.bool) for a, b in spans),
    )


def test_better_objects_come_first_and_stuff_fills_what_they_leave():
    found = in_a_row((0, 4), (2, 6), (1, 4), (7, 8), classes=[1, 2, 1, 3])
    stuff = torch.tensor([[3, 3, 3, 3, 3, 3, 3, 1, 0, 4]])

    classes, objects = merge_panoptic(found, stuff, thing_classes={1, 2})

    # The second keeps its half, the third is covered, the fourth is no thing.
    assert objects.tolist() == [[1, 1, 1, 1, 2, 2, 0, 0, 0, 0]]
    assert classes.tolist() == [[1, 1, 1, 1, 2, 2, 3, 0, 0, 4]]


def test_little_stuff_is_left_out():
    stuff = torch.tensor([[3, 3, 3, 4, 4]])

    classes, _ = merge_panoptic(Detections.none(2), stuff, thing_classes={1}, min_stuff_voxels=3)

    assert classes.tolist() == [[3, 3, 3, 0, 0]]
