"""2D pictures (PNG, TIFF, JPEG, BMP) to Volumes of one slice, with every bit the file holds.

i runs along the rows of the picture (to the right on a screen), j down the columns. Pictures do
not say how large a pixel is in the patient; it is taken as 1 mm, and the volume's notes say so.
"""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import InputError
from medseg.core.geometry import Geometry
from medseg.core.volume import Volume
from medseg.sources.byte_stream import ByteStream
from medseg.sources.placement import flat_geometry
from medseg.sources.read_rules import ReadRules
from medseg.sources.voxels import not_finite_note, refuse_too_large

if TYPE_CHECKING:
    from PIL import Image as PillowImage

_FORMATS = ("PNG", "TIFF", "JPEG", "BMP")
_SIZE_NOTE = "the pixel size is unknown and taken as 1 mm"
# Channels that Pillow keeps at full depth, and which of them are intensities.
_CHANNELS = {
    "1": 1,
    "L": 1,
    "I": 1,
    "F": 1,
    "I;16": 1,
    "I;16B": 1,
    "I;16L": 1,
    "LA": 1,
    "RGB": 3,
    "RGBA": 3,
    "RGBX": 3,
}  # Tags of TIFF 6.0: the places and lengths of strips and of tiles.
_TIFF_PIECES = ((273, 279), (324, 325))
_TIFF_BITS = 258


def read_picture(path: Path, *, rules: ReadRules | None = None, as_labels: bool = False) -> Volume:
    """The picture in a file, shape (C, I, J, 1); an alpha channel is left out and noted.

    Args:
        path: the file.
        rules: what to accept.
        as_labels: give the indices of a palette instead of its colours.

    Raises:
        InputError: the file is damaged, has several pages, or its colours are not grey, RGB or a
        palette.
    """
    rules = rules or ReadRules()
    picture, depth = _open(path, rules=rules)
    notes = [_SIZE_NOTE]
    if depth == 16 and picture.mode in ("RGB", "RGBA", "LA", "L"):
        array = _deep_colours(path)
    else:
        array = _pixels(picture, path, as_labels=as_labels)
    if array.ndim == 3 and array.shape[2] in (2, 4):
        is_opaque = array[..., -1].min() == array[..., -1].max()
        notes.append(f"the {'constant ' if is_opaque else ''}alpha channel is left out")
        array = array[..., :-1]
    pixels = array if array.ndim == 3 else array[..., None]
    # Stored as rows of the screen: (J, I, C) to (C, I, J, 1).
    voxels = pixels.transpose(2, 1, 0)[..., None]
    notes.extend(not_finite_note(array))
    return Volume(voxels, _geometry(picture), notes=tuple(notes))


def read_picture_geometry(path: Path, *, rules: ReadRules | None = None) -> Geometry:
    """The grid of a picture, from its header alone."""
    return _geometry(_open(path, rules=rules or ReadRules(), is_header_enough=True)[0])


def _geometry(picture: PillowImage.Image) -> Geometry:
    return flat_geometry((picture.width, picture.height, 1), (1.0, 1.0))


def _open(
    path: Path, *, rules: ReadRules, is_header_enough: bool = False
) -> tuple[PillowImage.Image, int]:
    """The opened picture and its bits per channel, after the checks that need no decoding."""
    from PIL import Image

    with ByteStream(path, wrapper="raw") as stream:
        head = stream.read_up_to(32)
        size = stream.file_size
    try:
        if head[:4] == b"\x89PNG" and not is_header_enough:
            # Reads every chunk to the end of the file and compares the checksums.
            with Image.open(path, formats=_FORMATS) as picture:
                picture.verify()
        with Image.open(path, formats=_FORMATS) as picture:
            num_pages = int(getattr(picture, "n_frames", 1))
            depth = _depth(picture, head)
            _refuse_short_tiff(picture, path, file_bytes=size)
            num_bytes = prod(picture.size) * len(picture.getbands()) * max(depth, 8) // 8
            refuse_too_large(path, num_bytes, rules=rules)
            if not is_header_enough:
                picture.load()
    except InputError:
        raise
    except Exception as error:  # Pillow's decoders raise errors of a dozen types
        raise _damaged(path, error) from error
    if num_pages > 1:
        raise InputError(
            path,
            f"has {num_pages} pages or frames, must be one picture",
            "save each page as its own file, or the stack as a NIfTI volume",
            code="E_DIMENSIONS",
        )
    return picture, depth


def _depth(picture: PillowImage.Image, head: bytes) -> int:
    """Bits per channel in the file."""
    if picture.format == "PNG":
        return head[24]
    bits = getattr(picture, "tag_v2", {}).get(_TIFF_BITS, 8)
    return int(max(bits) if isinstance(bits, tuple) else bits)


def _refuse_short_tiff(picture: PillowImage.Image, path: Path, *, file_bytes: int) -> None:
    tags = getattr(picture, "tag_v2", None)
    if tags is None:
        return
    for place_tag, length_tag in _TIFF_PIECES:
        places, lengths = tags.get(place_tag, ()), tags.get(length_tag, ())
        ends = [int(place) + int(length) for place, length in zip(places, lengths, strict=False)]
        if ends and max(ends) > file_bytes:
            raise InputError(
                path,
                f"has {file_bytes} bytes, its pixels end at byte {max(ends)}",
                "the file is cut off; copy or export it again",
                code="E_TRUNCATED",
            )


def _pixels(picture: PillowImage.Image, path: Path, *, as_labels: bool) -> NDArray[Any]:
    """Pixels as (J, I) or (J, I, C)."""
    if picture.mode in ("P", "PA"):
        if as_labels:
            return np.asarray(picture if picture.mode == "P" else picture.getchannel(0))
        picture = picture.convert("RGBA" if "transparency" in picture.info else "RGB")
    if picture.mode not in _CHANNELS:
        raise InputError(
            path,
            f"its colours are {picture.mode}, accepted are grey, RGB, RGBA and palettes",
            "save it as grey or RGB",
            code="E_DTYPE",
        )
    array = np.asarray(picture)
    if array.dtype == np.bool_:
        return array.astype(np.uint8)
    return array.astype(array.dtype.newbyteorder("="))


def _deep_colours(path: Path) -> NDArray[Any]:
    """Pixels of a picture with 16 bits per colour, which Pillow would cut to 8."""
    import SimpleITK as sitk  # noqa: N813

    try:
        return np.asarray(sitk.GetArrayFromImage(sitk.ReadImage(str(path))))
    except RuntimeError as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> InputError:
    kind = type(error).__name__
    if kind in ("DecompressionBombError", "MemoryError"):
        return InputError(
            path,
            "has more pixels than are accepted",
            "cut it into smaller pictures",
            code="E_TOO_LARGE",
        )
    what = "is cut off" if "truncated" in str(error) else f"cannot be decoded ({kind})"
    return InputError(
        path,
        what,
        "the file is damaged; copy or export it again",
        code="E_TRUNCATED" if "truncated" in str(error) else "E_PICTURE",
    )
