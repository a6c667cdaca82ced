import pytest
from learning_cases import LABELS, CaseList, block, block_cases, case_of

from medseg.core.errors import ConfigError, InputError, LabelError
from medseg.data.spec import DatasetSpec


def spec(**changes) -> DatasetSpec:
    return DatasetSpec(**{"name": "blocks", "source": CaseList(tuple(block_cases(3))), **changes})


def test_labels_given_by_hand_come_before_those_of_the_source():
    source = CaseList((), labels=LABELS)

    assert spec(source=source).label_set() == LABELS
    assert spec(source=source, labels={"none": 0, "box": 1}).label_set().names == ("none", "box")


def test_images_without_any_reference_are_told_before_labels_are_asked_for():
    unlabelled = case_of(block(9)[0], None, key="unlabelled")

    with pytest.raises(InputError) as caught:
        spec(source=CaseList((unlabelled,))).label_set()

    assert caught.value.where == "data.source"
    assert "has 1 images and a reference for none" in caught.value.what
    assert "labels/a.nii.gz" in caught.value.remedy


def test_labels_with_gaps_are_refused():
    with pytest.raises(LabelError, match="without gaps"):
        spec(labels={"background": 0, "liver": 2}).label_set()


def test_only_cases_with_a_reference_count():
    unlabelled = case_of(block(9)[0], None, key="unlabelled")

    found = spec(source=CaseList((unlabelled, *block_cases(2)[::-1]))).labelled_cases()

    assert [case.key for case in found] == ["case_000", "case_001"]


def test_a_single_case_is_not_enough():
    held_out = case_of(*block(1), key="held_out", is_held_out=True)

    with pytest.raises(InputError) as caught:
        spec(source=CaseList((held_out, *block_cases(1)))).labelled_cases()

    assert caught.value.where == "data.source"
    assert "at least two" in caught.value.what
    assert "medseg doctor" in caught.value.remedy


@pytest.mark.parametrize(
    ("changes", "where", "remedy"),
    [
        ({"mirror_axes": "RX"}, "data.mirror_axes", "letters of RAS"),
        ({"num_folds": 1}, "data.num_folds", "2 or more"),
    ],
)
def test_what_does_not_fit_is_named(changes, where, remedy):
    with pytest.raises(ConfigError) as caught:
        spec(**changes)

    assert caught.value.where == where
    assert remedy in caught.value.remedy


@pytest.mark.parametrize(
    ("names", "axes", "reason"),
    [
        (["liver", "tumour"], "R", "no label tells left from right"),
        (["hippocampus_anterior", "hippocampus_posterior"], "R", "no label"),
        (["left_ventricle"], "", "'left_ventricle' is on one side"),
        (["kidney", "lungR"], "", "'lungR' is on one side"),
        (["Left-Hippocampus"], "", "'Left-Hippocampus' is on one side"),
        (["label_1", "label_2"], "", "'label_1' and the others may be sides"),
        (["label_1"], "R", "no label"),
        (["bright", "sleft"], "R", "no label"),
    ],
)
def test_images_are_mirrored_between_the_sides_unless_labels_tell_them_apart(names, axes, reason):
    labels = {"background": 0, **{name: n for n, name in enumerate(names, 1)}}

    chosen, why = spec(labels=labels).chosen_mirror_axes(spec(labels=labels).label_set())

    assert chosen == axes
    assert reason in why


def test_axes_set_by_hand_are_kept_and_regions_count_as_labels():
    sided = {"background": 0, "part": 1, "rest": 2, "regions": {"left": [1, 2], "part": [1]}}

    assert spec(mirror_axes="AS").chosen_mirror_axes(LABELS)[0] == "AS"
    assert spec(mirror_axes="").chosen_mirror_axes(LABELS)[0] == ""
    assert spec(labels=sided).chosen_mirror_axes(spec(labels=sided).label_set())[0] == ""
