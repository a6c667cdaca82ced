import numpy as np
import phantoms
import pytest
from learning_cases import LABELS, block, block_cases, case_of

from medseg.core.errors import InputError, MedsegError
from medseg.core.labels import LabelSet
from medseg.core.segmentation import LabelMap
from medseg.core.volume import Volume
from medseg.data.fingerprint import Fingerprint, measure


def test_shapes_spacings_and_class_volumes_are_those_of_the_files():
    volume, reference = block(0, orientation="LPS")

    (facts,) = measure([case_of(volume, reference)], LABELS).cases

    assert facts.key == "case_a"
    assert facts.shape == (16, 14, 12)
    assert facts.spacing_mm == pytest.approx((1.0, 1.25, 2.0))
    assert facts.orientation == "LPS"
    assert facts.class_voxels == tuple(int((reference.array == n).sum()) for n in range(3))


def test_intensities_are_those_of_the_foreground():
    geometry = phantoms.grid(shape=(10, 10, 10))
    image = np.full((1, 10, 10, 10), -1000.0, np.float32)
    reference = np.zeros((10, 10, 10), np.uint8)
    reference[2:6, :5, :5] = 1
    image[0, 2:6, :5, :5] = np.linspace(0, 99, 100).reshape(4, 5, 5)
    case = case_of(Volume(image, geometry), LabelMap(reference, geometry))

    ((mean, std, low, high),) = measure([case], LABELS).fingerprint.intensity

    assert mean == pytest.approx(49.5)
    assert std == pytest.approx(28.866, abs=1e-3)  # of 0 to 99: sqrt((100**2 - 1) / 12)
    assert (low, high) == pytest.approx((0.495, 98.505))


def test_a_case_without_foreground_is_measured_as_a_whole_and_named(caplog):
    geometry = phantoms.grid(shape=(4, 4, 4))
    volume = Volume(np.arange(64, dtype=np.float32).reshape(1, 4, 4, 4), geometry)
    case = case_of(volume, LabelMap(np.zeros((4, 4, 4), np.uint8), geometry))

    print_ = measure([case], LABELS).fingerprint

    assert print_.intensity[0][0] == 31.5  # mean of 0 to 63
    assert print_.cases[0].class_voxels == (64, 0, 0)
    assert "the label is empty: all background: case_a" in caplog.text


@pytest.mark.parametrize("ignore_id", [255, -1])
def test_unannotated_voxels_are_no_foreground(ignore_id):
    volume, reference = block(0)
    labels = LabelSet.from_names(LABELS.names, ignore_id=ignore_id)
    array = reference.array.astype(np.int16)
    array[:, :, -2:] = ignore_id
    volume.array[..., -2:] = 1e6

    found = measure([case_of(volume, LabelMap(array, reference.geometry))], labels).fingerprint

    assert found.intensity[0][3] < 1000
    assert sum(found.cases[0].class_voxels) == 16 * 14 * 10


def test_only_cases_that_count_enter_the_fingerprint_but_all_are_checked():
    cases = block_cases(3)
    bright = Volume(cases[2].read_image().array + 1000, cases[2].read_image().geometry)
    validating = case_of(bright, cases[2].read_reference(), key="case_002")

    alone = measure(cases[:2], LABELS).fingerprint
    beside = measure([*cases[:2], validating], LABELS, counted={"case_000", "case_001"})

    assert beside.fingerprint == alone
    assert [case.key for case in beside.cases] == ["case_000", "case_001", "case_002"]
    bright.array[0, 0, 0, 0] = np.nan
    with pytest.raises(InputError, match="case_002"):
        measure([*cases[:2], validating], LABELS, counted={"case_000", "case_001"})


def test_what_was_saved_is_loaded(tmp_path):
    found = measure(block_cases(2), LABELS).fingerprint

    found.save(tmp_path / "fingerprint.json")

    assert Fingerprint.load(tmp_path / "fingerprint.json") == found


def test_all_bad_cases_are_reported_together():
    good, reference = block(0)
    shifted = phantoms.grid(shape=(16, 14, 12), spacing_mm=(1.0, 1.25, 2.5))
    unknown = LabelMap(reference.array * 4, reference.geometry)
    holed = Volume(np.where(good.array > 900, np.inf, good.array), good.geometry)
    holed.array[0, 0, 0, 0] = np.nan
    cases = [
        case_of(good, LabelMap(reference.array, shifted), key="shifted"),
        case_of(good, unknown, key="unknown"),
        case_of(holed, reference, key="holed"),
        case_of(good, reference, key="good"),
    ]
    steps = []

    with pytest.raises(MedsegError) as caught:
        measure(cases, LABELS, on_progress=lambda: steps.append(1))

    message = str(caught.value)
    assert len(steps) == 4
    assert message.startswith("data.source: 3 problems with the cases")
    assert "case shifted: image and label do not share a grid" in message
    assert "case unknown: the label holds 4, 8, which no class has" in message
    assert "correct the file or declare the missing labels" in message
    assert "voxels of the image are NaN or infinite; correct or remove the image" in message
    assert "case good" not in message


def test_cases_with_different_channels_are_refused():
    volume, reference = block(0)
    double = Volume(np.concatenate([volume.array, volume.array]), volume.geometry)

    with pytest.raises(InputError) as caught:
        measure([case_of(volume, reference), case_of(double, reference, key="b")], LABELS)

    assert caught.value.code == "E_CHANNELS"
    assert "[1, 2], such as case_a (1) and b (2)" in caught.value.what
    assert "same channels" in caught.value.remedy


def test_two_channels_are_measured_one_by_one():
    volume, reference = block(0)
    double = Volume(np.concatenate([volume.array, volume.array * 2]), volume.geometry)

    first, second = measure([case_of(double, reference)], LABELS).fingerprint.intensity

    assert second == pytest.approx([2 * value for value in first], rel=1e-5)
