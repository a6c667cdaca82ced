"""Which files are images, each of them once; other objects and copies are named and left out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medseg.core.errors import InputError
from medseg.dicom.frames import is_localizer
from medseg.dicom.parse import Header
from medseg.dicom.syntaxes import DICOMDIR, SECONDARY_CAPTURES, other_object


@dataclass(frozen=True)
class LeftOut:
    """A file that is no part of any volume, and why."""

    path: Path
    reason: str


def select_images(headers: Sequence[Header]) -> tuple[list[Header], list[LeftOut]]:
    """Headers of images, and the objects that are none."""
    images: list[Header] = []
    captures: list[Header] = []
    left_out: list[LeftOut] = []
    for header in headers:
        sop_class = header.text("SOPClassUID")
        other = other_object(sop_class)
        if not other and not sop_class and header.path.name.upper() == "DICOMDIR":
            other = other_object(DICOMDIR)
        if not other and header.has("SegmentSequence"):
            other = "a segmentation"
        if (
            not other
            and not (header.pixel_tag or header.has("Rows"))
            and not header.has("ImagePositionPatient")
        ):
            other = "an object without pixels"
        if other:
            left_out.append(LeftOut(header.path, f"is {other}, not an image"))
        elif sop_class in SECONDARY_CAPTURES and (
            is_localizer(header) or not header.has("ImagePositionPatient")
        ):
            captures.append(header)
        else:
            images.append(header)
    # A screenshot or dose sheet beside images is no input; a folder of captures alone was meant.
    if images:
        left_out += [
            LeftOut(h.path, "is a secondary capture (a screenshot or dose sheet)") for h in captures
        ]
    else:
        images = captures
    return images, left_out


def without_duplicates(members: list[Header], where: str) -> tuple[list[Header], list[LeftOut]]:
    """Each image once; the same SOPInstanceUID with other bytes is refused."""
    kept: dict[str, Header] = {}
    left_out: list[LeftOut] = []
    for n, header in enumerate(members):
        uid = header.text("SOPInstanceUID") or f"without {n}"
        first = kept.setdefault(uid, header)
        if first is header:
            continue
        if _digest(first.path) != _digest(header.path):
            raise InputError(
                where,
                f"{first.path.name} and {header.path.name} claim to be the same image "
                "(SOPInstanceUID) "
                "but differ",
                "find out which one is right and remove the other",
                code="E_DUPLICATE",
            )
        left_out.append(LeftOut(header.path, f"is a copy of {first.path.name}"))
    return list(kept.values()), left_out


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
