"""Structure sets hold the contours of the label map, as an independent reader fills them."""

import dicom_objects
import numpy as np
import phantoms
import pydicom
import pytest
from skimage.draw import polygon2mask

from medseg.core.errors import InputError, OutputError
from medseg.core.geometry import LPS_TO_RAS
from medseg.core.identity import Case
from medseg.core.labels import LabelSet
from medseg.core.segmentation import LabelMap
from medseg.dicom.volumes import read_dicom_volumes
from medseg.sources.segmentations import read_segmentation, read_segments
from medseg.writers.rtstruct import RtStructWriter, write_rtstruct

GRIDS = {
    "odd matrix, oblique": dicom_objects.oblique_geometry((19, 18, 6)),
    "axial": phantoms.grid(orientation="LPS", shape=(24, 22, 8)),
    "sagittal": phantoms.grid(orientation="PIR", shape=(24, 22, 8)),
    "one slice": phantoms.grid(orientation="LPS", shape=(24, 22, 1)),
}


def organs(geometry):
    """A ring with an island in its hole, and a lump that touches it."""
    i, j, k = np.ogrid[tuple(slice(0, n) for n in geometry.shape)]
    radius = np.hypot(i - 8.3, j - 8.1 + 0.2 * k)
    array = np.zeros(geometry.shape, np.uint8)
    array[(radius < 7) & (radius > 4)] = 1
    array[radius < 2.3] = 1
    array[(radius >= 7) & (i + j > 25)] = 2
    return LabelMap(array, geometry, LabelSet.from_names(["background", "kidney_left", "liver"]))


def independent_masks(path, case):
    """Regions filled by skimage at the pixel grid of the image that each contour refers to."""
    structures = pydicom.dcmread(path)
    images = {}
    for n, file in enumerate(case.series.paths):
        image = pydicom.dcmread(file, stop_before_pixels=True)
        images[image.SOPInstanceUID] = (n, image)
    masks = {}
    for item in structures.ROIContourSequence:
        masks[int(item.ReferencedROINumber)] = {}
        for contour in item.get("ContourSequence", []):
            n, image = images[contour.ContourImageSequence[0].ReferencedSOPInstanceUID]
            points = np.array(contour.ContourData, float).reshape(-1, 3)
            offset = points - np.array(image.ImagePositionPatient, float)
            row, column = np.array(image.ImageOrientationPatient, float).reshape(2, 3)
            down, across = (float(v) for v in image.PixelSpacing)
            assert np.abs(offset @ np.cross(row, column)).max() < 1e-3
            pixels = np.stack([offset @ column / down, offset @ row / across], axis=1)
            layer = masks[int(item.ReferencedROINumber)].setdefault(
                n, np.zeros((image.Rows, image.Columns), bool)
            )
            layer ^= polygon2mask((image.Rows, image.Columns), pixels)
    return masks


@pytest.mark.parametrize("name", GRIDS)
def test_an_independent_reader_gets_every_voxel_back(tmp_path, name):
    case, grid = dicom_objects.series_case(tmp_path / "in", GRIDS[name])
    label_map = organs(grid)

    path = write_rtstruct(label_map, case, tmp_path / "rt.dcm")

    for number, layers in independent_masks(path, case).items():
        for k in range(grid.shape[2]):
            found = layers.get(k, np.zeros(grid.shape[1::-1], bool))
            np.testing.assert_array_equal(found.T, label_map.array[:, :, k] == number)


@pytest.mark.parametrize("name", GRIDS)
def test_dciodvfy_finds_nothing_wrong(tmp_path, name):
    case, grid = dicom_objects.series_case(tmp_path / "in", GRIDS[name])

    path = write_rtstruct(organs(grid), case, tmp_path / "rt.dcm")

    assert dicom_objects.problems_of(path) == []


