"""Objects as one map of codes: nothing is lost, whatever overlaps and however it is cut."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import object_cases
import pytest

from medseg.core.components import components
from medseg.core.errors import LabelError
from medseg.core.object_codes import UNKNOWN, counted, encode, middles
from medseg.core.references import ReferenceRule, with_references
from medseg.core.segmentation import InstanceSet, LabelMap, PanopticMap
from medseg.transforms.patches import cut_mapped

LABELS = object_cases.AXONS


def coded(reference):
    codes, table = encode(reference, LABELS, where="case a")
    return codes, counted(codes, table)


def masks_of(instances):
    """Voxels of each object as a set of indices."""
    found = set()
    for number in range(1, len(instances) + 1):
        box, mask = instances.mask(number)
        start = np.array([part.start for part in box])
        found.add(frozenset(map(tuple, np.argwhere(mask) + start)))
    return found


def overlapping(count=25, *, seed=0):
    rng = np.random.default_rng(seed)
    geometry = object_cases.flat((40, 30))
    masks = []
    for _ in range(count):
        start = [int(n) for n in rng.integers(0, (30, 20))]
        extent = rng.integers(1, 10, 2)
        masks.append(((*start, 0), np.ones((*extent, 1), np.bool_)))
    return InstanceSet.from_masks(masks, geometry, class_ids=np.ones(count, int), labels=LABELS)


@pytest.mark.parametrize("seed", range(3))
def test_overlapping_objects_come_back_whole(seed):
    reference = overlapping(seed=seed)
    assert len(reference.layers) > 2

    codes, table = coded(reference)
    found = table.instances(codes, reference.geometry)

    assert masks_of(found) == masks_of(reference)
    assert found.num_voxels.tolist() == table.num_voxels.tolist()


def test_every_voxel_of_a_panoptic_map_has_its_class():
    classes = np.array([[0, 1, 1, 2, 255, 1]], np.uint8)[..., None]
    numbers = np.array([[0, 4, 4, 0, 0, 0]], np.uint8)[..., None]
    geometry = object_cases.flat((1, 6))
    reference = PanopticMap(
        LabelMap(classes, geometry, LABELS),
        InstanceSet.from_map(numbers, geometry, labels=LABELS),
    )

    codes, table = coded(reference)

    # The last voxel is of a thing class, but of no object.
    assert table.classes[codes].ravel().tolist() == [0, 1, 1, 2, UNKNOWN, UNKNOWN]
    assert table.num_voxels.tolist() == [2]
    assert table.instances(codes, geometry).ignored.ravel().tolist() == [0, 0, 0, 0, 1, 1]


@pytest.mark.parametrize("value", [0, 3])
def test_an_empty_and_a_full_image_are_coded(value):
    reference = object_cases.instances(np.full((4, 5), value, np.uint16), labels=LABELS)

    codes, table = coded(reference)

    assert len(table.class_ids) == (1 if value else 0)
    assert (table.classes[codes] == (1 if value else 0)).all()
    assert middles(codes, table).shape == (len(table.class_ids), 3)


def test_objects_that_a_coarser_grid_loses_are_left_out():
    array = np.zeros((6, 4), np.uint16)
    array[1, 1], array[2:, :] = 1, 2
    codes, table = encode(object_cases.instances(array, labels=LABELS), LABELS, where="case a")

    coarse = counted(codes[::2, ::2], table)

    assert coarse.num_voxels.tolist() == [4]
    assert len(coarse.instances(codes[::2, ::2], object_cases.flat((3, 2)))) == 1


def test_each_object_has_a_voxel_of_its_own_to_be_drawn():
    reference = overlapping(seed=4)
    codes, table = coded(reference)

    places = middles(codes, table)

    found = table.instances(codes, reference.geometry)
    for number, place in enumerate(places, start=1):
        assert any(layer[tuple(place)] == number for layer in found.layers)


def test_seventy_thousand_numbers_survive_sampling():
    array = np.arange(1, 280 * 260 + 1, dtype=np.uint32).reshape(280, 260)
    codes, table = coded(object_cases.instances(array, labels=LABELS))
    quarter_turn = np.array([[0.0, -1.0], [1.0, 0.0]])

    _, target = cut_mapped(
        np.zeros((1, 280, 260), np.float32),
        codes[..., 0],
        matrix=quarter_turn,
        centre=np.array([139.5, 129.5]),
        patch_size=(200, 200),
        outside_label=0,
    )

    expected = np.rot90(codes[40:240, 30:230, 0], 1)
    turned = target.numpy()
    assert len(table.class_ids) == 72_800
    assert np.array_equal(turned, expected) or np.array_equal(turned, np.rot90(expected, 2))


def test_components_make_objects_of_classes():
    array = np.array([[1, 1, 0, 1], [2, 2, 0, 1]], np.uint8)[..., None]
    classes = LabelMap(array, object_cases.flat((2, 4)))

    things = replace(LABELS, labels=LABELS.labels[:2])
    instances = ReferenceRule("instances", things, "components").apply(classes, where="a")
    both = ReferenceRule("panoptic", LABELS, "components").apply(classes, where="a")

    assert isinstance(instances, InstanceSet)
    assert instances.num_voxels.tolist() == [2, 2]
    assert isinstance(both, PanopticMap)
    assert both.label_map.array.max() == 2
    assert len(both.instances) == 2


def test_classes_alone_are_no_objects():
    classes = LabelMap(np.ones((2, 2, 1), np.uint8), object_cases.flat((2, 2)))

    with pytest.raises(
        LabelError, match=r"a: .*does not tell objects apart; set task\.instances_from"
    ):
        ReferenceRule("instances", LABELS).apply(classes, where="a")


def test_objects_of_a_class_that_is_no_thing_are_refused():
    reference = InstanceSet.from_map(
        np.ones((2, 2, 1), np.uint8), object_cases.flat((2, 2)), class_of=lambda _: [2]
    )

    with pytest.raises(LabelError, match=r"objects of class 2, but the things .* are 1 axon"):
        ReferenceRule("instances", LABELS).apply(reference, where="a")


def test_what_was_prepared_for_another_task_is_not_used():
    case = object_cases.memory_case(object_cases.discs((20, 20), 3), labels=LABELS)

    readings = {
        rule: with_references([case], rule)[0].reading
        for rule in (
            ReferenceRule("label_map", LABELS),
            ReferenceRule("instances", LABELS),
            ReferenceRule("panoptic", LABELS),
            ReferenceRule("instances", LABELS, "components"),
        )
    }

    assert len(set(readings.values())) == 4
    assert readings[ReferenceRule("label_map", LABELS)] == case.reading


def test_components_of_a_class_match_those_of_its_label_map():
    array = object_cases.discs((60, 60), 8, seed=2)
    classes = LabelMap((array > 0).astype(np.uint8), object_cases.flat((60, 60)), LABELS)

    assert masks_of(components(classes, [1])) == masks_of(object_cases.instances(array))
