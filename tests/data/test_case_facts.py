from dataclasses import replace
from pathlib import Path

import numpy as np
import phantoms
import pytest
from learning_cases import LABELS, block, case_of

from medseg.core.errors import InputError
from medseg.core.identity import Case
from medseg.core.segmentation import LabelMap
from medseg.core.volume import Volume
from medseg.data.case_facts import FactsFolder, measure_case
from medseg.data.fingerprint import measure
from medseg.data.readings import Readings


def filed_case(folder: Path, number: int = 0) -> Case:
    path = folder / f"image_{number}.nii.gz"
    path.write_bytes(b"an image")
    return case_of(*block(number), key=f"case_{number}", paths=(path,))


def unreadable(case: Case) -> Case:
    return replace(case, read_image=lambda: pytest.fail("the image was read again"))


def picture(colours: np.ndarray) -> Case:
    geometry = phantoms.grid(shape=(*colours.shape[1:3], 1))
    reference = LabelMap(np.ones(geometry.shape, np.uint8), geometry)
    return case_of(Volume(colours.astype(np.uint8)[..., None], geometry), reference)


def test_components_are_counted_and_measured_in_mm3():
    geometry = phantoms.grid(shape=(12, 12, 12), spacing_mm=(1.0, 2.0, 3.0))
    reference = np.zeros(geometry.shape, np.uint8)
    reference[0:2, 0:2, 0:2] = 1  # 8 voxels of 6 mm3
    reference[2, 2, 2] = 1  # joined through a corner
    reference[6:9, 6, 6] = 1
    case = case_of(
        Volume(np.arange(12**3, dtype=np.float32).reshape(1, 12, 12, 12), geometry),
        LabelMap(reference, geometry),
    )

    facts = measure_case(case, LABELS).facts

    first, second = facts.components
    assert (first.count, first.smallest_mm3, first.largest_mm3) == (2, 18.0, 54.0)
    assert first.median_mm3 == 36.0
    assert second is None


def test_a_picture_knows_whether_its_colours_differ():
    grey = np.random.default_rng(0).integers(0, 255, (1, 8, 8))
    coloured = np.concatenate([grey, grey, grey // 2])

    kinds = [
        measure_case(picture(colours), LABELS).facts.colours
        for colours in (grey, np.repeat(grey, 3, axis=0), coloured)
    ]

    assert kinds == ["grey", "equal", "colour"]


def test_what_was_measured_is_found_by_the_next_run(tmp_path):
    cases = [filed_case(tmp_path, n) for n in range(3)]
    first = measure(cases, LABELS, known=FactsFolder(tmp_path / "facts", LABELS))

    again = measure(
        [unreadable(case) for case in cases], LABELS, known=FactsFolder(tmp_path / "facts", LABELS)
    )

    assert again == first
    assert len(list((tmp_path / "facts").iterdir())) == 3


def test_a_case_is_measured_again_when_its_file_or_the_labels_change(tmp_path):
    case = filed_case(tmp_path)
    known = FactsFolder(tmp_path / "facts", LABELS)
    known.store(case, measure_case(case, LABELS))
    assert known.load(case) is not None

    more = type(LABELS).from_names([*LABELS.names, "more"])
    assert FactsFolder(tmp_path / "facts", more).load(case) is None
    case.paths[0].write_bytes(b"another image")
    assert known.load(case) is None


@pytest.mark.parametrize("keep", [0.0, 0.02, 0.5, 0.99])
def test_damaged_facts_are_measured_again(tmp_path, keep, caplog):
    case = filed_case(tmp_path)
    known = FactsFolder(tmp_path / "facts", LABELS)
    first = measure([case], LABELS, known=known)
    (file,) = (tmp_path / "facts").iterdir()
    file.write_bytes(file.read_bytes()[: int(keep * file.stat().st_size)])

    again = measure([case], LABELS, known=known)

    assert again == first
    assert "case case_0: what was measured is damaged" in caplog.text
    measure([unreadable(case)], LABELS, known=known)


def test_a_bad_case_is_not_remembered(tmp_path):
    case = filed_case(tmp_path)
    image = case.read_image()
    bad = Volume(np.full_like(image.array, np.nan), image.geometry)
    known = FactsFolder(tmp_path / "facts", LABELS)

    with pytest.raises(InputError, match="NaN"):
        measure([replace(case, read_image=lambda: bad)], LABELS, known=known)

    assert not (tmp_path / "facts").exists()


def test_what_was_read_is_handed_out_once_as_far_as_memory_allows():
    (volume, reference), readings = block(0), Readings()
    size = volume.array.nbytes + reference.array.nbytes
    tight = Readings(share=0.0)

    readings.keep("a", volume, reference)
    tight.keep("a", volume, reference)

    assert size > 0
    assert readings.take("a") == (volume, reference)
    assert readings.take("a") is None
    assert tight.take("a") is None
