"""Objects of patches: cut ones, overlapping ones, and what is not known."""

from __future__ import annotations

import numpy as np
import object_cases
import pytest
import torch
from object_networks import BrightObjects

from medseg.core.errors import ConfigError
from medseg.core.geometry import Geometry
from medseg.core.labels import LabelSet
from medseg.core.object_codes import UNKNOWN, counted, encode
from medseg.core.segmentation import InstanceSet, LabelMap, PanopticMap
from medseg.losses.dice_ce import DiceCELoss
from medseg.models.unet import UNet
from medseg.tasks.instance import InstanceTask, reference_instances
from medseg.tasks.panoptic import PanopticTask
from medseg.tasks.semantic import SemanticTask
from medseg.tasks.targets import objects_of, patch_targets

LABELS = object_cases.NUCLEI


def coded(reference, labels=LABELS):
    codes, table = encode(reference, labels, where="a")
    return torch.from_numpy(codes[..., 0].astype(np.int64)), counted(codes, table)


def test_objects_have_masks_boxes_and_classes():
    target, table = coded(object_cases.instances(object_cases.discs((40, 30), 5), labels=LABELS))

    objects, semantic = objects_of(target, table)

    assert len(objects) == 5
    assert objects.classes.tolist() == [1] * 5
    assert torch.equal(objects.masks.any(0), target > 2)
    assert torch.equal(semantic == 1, target > 2)
    first = torch.nonzero(objects.masks[0])
    expected = [*first.min(0).values.tolist(), *(first.max(0).values + 1).tolist()]
    assert objects.boxes[0].tolist() == expected


def test_objects_that_a_patch_hardly_shows_are_unknown():
    numbers = np.zeros((20, 20), np.uint16)
    numbers[2:12, 2:6], numbers[14:18, 9:19] = 1, 2
    target, table = coded(object_cases.instances(numbers, labels=LABELS))

    (objects,), semantic = patch_targets(target[:, :10][None], [table], min_visible=0.2)

    # A tenth of object 2 is in the patch, all of object 1.
    assert len(objects) == 1
    assert (semantic[0][target[:, :10] == 4] == UNKNOWN).all()
    assert (semantic[0] == 1).sum() == 40
    (both,), _ = patch_targets(target[:, :10][None], [table], min_visible=0.1)
    assert len(both) == 2


def test_a_small_object_within_the_patch_is_kept_however_it_was_scaled():
    numbers = np.zeros((20, 20), np.uint16)
    numbers[4:14, 4:14] = 1
    target, table = coded(object_cases.instances(numbers, labels=LABELS))

    shrunk, _ = objects_of(target[::4, ::4], table, min_visible=0.9)

    assert len(shrunk) == 1


def test_overlapping_objects_are_whole_in_patches():
    reference = InstanceSet.from_masks(
        [((0, 0, 0), np.ones((8, 8, 1), np.bool_)), ((4, 4, 0), np.ones((8, 8, 1), np.bool_))],
        object_cases.flat((16, 16)),
        class_ids=[1, 1],
        labels=LABELS,
    )
    target, table = coded(reference)

    objects, _ = objects_of(target, table)

    assert objects.masks.flatten(1).sum(1).tolist() == [64, 64]
    assert (objects.masks[0] & objects.masks[1]).sum() == 16


def test_patches_without_objects_have_empty_targets():
    target, table = coded(object_cases.instances(np.zeros((9, 9), np.uint8), labels=LABELS))

    objects, semantic = objects_of(target, table)

    assert len(objects) == 0
    assert objects.masks.shape == (0, 9, 9)
    assert (semantic == 0).all()


def validation_case(reference, labels):
    codes, table = encode(reference, labels, where="a")
    return {"target": torch.from_numpy(codes).long(), "codes": counted(codes, table), "key": "a"}


