"""NIfTI output is read back by nibabel and by SimpleITK."""

import gzip

import nibabel
import numpy as np
import phantoms
import pytest
import SimpleITK

from medseg.core.errors import OutputError
from medseg.core.geometry import LPS_TO_RAS, Geometry
from medseg.core.identity import Case
from medseg.core.labels import LabelSet
from medseg.core.segmentation import LabelMap, ProbabilityMap
from medseg.writers.nifti import NiftiWriter, write_nifti


def case_of(result, key="case_007"):
    return Case(key, lambda: pytest.fail("a writer reads no image"))


def oblique(label_map):
    angle = np.deg2rad(17.0)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    geometry = Geometry(label_map.geometry.shape, turn @ label_map.geometry.affine)
    return LabelMap(label_map.array, geometry, label_map.labels)


@pytest.mark.parametrize("orientation", phantoms.ALL_48_ORIENTATIONS)
def test_nibabel_reads_the_same_voxels_at_the_same_positions(tmp_path, orientation):
    label_map = oblique(phantoms.labelled_boxes(orientation=orientation))

    (path,) = NiftiWriter().write(label_map, case_of(label_map), folder=tmp_path)

    image = nibabel.load(path)
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), label_map.array)
    # float32 in the header: 1e-5 mm at coordinates below 100 mm.
    np.testing.assert_allclose(image.affine, label_map.geometry.affine, atol=2e-5)
    assert image.header["sform_code"] == 1
    assert image.header["qform_code"] == 1
    np.testing.assert_allclose(image.get_qform(), image.get_sform(), atol=1e-4)
    assert image.header.get_xyzt_units() == ("mm", "unknown")
    assert image.get_data_dtype() == np.uint8
    assert path.name == "case_007.nii.gz"


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "PIR", "SLA"])
def test_simpleitk_reads_the_same_voxels_at_the_same_positions(tmp_path, orientation):
    label_map = oblique(phantoms.labelled_boxes(orientation=orientation))

    (path,) = NiftiWriter().write(label_map, case_of(label_map), folder=tmp_path)

    image = SimpleITK.ReadImage(str(path))
    array = SimpleITK.GetArrayFromImage(image).transpose(2, 1, 0)
    np.testing.assert_array_equal(array, label_map.array)
    lps = np.array([image.TransformIndexToPhysicalPoint(index) for index in [(0, 0, 0), (3, 5, 7)]])
    ras = (LPS_TO_RAS[:3, :3] @ lps.T).T
    np.testing.assert_allclose(
        ras, label_map.geometry.to_world_mm([(0, 0, 0), (3, 5, 7)]), atol=1e-3
    )


def test_probabilities_become_four_dimensional_float32(tmp_path):
    label_map = phantoms.labelled_boxes()
    rng = np.random.default_rng(3)
    array = rng.random((3, *label_map.array.shape))
    result = ProbabilityMap(array, label_map.geometry, phantoms.TWO_LABELS)

    (path,) = NiftiWriter().write(result, case_of(result), folder=tmp_path)

    image = nibabel.load(path)
    assert path.name == "case_007_probabilities.nii.gz"
    assert image.get_data_dtype() == np.float32
    np.testing.assert_array_equal(
        np.asanyarray(image.dataobj), array.astype(np.float32).transpose(1, 2, 3, 0)
    )


@pytest.mark.parametrize(
    ("count", "dtype"), [(3, np.uint8), (256, np.uint8), (257, np.uint16), (70000, np.int32)]
)
def test_the_label_set_decides_the_integers(tmp_path, count, dtype):
    labels = LabelSet.from_names([f"label_{n}" for n in range(count)])
    boxes = phantoms.labelled_boxes()
    label_map = LabelMap(boxes.array.astype(np.int64), boxes.geometry, labels)

    (path,) = NiftiWriter().write(label_map, case_of(label_map), folder=tmp_path)

    assert nibabel.load(path).get_data_dtype() == dtype


def test_a_sheared_grid_has_an_sform_alone(tmp_path):
    boxes = phantoms.labelled_boxes()
    affine = boxes.geometry.affine.copy()
    affine[1, 2] = 0.4
    label_map = LabelMap(boxes.array, Geometry(boxes.array.shape, affine))

    (path,) = NiftiWriter().write(label_map, case_of(label_map), folder=tmp_path)

    image = nibabel.load(path)
    assert image.header["qform_code"] == 0
    np.testing.assert_allclose(image.affine, affine, atol=2e-5)


def test_equal_results_give_equal_bytes(tmp_path):
    label_map = phantoms.labelled_boxes(orientation="PIR")

    (first,) = NiftiWriter().write(label_map, case_of(label_map), folder=tmp_path / "a")
    (second,) = NiftiWriter().write(label_map, case_of(label_map), folder=tmp_path / "b")

    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes()[4:8] == bytes(4)  # no time in the gzip header
    assert len(gzip.decompress(first.read_bytes())) == 352 + label_map.array.size


def test_an_empty_result_is_a_file_too(tmp_path):
    boxes = phantoms.labelled_boxes()
    label_map = LabelMap(np.zeros_like(boxes.array), boxes.geometry, boxes.labels)

    (path,) = NiftiWriter().write(label_map, case_of(label_map), folder=tmp_path)

    assert not np.asanyarray(nibabel.load(path).dataobj).any()


def test_negative_values_are_refused(tmp_path):
    boxes = phantoms.labelled_boxes()
    label_map = LabelMap(boxes.array.astype(np.int16) - 1, boxes.geometry)

    with pytest.raises(OutputError, match=r"case_007.nii.gz: .* from -1 to 1, .*; check what"):
        NiftiWriter().write(label_map, case_of(label_map), folder=tmp_path)

    assert list(tmp_path.iterdir()) == []


def test_a_grid_beyond_the_format_is_refused(tmp_path):
    geometry = Geometry.from_spacing((32768, 1, 1), spacing_mm=(1.0, 1.0, 1.0))

    with pytest.raises(OutputError, match=r"does not fit NIfTI-1, which ends at 32767 .*; crop"):
        write_nifti(np.zeros(geometry.shape, np.uint8), geometry, tmp_path / "long.nii.gz")


def test_a_key_that_is_no_file_name_is_refused(tmp_path):
    label_map = phantoms.labelled_boxes()

    with pytest.raises(OutputError, match=r"'\.\./x' cannot be a file name; use keys without"):
        NiftiWriter().write(label_map, case_of(label_map, key="../x"), folder=tmp_path)
