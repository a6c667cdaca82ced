"""Headers that end early, as files do whose transfer broke off: recognised, and told of with what
they still say.
"""

from __future__ import annotations

from typing import Any

from medseg.core.errors import InputError
from medseg.dicom.syntaxes import is_image_class, other_object
from medseg.dicom.values import tag_of, text_of


class CutHeaderError(InputError):
    """A header that ends early; knows series and SOP class as far as they were read."""

    series_uid: str = ""
    sop_class: str = ""


def cut_header(name: str, dataset: Any, sop_class: str) -> InputError:
    """The error of a header that ends early."""
    error = CutHeaderError(
        name, "ends in the middle of its header", "export or send the file again", code="E_HEADER"
    )
    if cut_element(dataset) != tag_of("SeriesInstanceUID"):
        error.series_uid = text_of(dataset, "SeriesInstanceUID", where=name)
    # Without meta information the UID itself may have been cut.
    if is_image_class(sop_class) or other_object(sop_class):
        error.sop_class = sop_class
    return error


def cut_element(dataset: Any) -> int:
    """Tag of the last element read if it holds fewer bytes than its length says, else 0."""
    raws = [element for element in dict.values(dataset._dict) if hasattr(element, "length")]
    if not raws:
        return 0
    last = max(raws, key=lambda element: int(element.tag))
    size = len(last.value) if isinstance(last.value, bytes) else 0
    is_cut = last.length not in (0xFFFFFFFF, 0) and size < last.length
    return int(last.tag) if is_cut else 0


def is_stump(dataset: Any, sop_class: str, last_tag: int) -> bool:
    """True for an image that ends between two elements, before anything of its pixels is said.

    Objects that lack the series altogether but go on behind its place are whole.
    """
    if not is_image_class(sop_class) or "Rows" in dataset or "ImagePositionPatient" in dataset:
        return False
    return "SeriesInstanceUID" in dataset or last_tag < tag_of("SeriesInstanceUID")
