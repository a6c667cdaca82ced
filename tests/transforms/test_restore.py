import numpy as np
import phantoms
import pytest
from phantoms import ALL_48_ORIENTATIONS

from medseg.transforms.restore import turn_back, turned_shape


@pytest.mark.parametrize("orientation", ALL_48_ORIENTATIONS)
@pytest.mark.parametrize("network", ["RAS", "ASR"])
def test_what_was_turned_is_turned_back(orientation, network):
    reference = phantoms.labelled_boxes(orientation=orientation)
    turned = reference.reoriented(network)

    back = turn_back(turned.array, reference.geometry, orientation=network)

    assert turned_shape(reference.geometry, network) == turned.array.shape
    assert back.flags.c_contiguous
    assert np.array_equal(back, reference.array)


def test_channels_in_front_stay_in_front():
    reference = phantoms.labelled_boxes(orientation="SLP")
    turned = reference.reoriented("RAS").array

    back = turn_back(np.stack([turned, turned + 1]), reference.geometry, orientation="RAS")

    assert np.array_equal(back, np.stack([reference.array, reference.array + 1]))


def test_without_an_orientation_nothing_is_turned():
    reference = phantoms.labelled_boxes(orientation="PIL")

    assert turned_shape(reference.geometry, None) == reference.array.shape
    assert np.array_equal(
        turn_back(reference.array, reference.geometry, orientation=None), reference.array
    )
