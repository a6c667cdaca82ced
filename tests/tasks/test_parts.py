"""Parts of an image that are drawn apart."""

from __future__ import annotations

import numpy as np

from medseg.tasks.parts import Parts


def test_every_class_is_one_part_and_what_nobody_annotated_none():
    parts = Parts.of_classes(np.array([[[0, 2], [2, -1]]]))

    assert parts.numbers.tolist() == [[[0, 2], [2, 0]]]
    assert parts.classes.tolist() == [0, 1, 2]


def test_an_image_without_a_voxel_has_the_background_alone():
    assert Parts.of_classes(np.zeros((0, 1, 1), int)).classes.tolist() == [0]
