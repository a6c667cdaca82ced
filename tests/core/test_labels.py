"""Regions: unions of classes that are segmented in the classes' place."""

import pytest

from medseg.core.errors import LabelError
from medseg.core.labels import Label, LabelSet, Region

# BraTS: whole tumour, tumour core, enhancing tumour.
BRATS = {
    "background": 0,
    "oedema": 1,
    "necrosis": 2,
    "enhancing": 3,
    "ignore": 9,
    "regions": {"whole": [1, 2, 3], "core": [2, 3], "enhancing_tumour": [3]},
}


def test_each_region_paints_the_class_that_no_inner_region_has():
    labels = LabelSet.from_mapping(BRATS)

    assert labels.regions == (
        Region("whole", (1, 2, 3), 1),
        Region("core", (2, 3), 2),
        Region("enhancing_tumour", (3,), 3),
    )
    assert labels.num_outputs == 3
    assert labels.ignore_id == 9
    assert labels.structures == labels.regions


def test_without_regions_the_foreground_classes_are_the_structures():
    labels = LabelSet.from_names(["background", "liver", "tumour"])

    assert labels.structures == (Region("liver", (1,), 1), Region("tumour", (2,), 2))
    assert labels.num_outputs == 3


def test_regions_are_read_back_from_plain_data():
    labels = LabelSet.from_mapping(BRATS)

    assert LabelSet.from_mapping(labels.to_mapping()) == labels


def test_two_classes_that_only_differ_in_name_are_painted_as_the_lower():
    labels = LabelSet.from_mapping({**BRATS, "regions": {"whole": [1, 2, 3], "core": [2, 3]}})

    assert [region.paints for region in labels.regions] == [1, 2]


@pytest.mark.parametrize(
    ("regions", "where", "what"),
    [
        ({"core": [2, 3], "whole": [1, 2, 3]}, "labels.regions.core", "all of which later regions"),
        ({"whole": [1, 2, 7]}, "labels.regions.whole", r"classes \[1, 2, 7\]"),
        ({"whole": 3}, "labels.regions.whole", "is 3"),
        ({"whole": ["a"]}, "labels.regions.whole", r"is \['a'\]"),
        ([1, 2], "labels.regions", r"is \[1, 2\]"),
    ],
)
def test_regions_that_cannot_be_are_refused(regions, where, what):
    with pytest.raises(LabelError, match=what) as caught:
        LabelSet.from_mapping({**BRATS, "regions": regions})

    assert caught.value.where == where
    assert caught.value.remedy


def test_an_order_that_hides_a_region_is_refused():
    # The core is painted first and the whole over it, so that no core would ever be seen.
    regions = (Region("core", (2,), 2), Region("whole", (1, 2), 1))

    with pytest.raises(LabelError, match="class 2 belongs to core, whole, but is painted as class"):
        LabelSet((Label("background", 0), Label("a", 1), Label("b", 2)), None, regions)


def test_a_region_of_an_unknown_name_is_told_with_the_nearest():
    with pytest.raises(LabelError, match="did you mean 'whole'"):
        LabelSet.from_mapping(BRATS).structure("hole")
