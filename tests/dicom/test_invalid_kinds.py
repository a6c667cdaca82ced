"""Every kind of DICOM that cannot be read rightly is refused, with a code, a place and a remedy."""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import dicom_cases as cases
import numpy as np
import pytest
from dicom_cases import SHAPE, save, save_all, slices
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from medseg.core.errors import InputError
from medseg.dicom.headers import index_folder
from medseg.dicom.volumes import read_dicom_volumes

Builder = Callable[[Path], None]
REFUSED: dict[str, tuple[str, Builder]] = {}


def refused(code: str) -> Callable[[Builder], Builder]:
    """Marks a builder of a folder that must be refused with `code`."""

    def mark(builder: Builder) -> Builder:
        REFUSED[builder.__name__] = (code, builder)
        return builder

    return mark


def with_edit(folder: Path, edit: cases.Edit) -> None:
    save_all(slices(edit=edit), folder)


def one_slice(keyword: str, value: object) -> cases.Edit:
    """Changes one element of slice 4 only."""

    def edit(ds: Dataset, k: int) -> None:
        if k == 4:
            setattr(ds, keyword, value)

    return edit


def bad_text(keyword: str, value: str, *, only: int | None = None) -> cases.Edit:
    def edit(ds: Dataset, k: int) -> None:
        if only is None or k == only:
            cases.any_value(ds, keyword, value)

    return edit


def without(keyword: str, *, only: int | None = None) -> cases.Edit:
    def edit(ds: Dataset, k: int) -> None:
        if only is None or k == only:
            delattr(ds, keyword)

    return edit


# --- positions ------------------------------------------------------------------------------------


@refused("E_SLICE_GAP")
def one_slice_missing(folder: Path) -> None:
    datasets = slices()
    del datasets[4]
    save_all(datasets, folder)


@refused("E_SLICE_GAP")
def several_slices_missing(folder: Path) -> None:
    datasets = slices()
    del datasets[3:6]
    save_all(datasets, folder)


@refused("E_SLICE_GAP")
def every_other_slice_missing_in_a_half(folder: Path) -> None:
    datasets = slices(shape=(19, 18, 16))
    save_all([*datasets[:8], *datasets[8::2]], folder)


def move_slices(folder: Path, shift: Callable[[int], tuple[float, float, float]]) -> None:
    def edit(ds: Dataset, k: int) -> None:
        moved = np.array(ds.ImagePositionPatient, float) + shift(k)
        ds.ImagePositionPatient = [round(float(value), 6) for value in moved]

    with_edit(folder, edit)


@refused("E_SLICE_GAP")
def spacing_drifts_by_40_um_per_slice(folder: Path) -> None:
    move_slices(folder, lambda k: (0, 0, 0.02 * k * k))


@refused("E_SLICE_GAP")
def one_slice_out_of_place(folder: Path) -> None:
    move_slices(folder, lambda k: (0, 0, 0.3 if k == 5 else 0))


@refused("E_SLICE_GAP")
def one_slice_shifted_sideways(folder: Path) -> None:
    move_slices(folder, lambda k: (2.0 if k == 5 else 0, 0, 0))


@refused("E_SLICE_DRIFT")
def slices_drift_sideways_by_40_um(folder: Path) -> None:
    move_slices(folder, lambda k: (0.04 * k, 0, 0))


@refused("E_DUPLICATE")
def same_instance_with_other_bytes(folder: Path) -> None:
    datasets = slices()
    save_all(datasets, folder)
    datasets[3].ImageComments = "changed"
    save(datasets[3], folder / "again.dcm")


@refused("E_DUPLICATE_POSITION")
def same_positions_twice_unexplained(folder: Path) -> None:
    datasets = slices()
    save_all(datasets, folder, name="a{k}")
    for ds in datasets:
        ds.SOPInstanceUID = generate_uid()
    save_all(datasets, folder, name="b{k}")