@pytest.mark.parametrize("name", GRIDS)
def test_reading_gives_the_label_map_back(tmp_path, name):
    case, grid = dicom_objects.series_case(tmp_path / "in", GRIDS[name])
    label_map = organs(grid)
    path = write_rtstruct(label_map, case, tmp_path / "rt.dcm")

    found = read_segmentation(path, source=case.series)

    np.testing.assert_array_equal(found.array, label_map.array)
    assert found.labels.names == label_map.labels.names
    assert found.labels["liver"].rgb == label_map.labels["liver"].rgb


def test_contours_of_a_tilted_series_lie_on_its_slices(tmp_path):
    case, grid = dicom_objects.tilted_case(tmp_path / "in", GRIDS["axial"])
    label_map = organs(grid)

    path = write_rtstruct(label_map, case, tmp_path / "rt.dcm")

    layers = independent_masks(path, case)[1]
    for k in range(grid.shape[2]):
        np.testing.assert_array_equal(layers[k].T, label_map.array[:, :, k] == 1)


def test_contours_of_an_enhanced_series_name_their_frames(tmp_path):
    case, grid = dicom_objects.enhanced_case(tmp_path, GRIDS["axial"])

    path = write_rtstruct(organs(grid), case, tmp_path / "rt.dcm")

    contour = pydicom.dcmread(path).ROIContourSequence[0].ContourSequence[0]
    assert contour.ContourImageSequence[0].ReferencedFrameNumber == 8
    assert contour.ContourGeometricType == "CLOSED_PLANAR"


def test_an_empty_result_is_an_object_too(tmp_path):
    case, grid = dicom_objects.series_case(tmp_path / "in", GRIDS["axial"])
    label_map = organs(grid)
    empty = LabelMap(np.zeros_like(label_map.array), grid, label_map.labels)

    path = write_rtstruct(empty, case, tmp_path / "rt.dcm")

    assert dicom_objects.problems_of(path) == []
    found = read_segmentation(path, source=case.series)
    assert not found.array.any()
    assert found.labels.names == label_map.labels.names


def test_the_header_names_patient_series_and_regions(tmp_path):
    case, grid = dicom_objects.series_case(tmp_path / "in", GRIDS["axial"], key="rt_1")

    (path,) = RtStructWriter(algorithm_name="kidneys", algorithm_version="2").write(
        organs(grid), case, folder=tmp_path
    )

    structures = pydicom.dcmread(path)
    source = pydicom.dcmread(case.series.paths[0])
    assert path.name == "rt_1_rtstruct.dcm"
    assert structures.PatientID == source.PatientID
    reference = structures.ReferencedFrameOfReferenceSequence[0]
    assert reference.FrameOfReferenceUID == source.FrameOfReferenceUID
    series = reference.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    assert series.SeriesInstanceUID == source.SeriesInstanceUID
    assert len(series.ContourImageSequence) == 8
    assert [roi.ROIName for roi in structures.StructureSetROISequence] == ["kidney_left", "liver"]
    code = structures.RTROIObservationsSequence[0].RTROIIdentificationCodeSequence[0]
    assert code.CodeValue == "64033007"
    assert structures.SeriesNumber == 102
    assert structures.ApprovalStatus == "UNAPPROVED"


def test_the_same_result_gives_the_same_bytes(tmp_path):
    case, grid = dicom_objects.series_case(tmp_path / "in", GRIDS["axial"])

    first = write_rtstruct(organs(grid), case, tmp_path / "1.dcm")
    second = write_rtstruct(organs(grid), case, tmp_path / "2.dcm")

    assert first.read_bytes() == second.read_bytes()


def test_a_case_that_is_no_dicom_is_refused():
    grid = phantoms.grid()

    with pytest.raises(OutputError, match=r"n: is no DICOM series, so RTSTRUCT .*; use output=nif"):
        write_rtstruct(organs(grid), Case("n", lambda: None), "unused.dcm")


