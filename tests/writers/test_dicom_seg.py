"""DICOM-SEG output is valid, and other programs read back every voxel where it was."""

import dicom_objects
import numpy as np
import phantoms
import pydicom
import pytest

from medseg.core.errors import ConfigError, GeometryError, LabelError, OutputError
from medseg.core.geometry import ALL_ORIENTATIONS, Geometry
from medseg.core.identity import Case
from medseg.core.labels import CodedConcept, Label, LabelSet
from medseg.core.segmentation import LabelMap, ProbabilityMap
from medseg.core.segments import SegmentSet, segment_of
from medseg.dicom.headers import found_volume, index_folder
from medseg.dicom.volumes import read_series
from medseg.sources.segmentations import read_segments
from medseg.writers.dicom_seg import DicomSegWriter, write_dicom_seg

TYPES = ("BINARY", "FRACTIONAL", "LABELMAP")


def blobs(geometry, count=2, seed=4):
    """Random voxels of `count` classes, so that no two planes or directions are alike."""
    rng = np.random.default_rng(seed)
    array = rng.integers(0, count + 1, geometry.shape)
    array[rng.random(geometry.shape) < 0.5] = 0
    array[0] = 0
    names = ["background", *(f"organ_{n}" for n in range(1, count + 1))]
    return LabelMap(array.astype(np.int32), geometry, LabelSet.from_names(names))


def write(label_map, case, tmp_path, **options):
    return write_dicom_seg(label_map, case, tmp_path / "seg.dcm", **options)


def assert_masks_equal(masks, label_map):
    for label in label_map.labels.foreground:
        expected = label_map.array == label.class_id
        found = masks.get(label.class_id, np.zeros_like(expected))
        np.testing.assert_array_equal(found > 0.5, expected)


GRIDS = {
    "odd matrix, oblique": dicom_objects.oblique_geometry(),
    "axial": phantoms.grid(orientation="LPS", shape=(13, 16, 7)),
    "sagittal": phantoms.grid(orientation="PIR", shape=(17, 9, 8)),
    "coronal, left-handed": phantoms.grid(orientation="LIP", shape=(7, 11, 9)),
    "two slices": phantoms.grid(orientation="LPS", shape=(5, 3, 2)),
    "one slice": phantoms.grid(orientation="LPS", shape=(9, 7, 1)),
}


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("kind", TYPES)
def test_highdicom_reads_every_voxel_at_its_position(tmp_path, name, kind):
    case, grid = dicom_objects.series_case(tmp_path / "in", GRIDS[name])
    label_map = blobs(grid)

    path = write(label_map, case, tmp_path, segmentation_type=kind)

    assert_masks_equal(dicom_objects.highdicom_masks(path, grid), label_map)


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_dcmqi_reads_every_voxel_at_its_position(tmp_path, name, kind):
    case, grid = dicom_objects.series_case(tmp_path / "in", GRIDS[name])
    label_map = blobs(grid)

    path = write(label_map, case, tmp_path, segmentation_type=kind)

    assert_masks_equal(dicom_objects.dcmqi_masks(path, tmp_path / "q", grid), label_map)


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL"])
def test_dciodvfy_finds_nothing_wrong(tmp_path, name, kind):
    case, grid = dicom_objects.series_case(tmp_path / "in", GRIDS[name])

    path = write(blobs(grid), case, tmp_path, segmentation_type=kind)

    assert dicom_objects.problems_of(path) == []


@pytest.mark.parametrize("orientation", ALL_ORIENTATIONS[::5])
def test_axes_may_run_in_any_order_and_direction(tmp_path, orientation):
    case, grid = dicom_objects.series_case(tmp_path / "in", GRIDS["odd matrix, oblique"])
    label_map = blobs(grid)

    path = write(label_map.reoriented(orientation), case, tmp_path)

    assert_masks_equal(dicom_objects.highdicom_masks(path, grid), label_map)