@refused("E_DUPLICATE_POSITION")
def all_slices_at_one_position(folder: Path) -> None:
    def edit(ds: Dataset, k: int) -> None:
        ds.ImagePositionPatient, ds.SliceLocation = [0, 0, 0], 2.5 * k
        ds.AcquisitionTime = ds.ContentTime = f"1015{k:02d}"

    with_edit(folder, edit)


@refused("E_DUPLICATE_POSITION")
def all_slices_at_one_position_with_times(folder: Path) -> None:
    def edit(ds: Dataset, k: int) -> None:
        ds.ImagePositionPatient = [0, 0, 0]
        ds.AcquisitionTime = ds.ContentTime = f"1015{k:02d}"

    with_edit(folder, edit)


@refused("E_DUPLICATE_POSITION")
def one_position_twice(folder: Path) -> None:
    datasets = slices()
    save_all(datasets, folder)
    datasets[3].SOPInstanceUID = generate_uid()
    save(datasets[3], folder / "again.dcm")


@refused("E_DUPLICATE_POSITION")
def last_phase_incomplete(folder: Path) -> None:
    datasets = slices()
    save_all(datasets, folder, name="a{k}")
    for ds in datasets[:7]:
        ds.SOPInstanceUID, ds.TemporalPositionIdentifier = generate_uid(), 2
    save_all(datasets[:7], folder, name="b{k}")


# --- mixtures -------------------------------------------------------------------------------------


@refused("E_MIXED_ORIENTATION")
def orientations_mixed(folder: Path) -> None:
    with_edit(folder, one_slice("ImageOrientationPatient", [0, 1, 0, 0, 0, -1]))


@refused("E_MIXED_SPACING")
def pixel_spacings_mixed(folder: Path) -> None:
    with_edit(folder, one_slice("PixelSpacing", [0.9, 1.26]))


@refused("E_MIXED_MATRIX")
def matrix_sizes_mixed(folder: Path) -> None:
    datasets = slices()
    cases.set_pixels(datasets[4], np.zeros((20, 20), "<u2"))
    save_all(datasets, folder)


@refused("E_MIXED_FRAME_OF_REFERENCE")
def frames_of_reference_mixed(folder: Path) -> None:
    with_edit(folder, one_slice("FrameOfReferenceUID", generate_uid()))


@refused("E_TWO_PATIENTS")
def two_patient_identifiers(folder: Path) -> None:
    with_edit(folder, one_slice("PatientID", "OTHER-LEAK"))


@refused("E_TWO_PATIENTS")
def two_patient_names(folder: Path) -> None:
    with_edit(folder, one_slice("PatientName", "OTHER^LEAK"))


@refused("E_TWO_PATIENTS")
def one_study_of_two_patients(folder: Path) -> None:
    first, second = slices(), slices()
    for ds in second:
        ds.StudyInstanceUID, ds.PatientID = first[0].StudyInstanceUID, "OTHER-LEAK"
    save_all(first, folder / "a")
    save_all(second, folder / "b")


@refused("E_MIXED_STUDY")
def two_studies_in_a_series(folder: Path) -> None:
    with_edit(folder, one_slice("StudyInstanceUID", generate_uid()))


# --- missing and wrong values ---------------------------------------------------------------------

for _keyword in (
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns",
    "BitsAllocated",
    "BitsStored", "PixelRepresentation", "PhotometricInterpretation",
):  # fmt: skip
    REFUSED[f"{_keyword}_missing"] = (
        "E_MISSING_TAG",
        lambda folder, keyword=_keyword: with_edit(folder, without(keyword)),
    )
    REFUSED[f"{_keyword}_missing_in_one_slice"] = (
        "E_MISSING_TAG",
        lambda folder, keyword=_keyword: with_edit(folder, without(keyword, only=4)),
    )