def edited(tmp_path, change):
    case, grid = dicom_objects.series_case(tmp_path / "in", GRIDS["axial"])
    path = write_rtstruct(organs(grid), case, tmp_path / "rt.dcm")
    structures = pydicom.dcmread(path)
    change(structures)
    structures.save_as(path)
    return path, case


def test_holes_drawn_as_contours_of_their_own_are_holes(tmp_path):
    def redraw(structures):
        contour = structures.ROIContourSequence[0].ContourSequence[0]
        first = pydicom.dcmread(tmp_path / "in" / "slice_0001.dcm")
        origin = np.array(first.ImagePositionPatient, float)
        spacing = np.array([float(v) for v in first.PixelSpacing[::-1]] + [1.0])
        contours = []
        for low, high in ((2, 12), (5, 8)):
            corners = [(low, low, 0), (high, low, 0), (high, high, 0), (low, high, 0)]
            item = pydicom.Dataset()
            item.ContourImageSequence = contour.ContourImageSequence
            item.ContourGeometricType = "CLOSED_PLANAR"
            item.NumberOfContourPoints = 4
            points = (np.array(corners) - (0.5, 0.5, 0)) * spacing + origin
            item.ContourData = [f"{v:.3f}" for v in points.ravel()]
            contours.append(item)
        structures.ROIContourSequence[0].ContourSequence = contours
        del structures.ROIContourSequence[1].ContourSequence

    path, case = edited(tmp_path, redraw)

    found = read_segmentation(path, source=case.series)

    expected = np.zeros(found.array.shape, np.uint8)
    expected[2:12, 2:12, 0] = 1
    expected[5:8, 5:8, 0] = 0
    np.testing.assert_array_equal(found.array, expected)


def test_points_are_left_out_and_noted(tmp_path):
    def to_point(structures):
        structures.ROIContourSequence[1].ContourSequence[0].ContourGeometricType = "POINT"

    path, case = edited(tmp_path, to_point)

    found = read_segments(path, source=case.series)

    assert found.notes == ("liver: 1 points and open contours left out",)


def test_contours_off_the_slices_are_refused(tmp_path):
    def shift(structures):
        contour = structures.ROIContourSequence[0].ContourSequence[0]
        data = np.array(contour.ContourData, float).reshape(-1, 3) + np.array([0, 0, 1.5])
        contour.ContourData = [f"{v:.3f}" for v in data.ravel()]

    path, case = edited(tmp_path, shift)

    with pytest.raises(InputError, match=r"'kidney_left': has a contour 0.43 of a slice") as info:
        read_segmentation(path, source=case.series)

    assert info.value.code == "E_CONTOUR_PLANE"


def test_without_a_source_a_structure_set_has_no_voxels(tmp_path):
    path, _ = edited(tmp_path, lambda structures: None)

    with pytest.raises(InputError, match=r"is a structure set, .*; give the series it") as info:
        read_segmentation(path)

    assert info.value.code == "E_NEEDS_SOURCE"


@pytest.mark.real_data
def test_a_structure_set_of_another_tool_is_read(real_data):
    folder = real_data("dicom") / "dicom_rtutils" / "mock_data"

    found = read_segmentation(folder / "rt.dcm", source=folder)

    expected = rasterised(folder)
    np.testing.assert_array_equal(found.array > 0, expected)


def rasterised(folder):
    """The same contours filled by skimage on the same grid."""
    structures = pydicom.dcmread(folder / "rt.dcm", force=True)
    (volume,) = read_dicom_volumes(folder)
    mask = np.zeros(volume.spatial_shape, bool)
    for item in structures.ROIContourSequence:
        region = np.zeros_like(mask)
        for contour in item.get("ContourSequence", []):
            lps = np.array(contour.ContourData, float).reshape(-1, 3)
            points = volume.geometry.to_index(lps @ LPS_TO_RAS[:3, :3].T)
            k = int(np.rint(points[0, 2]))
            region[:, :, k] ^= polygon2mask(mask.shape[:2], points[:, :2])
        mask |= region
    return mask
