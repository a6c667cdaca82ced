"""The tests' own phantoms hold what they promise."""

from __future__ import annotations

import numpy as np
import phantoms
import pytest


@pytest.mark.parametrize("orientation", phantoms.ALL_48_ORIENTATIONS)
def test_a_sphere_lies_at_its_centre_in_every_orientation(orientation):
    volume = phantoms.sphere(centre_mm=(10, -20, 30), radius_mm=12, orientation=orientation)

    assert volume.geometry.orientation == orientation
    # 0.1 mm: the soft edge is sampled on voxels of up to 3.5 mm.
    assert phantoms.centre_of_mass_mm(volume) == pytest.approx((10, -20, 30), abs=0.1)


@pytest.mark.parametrize("orientation", phantoms.ALL_48_ORIENTATIONS)
def test_boxes_cover_the_same_places_in_every_orientation(orientation):
    label_map = phantoms.labelled_boxes(orientation=orientation)

    inside = phantoms.positions_mm(label_map.geometry)[label_map.array > 0]

    low, high = (np.array(corner) + phantoms.FIELD_CENTRE_MM for corner in phantoms.BOX_MM[1])
    assert (inside >= low).all()
    assert (inside <= high).all()
    assert (np.abs(inside.min(axis=0) - low) < 3.5).all()
    assert set(np.unique(label_map.array)) == {0, 1, 2}


def test_no_flip_maps_the_boxes_onto_themselves():
    array = phantoms.labelled_boxes().array

    assert not any(np.array_equal(array, np.flip(array, axis)) for axis in range(3))


def test_the_ct_of_a_label_map_has_the_same_grid_and_is_the_same_each_time():
    label_map = phantoms.labelled_boxes(orientation="PIR")

    volume = phantoms.ct_of(label_map, seed=3)

    assert volume.geometry.difference(label_map.geometry) is None
    assert volume.array.dtype == np.int16
    assert np.array_equal(volume.array, phantoms.ct_of(label_map, seed=3).array)
