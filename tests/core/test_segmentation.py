"""Objects on a grid: numbers, layers, measures in mm, and objects from class numbers."""

from __future__ import annotations

import numpy as np
import pytest

from medseg.core.components import components
from medseg.core.errors import GeometryError, LabelError
from medseg.core.geometry import ALL_ORIENTATIONS, Geometry
from medseg.core.labels import LabelSet
from medseg.core.segmentation import InstanceSet, LabelMap, PanopticMap, compact

GRID = Geometry.from_spacing(
    (6, 5, 4), spacing_mm=(2.0, 3.0, 4.0), orientation="LPS", origin_mm=(10.0, 20.0, -5.0)
)


def numbered(**voxels):
    """A map of GRID in which each named number has its voxels."""
    array = np.zeros(GRID.shape, np.uint32)
    for name, places in voxels.items():
        for place in places:
            array[place] = int(name[1:])
    return array


def test_gaps_in_the_numbers_are_closed_in_their_order():
    array = numbered(n7=[(0, 0, 0)], n4000000000=[(1, 0, 0)], n9=[(2, 0, 0), (2, 1, 0)])

    instances = InstanceSet.from_map(array, GRID, class_of=lambda numbers: numbers % 5)

    assert len(instances) == 3
    assert instances.array[0, 0, 0] == 1
    assert instances.array[2, 1, 0] == 2
    assert instances.array[1, 0, 0] == 3
    assert instances.class_ids.tolist() == [2, 4, 0]
    assert instances.num_voxels.tolist() == [1, 2, 1]
    assert instances.layers.dtype == np.uint16


def test_seventy_thousand_objects_keep_their_numbers():
    geometry = Geometry.from_spacing((300, 300, 1), spacing_mm=(1.0, 1.0, 1.0))
    array = np.zeros(geometry.shape, np.uint32)
    array.reshape(-1)[:70_000] = np.arange(1, 70_001) * 3

    instances = InstanceSet.from_map(array, geometry)

    assert len(instances) == 70_000
    assert instances.layers.dtype == np.uint32
    assert (instances.num_voxels == 1).all()
    assert instances.boxes[69_999].tolist() == [233, 99, 0, 234, 100, 1]


@pytest.mark.parametrize("shape", [(6, 5, 4), (1, 1, 1)])
def test_an_empty_image_has_no_objects(shape):
    geometry = Geometry.from_spacing(shape, spacing_mm=(1.0, 1.0, 1.0))

    instances = InstanceSet.from_map(np.zeros(shape, np.uint16), geometry)

    assert len(instances) == 0
    assert instances.boxes_mm.shape == (0, 6)
    assert instances.centroids_mm.shape == (0, 3)
    assert not instances.class_map().array.any()


def test_an_image_that_is_one_object_fills_its_box():
    instances = InstanceSet.from_map(np.full(GRID.shape, 3, np.uint8), GRID)

    assert instances.boxes.tolist() == [[0, 0, 0, 6, 5, 4]]
    assert instances.volumes_mm3 == pytest.approx([6 * 5 * 4 * 24.0])


def test_measures_are_in_ras_millimetres():
    # LPS: i runs to the left and j to the back, so R and A fall along them.
    instances = InstanceSet.from_map(numbered(n1=[(1, 2, 3), (2, 2, 3)]), GRID)

    assert instances.centroids_mm[0] == pytest.approx([10 - 1.5 * 2, 20 - 2 * 3, -5 + 3 * 4])
    assert instances.boxes_mm[0] == pytest.approx(
        [10 - 2.5 * 2, 20 - 2.5 * 3, -5 + 2.5 * 4, 10 - 0.5 * 2, 20 - 1.5 * 3, -5 + 3.5 * 4]
    )
    assert instances.volumes_mm3[0] == pytest.approx(2 * 24)


@pytest.mark.parametrize("orientation", ALL_ORIENTATIONS)
def test_turning_the_axes_moves_no_object(orientation):
    instances = InstanceSet.from_map(numbered(n1=[(1, 2, 3)], n2=[(5, 0, 0), (4, 0, 0)]), GRID)

    turned = instances.reoriented(orientation)

    assert turned.geometry.orientation == orientation
    assert turned.centroids_mm == pytest.approx(instances.centroids_mm)
    assert turned.boxes_mm == pytest.approx(instances.boxes_mm)


def test_overlapping_objects_are_both_whole():
    large, small = np.ones((4, 4, 1), np.bool_), np.ones((2, 2, 1), np.bool_)

    instances = InstanceSet.from_masks(
        [((0, 0, 0), large), ((1, 1, 0), small), ((4, 4, 3), small[:1, :1])],
        GRID,
        class_ids=[1, 2, 1],
        scores=[0.5, 0.75, 1.0],
    )

    assert len(instances.layers) == 2
    assert instances.num_voxels.tolist() == [16, 4, 1]
    box, mask = instances.mask(1)
    assert mask.shape == (4, 4, 1)
    assert mask.all()
    assert box == (slice(0, 4), slice(0, 4), slice(0, 1))
    assert (instances.array == 1).sum() == 12
    assert (instances.class_map().array == 2).sum() == 4


def test_a_voxel_of_no_known_object_is_refused():
    with pytest.raises(
        LabelError, match=r"1 classes and 1 scores .* highest number of a voxel is 2"
    ):
        InstanceSet(numbered(n2=[(0, 0, 0)])[None], GRID, np.array([1]), np.array([1.0]))


def test_another_grid_is_refused():
    with pytest.raises(GeometryError, match=r"does not fit the grid"):
        InstanceSet.from_map(np.zeros((2, 2, 2), np.uint8), GRID)


def test_classes_and_objects_of_a_panoptic_map_share_a_grid():
    label_map = LabelMap(np.zeros(GRID.shape, np.uint8), GRID)
    moved = Geometry.from_spacing(GRID.shape, spacing_mm=(2.0, 3.0, 4.0))

    with pytest.raises(GeometryError, match=r"classes and instances differ"):
        PanopticMap(label_map, InstanceSet.from_map(np.zeros(GRID.shape, np.uint8), moved))


def test_components_touch_at_corners_but_not_across_classes():
    array = np.zeros((5, 5, 1), np.uint8)
    array[0, 0] = array[1, 1] = 1
    array[3, 3] = 1
    array[2, 2] = 2
    array[4, 0] = 255
    geometry = Geometry.from_spacing((5, 5, 1), spacing_mm=(1.0, 1.0, 1.0))
    labels = LabelSet.from_names(["background", "axon", "myelin"], ignore_id=255)

    found = components(LabelMap(array, geometry, labels), class_ids=[1])

    assert len(found) == 2
    assert found.class_ids.tolist() == [1, 1]
    assert sorted(found.num_voxels.tolist()) == [1, 2]
    assert found.array[2, 2, 0] == 0
    assert found.ignored is not None
    assert np.argwhere(found.ignored).tolist() == [[4, 0, 0]]
    assert found.class_map().array[4, 0, 0] == 255


def test_large_numbers_in_a_small_map_need_no_table():
    array = np.array([[0, 2**31], [2**32 - 1, 2**31]], np.uint32)

    numbers, renumbered = compact(array)

    assert numbers.tolist() == [2**31, 2**32 - 1]
    assert renumbered.tolist() == [[0, 1], [2, 1]]