def test_every_orientation_of_a_series_keeps_its_positions(tmp_path):
    for number, orientation in enumerate(ALL_ORIENTATIONS):
        boxes = phantoms.labelled_boxes(
            orientation=orientation, shape=(11, 13, 9), spacing_mm=(6, 5, 7)
        )
        case, _ = dicom_objects.series_case(tmp_path / str(number), boxes.geometry)

        path = write(boxes, case, tmp_path)

        masks = dicom_objects.highdicom_masks(path, boxes.geometry)
        assert_masks_equal(masks, boxes)


def test_slices_in_shuffled_files_are_found_by_position(tmp_path):
    case, grid = dicom_objects.series_case(tmp_path / "in", GRIDS["axial"])
    shuffled = [case.series.paths[n] for n in (3, 0, 6, 1, 5, 2, 4)]
    label_map = blobs(grid)

    path = write(label_map, dicom_objects.case_of(shuffled), tmp_path)

    assert_masks_equal(dicom_objects.highdicom_masks(path, grid), label_map)


def test_an_enhanced_source_is_referenced_frame_by_frame(tmp_path):
    case, grid = dicom_objects.enhanced_case(tmp_path, GRIDS["odd matrix, oblique"])
    label_map = blobs(grid)

    path = write(label_map, case, tmp_path)

    assert dicom_objects.problems_of(path) == []
    assert_masks_equal(dicom_objects.highdicom_masks(path, grid), label_map)
    groups = pydicom.dcmread(path).PerFrameFunctionalGroupsSequence
    sources = [g.DerivationImageSequence[0].SourceImageSequence[0] for g in groups[:11]]
    # Frames of the source are stored from the last slice to the first.
    assert [s.ReferencedFrameNumber for s in sources] == list(range(11, 0, -1))


def test_frames_of_a_tilted_series_lie_on_its_slices(tmp_path):
    case, grid = dicom_objects.tilted_case(tmp_path / "in", GRIDS["axial"])
    label_map = blobs(grid)

    path = write(label_map, case, tmp_path)

    assert dicom_objects.problems_of(path) == []
    seg = pydicom.dcmread(path)
    frames = seg.pixel_array[:7]
    for k, group in enumerate(seg.PerFrameFunctionalGroupsSequence[:7]):
        source = pydicom.dcmread(case.series.paths[k])
        position = group.PlanePositionSequence[0].ImagePositionPatient
        assert position == pytest.approx([float(v) for v in source.ImagePositionPatient], abs=1e-6)
        np.testing.assert_array_equal(frames[k].T, label_map.array[:, :, k] == 1)


