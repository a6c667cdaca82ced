import math

import numpy as np
import phantoms
import pytest

from medseg.core.errors import GeometryError, LabelError
from medseg.core.geometry import Geometry
from medseg.core.labels import Label, LabelSet
from medseg.core.segmentation import LabelMap
from medseg.metrics.case_scores import evaluate_case, measuring_steps_mm
from medseg.metrics.surface import surface_distances

GEOMETRY = Geometry.from_spacing(
    (12, 10, 8), spacing_mm=(1.0, 2.0, 5.0), orientation="PSL", origin_mm=(3.0, -20.0, 11.0)
)
LABELS = LabelSet.from_names(["background", "liver", "tumour"])


def label_map(*boxes: tuple[int, tuple[slice, slice, slice]], geometry=GEOMETRY) -> LabelMap:
    """A label map with boxes of class numbers, later ones on top."""
    array = np.zeros(geometry.shape, np.uint8)
    for class_id, box in boxes:
        array[box] = class_id
    return LabelMap(array, geometry)


LIVER = (1, np.s_[2:8, 2:7, 1:5])
TUMOUR = (2, np.s_[3:5, 3:5, 2:4])


def test_scores_of_each_class_are_counted_by_hand():
    reference = label_map(LIVER, TUMOUR)  # liver 6*5*4 - 8 = 112, tumour 8
    prediction = label_map(LIVER, (2, np.s_[3:5, 3:5, 2:5]))  # tumour 12, liver 108

    liver, tumour = evaluate_case(
        reference, prediction, labels=LABELS, tolerance_mm=1.0, case="case_7"
    )

    assert (liver.case, liver.label, liver.class_id, liver.status) == ("case_7", "liver", 1, "both")
    assert liver.dice == pytest.approx(2 * 108 / (112 + 108))
    assert tumour.dice == pytest.approx(2 * 8 / 20)
    assert tumour.iou == pytest.approx(8 / 12)
    assert tumour.reference_ml == pytest.approx(0.08)
    assert tumour.prediction_ml == pytest.approx(0.12)
    assert tumour.volume_difference_ml == pytest.approx(0.04)
    assert tumour.relative_volume_difference == pytest.approx(0.5)
    assert tumour.hd95_mm == pytest.approx(5.0)  # one slice of 5 mm more


def test_surface_scores_are_those_of_the_whole_masks():
    reference, prediction = phantoms_pair()

    (score,) = evaluate_case(
        reference, prediction, labels=LabelSet.from_names(["background", "box"]), tolerance_mm=2.0
    )

    whole = surface_distances(
        reference.array == 1, prediction.array == 1, spacing_mm=GEOMETRY.spacing_mm
    )
    assert score.nsd == pytest.approx(whole.surface_dice(2.0))
    assert score.hd95_mm == whole.hausdorff_mm(95.0)
    assert score.assd_mm == pytest.approx(whole.average_mm())


def phantoms_pair() -> tuple[LabelMap, LabelMap]:
    return label_map(LIVER), label_map((1, np.s_[1:7, 2:6, 1:6]))


def test_border_voxels_can_be_chosen():
    reference, prediction = phantoms_pair()
    labels = LabelSet.from_names(["background", "box"])

    (elements,) = evaluate_case(reference, prediction, labels=labels, tolerance_mm=2.0)
    (voxels,) = evaluate_case(
        reference, prediction, labels=labels, tolerance_mm=2.0, surface="border_voxels"
    )

    assert elements.assd_mm != voxels.assd_mm


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "PSL", "IAR"])
def test_the_orientation_of_the_grid_changes_no_score(orientation):
    reference, prediction = (found.reoriented(orientation) for found in phantoms_pair())
    labels = LabelSet.from_names(["background", "box"])
    (expected,) = evaluate_case(*phantoms_pair(), labels=labels, tolerance_mm=2.0)

    (score,) = evaluate_case(reference, prediction, labels=labels, tolerance_mm=2.0)

    assert score.nsd == pytest.approx(expected.nsd)
    assert score.hd95_mm == pytest.approx(expected.hd95_mm)
    assert score.dice == expected.dice


def test_a_class_in_neither_map_is_absent_and_has_no_scores():
    _, tumour = evaluate_case(label_map(LIVER), label_map(LIVER), labels=LABELS, tolerance_mm=1.0)

    assert tumour.status == "absent"
    assert all(math.isnan(x) for x in (tumour.dice, tumour.iou, tumour.nsd, tumour.hd95_mm))
    assert (tumour.reference_ml, tumour.prediction_ml, tumour.volume_difference_ml) == (0, 0, 0)


@pytest.mark.parametrize(
    ("reference", "prediction", "status"),
    [((LIVER, TUMOUR), (LIVER,), "missed"), ((LIVER,), (LIVER, TUMOUR), "spurious")],
)
def test_a_class_in_one_map_alone_scores_zero_and_has_no_distances(reference, prediction, status):
    _, tumour = evaluate_case(
        label_map(*reference), label_map(*prediction), labels=LABELS, tolerance_mm=100.0
    )

    assert tumour.status == status
    assert (tumour.dice, tumour.iou, tumour.nsd) == (0.0, 0.0, 0.0)
    assert math.isnan(tumour.hd95_mm)
    assert math.isnan(tumour.assd_mm)


def test_two_empty_maps_are_scored_as_absent():
    scores = evaluate_case(label_map(), label_map(), labels=LABELS, tolerance_mm=1.0)

    assert [score.status for score in scores] == ["absent", "absent"]


