import pytest

from medseg.core.errors import ConfigError, InputError
from medseg.core.identity import Case
from medseg.data.split import split_cases


def cases(count: int = 12, *, per_patient: int = 2, held_out: int = 0) -> list[Case]:
    """Cases of patients with `per_patient` cases each; the last `held_out` are set aside."""
    return [
        Case(
            f"case_{n:02d}",
            read_image=lambda: pytest.fail("a split reads no image"),
            group=f"patient_{n // per_patient}",
            is_held_out=n >= count - held_out,
        )
        for n in range(count)
    ]


def patients(keys: tuple[str, ...], per_patient: int = 2) -> set[int]:
    return {int(key[-2:]) // per_patient for key in keys}


@pytest.mark.parametrize("fold", range(3))
def test_no_patient_is_in_two_sets(fold):
    split = split_cases(cases(14, held_out=2), fold=fold, num_folds=3)

    assert patients(split.train).isdisjoint(patients(split.validation))
    assert patients(split.test).isdisjoint(patients(split.train) | patients(split.validation))
    assert len(split.train) + len(split.validation) + len(split.test) == 14


def test_every_case_validates_in_exactly_one_fold():
    validated = [split_cases(cases(), fold=n, num_folds=3).validation for n in range(3)]

    assert sorted(key for keys in validated for key in keys) == [c.key for c in cases()]


def test_held_out_cases_are_never_trained_on():
    for fold in (0, 1, 2, "all"):
        split = split_cases(cases(14, held_out=4), fold=fold, num_folds=3)

        assert split.test == ("case_10", "case_11", "case_12", "case_13")
        assert not set(split.test) & {*split.train, *split.validation}


def test_the_order_of_the_cases_changes_nothing():
    ordered = cases()

    assert split_cases(ordered[::-1], fold=1, num_folds=3) == split_cases(
        ordered, fold=1, num_folds=3
    )
    assert split_cases(ordered[5:] + ordered[:5], fold="all", num_folds=3) == split_cases(
        ordered, fold="all", num_folds=3
    )


def test_another_seed_gives_other_folds():
    splits = {split_cases(cases(), fold=0, num_folds=3, seed=seed).validation for seed in range(9)}

    assert len(splits) > 1


def test_cases_without_a_group_are_patients_of_their_own():
    alone = [Case(f"case_{n}", read_image=pytest.fail) for n in range(4)]

    split = split_cases(alone, fold=0, num_folds=4)

    assert len(split.validation) == 1
    assert len(split.train) == 3


def test_all_trains_on_every_case():
    split = split_cases(cases(), fold="all", num_folds=5)

    assert split.train == tuple(case.key for case in cases())
    assert split.fold is None
    assert set(split.validation) < set(split.train)


@pytest.mark.parametrize("fold", [5, -1, "first", 1.5])
def test_a_fold_that_does_not_exist_is_named(fold):
    with pytest.raises(ConfigError) as caught:
        split_cases(cases(), fold=fold, num_folds=5)

    assert caught.value.where == "fold"
    assert str(fold) in caught.value.what
    assert caught.value.remedy == "use 0 to 4, or all"


def test_few_patients_make_fewer_folds(caplog):
    split = split_cases(cases(6), fold=2, num_folds=5)

    assert split.num_folds == 3
    assert patients(split.validation) & patients(split.train) == set()
    assert "3 folds instead of 5" in caplog.text
    with pytest.raises(ConfigError, match="use 0 to 2"):
        split_cases(cases(6), fold=3, num_folds=5)


def test_one_patient_cannot_train_and_validate():
    with pytest.raises(InputError) as caught:
        split_cases(cases(2), fold=0, num_folds=5)

    assert caught.value.where == "data.source"
    assert "of one patient" in caught.value.what
    assert "fold=all" in caught.value.remedy


def test_a_patient_on_both_sides_of_the_test_set_is_refused():
    with pytest.raises(InputError) as caught:
        split_cases(cases(12, held_out=3), fold=0, num_folds=3)

    assert caught.value.code == "E_SPLIT_LEAK"
    assert caught.value.where == "data.source"
    assert "1 patients" in caught.value.what
    assert "one side" in caught.value.remedy