def test_a_result_on_the_upright_grid_of_a_tilted_series_returns_to_its_slices(tmp_path):
    case, _ = dicom_objects.tilted_case(tmp_path / "in", GRIDS["axial"])
    upright = read_series(case.series).geometry
    half = np.zeros(upright.shape, np.uint8)
    half[: upright.shape[0] // 2] = 1
    probabilities = np.stack([1 - half, half]).astype(np.float32)
    labels = LabelSet.from_names(["background", "liver"])

    first = write_dicom_seg(LabelMap(half, upright, labels), case, tmp_path / "1.dcm")
    second = write_dicom_seg(
        ProbabilityMap(probabilities, upright, labels), case, tmp_path / "2.dcm"
    )

    # The gantry leans along the rows only, so a plane between columns stays where it is.
    pixels = pydicom.dcmread(first).pixel_array
    inside = pixels[:, 4:-4]
    assert pixels.shape == (7, 16, 13)
    assert inside[:, :, :6].all()
    assert not inside[:, :, 6:].any()
    np.testing.assert_array_equal(pydicom.dcmread(second).pixel_array, pixels)


def test_slices_missing_from_the_series_get_no_frame(tmp_path):
    case, grid = dicom_objects.series_case(tmp_path / "in", GRIDS["axial"])
    label_map = blobs(grid)
    rest = [path for k, path in enumerate(case.series.paths) if k != 3]

    path = write(label_map, dicom_objects.case_of(rest), tmp_path)

    seg = pydicom.dcmread(path)
    assert seg.NumberOfFrames == 12
    np.testing.assert_array_equal(
        seg.pixel_array[:6].transpose(2, 1, 0), np.delete(label_map.array, 3, axis=2) == 1
    )
    assert dicom_objects.problems_of(path) == []


@pytest.mark.parametrize("kind", TYPES)
def test_an_empty_result_is_an_object_too(tmp_path, kind):
    case, grid = dicom_objects.series_case(tmp_path / "in", GRIDS["axial"])
    empty = blobs(grid)
    empty = LabelMap(np.zeros_like(empty.array), grid, empty.labels)

    path = write(empty, case, tmp_path, segmentation_type=kind)

    masks = dicom_objects.highdicom_masks(path, grid)
    assert sorted(masks) == [1, 2]
    assert not any(mask.any() for mask in masks.values())


def test_an_empty_result_without_empty_frames_has_those_of_one_segment(tmp_path):
    case, grid = dicom_objects.series_case(tmp_path / "in", GRIDS["axial"])
    labels = LabelSet.from_names(["background", *(f"organ_{n}" for n in range(6))])
    empty = LabelMap(np.zeros(grid.shape, np.uint8), grid, labels)

    path = write(empty, case, tmp_path, empty_frames="omit")

    assert pydicom.dcmread(path).NumberOfFrames == 7
    assert dicom_objects.problems_of(path) == []


def test_omitted_frames_leave_no_hole_within_a_segment(tmp_path):
    case, grid = dicom_objects.series_case(tmp_path / "in", GRIDS["axial"])
    label_map = blobs(grid)
    array = np.zeros_like(label_map.array)
    array[4, 5, [1, 4]] = 1
    array[5, 5, 6] = 2
    label_map = LabelMap(array, grid, label_map.labels)

    path = write(label_map, case, tmp_path, empty_frames="omit")

    assert pydicom.dcmread(path).NumberOfFrames == 5  # slices 1 to 4 of one, 6 of the other
    assert dicom_objects.problems_of(path) == []
    assert_masks_equal(dicom_objects.highdicom_masks(path, grid), label_map)
    assert_masks_equal(dicom_objects.dcmqi_masks(path, tmp_path / "q", grid), label_map)


def test_a_hundred_and_four_segments_come_back(tmp_path):
    case, grid = dicom_objects.series_case(tmp_path / "in", GRIDS["odd matrix, oblique"])
    label_map = blobs(grid, count=104)

    for kind in ("BINARY", "LABELMAP"):
        path = write(label_map, case, tmp_path, segmentation_type=kind)

        assert_masks_equal(dicom_objects.highdicom_masks(path, grid), label_map)
        assert_masks_equal(dicom_objects.dcmqi_masks(path, tmp_path / kind, grid), label_map)


def test_more_than_255_segments_need_16_bits(tmp_path):
    case, grid = dicom_objects.series_case(tmp_path / "in", GRIDS["odd matrix, oblique"])
    label_map = blobs(grid, count=300)

    for compression in ("rle", "none"):
        path = write(
            label_map, case, tmp_path, segmentation_type="LABELMAP", compression=compression
        )

        seg = pydicom.dcmread(path)
        assert seg.BitsAllocated == 16
        # highdicom 0.28 takes segments modulo 256 here, so pydicom's own decoder is the judge.
        np.testing.assert_array_equal(seg.pixel_array.transpose(2, 1, 0), label_map.array)
        masks = dicom_objects.dcmqi_masks(path, tmp_path / compression, grid)
        assert_masks_equal(masks, label_map)


def test_a_deflated_object_is_read_by_others(tmp_path):
    case, grid = dicom_objects.series_case(tmp_path / "in", GRIDS["odd matrix, oblique"])
    label_map = blobs(grid)

    path = write(label_map, case, tmp_path, compression="deflate")

    assert_masks_equal(dicom_objects.highdicom_masks(path, grid), label_map)
    assert_masks_equal(dicom_objects.dcmqi_masks(path, tmp_path / "q", grid), label_map)


def test_probabilities_are_stored_in_256_steps(tmp_path):
    case, grid = dicom_objects.series_case(tmp_path / "in", GRIDS["odd matrix, oblique"])
    labels = blobs(grid).labels
    array = np.random.default_rng(8).dirichlet([1.0, 1.0, 1.0], grid.shape).transpose(3, 0, 1, 2)
    result = ProbabilityMap(array.astype(np.float32), grid, labels)

    path = write(result, case, tmp_path, segmentation_type="FRACTIONAL")

    seg = pydicom.dcmread(path)
    assert seg.SegmentationFractionalType == "PROBABILITY"
    masks = dicom_objects.highdicom_masks(path, grid)
    for number in (1, 2):
        # Rounding to 1/255 is at most half a step.
        np.testing.assert_allclose(masks[number], array[number], atol=0.5 / 255 + 1e-6)


def test_a_binary_object_of_probabilities_holds_the_likeliest_class(tmp_path):
    case, grid = dicom_objects.series_case(tmp_path / "in", GRIDS["axial"])
    label_map = blobs(grid)
    array = np.stack([np.where(label_map.array == n, 0.6, 0.2) for n in range(3)])

    path = write(ProbabilityMap(array, grid, label_map.labels), case, tmp_path)

    assert_masks_equal(dicom_objects.highdicom_masks(path, grid), label_map)


def test_voxels_without_annotation_are_background(tmp_path):
    case, grid = dicom_objects.series_case(tmp_path / "in", GRIDS["axial"])
    label_map = blobs(grid)
    array = label_map.array.copy()
    array[0] = 255
    labels = LabelSet(label_map.labels.labels, ignore_id=255)

    path = write(LabelMap(array, grid, labels), case, tmp_path)

    assert_masks_equal(dicom_objects.highdicom_masks(path, grid), label_map)


def test_the_header_says_who_what_and_from_where(tmp_path):
    def fill(dataset, number):
        dataset.PatientName = "LEAK^TEST"
        dataset.PatientID = "LEAK-0815"
        dataset.SeriesNumber = 7
        dataset.AccessionNumber = "A1"
        dataset.PatientWeight = 71

    case, grid = dicom_objects.series_case(tmp_path / "in", GRIDS["axial"], edit=fill)
    liver = Label("liver", 1, colour=(255, 0, 0))
    tumour = Label("liver_tumour", 2, type=CodedConcept("4147007", "SCT", "Mass"))
    labels = LabelSet((Label("background", 0), liver, tumour))
    label_map = LabelMap(blobs(grid).array, grid, labels)

    path = write(
        label_map,
        case,
        tmp_path,
        algorithm_name="liver-3d",
        algorithm_version="1.4",
        bundle_sha256="f" * 64,
    )

    seg = pydicom.dcmread(path)
    source = pydicom.dcmread(case.series.paths[0])
    assert seg.PatientID == "LEAK-0815"
    assert seg.AccessionNumber == "A1"
    assert seg.PatientWeight == 71
    assert seg.StudyInstanceUID == source.StudyInstanceUID
    assert seg.FrameOfReferenceUID == source.FrameOfReferenceUID
    assert seg.SeriesNumber == 701
    assert seg.SeriesDescription == "liver-3d 1.4 segmentation (AI result, not reviewed)"
    assert seg.ContentDate == source.AcquisitionDate
    assert len(seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == 7
    assert seg.ContributingEquipmentSequence[0].ManufacturerModelName == "phantom"
    first, second = seg.SegmentSequence
    assert first.SegmentAlgorithmType == "AUTOMATIC"
    assert first.SegmentAlgorithmName == "liver-3d"
    assert first.SegmentedPropertyTypeCodeSequence[0].CodeValue == "10200004"
    assert first.RecommendedDisplayCIELabValue == pytest.approx([34885, 53485, 50171], abs=66)
    assert first.TrackingUID != second.TrackingUID
    assert second.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "49755003"
    assert second.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Mass"
    assert second.AnatomicRegionSequence[0].CodeMeaning == "Liver"
    assert dicom_objects.problems_of(path) == []


def test_names_in_any_character_set_keep_their_bytes(tmp_path):
    def rename(dataset, number):
        dataset.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
        dataset.PatientName = "Yamada^Tarou=山田^太郎"

    case, grid = dicom_objects.series_case(tmp_path / "in", GRIDS["axial"], edit=rename)

    path = write(blobs(grid), case, tmp_path)

    source = pydicom.dcmread(case.series.paths[0])
    seg = pydicom.dcmread(path)
    assert seg.get_item("PatientName").value == source.get_item("PatientName").value
    assert seg.PatientName.ideographic == "山田^太郎"


def test_missing_optional_elements_are_written_empty(tmp_path):
    def strip(dataset, number):
        for keyword in ("PatientBirthDate", "StudyID", "AccessionNumber", "SeriesNumber"):
            delattr(dataset, keyword)

    case, grid = dicom_objects.series_case(tmp_path / "in", GRIDS["axial"], edit=strip)

    path = write(blobs(grid), case, tmp_path)

    seg = pydicom.dcmread(path)
    assert "PatientBirthDate" in seg
    assert not seg.PatientBirthDate
    assert seg.SeriesNumber == 1


def test_a_series_without_any_date_gives_the_same_bytes_on_every_day(tmp_path):
    def strip(dataset, number):
        for keyword in [name for name in dataset.dir() if "Date" in name]:
            delattr(dataset, keyword)

    case, grid = dicom_objects.series_case(tmp_path / "in", GRIDS["axial"], edit=strip)

    seg = pydicom.dcmread(write(blobs(grid), case, tmp_path))

    assert (seg.SeriesDate, seg.ContentDate, seg.ContentTime) == ("19000101", "19000101", "000000")


def test_a_result_of_a_lossy_image_is_marked_lossy(tmp_path):
    def mark(dataset, number):
        dataset.LossyImageCompression = "01"
        dataset.LossyImageCompressionRatio = 12
        dataset.LossyImageCompressionMethod = "ISO_10918_1"

    case, grid = dicom_objects.series_case(tmp_path / "in", GRIDS["axial"], edit=mark)

    path = write(blobs(grid), case, tmp_path)

    assert pydicom.dcmread(path).LossyImageCompression == "01"
    assert dicom_objects.problems_of(path) == []


@pytest.mark.parametrize("kind", TYPES)
def test_the_same_result_gives_the_same_bytes_and_another_gives_other_uids(tmp_path, kind):
    case, grid = dicom_objects.series_case(tmp_path / "in", GRIDS["axial"])
    label_map = blobs(grid)
    options = {"segmentation_type": kind, "bundle_sha256": "a" * 64}

    first = write_dicom_seg(label_map, case, tmp_path / "1.dcm", **options)
    again = write_dicom_seg(label_map, case, tmp_path / "2.dcm", **options)
    other = write_dicom_seg(blobs(grid, seed=9), case, tmp_path / "3.dcm", **options)

    assert first.read_bytes() == again.read_bytes()
    a, b = pydicom.dcmread(first), pydicom.dcmread(other)
    assert a.SOPInstanceUID != b.SOPInstanceUID
    assert a.SeriesInstanceUID != b.SeriesInstanceUID
    assert a.SegmentSequence[0].TrackingUID == b.SegmentSequence[0].TrackingUID


def lesions(grid):
    """An organ with two lesions in it, each a segment of its own with a tracking UID."""
    organ, first, second = (np.zeros(grid.shape, bool) for _ in range(3))
    organ[2:16, 3:14, 1:10] = True
    first[4:6, 5:8, 2:4] = True
    second[9:12, 6:8, 7:9] = True
    lesion = CodedConcept("52988006", "SCT", "Lesion")
    segments = (
        segment_of(Label("liver", 1), organ),
        segment_of(Label("lesion 1", 2, type=lesion), first, tracking_uid="2.25.11"),
        segment_of(Label("lesion 2", 3, type=lesion), second, tracking_uid="2.25.12"),
    )
    return SegmentSet("case_1", grid, segments), (organ, first, second)


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL"])
def test_segments_that_overlap_keep_their_voxels(tmp_path, kind):
    case, grid = dicom_objects.series_case(tmp_path / "in", GRIDS["odd matrix, oblique"])
    segments, expected = lesions(grid)

    path = write(segments, case, tmp_path, segmentation_type=kind)

    seg = pydicom.dcmread(path)
    assert seg.SegmentsOverlap == "YES"
    assert dicom_objects.problems_of(path) == []
    masks = dicom_objects.highdicom_masks(path, grid)
    for number, mask in enumerate(expected, start=1):
        np.testing.assert_array_equal(masks[number] > 0.5, mask)


def test_instances_keep_their_tracking_uids_and_come_back(tmp_path):
    case, grid = dicom_objects.series_case(tmp_path / "in", GRIDS["odd matrix, oblique"])
    segments, expected = lesions(grid)

    path = write(segments, case, tmp_path)

    found = read_segments(path, source=case.series)
    assert [s.tracking_uid for s in found.segments[1:]] == ["2.25.11", "2.25.12"]
    assert [s.label.name for s in found.segments] == ["liver", "lesion 1", "lesion 2"]
    for segment, mask in zip(found.segments, expected, strict=True):
        np.testing.assert_array_equal(found.mask(segment.label.name), mask)


def test_overlaps_cannot_become_a_label_map(tmp_path):
    case, grid = dicom_objects.series_case(tmp_path / "in", GRIDS["odd matrix, oblique"])
    segments, _ = lesions(grid)

    with pytest.raises(
        OutputError, match=r"12 voxels belong to both 'liver' and 'lesion 1'.*BINARY"
    ):
        write(segments, case, tmp_path, segmentation_type="LABELMAP")


def test_a_projection_image_gets_a_segmentation_without_positions(tmp_path):
    case, label_map = projection(tmp_path)

    path = write(label_map, case, tmp_path)

    seg = pydicom.dcmread(path)
    assert dicom_objects.problems_of(path) == []
    assert "PlanePositionSequence" not in seg.PerFrameFunctionalGroupsSequence[0]
    np.testing.assert_array_equal(seg.pixel_array[0].T, label_map.array[:, :, 0] == 1)
    found = read_segments(path, source=case.series)
    np.testing.assert_array_equal(found.label_map().array, label_map.array)


def projection(tmp_path):
    """A computed radiograph without any position, as its case and a label map."""

    def to_radiograph(dataset, _):
        dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
        dataset.Modality = "CR"
        for keyword in (
            "ImagePositionPatient", "ImageOrientationPatient", "SliceThickness", "PixelSpacing",
            "FrameOfReferenceUID", "PositionReferenceIndicator",
        ):  # fmt: skip
            delattr(dataset, keyword)

    case, _ = dicom_objects.series_case(tmp_path / "in", GRIDS["one slice"], edit=to_radiograph)
    geometry = found_volume(case.series).geometry
    return case, blobs(geometry)


def test_the_writer_names_the_file_after_the_case(tmp_path):
    case, grid = dicom_objects.series_case(tmp_path / "in", GRIDS["axial"], key="liver_09")

    (path,) = DicomSegWriter(uid_root="1.2.3").write(blobs(grid), case, folder=tmp_path)

    assert path == tmp_path / "liver_09.dcm"
    assert pydicom.dcmread(path).SOPInstanceUID.startswith("1.2.3.")


def test_a_case_that_is_no_dicom_is_refused():
    grid = phantoms.grid()
    case = Case("nifti_1", lambda: None)

    with pytest.raises(OutputError, match=r"nifti_1: is no DICOM series, .*; use output=nifti"):
        write_dicom_seg(blobs(grid), case, "unused.dcm")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda g: g.resized((13, 16, 8)), "shape"),
        (lambda g: g.cropped((0, 0, 0), (13, 16, 6)), "shape"),
        (lambda g: Geometry(g.shape, g.affine + _shift(0.5)), "voxel positions up to 0.5 mm apart"),
        (lambda g: dicom_objects.oblique_geometry(g.shape), "its axes are not parallel"),
    ],
)
def test_a_result_off_the_slices_is_refused(tmp_path, change, reason):
    case, grid = dicom_objects.series_case(tmp_path / "in", GRIDS["axial"])

    with pytest.raises(GeometryError, match=rf"case_1: .*{reason}.*; write the result of predict"):
        write(blobs(change(grid)), case, tmp_path)


