import numpy as np
import phantoms
import pytest

from medseg.core.errors import ConfigError, LabelError
from medseg.core.segmentation import LabelMap
from medseg.inference.postprocess import Postprocess


def islands() -> LabelMap:
    """Liver of 8 and 3 voxels, tumour of 2 and 1 voxels; a voxel has 2 x 2.5 x 3.5 = 17.5 mm3."""
    array = np.zeros((36, 30, 22), np.uint8)
    array[2:4, 2:4, 2:4] = 1
    array[20:23, 9, 9] = 1
    array[30, 20, 10:12] = 2
    array[10, 20, 3] = 2
    return LabelMap(array, phantoms.grid(), phantoms.TWO_LABELS)


def counts(result: LabelMap) -> list[int]:
    return [int((result.array == n).sum()) for n in (1, 2)]


def test_nothing_is_removed_by_default():
    assert counts(Postprocess().apply(islands())) == [11, 3]


def test_only_the_largest_component_of_a_label_is_kept():
    given = islands()

    result = Postprocess(largest_component=["liver"]).apply(given)

    assert counts(result) == [8, 3]
    assert (result.array[2:4, 2:4, 2:4] == 1).all()
    assert counts(given) == [11, 3]


def test_all_means_every_label():
    assert counts(Postprocess(largest_component="all").apply(islands())) == [8, 2]


def test_small_components_are_removed():
    # Three voxels have 52.5 mm3, two have 35.
    limits = {"liver": 53.0, "tumour": 35.0}

    assert counts(Postprocess(minimum_volume_mm3=limits).apply(islands())) == [8, 2]


def test_voxels_that_touch_at_a_corner_belong_together():
    given = islands()
    given.array[23, 10, 10] = 1

    assert counts(Postprocess(minimum_volume_mm3={"liver": 70.0}).apply(given)) == [12, 3]


def test_an_absent_label_stays_absent():
    given = islands()
    given.array[given.array == 2] = 0

    assert counts(Postprocess(largest_component="all").apply(given)) == [8, 0]


def test_an_unknown_label_is_named():
    with pytest.raises(LabelError, match="did you mean 'liver'"):
        Postprocess(largest_component=["livr"]).apply(islands())


def test_a_negative_volume_is_refused():
    with pytest.raises(ConfigError) as caught:
        Postprocess(minimum_volume_mm3={"liver": -1.0})

    assert caught.value.where == "postprocess.minimum_volume_mm3"
