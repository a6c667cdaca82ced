"""SEG files of any tool become label maps whose voxels lie where the tool drew them."""

import dicom_objects
import highdicom
import numpy as np
import phantoms
import pydicom
import pytest
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

import medseg
from medseg.core.errors import GeometryError, InputError, LabelError
from medseg.core.geometry import Geometry
from medseg.core.labels import LabelSet
from medseg.core.segmentation import LabelMap
from medseg.dicom.volumes import read_series
from medseg.sources.segmentations import read_segmentation, read_segments
from medseg.writers.dicom_seg import write_dicom_seg

OBLIQUE = dicom_objects.oblique_geometry()
TYPES = ("BINARY", "FRACTIONAL", "LABELMAP")


def lumps(geometry, count=2):
    rng = np.random.default_rng(11)
    array = rng.integers(0, count + 1, geometry.shape).astype(np.uint8)
    array[:3] = 0
    names = ["background", *(f"part {n}" for n in range(1, count + 1))]
    return LabelMap(array, geometry, LabelSet.from_names(names))


def highdicom_seg(case, masks, path, *, kind="BINARY", **options):
    """A SEG by highdicom; `masks` has shape (segments, I, J, K) on the slices of the case."""
    slices = [pydicom.dcmread(file) for file in case.series.paths]
    descriptions = [
        highdicom.seg.SegmentDescription(
            n,
            f"segment {n}",
            codes.SCT.AnatomicalStructure,
            codes.SCT.Liver,
            highdicom.seg.SegmentAlgorithmTypeValues.MANUAL,
            display_color=highdicom.color.CIELabColor.from_rgb(10 * n, 200, 30),
        )
        for n in range(1, len(masks) + 1)
    ]
    pixels = np.ascontiguousarray(np.array(masks).transpose(3, 2, 1, 0))
    highdicom.seg.Segmentation(
        slices, pixels, kind, descriptions, generate_uid(), 2, generate_uid(), 1, "m", "n", "1",
        "2", **options,
    ).save_as(path)  # fmt: skip
    return path


@pytest.mark.parametrize("kind", TYPES)
def test_what_is_written_is_read_on_the_grid_of_the_source(tmp_path, kind):
    case, grid = dicom_objects.series_case(tmp_path / "in", OBLIQUE)
    written = lumps(grid)
    path = write_dicom_seg(written, case, tmp_path / "seg.dcm", segmentation_type=kind)

    found = read_segmentation(path, source=case.series)

    assert found.geometry.difference(read_series(case.series).geometry) is None
    np.testing.assert_array_equal(found.array, written.array)
    assert found.labels.names == ("background", "part 1", "part 2")
    assert found.labels["part 1"].rgb == pytest.approx(written.labels["part 1"].rgb, abs=1)


def test_the_source_may_be_named_by_its_folder(tmp_path):
    case, grid = dicom_objects.series_case(tmp_path / "in" / "a", OBLIQUE)
    dicom_objects.series_case(tmp_path / "in" / "b", OBLIQUE, key="other")
    written = lumps(grid)
    path = write_dicom_seg(written, case, tmp_path / "seg.dcm")

    found = read_segmentation(path, source=tmp_path / "in")

    np.testing.assert_array_equal(found.array, written.array)


@pytest.mark.parametrize("kind", TYPES)
def test_segmentations_of_highdicom_are_read(tmp_path, kind):
    case, grid = dicom_objects.series_case(tmp_path / "in", OBLIQUE)
    expected = lumps(grid).array
    expected[:, :, [0, 4, 5]] = 0  # highdicom leaves these frames out
    masks = [(expected == n).astype(np.uint8) for n in (1, 2)]
    path = highdicom_seg(case, masks, tmp_path / "seg.dcm", kind=kind)

    found = read_segmentation(path, source=case.series)

    np.testing.assert_array_equal(found.array, expected)
    assert found.labels["segment 1"].type.value == "10200004"
    assert found.labels["segment 2"].rgb == pytest.approx((20, 200, 30), abs=1)


def test_without_a_source_omitted_slices_are_filled_in(tmp_path):
    case, grid = dicom_objects.series_case(tmp_path / "in", OBLIQUE)
    mask = np.zeros(grid.shape, np.uint8)
    mask[4:9, 3:6, [2, 3, 6]] = 1
    mask[4, 3, 2] = 0
    path = highdicom_seg(case, [mask], tmp_path / "seg.dcm")

    found = read_segmentation(path)

    assert found.array.shape == (19, 18, 5)
    placed = dicom_objects.at_positions(found.array, found.geometry.affine, grid)
    np.testing.assert_array_equal(placed, mask)