for _name, _keyword, _value, _code in (
    ("position_nan", "ImagePositionPatient", "nan\\0\\0", "E_BAD_VALUE"),
    ("position_infinite", "ImagePositionPatient", "1e999\\0\\0", "E_BAD_VALUE"),
    ("position_of_two_values", "ImagePositionPatient", "1\\2", "E_BAD_VALUE"),
    ("position_with_commas", "ImagePositionPatient", "1,5\\2,5\\3,5", "E_BAD_VALUE"),
    ("position_empty", "ImagePositionPatient", "", "E_MISSING_TAG"),
    ("orientation_zero", "ImageOrientationPatient", "0\\0\\0\\0\\0\\0", "E_ORIENTATION"),
    ("orientation_skewed", "ImageOrientationPatient", "1\\0\\0\\0.1\\1\\0", "E_ORIENTATION"),
    ("orientation_not_normal", "ImageOrientationPatient", "2\\0\\0\\0\\1\\0", "E_ORIENTATION"),
    ("orientation_nan", "ImageOrientationPatient", "1\\0\\0\\0\\NaN\\0", "E_BAD_VALUE"),
    ("orientation_text", "ImageOrientationPatient", "a\\b\\c\\d\\e\\f", "E_BAD_VALUE"),
    ("spacing_huge", "PixelSpacing", "1e300\\1e300", "E_BAD_VALUE"),
    ("spacing_zero", "PixelSpacing", "0\\0", "E_BAD_VALUE"),
    ("spacing_negative", "PixelSpacing", "-0.9\\1.25", "E_BAD_VALUE"),
    ("spacing_nan", "PixelSpacing", "nan\\1.25", "E_BAD_VALUE"),
    ("spacing_with_commas", "PixelSpacing", "0,9\\1,25", "E_BAD_VALUE"),
    ("spacing_of_one_value", "PixelSpacing", "0.9", "E_BAD_VALUE"),
    ("slope_nan", "RescaleSlope", "NaN", "E_BAD_VALUE"),
    ("slope_zero", "RescaleSlope", "0", "E_RESCALE"),
    ("slope_zero_with_decimals", "RescaleSlope", "0.000", "E_RESCALE"),
):
    REFUSED[_name] = (
        _code,
        lambda folder, keyword=_keyword, value=_value: with_edit(folder, bad_text(keyword, value)),
    )


@refused("E_RESCALE")
def slope_zero_in_one_slice(folder: Path) -> None:
    with_edit(folder, one_slice("RescaleSlope", 0))


@refused("E_MISSING_TAG")
def slope_without_intercept(folder: Path) -> None:
    with_edit(folder, without("RescaleIntercept"))


@refused("E_RESCALE")
def rescale_missing_in_one_slice(folder: Path) -> None:
    def edit(ds: Dataset, k: int) -> None:
        if k == 4:
            del ds.RescaleSlope, ds.RescaleIntercept

    with_edit(folder, edit)


@refused("E_MISSING_TAG")
def series_uid_missing(folder: Path) -> None:
    with_edit(folder, without("SeriesInstanceUID"))


@refused("E_MISSING_TAG")
def single_slice_without_thickness(folder: Path) -> None:
    save_all(slices(shape=(19, 18, 1), edit=without("SliceThickness")), folder)


@refused("E_BAD_VALUE")
def rows_zero(folder: Path) -> None:
    with_edit(folder, one_slice("Rows", 0))


@refused("E_TOO_LARGE")
def rows_and_columns_huge(folder: Path) -> None:
    def edit(ds: Dataset, k: int) -> None:
        ds.Rows = ds.Columns = 65535

    with_edit(folder, edit)


@refused("E_PIXEL_DATA")
def rows_larger_than_pixels(folder: Path) -> None:
    with_edit(folder, one_slice("Rows", 19))


@refused("E_PIXEL_DATA")
def rows_smaller_than_pixels(folder: Path) -> None:
    with_edit(folder, lambda ds, k: setattr(ds, "Rows", 12))


@refused("E_PIXEL_FORMAT")
def more_bits_stored_than_allocated(folder: Path) -> None:
    with_edit(folder, lambda ds, k: setattr(ds, "BitsStored", 17))


