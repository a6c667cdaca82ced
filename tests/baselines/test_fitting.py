from dataclasses import replace

import numpy as np
import pytest

from medseg.baselines.edges import Edges
from medseg.baselines.fitting import fit_baseline
from medseg.baselines.predictor import Baseline
from medseg.baselines.thresholding import HistogramPeaks, Otsu, Threshold
from medseg.core.errors import InputError
from medseg.core.geometry import Geometry
from medseg.core.identity import Case
from medseg.core.labels import LabelSet
from medseg.core.segmentation import LabelMap
from medseg.core.volume import Volume

GEOMETRY = Geometry.from_spacing((24, 20, 16), spacing_mm=(1.0, 1.5, 2.0), orientation="RAS")
LABELS = LabelSet.from_names(["background", "ring", "core"], ignore_id=9)


def nested_case(seed: int) -> Case:
    """A bright ring around a dark core on middling ground, so that the order of brightness is not
    that of the classes.
    """
    truth = np.zeros(GEOMETRY.shape, np.uint8)
    truth[4:20, 3:17, 2:14] = 1
    truth[8:16, 7:13, 5:11] = 2
    noise = np.random.default_rng(seed).normal(0, 3, truth.shape)
    image = np.array([100.0, 160.0, 40.0])[truth] + noise
    truth[0] = 9  # not annotated
    return Case(
        f"case_{seed}",
        lambda: Volume(image[None].astype(np.float32), GEOMETRY, "CT"),
        lambda: LabelMap(truth, GEOMETRY, LABELS),
    )


@pytest.mark.parametrize(
    "method",
    [Otsu(), HistogramPeaks(), Threshold(unit="value"), Threshold(), Edges()],
    ids=lambda method: type(method).__name__,
)
def test_the_fitted_classes_are_those_of_the_references(method):
    fitted = fit_baseline(Baseline(method), [nested_case(n) for n in range(3)], LABELS)

    found = fitted.baseline.predict(nested_case(7))

    truth = nested_case(7).read_reference().array
    known = truth != 9
    assert fitted.baseline.label_set.names == ("background", "ring", "core")
    assert fitted.num_cases == 3
    assert min(fitted.dice.values()) > 0.9
    assert np.mean(found.array[known] == truth[known]) > 0.97


def test_the_bounds_of_a_fixed_threshold_part_the_values():
    fitted = fit_baseline(Baseline(Threshold(unit="value")), [nested_case(0)], LABELS).baseline

    low, *others = fitted.method.bounds
    assert 40 < low < 100
    assert fitted.classes[0] == 2
    assert any(100 < bound < 160 for bound in others)


@pytest.mark.parametrize("method", [Otsu(), Threshold(unit="value")])
def test_a_class_that_brightness_does_not_tell_from_others_is_left_out(method):
    case = nested_case(0)
    truth = case.read_reference().array.copy()
    truth[truth == 2] = 0
    truth[12, 4, 4] = 2  # one voxel of the ring, as bright as the rest of it
    hidden = replace(case, read_reference=lambda: LabelMap(truth, GEOMETRY, LABELS))

    fitted = fit_baseline(Baseline(method), [hidden], LABELS)

    assert set(fitted.baseline.classes) == {0, 1}
    assert fitted.dice["ring"] > 0.9
    assert fitted.dice["core"] == 0


def test_one_class_that_is_bright_here_and_dark_there_is_what_the_border_is_not():
    labels = LabelSet.from_names(["background", "body"])
    cases = []
    for n, sign in enumerate((1, -1)):
        truth = np.zeros(GEOMETRY.shape, np.uint8)
        truth[4:20, 3:17, 2:14] = 1
        image = (sign * 50.0 * truth)[None].astype(np.float32)
        cases.append(
            Case(
                f"case_{n}",
                lambda image=image: Volume(image, GEOMETRY),
                lambda truth=truth: LabelMap(truth, GEOMETRY, labels),
            )
        )

    fitted = fit_baseline(Baseline(Otsu()), cases, labels)

    assert fitted.baseline.classes is None
    assert fitted.dice == {"body": 1.0}
    assert all(
        np.array_equal(fitted.baseline.predict(case).array, case.read_reference().array)
        for case in cases
    )


def test_cases_without_references_cannot_be_fitted_on():
    case = replace(nested_case(0), read_reference=None)

    with pytest.raises(InputError, match="fit_on: holds no labelled case; give a folder with ref"):
        fit_baseline(Baseline(Otsu()), [case], LABELS)
