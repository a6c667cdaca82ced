"""What the task of finding objects asks of batches, and gives to networks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medseg.core.labels import LabelSet
from medseg.tasks.instance import InstanceTask
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
