"""NRRD and MetaImage files, written by ITK or by hand, are read rightly or refused."""

import gzip
import random
import zlib

import numpy as np
import phantoms
import pytest
import SimpleITK as sitk  # noqa: N813

from medseg.core.errors import InputError
from medseg.sources.image_files import read_geometry, read_image
from medseg.sources.read_rules import ReadRules

VOXELS = np.arange(-7, 53, dtype="<i2").reshape((5, 4, 3), order="F")
AFFINE = np.array([[-1.5, 0, 0, 31], [0, -2, 0, -17.5], [0, 0, 3.25, 203.25], [0, 0, 0, 1]])

NRRD = """NRRD0004
# written by hand
type: short
dimension: 3
space: left-posterior-superior
sizes: 5 4 3
space directions: (1.5,0,0) (0,2,0) (0,0,3.25)
kinds: domain domain domain
endian: little
encoding: raw
space origin: (-31,17.5,203.25)
key:=a value of our own

"""
MHA = """ObjectType = Image
NDims = 3
BinaryData = True
BinaryDataByteOrderMSB = False
CompressedData = False
TransformMatrix = 1 0 0 0 1 0 0 0 1
Offset = -31 17.5 203.25
CenterOfRotation = 0 0 0
AnatomicalOrientation = RAI
ElementSpacing = 1.5 2 3.25
DimSize = 5 4 3
ElementType = MET_SHORT
ElementDataFile = LOCAL
"""
DATA = VOXELS.tobytes("F")


def _itk_image(volume):
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.array[0].T))
    affine_lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.geometry.affine
    image.SetOrigin(affine_lps[:3, 3])
    image.SetSpacing(volume.geometry.spacing_mm)
    image.SetDirection((affine_lps[:3, :3] / volume.geometry.spacing_mm).ravel())
    return image


def _write(folder, name, text, data=DATA, **changes):
    for old, new in changes.values():
        assert old in text
        text = text.replace(old, new)
    path = folder / name
    path.write_bytes(text.encode() + data)
    return path


@pytest.mark.parametrize("suffix", [".nrrd", ".nhdr", ".mha", ".mhd"])
@pytest.mark.parametrize("is_compressed", [False, True])
def test_files_of_itk_keep_values_and_positions(suffix, is_compressed, tmp_path):
    for orientation in phantoms.ALL_48_ORIENTATIONS[:: 1 if suffix == ".nrrd" else 7]:
        volume = phantoms.sphere(orientation=orientation)
        path = tmp_path / f"{orientation}{suffix}"
        sitk.WriteImage(_itk_image(volume), str(path), is_compressed)

        found = read_image(path)

        np.testing.assert_array_equal(found.array, volume.array)
        np.testing.assert_allclose(found.geometry.affine, volume.geometry.affine, atol=1e-6)
        assert read_geometry(path).difference(found.geometry) is None
        assert found.notes == ()


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_several_numbers_per_voxel_become_channels(suffix, tmp_path):
    values = np.random.default_rng(0).normal(size=(3, 4, 5, 2)).astype("f4")
    path = tmp_path / f"a{suffix}"
    sitk.WriteImage(sitk.GetImageFromArray(values, isVector=True), str(path))

    found = read_image(path)

    np.testing.assert_array_equal(found.array, values.transpose(3, 2, 1, 0))


@pytest.mark.parametrize("kind", ["nrrd", "gzip nrrd", "big nrrd", "mha", "zlib mha", "big mha"])
def test_files_made_by_hand_are_read(kind, tmp_path):
    swapped = VOXELS.astype(">i2").tobytes("F")
    path = {
        "nrrd": lambda: _write(tmp_path, "a.nrrd", NRRD),
        "gzip nrrd": lambda: _write(
            tmp_path, "a.nrrd", NRRD, gzip.compress(DATA), a=("raw", "gzip")
        ),
        "big nrrd": lambda: _write(tmp_path, "a.nrrd", NRRD, swapped, a=("little", "big")),
        "mha": lambda: _write(tmp_path, "a.mha", MHA),
        "zlib mha": lambda: _write(
            tmp_path,
            "a.mha",
            MHA,
            zlib.compress(DATA),
            a=("CompressedData = F", "CompressedData = T"),
        ),
        "big mha": lambda: _write(tmp_path, "a.mha", MHA, swapped, a=("MSB = False", "MSB = True")),
    }[kind]()

    volume = read_image(path)

    np.testing.assert_array_equal(volume.array[0], VOXELS)
    np.testing.assert_allclose(volume.geometry.affine, AFFINE)


