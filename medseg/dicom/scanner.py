"""The make and model of the scanner of a series: what cases are grouped by, no identifier."""

from __future__ import annotations

from pathlib import Path

import pydicom
from pydicom.errors import InvalidDicomError

_TAGS = ("Manufacturer", "ManufacturerModelName")


def scanner_name(path: str | Path) -> str:
    """Manufacturer and model, "" if the file names neither or cannot be read.

    Serial number, station and institution are left out: they tell where a patient was.
    """
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_TAGS))
    except (OSError, InvalidDicomError, ValueError):
        return ""
    words = [" ".join(str(header.get(tag) or "").split()) for tag in _TAGS]
    return " ".join(word for word in words if word)
