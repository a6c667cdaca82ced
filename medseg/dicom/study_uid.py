"""The StudyInstanceUID of an encoded data set, found without decoding what comes before it.

For bytes that come from the network: nothing is built and nothing recurses, however deeply
sequences are nested, and the work is bounded by the length of the bytes.
"""

from __future__ import annotations

from medseg.core.errors import InputError

_STUDY_UID = (0x0020, 0x000D)
_ITEM, _ITEM_END, _SEQUENCE_END = (0xFFFE, 0xE000), (0xFFFE, 0xE00D), (0xFFFE, 0xE0DD)
_UNDEFINED = 0xFFFFFFFF
_LONG = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR",
                   b"UT", b"UV"})  # fmt: skip


def study_uid_of(dataset: bytes, *, is_implicit: bool) -> str:
    """The study's UID.

    Args:
        dataset: encoded in little endian, without preamble and file meta information.
        is_implicit: elements do not state their value representation.

    Raises:
        InputError: there is none, or the bytes are no data set.
    """
    view = memoryview(dataset)
    position = 0
    # Whether each open sequence or item is implicit: the content of an element of unknown
    # representation and undefined length is, whatever surrounds it (PS3.5 6.2.2).
    open_ends: list[bool] = []
    while position + 8 <= len(view):
        tag = _number(view, position, 2), _number(view, position + 2, 2)
        implicit = open_ends[-1] if open_ends else is_implicit
        if tag in (_ITEM, _ITEM_END, _SEQUENCE_END):
            length = _number(view, position + 4, 4)
            position += 8
            if tag == _ITEM:
                if length == _UNDEFINED:
                    open_ends.append(implicit)
                elif not open_ends:
                    break
                else:
                    position += length
            elif open_ends:
                open_ends.pop()
            else:
                break
            continue
        representation = b"UN" if implicit else bytes(view[position + 4 : position + 6])
        if implicit:
            length, start = _number(view, position + 4, 4), position + 8
        elif representation in _LONG:
            length, start = _number(view, position + 8, 4), position + 12
        else:
            length, start = _number(view, position + 6, 2), position + 8
        if not open_ends and tag >= _STUDY_UID:
            if tag == _STUDY_UID and start + length <= len(view):
                return bytes(view[start : start + length]).decode("ascii", "replace").strip("\0 ")
            break
        if length == _UNDEFINED:
            open_ends.append(implicit or representation == b"UN")
            position = start
        else:
            position = start + length
    raise InputError(
        "instance", "states no StudyInstanceUID", "send it with one", code="E_MISSING_TAG"
    )


def _number(view: memoryview, position: int, size: int) -> int:
    return int.from_bytes(view[position : position + size], "little")
