"""Label maps as NRRD files with segment names and colours, as 3D Slicer reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from isal import igzip
from numpy.typing import NDArray

from medseg.core.atomic import atomic_path
from medseg.core.geometry import LPS_TO_RAS
from medseg.core.identity import Case
from medseg.core.segmentation import LabelMap, ProbabilityMap
from medseg.writers.names import PROBABILITIES, output_path
from medseg.writers.nifti import smallest_integers

_TYPES = {"uint8": "unsigned char", "uint16": "unsigned short", "int32": "int", "float32": "float"}


class NrrdWriter:
    """Writes `<case key>.seg.nrrd`, or `<case key>_probabilities.nrrd` for a ProbabilityMap.

    Positions are LPS millimetres, as Slicer writes them. The same result gives the same bytes.
    """

    def write(self, result: LabelMap | ProbabilityMap, case: Case, *, folder: Path) -> list[Path]:
        if isinstance(result, ProbabilityMap):
            path = output_path(folder, case, f"{PROBABILITIES}.nrrd")
            _write(path, result, result.array.astype(np.float32, copy=False), [])
            return [path]
        path = output_path(folder, case, ".seg.nrrd")
        _write(path, result, smallest_integers(result, path), _segments(result))
        return [path]


def _write(
    path: Path, result: LabelMap | ProbabilityMap, array: NDArray[Any], extra: list[str]
) -> None:
    """Header and gzip stream in one file (teem.sourceforge.net/nrrd/format.html, version 4)."""
    affine_lps = LPS_TO_RAS @ result.geometry.affine
    directions = [_vector(affine_lps[:3, axis]) for axis in range(3)]
    kinds = ["domain"] * 3
    if array.ndim == 4:
        directions, kinds = ["none", *directions], ["list", *kinds]
    lines = [
        "NRRD0004",
        f"type: {_TYPES[array.dtype.name]}",
        f"dimension: {array.ndim}",
        "space: left-posterior-superior",
        f"sizes: {' '.join(str(extent) for extent in array.shape)}",
        f"space directions: {' '.join(directions)}",
        f"kinds: {' '.join(kinds)}",
        *(["endian: little"] if array.dtype.itemsize > 1 else []),
        "encoding: gzip",
        f"space origin: {_vector(affine_lps[:3, 3])}",
        *extra,
        "",
        "",
    ]
    values = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes(order="F")
    with atomic_path(path) as unfinished, unfinished.open("wb") as file:
        file.write("\n".join(lines).encode("utf-8"))
        file.write(igzip.compress(values, 2, mtime=0))


def _vector(values: NDArray[np.float64]) -> str:
    return f"({','.join(repr(float(value)) for value in values)})"


def _segments(label_map: LabelMap) -> list[str]:
    """Slicer's fields for each segment; colours run from 0 to 1."""
    lines = []
    for number, label in enumerate(label_map.labels.foreground if label_map.labels else ()):
        colour = " ".join(f"{value / 255:.6f}" for value in label.rgb)
        name = " ".join(label.name.split())
        lines += [
            f"Segment{number}_ID:=Segment_{label.class_id}",
            f"Segment{number}_Name:={name}",
            f"Segment{number}_Color:={colour}",
            f"Segment{number}_LabelValue:={label.class_id}",
            f"Segment{number}_Layer:=0",
        ]
    return lines