def test_validation_counts_hits_and_misses_of_each_thing():
    labels = object_cases.NUCLEI
    reference = object_cases.instances(object_cases.discs((40, 30), 4), labels=labels)
    batch = validation_case(reference, labels)
    found = reference_instances(batch)
    task = InstanceTask(labels=labels)

    perfect = task.counts(found, batch)
    kept = np.where(found.layers == 1, 0, found.layers)
    one_missed = task.counts(
        InstanceSet(kept, found.geometry, found.class_ids, found.scores), batch
    )

    assert (perfect == torch.tensor([4, 0, 0, 4])).all()  # from each score on, at each IoU
    assert task.scores(perfect) == {"nucleus": 1.0}
    # The one without voxels is missed, and its empty prediction is wrong.
    assert task.scores(perfect + one_missed)["nucleus"] == pytest.approx(7 / 9)
    assert task.best_score(perfect) == 0.5


def test_validation_gives_panoptic_quality_of_things_and_stuff():
    labels = object_cases.AXONS
    classes = np.array([[1, 1, 2, 2, 255, 0]], np.uint8)[..., None]
    geometry = Geometry.from_spacing((1, 6, 1), spacing_mm=(1.0, 1.0, 1.0))
    numbers = np.array([[7, 7, 0, 0, 0, 0]], np.uint8)[..., None]
    reference = PanopticMap(
        LabelMap(classes, geometry, labels), InstanceSet.from_map(numbers, geometry, labels=labels)
    )
    predicted = PanopticMap(
        LabelMap(np.array([[1, 1, 2, 0, 2, 0]], np.uint8)[..., None], geometry, labels),
        InstanceSet.from_map(numbers, geometry, labels=labels),
    )
    task = PanopticTask(labels=labels)

    scores = task.scores(task.counts(predicted, validation_case(reference, labels)))

    assert scores["axon"] == 1.0
    assert scores["myelin"] == 0.0  # an IoU of a half is no match


def test_networks_must_fit_the_task():
    instance, panoptic = InstanceTask(labels=LABELS), PanopticTask(labels=LABELS)
    semantic = SemanticTask(labels=LABELS, loss=DiceCELoss())
    detector = BrightObjects(1, 2)
    unet = UNet(1, 2, spatial_dims=2, base_channels=4)

    instance.check(detector)
    panoptic.check(detector)
    semantic.check(unet)
    detector.tasks = ("instance",)
    with pytest.raises(ConfigError, match=r"task: is panoptic, but BrightObjects is for instance"):
        panoptic.check(detector)
    with pytest.raises(ConfigError, match=r"UNet gives a class for each voxel and no objects; set"):
        instance.check(unet)
    with pytest.raises(ConfigError, match=r"is semantic, but BrightObjects is for instance"):
        semantic.check(detector)


def test_labels_must_fit_the_task():
    plain = LabelSet.from_names(["background", "cell"])
    regions = LabelSet.from_mapping(
        {"background": 0, "core": 1, "rim": 2, "regions": {"all": [1, 2], "inner": [1]}}
    )

    with pytest.raises(ConfigError, match=r"marks no class as a thing"):
        PanopticTask(labels=plain)
    with pytest.raises(ConfigError, match=r"unions of classes, which objects and"):
        InstanceTask(labels=regions)
    with pytest.raises(ConfigError, match=r"task\.min_visible: is 2; use 0 to 1"):
        InstanceTask(labels=plain, min_visible=2)


@pytest.mark.parametrize("shape", [(2, 1, 32, 24), (1, 2, 16, 16, 12)])
def test_a_trial_batch_has_objects(shape):
    task = PanopticTask(labels=LABELS)

    batch = task.trial_batch(torch.zeros(shape))
    loss = task.loss(BrightObjects(shape[1], 2, spatial_dims=len(shape) - 2), batch)

    objects, semantic = patch_targets(batch["target"], batch["codes"])
    assert len(objects) == shape[0]
    assert len(objects[0]) > 3
    assert semantic.shape == (shape[0], *shape[2:])
    assert loss.requires_grad