def _shift(millimetres):
    matrix = np.zeros((4, 4))
    matrix[0, 3] = millimetres
    return matrix


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "FrameOfReferenceUID"])
def test_a_source_without_identifiers_is_refused_rather_than_completed(tmp_path, keyword):
    case, grid = dicom_objects.series_case(
        tmp_path / "in", GRIDS["axial"], edit=lambda dataset, _: delattr(dataset, keyword)
    )

    with pytest.raises(OutputError, match=f"case_1: .*no {keyword}.*; send the series again"):
        write(blobs(grid), case, tmp_path)


def test_numbers_without_a_label_are_refused(tmp_path):
    case, grid = dicom_objects.series_case(tmp_path / "in", GRIDS["axial"])
    label_map = LabelMap(blobs(grid).array + 2, grid, blobs(grid).labels)

    with pytest.raises(
        LabelError, match=r"case_1: .*numbers from 2 to 4, .*0 to 2; give the label"
    ):
        write(label_map, case, tmp_path)


def test_unknown_words_are_refused_before_anything_is_read():
    with pytest.raises(ConfigError, match="segmentation_type: is 'BITS'; use one of BINARY, FRAC"):
        DicomSegWriter(segmentation_type="BITS")


def test_rle_is_refused_for_single_bits(tmp_path):
    case, grid = dicom_objects.series_case(tmp_path / "in", GRIDS["axial"])

    with pytest.raises(ConfigError, match="compression: DICOM has no RLE for single bits; use def"):
        write(blobs(grid), case, tmp_path, compression="rle")


def test_no_error_or_log_names_the_patient(tmp_path, caplog):
    def fill(dataset, number):
        dataset.PatientName = "LEAK^TEST"
        dataset.PatientID = "LEAK-0815"

    case, grid = dicom_objects.series_case(tmp_path / "in", GRIDS["axial"], edit=fill)
    with caplog.at_level("DEBUG"):
        write(blobs(grid), case, tmp_path)
        with pytest.raises(GeometryError) as caught:
            write(blobs(grid.resized((2, 3, 4))), case, tmp_path)

    assert "LEAK" not in caplog.text + str(caught.value)


@pytest.mark.real_data
def test_a_real_series_gets_a_segmentation_that_other_programs_read(real_data, tmp_path):
    folder = real_data("brain_mr_dicom") / "Study1" / "13_HCropVolume"
    (volume,) = index_folder(folder).volumes
    label_map = blobs(volume.geometry)
    case = Case("brain", lambda: None, series=volume.series)

    path = write(label_map, case, tmp_path)

    assert dicom_objects.problems_of(path) == []
    assert_masks_equal(dicom_objects.highdicom_masks(path, volume.geometry), label_map)
    assert_masks_equal(dicom_objects.dcmqi_masks(path, tmp_path / "q", volume.geometry), label_map)
