"""What the task of finding objects asks of batches, and gives to networks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from medseg.core.labels import LabelSet
from medseg.core.segmentation import LabelMap, PanopticMap
from medseg.tasks.instance import InstanceTask, reference_instances
from medseg.tasks.panoptic import PanopticTask

LABELS = LabelSet.from_mapping(
    {"background": 0, "organ": 1, "lesion": {"id": 2, "thing": True}, "vessel": 3}
)


class Listener(nn.Module):
    """A network that keeps what its losses are given."""

    stride = min_size = (1, 1)

    def forward(self, image):
        return {"maps": [image]}

    def losses(self, outputs, objects, semantic=None):
        self.objects, self.semantic = objects, semantic
        return {"score": outputs["maps"][0].sum()}

    def detect(self, outputs, *, shape, max_objects=1000, min_score=0.05):
        return []

    def semantic_logits(self, outputs, *, shape):
        return None


def test_patches_of_objects_are_centred_on_things_and_those_of_all_voxels_on_all_classes():
    assert InstanceTask(labels=LABELS).centre_classes == (2,)
    assert PanopticTask(labels=LABELS).centre_classes == (1, 2, 3)


@pytest.mark.parametrize("reads_stuff", [False, True])
def test_networks_that_learn_from_classes_get_them(reads_stuff):
    task = InstanceTask(labels=LABELS)
    network = Listener()
    network.reads_stuff = reads_stuff
    batch = task.trial_batch(torch.zeros(2, 1, 16, 16))

    task.loss(network, batch)

    assert len(network.objects) == 2
    assert (network.semantic is not None) == reads_stuff
    if reads_stuff:
        assert network.semantic.unique().tolist() == [0, 2]


def validation_case(task):
    """A volume of blocks as a batch, and its objects."""
    batch = task.trial_batch(torch.zeros(1, 1, 16, 16, 16))
    case = {"target": batch["target"][0], "codes": batch["codes"][0]}
    return case, replace(reference_instances(case), labels=LABELS)


def test_pictures_of_objects_leave_out_what_is_better_left_out():
    task = InstanceTask(labels=LABELS)
    case, objects = validation_case(task)
    scores = np.where(np.arange(len(objects)) < len(objects) // 2, 0.9, 0.1)
    moved = np.where(scores[np.maximum(objects.layers, 1) - 1] < 0.5, 0, objects.layers)
    low = np.roll(np.where(moved == objects.layers, 0, objects.layers), 2, axis=1)
    found = replace(objects, layers=np.where(moved > 0, moved, low), scores=scores)

    reference, prediction = task.shown(found, case)

    assert set(reference.classes[np.unique(reference.numbers)]) == {0, 2}
    drawn = prediction.classes[prediction.numbers] > 0
    assert np.array_equal(drawn, moved[0] > 0)


def test_pictures_of_things_and_stuff_have_both():
    task = PanopticTask(labels=LABELS)
    case, objects = validation_case(task)
    classes = objects.class_map().array.copy()
    empty = np.argwhere(classes == 0)[:50]
    classes[tuple(empty.T)] = 3
    found = PanopticMap(LabelMap(classes, objects.geometry, LABELS), objects)

    _, prediction = task.shown(found, case)

    assert np.array_equal(prediction.classes[prediction.numbers], classes)
    things = prediction.numbers[classes == 2]
    assert len(np.unique(things)) == len(objects)