@refused("E_PIXEL_FORMAT")
def twelve_bits_allocated(folder: Path) -> None:
    def edit(ds: Dataset, k: int) -> None:
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 12, 12, 11

    with_edit(folder, edit)


@refused("E_PIXEL_FORMAT")
def photometric_unknown(folder: Path) -> None:
    with_edit(folder, lambda ds, k: setattr(ds, "PhotometricInterpretation", "CMYK"))


@refused("E_PIXEL_FORMAT")
def three_samples_called_monochrome(folder: Path) -> None:
    with_edit(folder, lambda ds, k: setattr(ds, "SamplesPerPixel", 3))


@refused("E_PIXEL_DATA")
def no_pixels(folder: Path) -> None:
    with_edit(folder, without("PixelData", only=4))


# --- damaged files --------------------------------------------------------------------------------


def damage(folder: Path, change: Callable[[bytes], bytes], *, name: str = "{k:03d}.dcm") -> None:
    """Writes the series and changes the bytes of the last slice, where no gap would show."""
    datasets = slices()
    for n, ds in enumerate(datasets):
        path = save(ds, folder / name.format(k=n))
    path.write_bytes(change(path.read_bytes()))


@refused("E_HEADER")
def empty_file(folder: Path) -> None:
    damage(folder, lambda whole: b"")


@refused("E_HEADER")
def empty_file_without_extension(folder: Path) -> None:
    damage(folder, lambda whole: b"", name="I{k}")


@refused("E_HEADER")
def cut_in_the_preamble(folder: Path) -> None:
    damage(folder, lambda whole: whole[:100])


@refused("E_HEADER")
def cut_in_the_meta_information(folder: Path) -> None:
    damage(folder, lambda whole: whole[:200])


@refused("E_HEADER")
def cut_before_the_series_uid(folder: Path) -> None:
    damage(folder, lambda whole: whole[:600])


@refused("E_PIXEL_DATA")
def two_bytes_short(folder: Path) -> None:
    damage(folder, lambda whole: whole[:-2])


@refused("E_PIXEL_DATA")
def half_the_pixels(folder: Path) -> None:
    damage(folder, lambda whole: whole[:-300])


@refused("E_HEADER")
def overwritten_by_zeros(folder: Path) -> None:
    damage(folder, lambda whole: bytes(len(whole)))


@refused("E_HEADER")
def overwritten_by_text(folder: Path) -> None:
    damage(folder, lambda whole: b"lost+found " * 40)