def test_ras_space_needs_no_turning(tmp_path):
    path = _write(tmp_path, "a.nrrd", NRRD, a=("left-posterior-superior", "RAS"))

    affine = read_image(path).geometry.affine

    np.testing.assert_allclose(affine, np.diag([-1.0, -1.0, 1.0, 1.0]) @ AFFINE)


def test_data_is_found_at_the_end_of_its_file(tmp_path):
    skipped = _write(tmp_path, "a.nrrd", NRRD, b"junk" + DATA, a=("key:=", "byte skip: -1\nkey:="))
    lines = _write(tmp_path, "b.nrrd", NRRD, b"x\nyy\n" + DATA, a=("key:=", "line skip: 2\nkey:="))
    other = _write(
        tmp_path, "c.mha", MHA, b"junk" + DATA, a=("DimSize", "HeaderSize = -1\nDimSize")
    )

    for path in (skipped, lines, other):
        np.testing.assert_array_equal(read_image(path).array[0], VOXELS)


def test_a_file_without_orientation_is_read_only_when_allowed(tmp_path):
    nrrd = _write(
        tmp_path, "a.nrrd", NRRD, a=("space: left-posterior-superior", "space dimension: 3")
    )
    mha = _write(tmp_path, "a.mha", MHA, a=("TransformMatrix = 1 0 0 0 1 0 0 0 1\n", ""))

    for path in (nrrd, mha):
        with pytest.raises(InputError, match="which side is left") as caught:
            read_image(path)
        volume = read_image(path, rules=ReadRules(allow_unknown_orientation=True))

        assert caught.value.code == "E_NO_ORIENTATION"
        assert volume.geometry.spacing_mm == (1.5, 2.0, 3.25)
        assert any("orientation is unknown" in note for note in volume.notes)


REFUSED_NRRD = {
    "cut": ("", "", DATA[:-1], "E_TRUNCATED"),
    "no data": ("", "", b"", "E_TRUNCATED"),
    "not nrrd": ("NRRD0004", "DRRN0004", DATA, "E_HEADER"),
    "sizes and dimension": ("dimension: 3", "dimension: 2", DATA, "E_HEADER"),
    "size 0": ("sizes: 5", "sizes: 0", DATA, "E_HEADER"),
    "size of words": ("sizes: 5", "sizes: five", DATA, "E_HEADER"),
    "huge": ("sizes: 5 4", "sizes: 500000 400000", DATA, "E_TOO_LARGE"),
    "block type": ("type: short", "type: block", DATA, "E_DTYPE"),
    "no byte order": ("endian: little\n", "", DATA, "E_HEADER"),
    "text encoding": ("encoding: raw", "encoding: ascii", DATA, "E_COMPRESSION"),
    "bzip2": ("encoding: raw", "encoding: bzip2", DATA, "E_COMPRESSION"),
    "bad gzip": ("encoding: raw", "encoding: gzip", DATA, "E_COMPRESSION"),
    "no origin": ("space origin: (-31,17.5,203.25)\n", "", DATA, "E_NO_ORIENTATION"),
    "zero direction": ("(0,2,0)", "(0,0,0)", DATA, "E_AFFINE"),
    "direction of words": ("(0,2,0)", "(0,two,0)", DATA, "E_HEADER"),
    "nan direction": ("(0,2,0)", "(0,nan,0)", DATA, "E_AFFINE"),
    "sheared": ("(0,2,0)", "(0.5,2,0)", DATA, "E_SHEAR"),
    "two directions": (" (0,0,3.25)", "", DATA, "E_HEADER"),
    "other folder": ("key:=", "data file: ../secret.raw\nkey:=", DATA, "E_HEADER"),
    "absolute path": ("key:=", "data file: /etc/passwd\nkey:=", DATA, "E_HEADER"),
    "list of files": ("key:=", "data file: LIST\nkey:=", DATA, "E_HEADER"),
    "missing file": ("key:=", "data file: a.raw\nkey:=", DATA, "E_NO_FILE"),
    "unit": ("key:=", 'space units: "furlong" "mm" "mm"\nkey:=', DATA, "E_UNITS"),
}
REFUSED_MHA = {
    "cut": ("", "", DATA[:-1], "E_TRUNCATED"),
    "no end": ("ElementDataFile = LOCAL\n", "", b"", "E_HEADER"),
    "bad zlib": ("CompressedData = False", "CompressedData = True", DATA, "E_COMPRESSION"),
    "wrong checksum": (
        "CompressedData = False",
        "CompressedData = True",
        zlib.compress(DATA)[:-1] + b"\0",
        "E_CHECKSUM",
    ),
    "cut zlib": (
        "CompressedData = False",
        "CompressedData = True",
        zlib.compress(DATA)[:-6],
        "E_TRUNCATED",
    ),
    "spacing 0": ("1.5 2 3.25", "1.5 0 3.25", DATA, "E_SPACING"),
    "negative spacing": ("1.5 2 3.25", "1.5 -2 3.25", DATA, "E_SPACING"),
    "no spacing": ("ElementSpacing = 1.5 2 3.25\n", "", DATA, "E_SPACING"),
    "no offset": ("Offset = -31 17.5 203.25\n", "", DATA, "E_NO_ORIENTATION"),
    "matrix of zeros": ("1 0 0 0 1 0 0 0 1", "0 0 0 0 0 0 0 0 0", DATA, "E_AFFINE"),
    "short matrix": ("1 0 0 0 1 0 0 0 1", "1 0 0 1", DATA, "E_HEADER"),
    "sheared": ("1 0 0 0 1 0 0 0 1", "1 0 0 0.5 1 0 0 0 1", DATA, "E_SHEAR"),
    "type": ("MET_SHORT", "MET_STRING", DATA, "E_DTYPE"),
    "text": ("BinaryData = True", "BinaryData = False", DATA, "E_HEADER"),
    "huge": ("DimSize = 5 4", "DimSize = 500000 400000", DATA, "E_TOO_LARGE"),
    "object": ("ObjectType = Image", "ObjectType = Mesh", DATA, "E_HEADER"),
    "list of files": ("= LOCAL", "= LIST", DATA, "E_HEADER"),
    "pattern of files": ("= LOCAL", "= a%03d.raw 1 9 1", DATA, "E_HEADER"),
    "other folder": ("= LOCAL", "= ../secret.raw", DATA, "E_HEADER"),
    "axes": ("NDims = 3", "NDims = 2", DATA, "E_HEADER"),
}


