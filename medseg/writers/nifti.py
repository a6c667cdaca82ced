"""Label maps and class probabilities as NIfTI-1 files on the grid of the input.

Not for DICOM: what a file of this kind cannot say (patient, study, codes) is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from isal import igzip
from numpy.typing import NDArray

from medseg.core.atomic import atomic_path
from medseg.core.errors import OutputError
from medseg.core.geometry import Geometry
from medseg.core.identity import Case
from medseg.core.protocols import ResultKind
from medseg.core.segmentation import LabelMap, ProbabilityMap
from medseg.writers.names import output_path

_MAX_EXTENT = 32767  # the extents of NIfTI-1 are signed 16-bit numbers
_CHUNK_BYTES = 1 << 24
# igzip knows 0 to 3; on a label map of 512x512x300 with 100 organs 2 was the fastest and smallest
# (0.29 s and 0.82 MB; 3: 0.41 s and 1.23 MB; zlib's level 1 in nibabel: 0.36 s and 1.15 MB).
_COMPRESSION_LEVEL = 2


class NiftiWriter:
    """Writes `<case key>.nii.gz`, or `<case key>_probabilities.nii.gz` for a ProbabilityMap.

    Label maps are stored as uint8, or the smallest wider integer that holds the label set.
    Probabilities are float32, shape (I, J, K, C). The same result gives the same bytes.

    Args:
        probabilities: also ask for a ProbabilityMap of each case.
    """

    def __init__(self, *, probabilities: bool = False) -> None:
        self.takes: tuple[ResultKind, ...] = (
            ("label_map", "probabilities") if probabilities else ("label_map",)
        )

    def write(self, result: LabelMap | ProbabilityMap, case: Case, *, folder: Path) -> list[Path]:
        if isinstance(result, ProbabilityMap):
            path = output_path(folder, case, "_probabilities.nii.gz")
            write_nifti(result.array.transpose(1, 2, 3, 0), result.geometry, path)
            return [path]
        path = output_path(folder, case, ".nii.gz")
        write_nifti(smallest_integers(result, path), result.geometry, path)
        return [path]


def write_nifti(array: NDArray[Any], geometry: Geometry, path: str | Path) -> None:
    """Writes one compressed NIfTI-1 file.

    The affine goes into the sform and the qform, both with code 1 (scanner). A sheared grid, which
    a qform cannot hold, has the sform alone.

    Args:
        array: shape (I, J, K) or (I, J, K, C); floats become float32.
        geometry: grid of the first three axes.
        path: file to write, ending in .nii.gz.

    Raises:
        OutputError: the grid is too large for the format, or the file cannot be written.
    """
    if max(array.shape) > _MAX_EXTENT:
        raise OutputError(
            path,
            f"a grid of {array.shape} does not fit NIfTI-1, which ends at {_MAX_EXTENT} per axis",
            "crop or downsample the image",
        )
    dtype = np.dtype(np.float32) if array.dtype.kind == "f" else array.dtype
    header = nibabel.Nifti1Header()
    header.set_data_dtype(dtype.newbyteorder("<"))
    header.set_data_shape(array.shape)
    header.set_zooms((*geometry.spacing_mm, *(1.0 for _ in array.shape[3:])))
    if geometry.is_orthogonal:
        header.set_qform(geometry.affine, code=1)
    header.set_sform(geometry.affine, code=1)
    header.set_xyzt_units("mm")
    header["descrip"] = b"medseg"
    header["magic"] = b"n+1"
    header["vox_offset"] = 352

    with (
        atomic_path(path) as unfinished,
        unfinished.open("wb") as file,
        # Neither a name nor a time goes into the gzip header, so equal results are equal files.
        igzip.IGzipFile(
            filename="", mode="wb", compresslevel=_COMPRESSION_LEVEL, fileobj=file, mtime=0
        ) as stream,
    ):
        stream.write(header.binaryblock + bytes(4))
        for chunk in _fortran_chunks(array, dtype.newbyteorder("<")):
            stream.write(chunk)


def smallest_integers(label_map: LabelMap, path: Path) -> NDArray[Any]:
    """The class numbers as uint8, uint16 or int32, whichever holds the label set.

    Raises:
        OutputError: a number is negative or larger than int32 holds.
    """
    lowest = int(label_map.array.min())
    highest = int(label_map.array.max())
    if label_map.labels is not None:
        highest = max(highest, len(label_map.labels) - 1, label_map.labels.ignore_id or 0)
    if lowest < 0 or highest > np.iinfo(np.int32).max:
        raise OutputError(
            path,
            f"the label map holds values from {lowest} to {highest}, class numbers start at 0",
            "check what made the result",
        )
    for dtype in (np.uint8, np.uint16):
        if highest <= np.iinfo(dtype).max:
            return label_map.array.astype(dtype, copy=False)
    return label_map.array.astype(np.int32, copy=False)


def _fortran_chunks(array: NDArray[Any], dtype: np.dtype[Any]) -> Iterator[bytes]:
    """The array's bytes with the first axis running fastest, a few planes at a time."""
    planes = array.reshape((*array.shape[:2], -1), order="F") if array.ndim > 3 else array
    plane_bytes = array.shape[0] * array.shape[1] * dtype.itemsize
    step = max(1, _CHUNK_BYTES // plane_bytes)
    for start in range(0, planes.shape[2], step):
        yield planes[:, :, start : start + step].astype(dtype, copy=False).tobytes(order="F")
