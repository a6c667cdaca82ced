import pytest
import torch
from torch import nn

from medseg.core.errors import ConfigError
from medseg.core.labels import LabelSet
from medseg.models.build import build_model
from medseg.models.detection.class_logits import with_class_logits
from medseg.models.detection.objects import Objects
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


def mask2former(dims: int) -> nn.Module:
    return build_model(
        "mask2former", spatial_dims=dims, in_channels=1, out_channels=3, base_channels=4,
        pyramid_channels=16, num_queries=5, num_layers=3, num_heads=2, strides=[1, 2, 2, 2],
    )  # fmt: skip


@pytest.mark.parametrize("shape", [(24, 32), (16, 24, 9)])
def test_a_network_of_segments_learns_by_its_own_loss_and_gives_class_logits(shape):
    network = mask2former(len(shape)).train()
    own = task()
    own.check(network)
    target = torch.zeros(2, *shape, dtype=torch.long)
    target[:, :8] = 1
    target[:, 12:] = 2

    own.loss(network, {"image": torch.randn(2, 1, *shape), "target": target}).backward()
    with torch.no_grad():
        logits = with_class_logits(network.eval())(torch.randn(2, 1, *shape))

    missing = [name for name, value in network.named_parameters() if value.grad is None]
    assert missing == []
    assert logits.shape == (2, 3, *shape)
    torch.testing.assert_close(logits.softmax(1).sum(1), torch.ones(2, *shape))


def test_a_network_of_segments_does_not_learn_from_ignored_voxels():
    network, own = mask2former(2), task(ignore_id=255)
    image = torch.randn(1, 1, 16, 16)
    halves = torch.zeros(1, 16, 16, dtype=torch.long)
    halves[:, :8, :8] = 1

    own.loss(network, {"image": image, "target": torch.full((1, 16, 16), 255)}).backward()
    nothing = [float(p.grad.abs().sum()) for p in network.parameters() if p.grad is not None]
    own.loss(network, {"image": image, "target": halves}).backward()
    something = [float(p.grad.abs().sum()) for p in network.parameters() if p.grad is not None]

    assert sum(nothing) == 0.0
    assert sum(something) > 0.0


def test_what_lies_below_ignored_voxels_changes_nothing():
    network = mask2former(2)
    outputs = network(torch.randn(1, 1, 16, 16))
    classes = torch.zeros(1, 16, 16, dtype=torch.long)
    classes[:, 4:] = 1
    classes[:, :, 8:] = -1
    losses = []
    for end in (8, 16):
        masks = torch.zeros(1, 16, 16, dtype=torch.bool)
        masks[:, 4:, :end] = True
        torch.manual_seed(0)
        object_ = Objects.from_masks(masks, torch.tensor([1]))
        losses.append(network.losses(outputs, [object_], classes))

    for name, value in losses[0].items():
        assert float(value.detach()) == float(losses[1][name].detach())


def test_networks_of_objects_alone_and_regions_with_segments_are_refused():
    objects = build_model(
        "yolact", spatial_dims=2, in_channels=1, out_channels=3, base_channels=4,
        pyramid_channels=8, strides=[1, 2, 2, 2],
    )  # fmt: skip
    labels = LabelSet.from_mapping(
        {"background": 0, "rim": 1, "core": 2, "regions": {"whole": [1, 2], "inner": [2]}}
    )

    with pytest.raises(ConfigError, match="set model=unet or mask2former"):
        task().check(objects)
    with pytest.raises(ConfigError, match="unions of classes"):
        SemanticTask(labels=labels, loss=nn.CrossEntropyLoss()).check(mask2former(2))