def test_frames_cut_to_a_part_of_the_matrix_and_turned_are_placed_by_position(tmp_path):
    case, grid = dicom_objects.series_case(tmp_path / "in", OBLIQUE)
    expected = lumps(grid).array
    path = write_dicom_seg(lumps(grid), case, tmp_path / "seg.dcm")
    order, flips = grid.reorientation("ASL")
    turned = grid.permuted(order, flips)

    found = read_segmentation(path, source=turned)

    back = LabelMap(expected, grid).reoriented("ASL").array
    np.testing.assert_array_equal(found.array, back)


def test_overlapping_segments_are_kept_apart_and_refused_as_one_map(tmp_path):
    case, grid = dicom_objects.series_case(tmp_path / "in", OBLIQUE)
    organ = np.zeros(grid.shape, np.uint8)
    organ[4:14, 4:12, 2:9] = 1
    lesion = np.zeros(grid.shape, np.uint8)
    lesion[6:9, 5:8, 3:5] = 1
    path = highdicom_seg(case, [lesion, organ], tmp_path / "seg.dcm")

    file = read_segments(path, source=case.series)

    np.testing.assert_array_equal(file.mask("segment 1"), lesion)
    np.testing.assert_array_equal(file.mask("segment 2"), organ)
    assert file.overlaps() == [("segment 1", "segment 2", 18)]
    with pytest.raises(LabelError, match=r"seg.dcm: 18 voxels belong to both .*on_overlap") as info:
        read_segmentation(path, source=case.series)
    assert info.value.code == "E_OVERLAP"
    last = read_segmentation(path, source=case.series, on_overlap="last")
    smallest = read_segmentation(path, source=case.series, on_overlap="smallest")
    np.testing.assert_array_equal(last.array, 2 * organ)
    np.testing.assert_array_equal(smallest.array, np.where(lesion, 1, 2 * organ))


def test_fractions_count_from_the_threshold(tmp_path):
    case, grid = dicom_objects.series_case(tmp_path / "in", OBLIQUE)
    shares = np.zeros(grid.shape, np.float32)
    shares[5, 5, 5], shares[6, 5, 5], shares[7, 5, 5] = 0.3, 0.5, 0.9
    path = highdicom_seg(
        case, [shares], tmp_path / "s.dcm", kind="FRACTIONAL", max_fractional_value=200
    )

    half = read_segmentation(path, source=case.series)
    low = read_segmentation(path, source=case.series, threshold=0.25)

    assert np.argwhere(half.array).tolist() == [[6, 5, 5], [7, 5, 5]]
    assert low.array.sum() == 3


def test_a_tilted_source_is_straightened_as_reading_does(tmp_path):
    case, grid = dicom_objects.tilted_case(
        tmp_path / "in", phantoms.grid(orientation="LPS", shape=(16, 24, 9))
    )
    array = np.zeros(grid.shape, np.uint8)
    array[3:9] = 1  # the gantry leans along j, so planes of equal i stay planes
    labels = LabelSet.from_names(["background", "liver"])
    path = write_dicom_seg(LabelMap(array, grid, labels), case, tmp_path / "seg.dcm")

    found = read_segmentation(path, source=case.series)

    image = read_series(case.series)
    assert found.geometry.difference(image.geometry) is None
    assert found.array.any(axis=(1, 2)).nonzero()[0].tolist() == [3, 4, 5, 6, 7, 8]
    assert found.array.sum() == array.sum()


def test_numbers_that_a_label_map_skips_stay_as_they_are(tmp_path):
    case, grid = dicom_objects.series_case(tmp_path / "in", OBLIQUE)
    path = write_dicom_seg(lumps(grid), case, tmp_path / "s.dcm", segmentation_type="LABELMAP")
    seg = pydicom.dcmread(path)
    seg.decompress()
    seg.SegmentSequence[1].SegmentNumber = 7
    seg.PixelData = seg.PixelData.replace(b"\x02", b"\x07")
    seg.save_as(path)

    found = read_segmentation(path, source=case.series)

    np.testing.assert_array_equal(found.array == 7, lumps(grid).array == 2)
    assert found.labels["part 2"].class_id == 7
    assert found.labels.names[3] == "unused_3"


