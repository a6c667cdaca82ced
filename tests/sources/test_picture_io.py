"""2D pictures give every bit they hold, on one slice, or are refused."""

import struct
import zlib

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from PIL import Image

from medseg.core.errors import InputError
from medseg.sources.image_files import read_geometry, read_image
from medseg.sources.read_rules import ReadRules

# 7 pixels to the right, 4 down: (J, I) as a screen has them.
GREY = np.arange(28, dtype=np.uint8).reshape(4, 7) * 9


def _saved(folder, array, name="a.png", mode=None):
    path = folder / name
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path)
    return path


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.bmp", "A.TIFF"])
def test_i_runs_to_the_right_and_j_down(name, tmp_path):
    path = _saved(tmp_path, GREY, name)

    volume = read_image(path)

    assert volume.array.shape == (1, 7, 4, 1)
    assert volume.array[0, 5, 2, 0] == GREY[2, 5]
    assert volume.geometry.orientation == "LPS"
    assert read_geometry(path).difference(volume.geometry) is None
    assert "the pixel size is unknown and taken as 1 mm" in volume.notes


def test_16_bit_grey_keeps_its_depth(tmp_path):
    deep = (GREY.astype(np.uint16) * 250) + 3
    for name in ("a.png", "a.tif"):
        volume = read_image(_saved(tmp_path, deep, name))
        assert volume.array.dtype == np.uint16
        np.testing.assert_array_equal(volume.array[0, ..., 0].T, deep)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_16_bit_colours_keep_their_depth(name, tmp_path):
    deep = np.random.default_rng(1).integers(0, 65536, (4, 7, 3)).astype(np.uint16)
    path = tmp_path / name
    sitk.WriteImage(sitk.GetImageFromArray(deep, isVector=True), str(path))

    volume = read_image(path)

    np.testing.assert_array_equal(volume.array[..., 0], deep.transpose(2, 1, 0))


def test_an_alpha_channel_is_left_out_and_noted(tmp_path):
    colours = np.random.default_rng(2).integers(0, 256, (4, 7, 4)).astype(np.uint8)

    volume = read_image(_saved(tmp_path, colours))

    np.testing.assert_array_equal(volume.array[..., 0], colours[..., :3].transpose(2, 1, 0))
    assert "the alpha channel is left out" in volume.notes


def test_a_palette_gives_colours_as_image_and_indices_as_labels(tmp_path):
    image = Image.fromarray((GREY % 3).astype(np.uint8), mode="P")
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    path = tmp_path / "a.png"
    image.save(path)

    assert read_image(path).num_channels == 3
    np.testing.assert_array_equal(read_image(path, as_labels=True).array[0, ..., 0].T, GREY % 3)


def test_one_bit_pictures_give_0_and_1(tmp_path):
    volume = read_image(_saved(tmp_path, GREY > 100))

    assert volume.array.dtype == np.uint8
    np.testing.assert_array_equal(volume.array[0, ..., 0].T, GREY > 100)


def _chunk_changed(content: bytes) -> bytes:
    place = content.index(b"IDAT") + 8
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def _bomb() -> bytes:
    def chunk(kind, body):
        checksum = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + checksum

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(
    ("name", "change", "codes"),
    [
        ("a.png", lambda content: content[:-20], ("E_PICTURE", "E_TRUNCATED")),
        ("a.png", lambda content: content[: len(content) // 2], ("E_PICTURE", "E_TRUNCATED")),
        ("a.png", _chunk_changed, ("E_PICTURE",)),
        ("a.png", lambda content: _bomb(), ("E_TOO_LARGE",)),
        ("a.png", lambda content: b"", ("E_PICTURE",)),
        ("a.png", lambda content: b"GIF89a" + content, ("E_PICTURE",)),
        ("a.tif", lambda content: content[:20], ("E_PICTURE", "E_TRUNCATED")),
        ("a.bmp", lambda content: content[:-9], ("E_PICTURE", "E_TRUNCATED")),
        ("a.jpg", lambda content: content[: len(content) * 2 // 3], ("E_PICTURE", "E_TRUNCATED")),
    ],
)
def test_a_damaged_picture_is_refused(name, change, codes, tmp_path):
    path = _saved(tmp_path, GREY, name)
    path.write_bytes(change(path.read_bytes()))

    with pytest.raises(InputError) as caught:
        read_image(path)

    assert caught.value.code in codes
    assert caught.value.remedy


def test_a_tiff_whose_strips_are_cut_off_is_refused(tmp_path):
    path = tmp_path / "a.tif"
    wide = np.random.default_rng(3).integers(0, 255, (64, 64)).astype(np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(wide), str(path), False)
    content = path.read_bytes()
    offset = struct.unpack("<I", content[4:8])[0]
    if offset > 1000:  # the directory is behind the pixels: put it in front by Pillow
        Image.open(path).save(path, compression=None)
        content = path.read_bytes()
    path.write_bytes(content[:-64])

    with pytest.raises(InputError) as caught:
        read_image(path)

    assert caught.value.code in ("E_TRUNCATED", "E_PICTURE")


def test_several_pages_are_refused(tmp_path):
    path = tmp_path / "a.tif"
    Image.fromarray(GREY).save(path, save_all=True, append_images=[Image.fromarray(GREY)])

    with pytest.raises(InputError, match=r"has 2 pages or frames.*stack as a NIfTI") as caught:
        read_image(path)

    assert caught.value.code == "E_DIMENSIONS"


def test_colours_that_are_not_rgb_are_refused(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(GREY).convert("CMYK").save(path)

    with pytest.raises(InputError, match="its colours are CMYK"):
        read_image(path)


def test_a_picture_over_the_limit_is_refused(tmp_path):
    with pytest.raises(InputError) as caught:
        read_image(_saved(tmp_path, GREY), rules=ReadRules(max_bytes=27))

    assert caught.value.code == "E_TOO_LARGE"


@pytest.mark.real_data
def test_real_pictures_are_read(real_data):
    folder = real_data("ivadomed_testing") / "data_test_png_tif"
    found = {path.name: read_image(path) for path in sorted(folder.rglob("*.png"))}

    assert {volume.array.dtype.itemsize for volume in found.values()} == {1, 2}
    assert found["sub-png_sample-16rgb_SEM.png"].array.dtype == np.uint16
    assert found["sub-png_sample-8rgba_SEM.png"].num_channels == 3
