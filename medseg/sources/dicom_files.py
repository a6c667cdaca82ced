"""A quick look whether a file could be DICOM, so that other folders are not searched for it."""

from __future__ import annotations

import zipfile
from pathlib import Path

from medseg.sources.image_files import is_image_file

_PREAMBLE = 128


def may_be_dicom(path: Path) -> bool:
    """True for a DICOM file (with or without preamble) by its first bytes, and for a ZIP."""
    if is_image_file(path):
        return False
    if path.suffix.lower() in (".dcm", ".ima", ".dicom"):
        return True
    try:
        with path.open("rb") as stream:
            head = stream.read(_PREAMBLE + 4)
    except OSError:
        return False
    if head[_PREAMBLE:] == b"DICM" or (head[:4] == b"PK\x03\x04" and zipfile.is_zipfile(path)):
        return True
    # Without a preamble a data set starts with group 0002 or 0008, in either byte order.
    return len(head) > 8 and head[:2] in (b"\x02\x00", b"\x08\x00", b"\x00\x02", b"\x00\x08")
