"""Single elements of a data set as text and numbers, absent and unusable values refused by name."""

from __future__ import annotations

import math
from typing import Any

from pydicom.datadict import tag_for_keyword
from pydicom.valuerep import PersonName

from medseg.core.errors import InputError


def tag_of(keyword: str) -> int:
    """Number of a keyword of the DICOM dictionary."""
    tag = tag_for_keyword(keyword)
    assert tag is not None, keyword
    return tag


def text_of(dataset: Any, keyword: str, *, where: str) -> str:
    """An element as text, values joined by backslash; "" if absent, empty or not decodable."""
    try:
        value = raw_value(dataset, keyword, where)
    except InputError:
        return ""
    if is_empty(value):
        return ""
    # A person's name is no str, and iterating over it gives its letters.
    if isinstance(value, str | int | float | PersonName):
        return str(value).strip("\0 ")
    try:
        return "\\".join(str(part).strip("\0 ") for part in value)
    except TypeError:
        return str(value).strip("\0 ")


def number_of(dataset: Any, keyword: str, *, where: str, default: float | None = None) -> float:
    """An element as one finite number."""
    value = raw_value(dataset, keyword, where)
    if is_empty(value):
        if default is None:
            raise missing(where, keyword)
        return float(default)
    return _finite((value,), keyword, 1, where)[0]


def numbers_of(dataset: Any, keyword: str, *, count: int, where: str) -> tuple[float, ...]:
    """An element as exactly `count` finite numbers."""
    value = raw_value(dataset, keyword, where)
    if is_empty(value):
        raise missing(where, keyword)
    parts = (value,) if isinstance(value, str | int | float) else tuple(value)
    return _finite(parts, keyword, count, where)


def missing(where: str, keyword: str) -> InputError:
    """Error for an absent or empty element that is needed."""
    return InputError(
        where,
        f"has no {keyword}, which is needed and never guessed",
        "export the series again with complete headers",
        code="E_MISSING_TAG",
    )


def bad_value(where: str, keyword: str, value: object, expected: str) -> InputError:
    """Error for an element whose value cannot be used."""
    return InputError(
        where,
        f"{keyword} is {value}, it {expected}",
        "export the series again with correct headers",
        code="E_BAD_VALUE",
    )


def raw_value(dataset: Any, keyword: str, where: str) -> Any:
    """An element's value as pydicom gives it, None if absent; refused if it cannot be converted."""
    try:
        element = dataset.get(tag_of(keyword))
        return None if element is None else element.value
    except (MemoryError, RecursionError):
        raise bad_value(where, keyword, "too deeply nested", "must be readable") from None
    except Exception:
        # The value itself is not shown: it may hold anything, a name included.
        raise bad_value(where, keyword, "not readable", "must follow its type's format") from None


def text_any(dataset: Any, keyword: str) -> str:
    """Like `text_of`, for nested items; "" where it cannot be read."""
    try:
        value = dataset.get(keyword)
    except Exception:  # pydicom raises many types on corrupt values
        return ""
    if value is None or isinstance(value, str | int | float):
        return "" if value is None else str(value)
    try:
        return "\\".join(str(part) for part in value)
    except TypeError:
        return str(value)


def is_empty(value: Any) -> bool:
    """True for None and for text or sequences of length zero."""
    if value is None:
        return True
    try:
        return len(value) == 0
    except TypeError:
        return False


def _finite(parts: tuple[Any, ...], keyword: str, count: int, where: str) -> tuple[float, ...]:
    if len(parts) != count:
        raise bad_value(where, keyword, f"{len(parts)} values", f"must be {count}")
    try:
        numbers = tuple(float(part) for part in parts)
    except (TypeError, ValueError, OverflowError):
        raise bad_value(where, keyword, "not a number", "must be a number") from None
    if not all(map(math.isfinite, numbers)):
        raise bad_value(where, keyword, numbers if count > 1 else numbers[0], "must be finite")
    return numbers
