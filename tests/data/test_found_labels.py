import logging
import pickle

import numpy as np
import pytest
from learning_cases import CaseList, block_cases, case_of
from numpy.typing import NDArray
from phantoms import grid
from PIL import Image

from medseg.core.errors import LabelError
from medseg.core.segmentation import LabelMap
from medseg.core.volume import Volume
from medseg.data.found_labels import find_labels
from medseg.data.spec import DatasetSpec
from medseg.sources.folder import Folder


def cases_of(*arrays: NDArray[np.integer]):
    cases = []
    for n, array in enumerate(arrays):
        stored = np.asarray(array).reshape(-1, 1, 1)
        geometry = grid(shape=stored.shape)
        volume = Volume(np.zeros((1, *stored.shape), np.float32), geometry)
        cases.append(case_of(volume, LabelMap(stored, geometry), key=f"case_{n}"))
    return cases


def spec_of(cases) -> DatasetSpec:
    return DatasetSpec(name="found", source=CaseList(tuple(cases)))


def test_every_number_in_any_reference_is_a_class(caplog):
    caplog.set_level(logging.INFO)

    spec = spec_of(cases_of([0, 1, 1], [0, 0, 2], [0, 0, 0]))

    assert spec.label_set().names == ("background", "label_1", "label_2")
    told = [record.message for record in caplog.records]
    assert len(told) == 1
    assert "'data.labels={background: 0, label_1: 1, label_2: 2}'" in told[0]


def test_numbers_without_gaps_stay_as_they_are():
    given = cases_of([0, 1], [2, 0])

    found = spec_of(given).labelled_cases()

    assert found == given


@pytest.mark.parametrize(
    ("arrays", "names", "wanted"),
    [
        (([0, 255], [255, 0]), ["label_255"], ([0, 1], [1, 0])),
        (([0, 5], [7, 0]), ["label_5", "label_7"], ([0, 1], [2, 0])),
        (([0, 128], [255, 0]), ["label_128", "label_255"], ([0, 1], [2, 0])),
        (([4, 9], [9, 9]), ["label_4", "label_9"], ([1, 2], [2, 2])),
    ],
)
def test_numbers_with_gaps_are_numbered_anew(arrays, names, wanted, caplog):
    spec = spec_of(cases_of(*(np.array(array, np.uint8) for array in arrays)))

    cases = spec.labelled_cases()

    assert spec.label_set().names == ("background", *names)
    for case, numbers in zip(cases, wanted, strict=True):
        assert case.read_reference().array.ravel().tolist() == numbers
    assert "are 0, 1, 2, ... from here on" in caplog.text


def test_how_a_reference_is_numbered_counts_for_what_is_made_of_it():
    one, other = (spec_of(cases_of([0, n], [n, 0])).labelled_cases()[0] for n in (5, 255))

    assert one.reading != other.reading


@pytest.mark.parametrize(("odd", "others"), [(255, [1, 2]), (255, [1]), (-1, [1, 2])])
def test_a_number_that_may_mean_not_annotated_is_asked_about(odd, others):
    with pytest.raises(LabelError) as caught:
        spec_of(cases_of(np.array([0, *others, odd], np.int16), np.array([0, 1]))).label_set()

    assert caught.value.where == "data.labels"
    assert f"{odd} may mean that nobody looked there" in caught.value.what
    assert f"label_1: 1{', label_2: 2' * (len(others) - 1)}, ignore: {odd}}}" in caught.value.remedy


def test_grey_values_and_numbers_of_objects_are_no_classes():
    picture = np.arange(200, dtype=np.uint8)

    with pytest.raises(LabelError) as caught:
        spec_of(cases_of([0, 1], picture)).label_set()

    assert caught.value.where == "data.labels"
    assert "200 different numbers (that of case_1 200)" in caught.value.what
    assert "numbers of objects" in caught.value.what
    assert "data.labels={background: 0, liver: 1}" in caught.value.remedy


def test_references_of_nothing_but_background_are_told():
    with pytest.raises(LabelError, match="nothing but 0") as caught:
        spec_of(cases_of([0, 0], [0, 0])).label_set()

    assert caught.value.code == "E_EMPTY_LABEL"


def test_a_reference_that_cannot_be_read_is_left_to_the_measurement():
    def broken():
        raise LabelError("case_1.png", "is damaged")

    good = cases_of([0, 1])[0]
    bad = case_of(good.read_image(), good.read_reference(), key="case_1")
    object.__setattr__(bad, "read_reference", broken)

    assert find_labels([good, bad]).labels.names == ("background", "label_1")


def test_palette_masks_beside_pictures_need_no_labels(tmp_path):
    palette = [0, 0, 0, 250, 40, 40, 40, 40, 250]
    for n in range(3):
        for part, mode in (("images", "RGB"), ("masks", "P")):
            (tmp_path / part).mkdir(exist_ok=True)
            pixels = np.zeros((8, 9), np.uint8)
            pixels[2:4, 1:4], pixels[5:7, 5:8] = 1, n % 2 + 1
            picture = Image.fromarray(pixels)
            if mode == "P":
                picture.putpalette(palette)
            picture.convert(mode).save(tmp_path / part / f"{n}.png")

    spec = DatasetSpec(name="nerves", source=Folder(str(tmp_path)))

    assert spec.label_set().names == ("background", "label_1", "label_2")
    assert [case.key for case in spec.labelled_cases()] == ["0", "1", "2"]


def test_renumbered_cases_can_be_sent_to_other_processes(tmp_path):
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
        for n in range(2):
            pixels = np.zeros((4, 5), np.uint8)
            pixels[1:3, n + 1] = 255
            Image.fromarray(pixels).save(tmp_path / part / f"{n}.png")

    cases = DatasetSpec(name="masks", source=Folder(str(tmp_path))).labelled_cases()
    read = pickle.loads(pickle.dumps(cases[1])).read_reference()

    assert np.argwhere(read.array == 1).tolist() == [[2, 1, 0], [2, 2, 0]]
    assert set(np.unique(read.array)) == {0, 1}


def test_a_data_set_in_memory_is_read_as_well():
    assert spec_of(block_cases(2)).label_set().names == ("background", "label_1", "label_2")
