"""Compressed frames that contradict the header never reach a codec."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import pytest

from medseg.core.errors import InputError
from medseg.dicom.codestream import check_codestream

J2K, JPEG_LS, RLE = "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.5"


@dataclass(frozen=True)
class Form:
    rows: int = 18
    columns: int = 19
    samples: int = 1
    bits_allocated: int = 16


def j2k(width: int = 19, height: int = 18, *, precision: int = 12) -> bytes:
    """The first 49 bytes of a codestream: SOC and SIZ with one component."""
    size = struct.pack(">HHHLLLLLLLLH", 0xFF51, 41, 0, width, height, 0, 0, width, height, 0, 0, 1)
    return b"\xff\x4f" + size + bytes([precision - 1, 1, 1]) + bytes(8)


def check(code: bytes, syntax: str) -> None:
    check_codestream(code, syntax, Form(), where="slice.dcm")


def test_a_matching_codestream_passes() -> None:
    check(j2k(), J2K)


def test_a_codestream_in_a_jp2_file_passes() -> None:
    boxes = b"\0\0\0\x0cjP  \r\n\x87\n" + struct.pack(">L4s", 12, b"ftyp") + bytes(4)

    check(boxes + struct.pack(">L4s", 0, b"jp2c") + j2k(), J2K)


@pytest.mark.parametrize(
    ("code", "syntax", "what"),
    [
        (j2k(60000, 60000), J2K, "60000 x 60000"),
        (j2k(precision=20), J2K, "20-bit"),
        (b"", J2K, "without a readable start"),
        # A box of length 0 keeps a search for the next box at its place for ever.
        (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(4) + b"abcd" + j2k(), J2K, "without a readable start"),
        (b"\xff\xd8\xff\xf7" + struct.pack(">HBHHB", 11, 16, 900, 19, 1), JPEG_LS, "19 x 900"),
        (b"\xff\xd8\x00\x00", JPEG_LS, "without a readable start"),
        (bytes(20), RLE, "without its header"),
        (struct.pack("<16L", 3, 64, 70, 80, *[0] * 12), RLE, "3 segments where 2"),
        (struct.pack("<16L", 2, 64, 66, *[0] * 13) + b"\x81\0\x81\0", RLE, "segment of 128 bytes"),
    ],
)
def test_a_contradicting_codestream_is_refused(code: bytes, syntax: str, what: str) -> None:
    with pytest.raises(InputError, match=what) as caught:
        check(code, syntax)

    assert caught.value.code == "E_PIXEL_DATA"
    assert caught.value.where == "slice.dcm"
    assert "again" in caught.value.remedy
