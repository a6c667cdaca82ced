"""Masks as lengths of runs, as COCO stores them: columns one after the other, zeros first.

Source: Lin et al. 2014, ECCV (the COCO data set and its format).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import LabelError


def encode_runs(mask: NDArray[np.bool_]) -> list[int]:
    """Lengths of the runs of a mask in its order of columns; the first counts zeros.

    Args:
        mask: bool, shape (rows, columns); any other shape is taken in Fortran's order.
    """
    flat = np.asarray(mask, np.bool_).ravel(order="F")
    turns = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    edges = np.concatenate([[0], turns, [flat.size]])
    runs = np.diff(edges).tolist()
    return [0, *runs] if flat.size and flat[0] else runs


def decode_runs(runs: Sequence[int], shape: tuple[int, ...], *, where: str) -> NDArray[np.bool_]:
    """The mask of lengths of runs.

    Raises:
        LabelError: the runs are not as many voxels as the shape has.
    """
    lengths = np.asarray(runs, np.int64) if len(runs) else np.zeros(0, np.int64)
    size = int(np.prod(shape, dtype=np.int64))
    if (lengths < 0).any() or int(lengths.sum()) != size:
        raise LabelError(
            where,
            f"its runs make {int(lengths.sum())} pixels, the mask has {size}",
            "export the annotation again",
            code="E_RUN_LENGTHS",
        )
    values = np.arange(len(lengths)) % 2 == 1
    return np.repeat(values, lengths).reshape(shape, order="F")


def pack_runs(runs: Sequence[int]) -> str:
    """COCO's text for lengths of runs.

    From the third on a length is written as its difference to the one two before; numbers have five
    bits per character, the lowest first, a sixth bit that says whether more follow, and the
    character is 48 higher.
    """
    characters = []
    for n, run in enumerate(runs):
        value = int(run) - (int(runs[n - 2]) if n > 2 else 0)
        while True:
            bits = value & 0x1F
            value >>= 5
            is_last = value == (-1 if bits & 0x10 else 0)
            characters.append(chr(48 + (bits if is_last else bits | 0x20)))
            if is_last:
                break
    return "".join(characters)


def unpack_runs(text: str, *, where: str) -> list[int]:
    """Lengths of runs from COCO's text.

    Raises:
        LabelError: it ends within a number, or holds other characters.
    """
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise _damaged(where)
        value |= (bits & 0x1F) << shift
        shift += 5
        if not bits & 0x20:
            if bits & 0x10:
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift:
        raise _damaged(where)
    return runs


def read_runs(segmentation: Any, shape: tuple[int, int], *, where: str) -> NDArray[np.bool_]:
    """The mask of a run-length entry {"size": [rows, columns], "counts": text or list}.

    Args:
        segmentation: as in a COCO file.
        shape: rows and columns of the image.
        where: what messages call it.

    Raises:
        LabelError: it is no such entry, or made for another size.
    """
    size = segmentation.get("size") if isinstance(segmentation, dict) else None
    counts = segmentation.get("counts") if isinstance(segmentation, dict) else None
    if size != list(shape) or not isinstance(counts, (str, list)):
        raise LabelError(
            where,
            f"its run lengths are for the size {size}, the image has {list(shape)}",
            "export the annotation again",
            code="E_RUN_LENGTHS",
        )
    if isinstance(counts, list) and not all(type(count) is int for count in counts):
        raise _damaged(where)
    runs = unpack_runs(counts, where=where) if isinstance(counts, str) else counts
    return decode_runs(runs, shape, where=where)


def _damaged(where: str) -> LabelError:
    return LabelError(
        where,
        "its run lengths cannot be read",
        "export the annotation again",
        code="E_RUN_LENGTHS",
    )