@refused("E_TRANSFER_SYNTAX")
def transfer_syntax_unknown(folder: Path) -> None:
    damage(folder, lambda whole: whole.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.7\0"))


@refused("E_TRANSFER_SYNTAX")
def transfer_syntax_mpeg(folder: Path) -> None:
    def edit(ds: Dataset, k: int) -> None:
        ds.compress("1.2.840.10008.1.2.5", generate_instance_uid=False)
        ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.100"

    with_edit(folder, edit)


@refused("E_PIXEL_DATA")
def unencapsulated_under_jpeg(folder: Path) -> None:
    damage(folder, lambda whole: whole.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.5\0"))


def compressed_and_changed(folder: Path, syntax: str, change: Callable[[bytes], bytes]) -> None:
    datasets = slices()
    for ds in datasets:
        ds.compress(syntax, generate_instance_uid=False)
    datasets[-1].PixelData = change(datasets[-1].PixelData)
    save_all(datasets, folder)


@refused("E_PIXEL_DATA")
def rle_cut_short(folder: Path) -> None:
    compressed_and_changed(folder, "1.2.840.10008.1.2.5", lambda code: code[:100])


@refused("E_PIXEL_DATA")
def rle_with_too_many_segments(folder: Path) -> None:
    compressed_and_changed(
        folder, "1.2.840.10008.1.2.5", lambda code: code.replace(b"\2\0\0\0", b"\7\0\0\0", 1)
    )


@refused("E_PIXEL_DATA")
def jpeg_ls_of_another_size(folder: Path) -> None:
    old, new = struct.pack(">BHH", 16, 18, 19), struct.pack(">BHH", 16, 60000, 60000)
    compressed_and_changed(folder, "1.2.840.10008.1.2.4.80", lambda code: code.replace(old, new, 1))


@refused("E_PIXEL_DATA")
def jpeg_ls_cut_short(folder: Path) -> None:
    compressed_and_changed(folder, "1.2.840.10008.1.2.4.80", lambda code: code[:60])


@refused("E_TOO_LARGE")
def deflate_bomb(folder: Path) -> None:
    ds = slices(shape=(19, 18, 1))[0]
    path = save(ds, folder / "bomb.dcm")
    whole = path.read_bytes()
    start = 144 + int.from_bytes(whole[140:144], "little")
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = packer.compress(whole[start:] + b"\xfc\xff\xfc\xffOB\0\0" + struct.pack("<L", 160 << 20))
    for _ in range(160):
        body += packer.compress(bytes(1 << 20))
    meta = whole[:start].replace(
        b"UI\x14\x001.2.840.10008.1.2.1\0", b"UI\x16\x001.2.840.10008.1.2.1.99"
    )
    assert meta != whole[:start]
    path.write_bytes(meta + body + packer.flush())


@refused("E_HEADER")
def deflate_cut_short(folder: Path) -> None:
    def edit(ds: Dataset, k: int) -> None:
        ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"

    for path in save_all(slices(edit=edit), folder):
        path.write_bytes(path.read_bytes()[:-20])


@refused("E_HEADER")
def sequences_nested_deeply(folder: Path) -> None:
    with_edit(folder, lambda ds, k: None)
    depth = 20_000
    # Undefined-length sequences of undefined-length items, never closed but by the end of file.
    nested = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * depth
    for path in folder.iterdir():
        whole = path.read_bytes()
        start = 144 + int.from_bytes(whole[140:144], "little")
        path.write_bytes(whole[:start] + nested + whole[start:])


@refused("E_HEADER")
def length_bomb(folder: Path) -> None:
    with_edit(folder, lambda ds, k: None)
    for path in folder.iterdir():
        whole = path.read_bytes()
        start = 144 + int.from_bytes(whole[140:144], "little")
        bomb = b"\x08\x00\x05\x00UT\0\0" + struct.pack("<L", 0xFFFFFFF0)
        path.write_bytes(whole[:start] + bomb + whole[start:])


def meta_element(folder: Path, element: bytes) -> None:
    """Puts an element into the meta information of every file, its group length left as it was."""
    with_edit(folder, lambda ds, k: None)
    for path in folder.iterdir():
        whole = path.read_bytes()
        path.write_bytes(whole[:144] + element + whole[144:])


@refused("E_HEADER")
def meta_information_with_a_length_bomb(folder: Path) -> None:
    meta_element(folder, b"\x02\x00\x02\x01OB\0\0" + struct.pack("<L", 0xFFFFFFF0))


@refused("E_HEADER")
def meta_information_with_an_open_sequence(folder: Path) -> None:
    meta_element(folder, b"\x02\x00\x02\x01SQ\0\0" + struct.pack("<L", 0xFFFFFFFF))


@refused("E_HEADER")
def meta_information_with_an_unknown_type_and_a_long_value(folder: Path) -> None:
    meta_element(folder, b"\x02\x00\x02\x01\0\xff" + struct.pack("<H", 0xFFFF))


# --- multi-frame ----------------------------------------------------------------------------------


@refused("E_CINE")
def ultrasound_film(folder: Path) -> None:
    ds = cases.instance("1.2.840.10008.5.1.4.1.1.3.1", modality="US")
    ds.StudyInstanceUID, ds.SeriesInstanceUID = generate_uid(), generate_uid()
    cases.set_pixels(ds, np.zeros((15, 20, 20), "<u1"), bits=8)
    ds.NumberOfFrames = 15
    save(ds, folder / "film.dcm")


@refused("E_CINE")
def classic_ct_with_two_frames(folder: Path) -> None:
    def edit(ds: Dataset, k: int) -> None:
        ds.NumberOfFrames, ds.PixelData = 2, ds.PixelData * 2

    with_edit(folder, edit)


@refused("E_MOSAIC")
def mosaic(folder: Path) -> None:
    with_edit(
        folder, lambda ds, k: setattr(ds, "ImageType", ["ORIGINAL", "PRIMARY", "M", "MOSAIC"])
    )


@refused("E_FRAME_COUNT")
def fewer_functional_groups_than_frames(folder: Path) -> None:
    def edit(ds: Dataset) -> None:
        ds.PerFrameFunctionalGroupsSequence.pop()

    save(cases.enhanced(edit=edit), folder / "one.dcm")


@refused("E_PIXEL_DATA")
def fewer_pixels_than_frames(folder: Path) -> None:
    def edit(ds: Dataset) -> None:
        ds.PixelData = ds.PixelData[: 10 * ds.Rows * ds.Columns * 2]

    save(cases.enhanced(edit=edit), folder / "one.dcm")


@refused("E_MISSING_TAG")
def enhanced_without_positions(folder: Path) -> None:
    def edit(ds: Dataset) -> None:
        for group in ds.PerFrameFunctionalGroupsSequence:
            del group.PlanePositionSequence

    save(cases.enhanced(edit=edit), folder / "one.dcm")


@refused("E_MISSING_TAG")
def enhanced_without_functional_groups(folder: Path) -> None:
    save(
        cases.enhanced(edit=lambda ds: delattr(ds, "PerFrameFunctionalGroupsSequence")),
        folder / "o",
    )


@refused("E_SLICE_GAP")
def enhanced_with_a_frame_missing(folder: Path) -> None:
    save(cases.enhanced(order=[0, 1, 2, 3, 5, 6, 7, 8, 9, 10]), folder / "one.dcm")


@refused("E_DUPLICATE_POSITION")
def enhanced_times_not_told_apart(folder: Path) -> None:
    def edit(ds: Dataset) -> None:
        for group in ds.PerFrameFunctionalGroupsSequence:
            del group.FrameContentSequence

    save(cases.enhanced(times=2, edit=edit), folder / "one.dcm")


@refused("E_RESCALE")
def enhanced_slope_zero(folder: Path) -> None:
    def edit(ds: Dataset) -> None:
        group = ds.PerFrameFunctionalGroupsSequence[2]
        group.PixelValueTransformationSequence[0].RescaleSlope = 0

    save(cases.enhanced(edit=edit), folder / "one.dcm")


# --- nothing to read, archives --------------------------------------------------------------------


@refused("E_NO_IMAGES")
def only_text(folder: Path) -> None:
    (folder / "a.txt").write_text("nothing")


@refused("E_NO_IMAGES")
def empty_folder(folder: Path) -> None:
    pass


@refused("E_NO_IMAGES")
def only_a_fifo(folder: Path) -> None:
    os.mkfifo(folder / "pipe.dcm")


@refused("E_NO_IMAGES")
def only_links_out(folder: Path) -> None:
    outside = folder.parent / "outside"
    save_all(slices(), outside)
    (folder / "link").symlink_to(outside)
    (folder / "image.dcm").symlink_to(outside / "000.dcm")


@refused("E_NO_IMAGES")
def only_a_segmentation(folder: Path) -> None:
    ds = cases.other_object("1.2.840.10008.5.1.4.1.1.66.4", modality="SEG")
    cases.set_pixels(ds, np.ones((8, 8), "<u1"), bits=8)
    save(ds, folder / "seg.dcm")


@refused("E_NO_IMAGES")
def only_a_localizer(folder: Path) -> None:
    with_edit(folder, lambda ds, k: setattr(ds, "ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER"]))


def archive_of(folder: Path, members: dict[str, bytes]) -> None:
    folder.rmdir()
    with zipfile.ZipFile(folder, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


@refused("E_ARCHIVE")
def archive_with_a_path_out(folder: Path) -> None:
    archive_of(folder, {"../../evil.dcm": b"x"})


@refused("E_ARCHIVE")
def archive_with_an_absolute_path(folder: Path) -> None:
    archive_of(folder, {"/tmp/evil.dcm": b"x"})


@refused("E_ARCHIVE")
def archive_bomb(folder: Path) -> None:
    archive_of(folder, {"zeros": bytes(64 << 20)})


@refused("E_ARCHIVE")
def archive_damaged(folder: Path) -> None:
    archive_of(folder, {"a.dcm": os.urandom(3000)})
    whole = bytearray(folder.read_bytes())
    whole[500:520] = b"\0" * 20
    folder.write_bytes(bytes(whole))


@refused("E_ARCHIVE")
def archive_that_lies_about_a_size(folder: Path) -> None:
    archive_of(folder, {"zeros": bytes(64 << 20)})
    whole = folder.read_bytes()
    small, large = struct.pack("<L", 4096), struct.pack("<L", 64 << 20)
    folder.write_bytes(whole.replace(large, small))


@refused("E_NO_FILE")
def path_that_does_not_exist(folder: Path) -> None:
    folder.rmdir()


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_kind_of_dicom_is_refused_with_its_code(name: str, tmp_path: Path) -> None:
    code, build = REFUSED[name]
    folder = tmp_path / "in"
    folder.mkdir()
    build(folder)

    with pytest.raises(InputError) as caught:
        read_dicom_volumes(folder)

    error = caught.value
    assert error.code == code, str(error)
    assert str(tmp_path) in str(error)
    assert error.what
    assert "LEAK" not in str(error)


def test_a_last_slice_cut_anywhere_is_never_left_out_in_silence(tmp_path: Path) -> None:
    """Between two elements a cut leaves a whole data set without pixels."""
    *_, last = save_all(slices(shape=(5, 4, 3)), tmp_path)
    whole = last.read_bytes()
    read = []

    for length in range(1, len(whole)):
        last.write_bytes(whole[:length])
        with suppress(InputError):
            read.append((length, read_dicom_volumes(tmp_path)))

    assert read == []
    last.write_bytes(whole)
    assert read_dicom_volumes(tmp_path)[0].spatial_shape == (5, 4, 3)


def test_a_cut_object_of_another_class_leaves_the_series_be(tmp_path: Path) -> None:
    datasets = slices()
    save_all(datasets, tmp_path)
    report = slices(shape=(5, 4, 1))[0]
    report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.88.22"
    save(report, tmp_path / "report.dcm")
    whole = (tmp_path / "report.dcm").read_bytes()
    (tmp_path / "report.dcm").write_bytes(whole[: whole.index(b"LEAK") + 2])

    index = index_folder(tmp_path)

    assert [volume.geometry.shape for volume in index.volumes] == [SHAPE]
    assert [error.code for error in index.refused] == ["E_HEADER"]


def test_gap_message_names_the_place_and_the_remedy(tmp_path: Path) -> None:
    one_slice_missing(tmp_path)

    with pytest.raises(InputError, match=r"slice missing between .* mm along the normal") as caught:
        read_dicom_volumes(tmp_path)

    assert "spacing 2.500 mm" in caught.value.what
    assert "on_gap=resample" in caught.value.remedy


def test_unknown_transfer_syntax_is_named(tmp_path: Path) -> None:
    transfer_syntax_unknown(tmp_path)

    with pytest.raises(InputError, match=r"1\.2\.840\.10008\.1\.2\.7") as caught:
        read_dicom_volumes(tmp_path)

    assert "uncompressed" in caught.value.remedy