def test_ignored_voxels_count_for_nothing():
    labels = LabelSet((Label("background", 0), Label("liver", 1)), ignore_id=9)
    unannotated = (9, np.s_[6:12, :, :])
    reference = label_map((1, np.s_[2:6, 2:7, 1:5]), unannotated)
    prediction = label_map((1, np.s_[2:11, 2:7, 1:5]))  # right, and more where nobody looked

    (score,) = evaluate_case(reference, prediction, labels=labels, tolerance_mm=0.0)

    assert score.status == "both"
    assert score.dice == 1.0
    assert score.volume_difference_ml == 0.0
    assert score.nsd == 1.0


def test_a_prediction_in_ignored_voxels_alone_is_absent():
    labels = LabelSet((Label("background", 0), Label("liver", 1)), ignore_id=9)

    (score,) = evaluate_case(
        label_map((9, np.s_[5:9, :, :])), label_map((1, np.s_[6:8, 2:4, 2:4])),
        labels=labels, tolerance_mm=1.0,
    )  # fmt: skip

    assert score.status == "absent"


def test_without_labels_the_numbers_found_are_scored():
    reference = label_map((3, np.s_[2:8, 2:7, 1:5]))
    prediction = label_map((3, np.s_[2:8, 2:7, 1:5]), (112, np.s_[0:1, 0:1, 0:1]))

    scores = evaluate_case(reference, prediction, labels=None, tolerance_mm=1.0)

    assert [(s.label, s.class_id, s.status) for s in scores] == [
        ("label_3", 3, "both"),
        ("label_112", 112, "spurious"),
    ]


def test_large_and_negative_numbers_are_found_too():
    reference = label_map(LIVER)
    array = reference.array.astype(np.int32) * 1_000_000
    array[0, 0, 0] = -4

    scores = evaluate_case(
        LabelMap(array, GEOMETRY), LabelMap(array, GEOMETRY), labels=None, tolerance_mm=1.0
    )

    assert [(score.class_id, score.dice) for score in scores] == [(-4, 1.0), (1_000_000, 1.0)]


def test_values_that_no_label_has_are_refused():
    with pytest.raises(
        LabelError,
        match=r"case_7: the prediction holds the value 7, but the labels are background 0, "
        r"liver 1, tumour 2; give the labels .* ignore",
    ):
        evaluate_case(
            label_map(LIVER),
            label_map((7, np.s_[0:2, 0:2, 0:2])),
            labels=LABELS,
            tolerance_mm=1.0,
            case="case_7",
        )


def test_grids_that_differ_are_refused():
    other = Geometry.from_spacing(GEOMETRY.shape, spacing_mm=(1.0, 2.0, 5.0), orientation="RAS")

    with pytest.raises(
        GeometryError, match=r"case_7: .*grids differ: orientation PSL against RAS; predict on"
    ) as caught:
        evaluate_case(
            label_map(LIVER),
            label_map(LIVER, geometry=other),
            labels=LABELS,
            tolerance_mm=1.0,
            case="case_7",
        )
    assert caught.value.code == "E_GRID"


def test_a_header_rounded_to_float32_is_the_same_grid():
    rounded = Geometry(GEOMETRY.shape, np.float32(GEOMETRY.affine * 1.0001))

    scores = evaluate_case(
        label_map(LIVER), label_map(LIVER, geometry=rounded), labels=LABELS, tolerance_mm=1.0
    )

    assert scores[0].dice == 1.0


def test_micrometre_voxels_are_compared_at_their_own_scale():
    small = Geometry.from_spacing((12, 10, 8), spacing_mm=(0.001, 0.001, 0.001))
    shifted = Geometry.from_spacing(
        (12, 10, 8), spacing_mm=(0.001, 0.001, 0.001), origin_mm=(0.002, 0.0, 0.0)
    )

    with pytest.raises(GeometryError, match="grids differ"):
        evaluate_case(
            label_map(LIVER, geometry=small),
            label_map(LIVER, geometry=shifted),
            labels=LABELS,
            tolerance_mm=0.001,
        )


def test_a_sheared_grid_is_measured_along_its_own_axes():
    affine = GEOMETRY.affine.copy()
    affine[:3, 2] += 0.5 * affine[:3, 0]

    assert measuring_steps_mm(GEOMETRY) == pytest.approx([1.0, 2.0, 5.0])
    assert measuring_steps_mm(Geometry(GEOMETRY.shape, affine)) == pytest.approx(affine[:3, :3])


def test_phantom_with_a_tumour_scores_one_against_itself():
    phantom = phantoms.labelled_boxes()

    scores = evaluate_case(phantom, phantom, labels=phantoms.TWO_LABELS, tolerance_mm=0.0)

    assert [(score.dice, score.nsd, score.hd95_mm) for score in scores] == [(1.0, 1.0, 0.0)] * 2


def test_regions_are_scored_as_unions_of_their_classes():
    labels = LabelSet.from_mapping(
        {"background": 0, "liver": 1, "tumour": 2, "regions": {"organ": [1, 2], "lesion": [2]}}
    )
    reference = label_map(LIVER, TUMOUR)  # organ 6*5*4 = 120, lesion 8
    prediction = label_map(LIVER, (2, np.s_[3:5, 3:5, 2:5]))  # the same organ, lesion 12

    organ, lesion = evaluate_case(reference, prediction, labels=labels, tolerance_mm=1.0)

    assert (organ.label, organ.class_id, organ.dice) == ("organ", 1, 1.0)
    assert organ.reference_ml == pytest.approx(1.2)
    assert (lesion.label, lesion.class_id) == ("lesion", 2)
    assert lesion.dice == pytest.approx(2 * 8 / 20)
