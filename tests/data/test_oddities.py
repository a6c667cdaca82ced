from dataclasses import replace

import phantoms
import pytest
from learning_cases import LABELS, block, case_of

from medseg.core.errors import InputError
from medseg.data.case_facts import CaseFingerprint, measure_case
from medseg.data.oddities import find_oddities, is_left_handed, refuse_leaks
from medseg.data.split import Split


def facts(number: int, **options) -> CaseFingerprint:
    case = case_of(*block(number, **options), key=f"case_{number}")
    found = measure_case(case, LABELS).facts
    assert found is not None
    return found


def split_of(validation: tuple[str, ...] = (), test: tuple[str, ...] = ()) -> Split:
    keys = [f"case_{n}" for n in range(8)]
    train = tuple(key for key in keys if key not in (*validation, *test))
    return Split(train, validation, test, fold=0, num_folds=5, seed=0)


def told(cases: list[CaseFingerprint], split: Split | None = None, modality: str = "MR"):
    return [str(o) for o in find_oddities(cases, LABELS, split or split_of(), modality=modality)]


def test_cases_that_are_alike_are_not_odd():
    assert told([facts(n) for n in range(8)]) == []


def test_a_spacing_far_from_the_others_is_named_with_its_value():
    cases = [facts(n) for n in range(7)] + [facts(7, spacing_mm=(1.0, 1.25, 5.0))]

    (text,) = [line for line in told(cases) if "spacing" in line]

    assert "far from the median of 1x1.25x2 mm: case_7 (1x1.25x5 mm)" in text


def test_the_same_spacing_along_other_axes_is_not_odd():
    cases = [facts(n) for n in range(7)] + [facts(7, spacing_mm=(2.0, 1.0, 1.25))]

    assert not [line for line in told(cases) if "spacing" in line]


@pytest.mark.parametrize(("orientation", "is_mirrored"), [("LAS", True), ("LPS", False)])
def test_another_orientation_is_named_and_whether_it_is_mirrored(orientation, is_mirrored):
    cases = [facts(n) for n in range(7)] + [facts(7, orientation=orientation)]

    (text,) = told(cases)

    assert f"orientation {orientation}" in text
    assert "where most are RAS: case_7" in text
    assert ("(mirrored storage)" in text) == is_mirrored


def test_where_no_orientation_is_usual_all_are_told_in_one_line():
    codes = ["RAS", "LAS", "LPS", "PIR", "RAS", "ASR", "LPI"]
    cases = [facts(n, orientation=code) for n, code in enumerate(codes)]

    (text,) = told(cases)

    assert text.startswith("orientations of all kinds: RAS 2, LAS 1, LPS 1, PIR 1, ASR 1")


def test_half_of_all_orientations_are_left_handed():
    assert sum(is_left_handed(codes) for codes in phantoms.ALL_48_ORIENTATIONS) == 24
    assert not is_left_handed("RAS")
    assert is_left_handed("ARS")


def test_a_class_that_few_cases_lack_is_named():
    cases = [facts(n) for n in range(7)]
    first = cases[3]
    cases[3] = replace(first, class_voxels=(*first.class_voxels[:2], 0))

    assert told(cases) == ["no tumour: case_3; right if there is none to be seen"]


def test_a_ct_in_other_units_is_named():
    cases = [facts(n, modality="CT") for n in range(7)]
    ((mean, *rest),) = cases[2].intensity
    cases[2] = replace(cases[2], intensity=((mean + 1024.0, *rest),))

    (text,) = told(cases, modality="CT")

    assert text.startswith("mean of the foreground far from the median of")
    assert "case_2 (" in text


def test_an_image_on_both_sides_of_a_fold_is_shouted_about():
    cases = [facts(n) for n in range(7)] + [replace(facts(0), key="case_7")]

    within = told(cases)
    across = told(cases, split_of(validation=("case_7",)))

    assert within == ["the same image is there twice: case_0 = case_7; remove one of each"]
    assert len(across) == 1
    assert across[0].startswith("ONE IMAGE IS TRAINED ON AND VALIDATED ON: case_0 = case_7")


def test_an_image_that_is_trained_on_and_held_out_is_refused():
    cases = [facts(n) for n in range(7)] + [replace(facts(0), key="case_7")]

    refuse_leaks(cases, split_of(validation=("case_7",)))
    with pytest.raises(InputError) as caught:
        refuse_leaks(cases, split_of(test=("case_7",)))

    assert caught.value.code == "E_DUPLICATE_IMAGE"
    assert "image of case_7, which is held out for testing, is also that of case_0" in (
        caught.value.what
    )


def scaled(case: CaseFingerprint, factor: float) -> CaseFingerprint:
    rows = tuple(tuple(factor * value for value in row) for row in case.intensity)
    return replace(case, intensity=rows)


@pytest.mark.parametrize(("num_scaled", "is_told"), [(1, True), (3, False)])
def test_another_scale_of_mr_is_odd_only_where_it_is_rare(num_scaled, is_told):
    cases = [scaled(facts(n), 1000.0 if n < num_scaled else 1.0) for n in range(12)]

    texts = told(cases)

    assert [text.startswith("range of intensities far from") for text in texts] == [True] * is_told
