"""Patches, cached cases and plans of cases with objects."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import object_cases
import pytest
from learning_cases import small_plan

from medseg.core.labels import LabelSet
from medseg.core.references import ReferenceRule, with_references
from medseg.data.cache import CaseCache
from medseg.data.case_facts import CaseFingerprint, measure_case
from medseg.data.dataset import BatchDataset
from medseg.data.fingerprint import Fingerprint
from medseg.data.plan import Plan
from medseg.data.planning import make_plan
from medseg.sources.folder import Folder
from medseg.transforms.augment import NO_AUGMENT, Augment

LABELS = object_cases.NUCLEI


def plan_2d(**changes):
    options = {
        "spatial_dims": 2,
        "orientation": None,
        "spacing_mm": (1.0, 1.0, 1.0),
        "patch_size": (32, 32),
        "strides": ((1, 1), (2, 2)),
        "kernel_sizes": ((3, 3), (3, 3)),
        "normalisation": ({"kind": "zscore"},),
    }
    return replace(small_plan(), **{**options, **changes})


def test_cases_are_stored_and_read_back_with_their_objects(tmp_path):
    object_cases.nuclei_folder(tmp_path / "data", 1, objects=5)
    cases = with_references(
        Folder(str(tmp_path / "data")).cases(), ReferenceRule("instances", LABELS)
    )
    plan = plan_2d(normalisation=({"kind": "zscore"},) * 3)
    first = CaseCache(tmp_path / "cache", plan=plan, num_classes=2).get(cases[0])

    again = CaseCache(tmp_path / "cache", plan=plan, num_classes=2)
    again._free = 0  # nothing is kept in memory, so it is read from disk
    second = again.get(cases[0])

    assert second.codes is not None
    assert np.array_equal(first.labels, second.labels)
    for name, array in first.codes.to_arrays().items():
        assert np.array_equal(array, second.codes.to_arrays()[name])
    assert len(second.codes.class_ids) == 5
    assert len(second.locations[0]) == 5


@pytest.mark.parametrize("augment", [NO_AUGMENT, Augment(rotation_probability=1.0)])
def test_patches_show_objects_where_the_image_is_bright(tmp_path, augment):
    case = object_cases.memory_case(object_cases.discs((90, 80), 12), labels=LABELS)
    batches = BatchDataset(
        [case],
        CaseCache(tmp_path, plan=plan_2d(batch_size=4), num_classes=2),
        augment=replace(augment, noise_probability=0.0, gamma_probability=0.0),
        foreground_fraction=1.0,
        mirror_axes=(0, 1),
        outside_label=0,
        seed=0,
        rank=0,
        num_steps=3,
    )

    for step in range(3):
        batch = batches[step]
        for image, target, codes in zip(
            batch["image"], batch["target"], batch["codes"], strict=True
        ):
            inside = target.numpy() > len(LABELS)
            assert inside.any()
            assert image[0].numpy()[inside].mean() > image[0].numpy()[~inside].mean() + 1
            assert set(codes.classes[target.numpy()[inside]].tolist()) == {1}


def fingerprint_of(*cases):
    measured = [measure_case(case, LABELS).facts for case in cases]
    rows = tuple(tuple(row) for row in measured[0].intensity)
    return Fingerprint(tuple(measured), rows)


def test_extents_of_objects_decide_the_sizes_of_the_plan():
    boxes = np.zeros((64, 48), np.uint16)
    boxes[2:12, 3:8], boxes[20:40, 10:22], boxes[50, 40] = 1, 2, 3
    facts = fingerprint_of(object_cases.memory_case(boxes, labels=LABELS))

    plan = make_plan(facts, modality="OT", given=Plan(spatial_dims=2))

    assert facts.cases[0].num_objects == 3
    assert facts.cases[0].object_extents == ((1, 1, 1), (10, 5, 1), (20, 12, 1))
    assert plan.object_sizes == [[1.0, 1.0], [10.0, 5.0], [20.0, 12.0]]


def test_extents_are_in_voxels_of_network_space():
    array = np.zeros((30, 20, 10), np.uint16)
    array[5:15, 4:8, 2:5] = 1
    case = object_cases.memory_case(array, labels=LABELS)
    facts = fingerprint_of(case).cases[0]
    # Stored along A, R, S with 1, 2, 3 mm; the network sees R, A, S with 1, 2, 3 mm.
    turned = replace(facts, orientation="ARS", spacing_mm=(1.0, 2.0, 3.0))

    plan = make_plan(
        Fingerprint((turned,), fingerprint_of(case).intensity),
        modality="MR",
        given=Plan(spatial_dims=3, orientation="RAS", spacing_mm=(1.0, 2.0, 3.0)),
    )

    # R: 4 voxels of 2 mm are 8 of 1 mm; A: 10 of 1 mm are 5 of 2 mm; S stays.
    assert plan.object_sizes == [[8.0, 5.0, 3.0]]


def test_classes_alone_plan_no_sizes():
    labels = LabelSet.from_names(["background", "cell"])
    case = object_cases.memory_case(object_cases.discs((40, 40), 3), labels=labels)
    (plain,) = with_references([case], ReferenceRule("label_map", labels))

    plan = make_plan(fingerprint_of(plain), modality="OT", given=Plan(spatial_dims=2))

    assert plan.object_sizes is None
    assert isinstance(fingerprint_of(plain).cases[0], CaseFingerprint)


def volume_of_cubes(count):
    """The fingerprint of a volume of 64x64x64 with `count` of 16 cubes of 8 voxels."""
    array = np.zeros((64, 64, 64), np.uint16)
    for n in range(count):
        i, j = 16 * (n % 4), 16 * (n // 4)
        array[i : i + 8, j : j + 8, 20:28] = n + 1
    return fingerprint_of(object_cases.memory_case(array, labels=LABELS))


def test_patches_are_no_larger_than_few_objects_need():
    facts = volume_of_cubes(2)
    given = Plan(spatial_dims=3, spacing_mm=(1.0, 1.0, 1.0))

    plan = make_plan(facts, modality="OT", given=given)
    on_gpu = make_plan(facts, modality="OT", given=given, device="cuda")

    # 45 voxels along each axis fit the budget. Three times the objects' 8 would be 15 % of these
    # voxels, so a quarter of them is taken: 28, a multiple of the strides.
    assert plan.patch_size == (28, 28, 28)
    assert "3 times the extent of large objects" in plan.reasons["patch_size"]
    assert on_gpu.patch_size == (64, 64, 64)


def test_patches_are_as_large_as_time_allows_where_objects_are_many():
    given = Plan(spatial_dims=3, spacing_mm=(1.0, 1.0, 1.0))

    plan = make_plan(volume_of_cubes(16), modality="OT", given=given)

    # A third of 16 objects is in the mean patch.
    assert plan.patch_size == (48, 48, 48)
    assert "large objects" not in plan.reasons["patch_size"]
