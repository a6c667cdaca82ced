import pytest
import torch
from torch import nn

from medseg.core.labels import LabelSet
from medseg.tasks.semantic import SemanticTask

NAMES = ("background", "liver", "tumour")


def task(ignore_id: int | None = None, loss: nn.Module | None = None) -> SemanticTask:
    labels = LabelSet.from_names(NAMES, ignore_id=ignore_id)
    return SemanticTask(labels=labels, loss=loss or nn.CrossEntropyLoss())


def test_the_network_has_one_channel_per_class():
    assert task().out_channels == 3


def test_voxels_beyond_the_image_are_background_or_ignored():
    assert task().outside_label == 0
    assert task(ignore_id=255).outside_label == 255


def test_the_loss_is_that_of_the_models_logits():
    batch = {"image": torch.randn(2, 3, 4, 4), "target": torch.randint(0, 3, (2, 4, 4))}

    found = task().loss(nn.Identity(), batch)

    torch.testing.assert_close(found, nn.CrossEntropyLoss()(batch["image"], batch["target"]))


def test_the_class_with_the_largest_logit_is_decoded():
    logits = torch.tensor([[0.0, 5.0], [1.0, 2.0], [0.5, 3.0]])

    assert task().decode(logits).tolist() == [1, 0]


def test_dice_counts_worked_by_hand():
    prediction = torch.tensor([0, 1, 1, 2, 2, 2])
    target = torch.tensor([1, 1, 1, 2, 0, 0])

    counts = task().dice_counts(prediction, target)

    assert counts.tolist() == [[2 * 2, 2 + 3], [2 * 1, 3 + 1]]


@pytest.mark.parametrize("ignore_id", [255, -1])
def test_ignored_voxels_do_not_count(ignore_id):
    prediction = torch.tensor([1, 1, 1])
    target = torch.tensor([1, ignore_id, 0])

    counts = task(ignore_id).dice_counts(prediction, target)

    assert counts.tolist() == [[2, 3], [0, 0]]


def test_regions_are_counted_as_unions_worked_by_hand():
    labels = LabelSet.from_mapping(
        {"background": 0, "rim": 1, "core": 2, "regions": {"whole": [1, 2], "inner": [2]}}
    )
    region_task = SemanticTask(labels=labels, loss=nn.Identity())
    prediction, target = torch.tensor([0, 1, 1, 2]), torch.tensor([1, 1, 2, 2])

    counts = region_task.dice_counts(prediction, target)

    assert region_task.out_channels == 2
    assert counts.tolist() == [[2 * 3, 3 + 4], [2 * 1, 1 + 2]]