@pytest.mark.parametrize("name", REFUSED_NRRD)
def test_a_wrong_nrrd_file_is_refused_with_its_code(name, tmp_path):
    old, new, data, code = REFUSED_NRRD[name]
    path = _write(tmp_path, "a.nrrd", NRRD, data, a=(old, new))

    with pytest.raises(InputError) as caught:
        read_image(path)

    assert caught.value.code == code
    assert caught.value.remedy


@pytest.mark.parametrize("name", REFUSED_MHA)
def test_a_wrong_metaimage_file_is_refused_with_its_code(name, tmp_path):
    old, new, data, code = REFUSED_MHA[name]
    path = _write(tmp_path, "a.mha", MHA, data, a=(old, new))

    with pytest.raises(InputError) as caught:
        read_image(path)

    assert caught.value.code == code
    assert caught.value.remedy


@pytest.mark.parametrize(("name", "text"), [("a.nrrd", NRRD), ("a.mha", MHA)])
def test_damaged_headers_raise_the_one_exception_type(name, text, tmp_path):
    rng = random.Random(5)
    words = [b"0", b"-1", b"nan", b"1e400", b"9" * 30, b"(", b"\0", b"\xff", b"none", b"%d", b""]
    outcomes = set()
    for _ in range(400):
        head = bytearray(text.encode())
        for _ in range(rng.choice((1, 1, 3))):
            place = rng.randrange(len(head))
            head[place : place + rng.randrange(3)] = rng.choice(words)
        path = tmp_path / name
        path.unlink(missing_ok=True)
        path.write_bytes(bytes(head) + DATA)
        try:
            read_image(path)
            outcomes.add("read")
        except InputError as error:
            outcomes.add(error.code)

    assert len(outcomes) > 5


@pytest.mark.real_data
def test_real_nrrd_files_agree_with_itk(real_data):
    for path in sorted(real_data("tumours_pyradiomics").glob("*.nrrd")):
        image = sitk.ReadImage(str(path))
        volume = read_image(path)
        np.testing.assert_array_equal(volume.array[0], sitk.GetArrayFromImage(image).T)
        corner = image.TransformIndexToPhysicalPoint([7, 11, 13])
        found = volume.geometry.to_world_mm((7, 11, 13)) * (-1, -1, 1)
        np.testing.assert_allclose(found, corner, atol=1e-6)
