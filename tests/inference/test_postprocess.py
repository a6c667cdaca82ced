import numpy as np
import phantoms
import pytest

from medseg.core.errors import ConfigError, LabelError
from medseg.core.labels import LabelSet
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
    assert caught.value.remedy == "use 0 or more"


def test_the_largest_component_of_all_labels_together_is_kept():
    given = islands()
    given.array[4, 2, 2] = 2  # touches the liver of 8 voxels

    result = Postprocess(largest_foreground=True).apply(given)

    assert counts(result) == [8, 1]
    assert result.array[4, 2, 2] == 2


def test_holes_are_filled_but_no_other_label_is_overwritten():
    given = islands()
    given.array[10:15, 10:15, 10:15] = 1
    given.array[12, 12, 11:13] = (2, 0)  # enclosed: one voxel of tumour and one of background
    given.array[12, 14, 12] = 0  # at the surface

    result = Postprocess(fill_holes=["liver"]).apply(given)

    assert result.array[12, 12, 11:13].tolist() == [2, 1]
    assert result.array[12, 14, 12] == 0


def test_holes_of_an_image_of_one_slice_are_those_within_the_slice():
    array = np.zeros((8, 9, 1), np.uint8)
    array[2:5, 2:5, 0] = 1
    array[3, 3, 0] = 0
    given = LabelMap(array, phantoms.grid(shape=(8, 9, 1)), phantoms.TWO_LABELS)

    assert Postprocess(fill_holes="all").apply(given).array[3, 3, 0] == 1


def regions() -> LabelMap:
    labels = LabelSet.from_mapping(
        {"background": 0, "rim": 1, "core": 2, "regions": {"whole": [1, 2], "inner": [2]}}
    )
    array = np.zeros((36, 30, 22), np.uint8)
    array[2:8, 2:8, 2:8] = 1
    array[3:6, 3:6, 3:6] = 2
    array[7, 7, 7] = 2  # a speck of the inner region, within the outer one
    array[20:22, 20, 20] = (1, 2)  # a speck of both
    return LabelMap(array, phantoms.grid(), labels)


def test_what_is_taken_from_an_inner_region_falls_to_the_region_around_it():
    result = Postprocess(minimum_volume_mm3={"inner": 100.0}).apply(regions())

    assert result.array[7, 7, 7] == 1
    assert result.array[20:22, 20, 20].tolist() == [1, 1]
    assert (result.array[3:6, 3:6, 3:6] == 2).all()


def test_an_outer_region_goes_with_all_that_is_in_it():
    result = Postprocess(largest_component=["whole"]).apply(regions())

    assert result.array[20:22, 20, 20].tolist() == [0, 0]
    assert result.array[7, 7, 7] == 2


def test_thresholds_become_offsets_of_the_logits():
    rules = Postprocess(threshold={"tumour": 0.2})

    # At a probability of 0.2 the odds are 1 to 4.
    assert rules.logit_offsets(phantoms.TWO_LABELS) == pytest.approx([0.0, 0.0, np.log(4.0)])
    assert Postprocess(threshold={"inner": 0.8}).logit_offsets(regions().labels) == pytest.approx(
        [0.0, -np.log(4.0)]
    )
    assert Postprocess().logit_offsets(phantoms.TWO_LABELS) is None


@pytest.mark.parametrize("value", [0.0, 1.0, -3.0])
def test_a_threshold_that_is_no_probability_is_refused(value):
    with pytest.raises(ConfigError, match="outside 0 to 1"):
        Postprocess(threshold={"liver": value})


def test_only_what_is_set_becomes_plain_data():
    rules = Postprocess(largest_component="all", threshold={"liver": 0.4})

    assert Postprocess().to_dict() == {}
    assert Postprocess(**rules.to_dict()) == rules
