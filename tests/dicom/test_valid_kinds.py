"""Every odd but valid kind of DICOM is read with the right shape, place and values."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import dicom_cases as cases
import numpy as np
import pytest
from dicom_cases import SHAPE, SPACING_MM, SPOT_LPS, save, save_all, slices
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import generate_uid

from medseg.core.volume import Volume
from medseg.dicom.volumes import read_dicom_volumes

Builder = Callable[[Path], None]
ONE_VOLUME: dict[str, Builder] = {}


def one_volume(builder: Builder) -> Builder:
    """Marks a builder of a folder that holds exactly the standard volume."""
    ONE_VOLUME[builder.__name__] = builder
    return builder


def check(volume: Volume, *, tolerance: float = 0.6, added: float = 0.0) -> None:
    """Every voxel has the value that belongs to its place in the patient."""
    expected = cases.expected_values(volume.geometry.affine, volume.spatial_shape) + added
    assert np.abs(volume.array[0].astype(float) - expected).max() <= tolerance
    centre = cases.spot_centre_ras(volume.array[0] - added, volume.geometry.affine)
    reference = cases.spot_centre_ras(expected - added, volume.geometry.affine)
    np.testing.assert_allclose(centre, reference, atol=0.1)
    np.testing.assert_allclose(centre, SPOT_LPS * (-1, -1, 1), atol=0.5)


def edited(**values: object) -> cases.Edit:
    def edit(ds: Dataset, k: int) -> None:
        for keyword, value in values.items():
            setattr(ds, keyword, value)

    return edit


@one_volume
def plain(folder: Path) -> None:
    save_all(slices(), folder)


@one_volume
def instance_numbers_shuffled(folder: Path) -> None:
    save_all(slices(edit=lambda ds, k: setattr(ds, "InstanceNumber", (k * 7) % 11)), folder)


@one_volume
def instance_numbers_constant(folder: Path) -> None:
    save_all(slices(edit=edited(InstanceNumber=1)), folder)


@one_volume
def instance_numbers_missing(folder: Path) -> None:
    save_all(slices(edit=lambda ds, k: delattr(ds, "InstanceNumber")), folder)


@one_volume
def names_without_extension(folder: Path) -> None:
    save_all(slices(), folder, name="IM{k}")


@one_volume
def slices_in_nested_folders(folder: Path) -> None:
    save_all(slices(), folder, name="disc/{k}/image")


@one_volume
def no_preamble(folder: Path) -> None:
    for path in save_all(slices(), folder):
        path.write_bytes(path.read_bytes()[132:])


@one_volume
def no_meta_information(folder: Path) -> None:
    for path in save_all(slices(), folder):
        whole = path.read_bytes()
        path.write_bytes(whole[144 + int.from_bytes(whole[140:144], "little") :])


@one_volume
def no_meta_information_implicit(folder: Path) -> None:
    datasets = slices()
    for ds in datasets:
        cases.to_implicit(ds)
    for path in save_all(datasets, folder):
        whole = path.read_bytes()
        path.write_bytes(whole[144 + int.from_bytes(whole[140:144], "little") :])


@one_volume
def implicit_little_endian(folder: Path) -> None:
    save_all(slices(edit=lambda ds, k: cases.to_implicit(ds)), folder)


@one_volume
def explicit_big_endian(folder: Path) -> None:
    save_all(slices(edit=lambda ds, k: cases.to_big_endian(ds)), folder)


@one_volume
def deflated(folder: Path) -> None:
    def edit(ds: Dataset, k: int) -> None:
        ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"

    save_all(slices(edit=edit), folder)


def compressed(folder: Path, syntax: str) -> None:
    save_all(slices(edit=lambda ds, k: ds.compress(syntax, generate_instance_uid=False)), folder)


@one_volume
def rle(folder: Path) -> None:
    compressed(folder, "1.2.840.10008.1.2.5")


@one_volume
def jpeg_ls(folder: Path) -> None:
    compressed(folder, "1.2.840.10008.1.2.4.80")


@one_volume
def mixed_transfer_syntaxes(folder: Path) -> None:
    def edit(ds: Dataset, k: int) -> None:
        if k % 4 == 1:
            ds.compress("1.2.840.10008.1.2.5", generate_instance_uid=False)
        elif k % 4 == 2:
            cases.to_implicit(ds)
        elif k % 4 == 3:
            ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"

    save_all(slices(edit=edit), folder)


@one_volume
def feet_first(folder: Path) -> None:
    save_all(slices(row=(-1, 0, 0), edit=edited(PatientPosition="FFS")), folder)


@one_volume
def prone(folder: Path) -> None:
    save_all(slices(row=(-1, 0, 0), column=(0, -1, 0)), folder)


@one_volume
def sagittal(folder: Path) -> None:
    save_all(slices(row=(0, 1, 0), column=(0, 0, -1)), folder)


@one_volume
def coronal(folder: Path) -> None:
    save_all(slices(row=(1, 0, 0), column=(0, 0, -1)), folder)


@one_volume
def oblique(folder: Path) -> None:
    a, b = np.radians(25), np.radians(-12)
    row = (np.cos(a), np.sin(a), 0.0)
    column = (-np.sin(a) * np.cos(b), np.cos(a) * np.cos(b), np.sin(b))
    save_all(slices(row=row, column=column), folder)


@one_volume
def thickness_lies(folder: Path) -> None:
    save_all(slices(edit=edited(SliceThickness=7, SpacingBetweenSlices=1.25)), folder)


@one_volume
def spacing_between_slices_negative(folder: Path) -> None:
    save_all(slices(edit=edited(SpacingBetweenSlices=-2.5, SliceThickness="")), folder)


@one_volume
def slice_location_lies(folder: Path) -> None:
    save_all(slices(edit=lambda ds, k: setattr(ds, "SliceLocation", -k)), folder)


@one_volume
def positions_rounded_by_4_um(folder: Path) -> None:
    def edit(ds: Dataset, k: int) -> None:
        x, y, z = map(float, ds.ImagePositionPatient)
        ds.ImagePositionPatient = [x, y, round(z + 0.004 * (-1) ** k, 6)]

    save_all(slices(edit=edit), folder)


@one_volume
def file_present_twice(folder: Path) -> None:
    paths = save_all(slices(), folder)
    (folder / "copy").mkdir()
    for path in paths[:4]:
        (folder / "copy" / path.name).write_bytes(path.read_bytes())


@one_volume
def signed_stored_values(folder: Path) -> None:
    def edit(ds: Dataset, k: int) -> None:
        values = np.frombuffer(ds.PixelData, "<u2").astype(int)[: ds.Rows * ds.Columns] - 1024
        cases.set_pixels(ds, values.astype("<i2").reshape(ds.Rows, ds.Columns))
        ds.RescaleIntercept = 0

    save_all(slices(edit=edit), folder)


@one_volume
def twelve_signed_bits_under_overlay(folder: Path) -> None:
    def edit(ds: Dataset, k: int) -> None:
        values = np.frombuffer(ds.PixelData, "<u2").astype(int)[: ds.Rows * ds.Columns] - 1024
        twelve = (values & 0xFFF) | (0x5000 if k % 2 else 0xA000)
        cases.set_pixels(ds, twelve.astype("<u2").reshape(ds.Rows, ds.Columns))
        ds.BitsStored, ds.HighBit, ds.PixelRepresentation, ds.RescaleIntercept = 12, 11, 1, 0

    save_all(slices(edit=edit), folder)


@one_volume
def twelve_unsigned_bits_at_the_top(folder: Path) -> None:
    def edit(ds: Dataset, k: int) -> None:
        values = np.frombuffer(ds.PixelData, "<u2").astype(int)[: ds.Rows * ds.Columns]
        cases.set_pixels(ds, ((values << 4) | 0x5).astype("<u2").reshape(ds.Rows, ds.Columns))
        ds.BitsStored, ds.HighBit = 12, 15

    save_all(slices(edit=edit), folder)


@one_volume
def thirty_two_bits(folder: Path) -> None:
    save_all(slices(stored_type="u4"), folder)


@one_volume
def float_pixels(folder: Path) -> None:
    def edit(ds: Dataset, k: int) -> None:
        values = np.frombuffer(ds.PixelData, "<u2")[: ds.Rows * ds.Columns].astype("<f4")
        del ds.PixelData, ds.BitsStored, ds.HighBit, ds.PixelRepresentation
        ds.BitsAllocated, ds.FloatPixelData = 32, values.tobytes()

    save_all(slices(edit=edit), folder)


@one_volume
def double_pixels(folder: Path) -> None:
    def edit(ds: Dataset, k: int) -> None:
        values = np.frombuffer(ds.PixelData, "<u2")[: ds.Rows * ds.Columns].astype("<f8")
        del ds.PixelData, ds.BitsStored, ds.HighBit, ds.PixelRepresentation
        ds.BitsAllocated, ds.DoubleFloatPixelData = 64, values.tobytes()

    save_all(slices(edit=edit), folder)


@one_volume
def intercept_per_slice(folder: Path) -> None:
    def edit(ds: Dataset, k: int) -> None:
        values = np.frombuffer(ds.PixelData, "<u2")[: ds.Rows * ds.Columns] + 10 * k
        cases.set_pixels(ds, values.astype("<u2").reshape(ds.Rows, ds.Columns))
        ds.RescaleIntercept = -1024 - 10 * k

    save_all(slices(edit=edit), folder)


@one_volume
def slope_per_slice_pet(folder: Path) -> None:
    def edit(ds: Dataset, k: int) -> None:
        values = np.frombuffer(ds.PixelData, "<u2")[: ds.Rows * ds.Columns].astype(float)
        slope = 0.031 + 0.003 * k
        stored = np.rint(values / slope).astype("<u2").reshape(ds.Rows, ds.Columns)
        cases.set_pixels(ds, stored)
        ds.RescaleSlope, ds.Units = f"{slope:.6f}", "BQML"

    save_all(slices(sop_class=cases.PET, modality="PT", edit=edit), folder)


@one_volume
def monochrome1_keeps_measured_values(folder: Path) -> None:
    save_all(slices(edit=edited(PhotometricInterpretation="MONOCHROME1")), folder)


@one_volume
def padding_declared_but_unused(folder: Path) -> None:
    def edit(ds: Dataset, k: int) -> None:
        ds.add_new("PixelPaddingValue", "US", 63536)

    save_all(slices(edit=edit), folder)


@one_volume
def other_characters(folder: Path) -> None:
    def edit(ds: Dataset, k: int) -> None:
        ds.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
        ds.PatientName = "Yamada^Tarou=山田^太郎"

    save_all(slices(edit=edit), folder)


@one_volume
def unknown_character_set(folder: Path) -> None:
    def edit(ds: Dataset, k: int) -> None:
        cases.any_value(ds, "SpecificCharacterSet", b"ISO_IR 999")
        cases.any_value(ds, "PatientName", b"\xff\xfe\xfa^\x81")

    save_all(slices(edit=edit), folder)


@one_volume
def private_junk(folder: Path) -> None:
    def edit(ds: Dataset, k: int) -> None:
        ds.add_new(0x00190010, "LO", "SOMEONE")
        ds.add_new(0x00191001, "UN", bytes(range(256)) * 300)
        ds.add_new(0x00191002, "OB", b"\xe0\x7f\x10\x00OW" * 40)
        inner = Dataset()
        inner.add_new(0x00191003, "SQ", Sequence([Dataset()]))
        ds.add_new(0x00191004, "SQ", Sequence([inner]))

    save_all(slices(edit=edit), folder)


@one_volume
def long_decimal_strings(folder: Path) -> None:
    def edit(ds: Dataset, k: int) -> None:
        z = float(ds.ImagePositionPatient[2])
        x, y = (f"{float(v):.14f}" for v in ds.ImagePositionPatient[:2])
        cases.any_value(ds, "ImagePositionPatient", f"{x}\\{y}\\{z:+.17E} ")

    save_all(slices(edit=edit), folder)


@one_volume
def localizer_in_the_series(folder: Path) -> None:
    datasets = slices()
    scout = slices(shape=(40, 30, 1), row=(0, 1, 0), column=(0, 0, -1))[0]
    scout.SeriesInstanceUID, scout.StudyInstanceUID = (
        datasets[0].SeriesInstanceUID,
        datasets[0].StudyInstanceUID,
    )
    scout.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    save_all([*datasets, scout], folder)


@one_volume
def dose_sheet_report_and_segmentation_beside(folder: Path) -> None:
    datasets = slices()
    save_all(datasets, folder)
    capture = cases.other_object("1.2.840.10008.5.1.4.1.1.7", modality="CT", like=datasets[0])
    cases.set_pixels(capture, np.zeros((30, 40), "<u1"), bits=8)
    capture.SeriesInstanceUID = datasets[0].SeriesInstanceUID
    save(capture, folder / "dose.dcm")
    for sop_class, modality in (
        ("1.2.840.10008.5.1.4.1.1.88.67", "SR"),
        ("1.2.840.10008.5.1.4.1.1.66.4", "SEG"),
        ("1.2.840.10008.5.1.4.1.1.481.3", "RTSTRUCT"),
        ("1.2.840.10008.5.1.4.1.1.11.1", "PR"),
        ("1.2.840.10008.5.1.4.1.1.104.1", "DOC"),
    ):
        other = cases.other_object(sop_class, modality=modality, like=datasets[0])
        other.SeriesInstanceUID = datasets[0].SeriesInstanceUID
        if modality == "SEG":
            cases.set_pixels(other, np.ones(SHAPE[1::-1], "<u1"), bits=8)
        save(other, folder / f"{modality}.dcm")


@one_volume
def junk_files_beside(folder: Path) -> None:
    save_all(slices(), folder, name="{k:03d}")
    (folder / "README.txt").write_text("These are images.")
    (folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1" + bytes(200))
    (folder / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0" + bytes(600))
    (folder / "empty.log").touch()
    (folder / "notes").write_text("no image either, and without a suffix\n" * 10)


@one_volume
def fifo_and_links_beside(folder: Path) -> None:
    save_all(slices(), folder, name="b{k:03d}.dcm")
    os.mkfifo(folder / "a_pipe.dcm")
    (folder / "a_dangling.dcm").symlink_to(folder / "nowhere")
    (folder / "up").symlink_to(folder.parent)
    (folder / "loop").symlink_to(folder)


@one_volume
def step_and_shoot_acquisition_numbers(folder: Path) -> None:
    save_all(slices(edit=lambda ds, k: setattr(ds, "AcquisitionNumber", k // 3)), folder)


@one_volume
def acquisition_number_per_slice(folder: Path) -> None:
    save_all(slices(edit=lambda ds, k: setattr(ds, "AcquisitionNumber", k)), folder)


@one_volume
def trailing_zeros_after_the_pixels(folder: Path) -> None:
    def edit(ds: Dataset, k: int) -> None:
        ds.PixelData = ds.PixelData + bytes(64)

    save_all(slices(edit=edit), folder)


@one_volume
def elements_after_the_pixels(folder: Path) -> None:
    save_all(slices(edit=lambda ds, k: ds.add_new(0xFFFCFFFC, "OB", bytes(300))), folder)


@one_volume
def fragmented_frames(folder: Path) -> None:
    from pydicom.encaps import encapsulate, generate_frames

    def edit(ds: Dataset, k: int) -> None:
        ds.compress("1.2.840.10008.1.2.4.80", generate_instance_uid=False)
        code = next(generate_frames(ds.PixelData, number_of_frames=1))
        ds.PixelData = encapsulate([code], fragments_per_frame=3, has_bot=bool(k % 2))

    save_all(slices(edit=edit), folder)


@one_volume
def empty_functional_groups_in_classic_files(folder: Path) -> None:
    def edit(ds: Dataset, k: int) -> None:
        ds.PerFrameFunctionalGroupsSequence = Sequence([Dataset()])

    save_all(slices(edit=edit), folder)


@one_volume
def orientation_not_quite_normalised(folder: Path) -> None:
    save_all(slices(edit=edited(ImageOrientationPatient=[1.0004, 0, 0, 0, 0.9996, 0])), folder)


@one_volume
def enhanced_ct(folder: Path) -> None:
    save(cases.enhanced(), folder / "one.dcm")


@one_volume
def enhanced_frames_in_odd_order(folder: Path) -> None:
    order = [3, 0, 10, 7, 1, 9, 2, 8, 4, 6, 5]
    save(cases.enhanced(order=order), folder / "one")


@one_volume
def enhanced_mr_with_slopes_per_frame(folder: Path) -> None:
    ds = cases.enhanced(
        sop_class=cases.ENHANCED_MR, modality="MR", slopes=[0.25, 0.5, 0.125], order=list(range(11))
    )
    save(ds, folder / "one.dcm")


@one_volume
def enhanced_compressed(folder: Path) -> None:
    ds = cases.enhanced()
    ds.compress("1.2.840.10008.1.2.4.80", generate_instance_uid=False)
    save(ds, folder / "one.dcm")


@one_volume
def meta_information_with_odd_types(folder: Path) -> None:
    # Value representations that the group may not have; a reader must not trust their lengths.
    odd = b"\x02\x00\x02\x01ZZ\x02\0ab" + b"\x02\x00\x03\x01UN\0\0\x02\0\0\0ab"
    for path in save_all(slices(), folder):
        whole = path.read_bytes()
        path.write_bytes(whole[:144] + odd + whole[144:])


@one_volume
def zip_archive(folder: Path) -> None:
    (folder.parent / "plain").mkdir()
    paths = save_all(slices(), folder.parent / "plain")
    with zipfile.ZipFile(folder, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in paths:
            archive.write(path, f"study/series/{path.name}")


@one_volume
def dicomdir_tree(folder: Path) -> None:
    save_all(slices(), folder / "DICOM", name="I{k}")
    meta = cases.instance("1.2.840.10008.1.3.10", modality="")
    meta.FileSetID = "ETC"
    save(meta, folder / "DICOMDIR")


@pytest.mark.parametrize("name", sorted(ONE_VOLUME))
def test_kind_of_dicom_is_read_right(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    if name != "zip_archive":
        folder.mkdir()
    ONE_VOLUME[name](folder)

    volumes = read_dicom_volumes(folder)

    assert [volume.spatial_shape for volume in volumes] == [SHAPE]
    assert volumes[0].geometry.spacing_mm == pytest.approx(SPACING_MM, abs=2e-3)
    check(volumes[0])


def test_jpeg_2000_frames_are_read_right(tmp_path: Path) -> None:
    # OpenJPEG does not compress frames below 32 pixels with the usual number of resolutions.
    datasets = slices(shape=(40, 36, 5))
    for ds in datasets:
        ds.compress("1.2.840.10008.1.2.4.90", generate_instance_uid=False)
    save_all(datasets, tmp_path)

    (volume,) = read_dicom_volumes(tmp_path)

    assert volume.spatial_shape == (40, 36, 5)
    check(volume)


def test_modality_table_replaces_the_rescale(tmp_path: Path) -> None:
    def edit(ds: Dataset, k: int) -> None:
        del ds.RescaleSlope, ds.RescaleIntercept
        item = Dataset()
        item.add_new("LUTDescriptor", "US", [4096, 0, 16])
        item.ModalityLUTType = "US"
        item.add_new("LUTData", "OW", (np.arange(4096) + 300).astype("<u2").tobytes())
        ds.ModalityLUTSequence = Sequence([item])

    save_all(slices(edit=edit), tmp_path)

    (volume,) = read_dicom_volumes(tmp_path)

    check(volume, added=1324.0)


@pytest.mark.parametrize("rows_columns", [(19, 18), (1, 7), (7, 1), (33, 2)])
def test_odd_matrix_sizes_with_eight_bits_are_read(
    rows_columns: tuple[int, int], tmp_path: Path
) -> None:
    rows, columns = rows_columns
    stored = np.random.default_rng(1).integers(0, 255, (rows, columns), dtype=np.uint8)
    datasets = slices(shape=(columns, rows, 3))
    for n, ds in enumerate(datasets):
        cases.set_pixels(ds, stored + np.uint8(n), bits=8)
        if n == 1:
            cases.to_big_endian(ds)
    save_all(datasets, tmp_path)

    (volume,) = read_dicom_volumes(tmp_path)

    for n in range(3):
        np.testing.assert_array_equal(
            volume.array[0, :, :, n].T, (stored + np.uint8(n)).astype(int) - 1024
        )


def test_one_slice_takes_its_thickness_and_says_so(tmp_path: Path) -> None:
    save_all(slices(shape=(19, 18, 1), step_lps=np.array([0, 0, 2.5])), tmp_path)

    (volume,) = read_dicom_volumes(tmp_path)

    assert volume.spatial_shape == (19, 18, 1)
    assert volume.geometry.spacing_mm == pytest.approx((1.25, 0.9, 2.5))
    assert "SliceThickness" in volume.notes[0]
    check_plane = cases.expected_values(volume.geometry.affine, (19, 18, 1))
    assert np.abs(volume.array[0] - check_plane).max() <= 0.6


def test_sixteen_unsigned_bits_beyond_int16_are_kept(tmp_path: Path) -> None:
    def edit(ds: Dataset, k: int) -> None:
        values = np.full((ds.Rows, ds.Columns), 65000 - k, "<u2")
        cases.set_pixels(ds, values)

    save_all(slices(edit=edit), tmp_path)

    (volume,) = read_dicom_volumes(tmp_path)

    assert volume.array.dtype == np.float32
    assert {float(value) for value in np.unique(volume.array)} == {63976.0 - k for k in range(11)}


def test_whole_ct_values_stay_int16(tmp_path: Path) -> None:
    plain(tmp_path)

    (volume,) = read_dicom_volumes(tmp_path)

    assert volume.array.dtype == np.int16


def test_padding_becomes_air_in_ct(tmp_path: Path) -> None:
    def edit(ds: Dataset, k: int) -> None:
        values = (
            np.frombuffer(ds.PixelData, "<u2").astype("<i2").reshape(ds.Rows, ds.Columns).copy()
        )
        values[0, :] = -2000
        cases.set_pixels(ds, values)
        ds.add_new("PixelPaddingValue", "SS", -2000)

    save_all(slices(edit=edit), tmp_path)

    (volume,) = read_dicom_volumes(tmp_path)

    assert (volume.array[0, :, 0, :] == -1024).all()
    expected = cases.expected_values(volume.geometry.affine, SHAPE)
    assert np.abs(volume.array[0] - expected)[:, 1:].max() <= 0.6
    assert any("padding" in note for note in volume.notes)


def test_two_series_in_one_folder_are_two_volumes(tmp_path: Path) -> None:
    second = slices(row=(0, 1, 0), column=(0, 0, -1))
    save_all(slices(), tmp_path, name="a{k}.dcm")
    save_all(second, tmp_path, name="b{k}.dcm")

    volumes = read_dicom_volumes(tmp_path)

    assert len(volumes) == 2
    assert {volume.geometry.orientation for volume in volumes} == {"LPS", "PIR"}
    for volume in volumes:
        check(volume)


def test_a_refused_series_does_not_hide_the_good_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_all(slices(), tmp_path / "good")
    bad = slices()
    del bad[5]
    save_all(bad, tmp_path / "bad")

    (volume,) = read_dicom_volumes(tmp_path)

    check(volume)
    assert "E_SLICE_GAP" in caplog.text


PHASES: dict[str, Callable[[Dataset, int], None]] = {
    "TemporalPositionIdentifier": lambda ds, n: setattr(ds, "TemporalPositionIdentifier", n + 1),
    "AcquisitionNumber": lambda ds, n: setattr(ds, "AcquisitionNumber", n + 1),
    "EchoNumbers": lambda ds, n: setattr(ds, "EchoNumbers", n + 1),
    "EchoTime": lambda ds, n: setattr(ds, "EchoTime", 4.6 * (n + 1)),
    "DiffusionBValue": lambda ds, n: setattr(ds, "DiffusionBValue", 500.0 * n),
    "InversionTime": lambda ds, n: setattr(ds, "InversionTime", 100 * (n + 1)),
    "ImageType": lambda ds, n: setattr(ds, "ImageType", ["ORIGINAL", "PRIMARY", "MPR"[n]]),
    "TriggerTime": lambda ds, n: setattr(ds, "TriggerTime", 30 * n + 2 + (ds.InstanceNumber % 3)),
    "ContentTime": lambda ds, n: setattr(ds, "ContentTime", f"10{20 + n}{ds.InstanceNumber:02d}.5"),
    "AcquisitionTime": lambda ds, n: setattr(ds, "AcquisitionTime", f"10{20 + n}00"),
    "FrameReferenceTime": lambda ds, n: setattr(ds, "FrameReferenceTime", 15000 + 30000 * n),
    "SeriesTime": lambda ds, n: setattr(ds, "SeriesTime", f"10{20 + n}00"),
    "EffectiveEchoTime": lambda ds, n: setattr(ds, "EffectiveEchoTime", 4.6 * (n + 1)),
    "InversionTimes": lambda ds, n: setattr(ds, "InversionTimes", [100.0 * (n + 1), 2500.0]),
    "RepetitionTime": lambda ds, n: setattr(ds, "RepetitionTime", 15 * (n + 1)),
    "ImageTriggerDelay": lambda ds, n: setattr(ds, "ImageTriggerDelay", 40 * (n + 1)),
    "NominalPercentageOfCardiacPhase": lambda ds, n: setattr(
        ds, "NominalPercentageOfCardiacPhase", 5.0 * n
    ),
    "NominalPercentageOfRespiratoryPhase": lambda ds, n: setattr(
        ds, "NominalPercentageOfRespiratoryPhase", 10.0 * n
    ),
    "DiffusionGradientOrientation": lambda ds, n: setattr(
        ds, "DiffusionGradientOrientation", [float(n == a) for a in range(3)]
    ),
    "KVP": lambda ds, n: setattr(ds, "KVP", 70 + 35 * n),
    "ConvolutionKernel": lambda ds, n: setattr(
        ds, "ConvolutionKernel", ("B30f", "B60f", "B70f")[n]
    ),
}


@pytest.mark.parametrize("keyword", sorted(PHASES))
def test_phases_of_one_series_become_volumes(keyword: str, tmp_path: Path) -> None:
    datasets = []
    base = slices()
    for n in range(3):
        for k, ds in enumerate(slices()):
            ds.SeriesInstanceUID = base[0].SeriesInstanceUID
            ds.StudyInstanceUID = base[0].StudyInstanceUID
            ds.FrameOfReferenceUID = base[0].FrameOfReferenceUID
            ds.InstanceNumber = k + 1
            ds.RescaleIntercept = -1024 + 100 * n
            PHASES[keyword](ds, n)
            datasets.append(ds)
    save_all(datasets, tmp_path)

    volumes = read_dicom_volumes(tmp_path)

    assert len(volumes) == 3
    means = sorted(round(float(volume.array.mean())) for volume in volumes)
    assert means[1] - means[0] == pytest.approx(100, abs=1)
    assert means[2] - means[1] == pytest.approx(100, abs=1)
    for volume in volumes:
        added = 100.0 * means.index(round(float(volume.array.mean())))
        check(volume, added=added)
        assert any("of 3" in note for note in volume.notes)


def test_stacks_of_single_frame_files_become_volumes(tmp_path: Path) -> None:
    upper, lower = slices(), slices(row=(0.6, 0.8, 0.0), column=(-0.8, 0.6, 0.0))
    for n, stack in enumerate((upper, lower)):
        for ds in stack:
            ds.SeriesInstanceUID = upper[0].SeriesInstanceUID
            ds.StudyInstanceUID = upper[0].StudyInstanceUID
            ds.FrameOfReferenceUID = upper[0].FrameOfReferenceUID
            ds.StackID = str(n + 1)
    save_all([*upper, *lower], tmp_path)

    volumes = read_dicom_volumes(tmp_path)

    assert sorted(volume.notes[0] for volume in volumes) == ["stack 1 of 2", "stack 2 of 2"]
    for volume in volumes:
        check(volume)


def _item(**values: object) -> Sequence:
    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return Sequence([item])


ENHANCED_PHASES: dict[str, Callable[[Dataset, int], None]] = {
    "NominalPercentageOfCardiacPhase": lambda group, n: setattr(
        group, "CardiacSynchronizationSequence", _item(NominalPercentageOfCardiacPhase=5.0 * n)
    ),
    "NominalCardiacTriggerDelayTime": lambda group, n: setattr(
        group, "CardiacSynchronizationSequence", _item(NominalCardiacTriggerDelayTime=40.0 * n)
    ),
    "NominalPercentageOfRespiratoryPhase": lambda group, n: setattr(
        group,
        "RespiratorySynchronizationSequence",
        _item(NominalPercentageOfRespiratoryPhase=10.0 * n),
    ),
    "EffectiveEchoTime": lambda group, n: setattr(
        group, "MREchoSequence", _item(EffectiveEchoTime=4.6 * (n + 1))
    ),
    "InversionTimes": lambda group, n: setattr(
        group, "MRModifierSequence", _item(InversionTimes=[100.0 * (n + 1)])
    ),
    "FlipAngle": lambda group, n: setattr(
        group, "MRTimingAndRelatedParametersSequence", _item(FlipAngle=5.0 * (n + 1))
    ),
    "DiffusionBValue": lambda group, n: setattr(
        group, "MRDiffusionSequence", _item(DiffusionBValue=500.0 * n)
    ),
    "TemporalPositionTimeOffset": lambda group, n: setattr(
        group, "TemporalPositionSequence", _item(TemporalPositionTimeOffset=30.0 * n)
    ),
    "FrameReferenceDateTime": lambda group, n: setattr(
        group.FrameContentSequence[0], "FrameReferenceDateTime", f"20240229{1015 + n}00"
    ),
    "ConvolutionKernel": lambda group, n: setattr(
        group, "CTReconstructionSequence", _item(ConvolutionKernel=f"B{3 + n}0f")
    ),
    "converted TriggerTime": lambda group, n: setattr(
        group, "UnassignedPerFrameConvertedAttributesSequence", _item(TriggerTime=40 * n)
    ),
    "converted TemporalPositionIdentifier": lambda group, n: setattr(
        group,
        "UnassignedPerFrameConvertedAttributesSequence",
        _item(TemporalPositionIdentifier=n + 1),
    ),
}


@pytest.mark.parametrize("name", sorted(ENHANCED_PHASES))
def test_functional_groups_tell_phases_of_an_enhanced_object_apart(
    name: str, tmp_path: Path
) -> None:
    def edit(ds: Dataset) -> None:
        for n, group in enumerate(ds.PerFrameFunctionalGroupsSequence):
            del group.FrameContentSequence[0].TemporalPositionIndex
            del group.FrameContentSequence[0].DimensionIndexValues
            ENHANCED_PHASES[name](group, n // SHAPE[2])

    save(cases.enhanced(times=3, edit=edit), tmp_path / "one.dcm")

    volumes = read_dicom_volumes(tmp_path)

    assert len(volumes) == 3
    for n, volume in enumerate(volumes):
        check(volume, added=100.0 * n)


def test_phases_that_interleave_evenly_are_told_apart(tmp_path: Path) -> None:
    first, second = slices(), slices()
    for ds in second:
        ds.SeriesInstanceUID = first[0].SeriesInstanceUID
        ds.StudyInstanceUID = first[0].StudyInstanceUID
        ds.FrameOfReferenceUID = first[0].FrameOfReferenceUID
        x, y, z = map(float, ds.ImagePositionPatient)
        ds.ImagePositionPatient = [x, y, z + 1.25]
        ds.AcquisitionNumber = 2
    save_all([*first, *second], tmp_path)

    volumes = read_dicom_volumes(tmp_path)

    assert [volume.spatial_shape for volume in volumes] == [SHAPE, SHAPE]
    assert all(volume.geometry.spacing_mm == pytest.approx(SPACING_MM) for volume in volumes)


def test_times_of_an_enhanced_object_become_volumes(tmp_path: Path) -> None:
    save(cases.enhanced(times=3), tmp_path / "one.dcm")

    volumes = read_dicom_volumes(tmp_path)

    for n, volume in enumerate(volumes):
        check(volume, added=100.0 * n)
    assert len(volumes) == 3


def test_x_ray_is_a_2d_volume_with_inversion_recorded(tmp_path: Path) -> None:
    ds = cases.instance("1.2.840.10008.5.1.4.1.1.1.1", modality="DX")
    ds.StudyInstanceUID, ds.SeriesInstanceUID = generate_uid(), generate_uid()
    stored = np.arange(30 * 20, dtype="<u2").reshape(30, 20)
    cases.set_pixels(ds, stored, bits=12)
    ds.PhotometricInterpretation, ds.ImagerPixelSpacing = "MONOCHROME1", [0.2, 0.1]
    save(ds, tmp_path / "x")

    (volume,) = read_dicom_volumes(tmp_path)

    assert volume.spatial_shape == (20, 30, 1)
    assert volume.geometry.spacing_mm[:2] == pytest.approx((0.1, 0.2))
    np.testing.assert_array_equal(volume.array[0, :, :, 0].T, 4095 - stored.astype(int))
    assert any("inverted" in note for note in volume.notes)


def test_colour_ultrasound_has_three_channels(tmp_path: Path) -> None:
    ds = cases.instance("1.2.840.10008.5.1.4.1.1.6.1", modality="US")
    ds.StudyInstanceUID, ds.SeriesInstanceUID = generate_uid(), generate_uid()
    pixels = np.random.default_rng(0).integers(0, 255, (21, 17, 3), dtype=np.uint8)
    cases.set_pixels(ds, pixels[..., 0], bits=8)
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 1
    ds.PixelData = np.moveaxis(pixels, -1, 0).tobytes() + b"\0"
    save(ds, tmp_path / "us.dcm")

    (volume,) = read_dicom_volumes(tmp_path)

    assert volume.array.shape == (3, 17, 21, 1)
    np.testing.assert_array_equal(volume.array[:, :, :, 0], pixels.transpose(2, 1, 0))


def test_palette_gives_colours_not_indices(tmp_path: Path) -> None:
    ds = cases.instance("1.2.840.10008.5.1.4.1.1.6.1", modality="US")
    ds.StudyInstanceUID, ds.SeriesInstanceUID = generate_uid(), generate_uid()
    indices = np.arange(64, dtype=np.uint8).reshape(8, 8)
    cases.set_pixels(ds, indices, bits=8)
    ds.PhotometricInterpretation = "PALETTE COLOR"
    for n, colour in enumerate(("Red", "Green", "Blue")):
        ds.add_new(f"{colour}PaletteColorLookupTableDescriptor", "US", [256, 0, 16])
        table = ((np.arange(256) * (n + 1)) % 256 * 256).astype("<u2")
        ds.add_new(f"{colour}PaletteColorLookupTableData", "OW", table.tobytes())
    save(ds, tmp_path / "us.dcm")

    (volume,) = read_dicom_volumes(tmp_path)

    expected = np.stack([(indices.astype(int) * (n + 1)) % 256 * 256 for n in range(3)])
    np.testing.assert_array_equal(volume.array[:, :, :, 0].transpose(0, 2, 1), expected)


@pytest.mark.parametrize(
    "syntax", ["1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90"]
)
@pytest.mark.parametrize("bits", [12, 13, 16])
def test_signed_values_survive_compression(syntax: str, bits: int, tmp_path: Path) -> None:
    def edit(ds: Dataset, k: int) -> None:
        values = np.frombuffer(ds.PixelData, "<u2").astype(int)[: ds.Rows * ds.Columns] - 1024
        cases.set_pixels(ds, values.astype("<i2").reshape(ds.Rows, ds.Columns), bits=bits)
        ds.RescaleIntercept = 0
        ds.compress(syntax, generate_instance_uid=False)

    save_all(slices(shape=(40, 36, 3), edit=edit), tmp_path)

    (volume,) = read_dicom_volumes(tmp_path)

    check_plane = cases.expected_values(volume.geometry.affine, (40, 36, 3))
    assert np.abs(volume.array[0] - check_plane).max() <= 0.6


def test_frames_are_found_by_an_extended_offset_table(tmp_path: Path) -> None:
    from pydicom.encaps import encapsulate_extended, generate_frames

    ds = cases.enhanced()
    ds.compress("1.2.840.10008.1.2.5", generate_instance_uid=False)
    codes = list(generate_frames(ds.PixelData, number_of_frames=SHAPE[2]))
    ds.PixelData, ds.ExtendedOffsetTable, ds.ExtendedOffsetTableLengths = encapsulate_extended(
        codes
    )
    save(ds, tmp_path / "one.dcm")

    (volume,) = read_dicom_volumes(tmp_path)

    check(volume)


def test_legacy_converted_objects_are_read_like_enhanced_ones(tmp_path: Path) -> None:
    save(cases.enhanced(sop_class="1.2.840.10008.5.1.4.1.1.2.2"), tmp_path / "one.dcm")

    (volume,) = read_dicom_volumes(tmp_path)

    check(volume)


def test_two_slices_make_a_volume(tmp_path: Path) -> None:
    save_all(slices(shape=(19, 18, 2)), tmp_path)

    (volume,) = read_dicom_volumes(tmp_path)

    assert volume.geometry.spacing_mm == pytest.approx(SPACING_MM)


def test_deflated_series_keeps_nothing_inflated_in_its_index(tmp_path: Path) -> None:
    deflated(tmp_path)
    from medseg.dicom.headers import index_folder

    (found,) = index_folder(tmp_path).volumes

    assert not any(
        isinstance(value, bytes)
        for frame in found.lattice.frames
        for value in vars(frame.header).values()
    )
