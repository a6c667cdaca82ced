"""Mask R-CNN on the decoder of a U-Net."""

from __future__ import annotations

import pytest
import torch
from object_images import class_maps, disc_images

from medseg.core.errors import ConfigError
from medseg.models.build import build_model
from medseg.models.detection.pyramid import UNetPyramid

OPTIONS = {
    "backbone": "unet", "in_channels": 1, "out_channels": 3,
    "base_channels": 8, "strides": [1, 2, 2, 2], "pyramid_channels": 8, "mask_layers": 1,
    "max_proposals": 50, "num_samples": 16,
}  # fmt: skip


def network_of(dims, name="mask_rcnn", **options):
    weight = {"dense_weight": 1.0} if name == "mask_rcnn" else {}
    return build_model(
        name,
        spatial_dims=dims,
        object_sizes=[[6.0] * dims, [14.0] * dims],
        **{**OPTIONS, **weight, **options},
    )


@pytest.mark.parametrize("shape", [(32, 48), (27, 41), (16, 24, 16), (17, 23, 9)])
def test_levels_cover_the_image_whatever_its_extents(shape):
    pyramid = UNetPyramid(
        1, 3, spatial_dims=len(shape), base_channels=8, channels=4, strides=[1, 2, 2, 2]
    )

    levels, logits = pyramid(torch.randn(1, 1, *shape))

    assert logits.shape == (1, 3, *shape)
    for level, stride in zip(levels, (2, 4, 8), strict=True):
        assert level.shape == (1, 4, *(-(-extent // stride) for extent in shape))


@pytest.mark.parametrize("light_finest", [False, True])
@pytest.mark.parametrize("name", ["mask_rcnn", "panoptic_fpn"])
@pytest.mark.parametrize("dims", [2, 3])
def test_every_parameter_learns_and_objects_are_found(dims, name, light_finest):
    shape = (30, 37, 21)[:dims]
    images, references = disc_images(2, shape, num_discs=2, radii=(3, 6), num_classes=2)
    network = network_of(dims, name, light_finest=light_finest).train()

    terms = network.losses(network(images), references, class_maps(images, references))
    sum(terms.values()).backward()

    assert set(terms) == {"rpn_score", "rpn_box", "score", "box", "mask", "dense"}
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key
    with torch.no_grad():
        outputs = network.eval()(images)
        found = network.detect(outputs, shape=shape, min_score=0.0)
        logits = network.semantic_logits(outputs, shape=shape)
    assert all(len(part) for part in found)
    assert outputs["semantic"].shape == (2, 3, *shape)  # masks read it
    assert (logits is None) == (name == "mask_rcnn")


def test_a_u_net_that_learns_no_classes_is_refused():
    with pytest.raises(ConfigError, match=r"model\.dense_weight") as caught:
        network_of(2, dense_weight=0.0)
    assert "model.backbone=resnet" in caught.value.remedy


def test_a_finest_stride_is_for_a_resnet():
    with pytest.raises(ConfigError, match=r"model\.finest_stride"):
        network_of(2, finest_stride=[2, 2])


@pytest.mark.parametrize("dims", [2, 3])
def test_masks_can_follow_the_classes_of_voxels(dims):
    shape = (48, 40, 32)[:dims]
    images, references = disc_images(1, shape, num_discs=2, radii=(6, 9), num_classes=2)
    network = network_of(dims).eval()
    (classes,) = class_maps(images, references)
    with torch.no_grad():
        network.masks.logits.weight.zero_()
        network.masks.from_classes.weight.zero_()
        for mask in range(2):  # of class 1 and 2
            network.masks.from_classes.weight[mask, mask + 1] = 1.0
        outputs = network(images)
        one_hot = torch.nn.functional.one_hot(classes, 3).movedim(-1, 0)[None]
        outputs["semantic"] = 20.0 * one_hot
        (found,) = network.detect(outputs, shape=shape, min_score=0.0, max_objects=50)

    shown = [found.mask(n, shape) for n in range(len(found))]
    assert any(int(mask.sum()) > 20 for mask in shown)
    for mask, class_id in zip(shown, found.classes.tolist(), strict=True):
        inside = (mask & (classes == class_id)).sum() / mask.sum()
        assert float(inside) > 0.8  # but for voxels between cells at the rim