def test_a_deflated_file_is_read(tmp_path):
    case, grid = dicom_objects.series_case(tmp_path / "in", OBLIQUE)
    path = write_dicom_seg(lumps(grid), case, tmp_path / "s.dcm", compression="deflate")

    found = read_segmentation(path, source=case.series)

    np.testing.assert_array_equal(found.array, lumps(grid).array)


def seg_of(tmp_path):
    case, grid = dicom_objects.series_case(tmp_path / "in", OBLIQUE)
    return write_dicom_seg(lumps(grid), case, tmp_path / "seg.dcm"), case, grid


def test_another_frame_of_reference_is_refused_unless_trusted(tmp_path):
    path, _, grid = seg_of(tmp_path)
    other, _ = dicom_objects.series_case(tmp_path / "other", OBLIQUE, key="other")

    with pytest.raises(InputError, match=r"another frame of reference.*trust_positions") as info:
        read_segmentation(path, source=other.series)
    trusted = read_segmentation(path, source=other.series, trust_positions=True)

    assert info.value.code == "E_FRAME_OF_REFERENCE"
    np.testing.assert_array_equal(trusted.array, lumps(grid).array)


def test_voxels_between_those_of_the_source_are_refused(tmp_path):
    path, _, grid = seg_of(tmp_path)
    shifted = grid.affine.copy()
    shifted[:3, 3] += 0.4 * grid.affine[:3, 0]

    with pytest.raises(GeometryError, match=r"frame 1: .*0.40 of a voxel.*without source") as info:
        read_segmentation(path, source=Geometry(grid.shape, shifted))

    assert info.value.code == "E_GRID"


def test_voxels_outside_the_source_are_refused(tmp_path):
    path, _, grid = seg_of(tmp_path)

    with pytest.raises(GeometryError, match="outside the source series; give the") as info:
        read_segmentation(path, source=grid.cropped((0, 0, 0), (19, 18, 6)))

    assert info.value.code == "E_OUTSIDE"


def test_a_folder_without_the_source_is_refused(tmp_path):
    path, _, _ = seg_of(tmp_path)
    dicom_objects.series_case(tmp_path / "x" / "a", OBLIQUE, key="a")
    dicom_objects.series_case(tmp_path / "x" / "b", OBLIQUE, key="b")

    with pytest.raises(InputError, match="holds 2 volumes, 0 of them referenced; give") as info:
        read_segmentation(path, source=tmp_path / "x")

    assert info.value.code == "E_SOURCE"


def test_a_file_cut_short_is_refused(tmp_path):
    path, case, _ = seg_of(tmp_path)
    seg = pydicom.dcmread(path)
    seg.PixelData = seg.PixelData[:-50]
    seg.save_as(path)

    with pytest.raises(InputError, match="bytes of pixels, its header declares") as info:
        read_segmentation(path, source=case.series)

    assert info.value.code == "E_TRUNCATED"


@pytest.mark.parametrize("content", [b"", b"no dicom at all" * 40, bytes(400)])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "other.dcm"
    path.write_bytes(content)

    with pytest.raises(InputError, match=r"other.dcm: is (not a|no) DICOM"):
        read_segmentation(path)


def test_an_image_is_refused(tmp_path):
    case, _ = dicom_objects.series_case(tmp_path / "in", OBLIQUE)

    with pytest.raises(InputError, match="is no DICOM segmentation; give a SEG") as info:
        read_segmentation(case.series.paths[0])

    assert info.value.code == "E_NOT_SEGMENTATION"


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "count"),
    [
        # Voxel counts by dcmqi's segimage2itkimage; the last four use encodings it does not read,
        # of the same liver.
        ("dicom_highdicom/test_files/seg_image_ct_binary.dcm", 638),
        ("dicom_highdicom/test_files/seg_image_ct_binary_fractional.dcm", 638),
        ("dicom_dcmqi/segmentations/liver.dcm", 107098),
        ("dicom_dcmqi/segmentations/sparse-labelmap-noppv.dcm", 630),
        ("dicom_dcmqi/segmentations/24x38x3/seg/label.seg", 315),
        ("dicom_pydicom_data/liver_rle.dcm", 107098),
        ("dicom_pydicom_data/liver_j2k.dcm", 107098),
        ("dicom_pydicom_data/liver_nonbyte_aligned_j2k.dcm", 107098),
        ("dicom_pydicom_data/liver_nonbyte_aligned_deflate.dcm", 107098),
    ],
)
def test_segmentations_of_other_tools_have_the_voxels_that_dcmqi_counts(real_data, name, count):
    found = medseg.read_segmentation(real_data("dicom") / name)

    assert int((found.array > 0).sum()) == count
