"""Numbers of a voxel array: read from a byte stream within limits, scaled, examined."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import InputError
from medseg.sources.byte_stream import ByteStream
from medseg.sources.read_rules import ReadRules


def read_voxels(
    stream: ByteStream, *, shape: tuple[int, ...], dtype: np.dtype[Any], rules: ReadRules
) -> NDArray[Any]:
    """The next `prod(shape)` numbers in native byte order, first axis fastest (Fortran order).

    Raises:
        InputError: E_TOO_LARGE, too large; E_TRUNCATED, not all there; E_COMPRESSION, E_CHECKSUM.
    """
    count = prod(shape)
    num_bytes = count * dtype.itemsize
    refuse_too_large(stream.path, num_bytes, rules=rules)
    if stream.position + num_bytes > stream.most_bytes():
        raise InputError(
            stream.path,
            f"has {stream.file_size} bytes, which cannot hold the {num_bytes} bytes of its voxels",
            "the file is cut off or its header is damaged; copy or export it again",
            code="E_TRUNCATED",
        )
    try:
        flat = np.empty(count, dtype)
    except MemoryError as error:
        raise _out_of_memory(stream.path, num_bytes) from error
    stream.read_into(flat.view(np.uint8).data)
    if not dtype.isnative:
        flat = flat.byteswap(inplace=True).view(dtype.newbyteorder("="))
    return flat.reshape(shape, order="F")


def refuse_too_large(path: Path, num_bytes: int, *, rules: ReadRules) -> None:
    """Raises E_TOO_LARGE if an array of that size is over the limit."""
    if num_bytes > rules.max_bytes:
        raise InputError(
            path,
            f"announces {num_bytes:.3g} bytes of voxels, the limit is {rules.max_bytes:.3g}",
            "set max_bytes of the source if the file is really that large",
            code="E_TOO_LARGE",
        )


def scaled(array: NDArray[Any], *, slope: float, intercept: float, path: Path) -> NDArray[Any]:
    """`slope * array + intercept` as float32, or as float64 where the stored numbers need it.

    Raises:
        InputError: E_SCALING, a finite number becomes infinite; E_TOO_LARGE, not enough memory.
    """
    needs_double = array.dtype.itemsize > (4 if array.dtype.kind == "f" else 2)
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            result: NDArray[Any] = array.astype(
                np.float64 if needs_double else np.float32, order="K"
            )
            np.multiply(result, result.dtype.type(slope), out=result)
            np.add(result, result.dtype.type(intercept), out=result)
    except MemoryError as error:
        raise _out_of_memory(path, array.size * 8) from error
    if num_not_finite(result) > num_not_finite(array):
        raise InputError(
            path,
            f"values multiplied by {slope:g} and moved by {intercept:g} are no longer finite",
            "set scl_slope and scl_inter to what the values need",
            code="E_SCALING",
        )
    return result


def num_not_finite(array: NDArray[Any]) -> int:
    """How many voxels are NaN or infinite."""
    if array.dtype.kind != "f":
        return 0
    # Slabs along the slowest axis keep the temporary mask small.
    slabs = array.ravel(order="K")
    step = 1 << 22
    return sum(
        len(slab) - int(np.count_nonzero(np.isfinite(slab)))
        for slab in (slabs[n : n + step] for n in range(0, len(slabs), step))
    )


def not_finite_note(array: NDArray[Any]) -> tuple[str, ...]:
    """A sentence for a volume's notes if there are NaN or infinite voxels."""
    count = num_not_finite(array)
    return (f"{count} voxels are NaN or infinite",) if count else ()


def _out_of_memory(path: Path, num_bytes: int) -> InputError:
    return InputError(
        path,
        f"its voxels need {num_bytes:.3g} bytes of memory, which are not free",
        "read it on a machine with more memory",
        code="E_TOO_LARGE",
    )
