"""Grids that file headers announce, refused unless they can be where voxels of a patient lie."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import GeometryError
from medseg.core.geometry import LPS_TO_RAS, Geometry

# From ten nanometres to ten metres; a voxel beyond that is a damaged header.
_PLAUSIBLE_MM = (1e-5, 1e4)

UNKNOWN_ORIENTATION_NOTE = "the orientation is unknown; its axes are taken as R, A, S"
NO_THICKNESS_NOTE = "the slice thickness of the 2D image is unknown and taken as 1 mm"


def placed(
    shape: tuple[int, int, int], affine: NDArray[np.float64], path: Path, *, name: str = "affine"
) -> Geometry:
    """The grid with the affine in RAS mm.

    Args:
        shape, affine: of the grid.
        path: file they are from.
        name: what the file calls the affine.

    Raises:
        GeometryError: E_AFFINE, not finite or degenerate; E_SPACING, implausible; E_SHEAR, axes
        not at
            right angles.
    """
    try:
        geometry = Geometry(shape, affine)
    except GeometryError as error:
        raise GeometryError(
            path, f"the {name} {error.what}", f"write a right {name}", code="E_AFFINE"
        ) from error
    low, high = _PLAUSIBLE_MM
    if not all(low <= spacing <= high for spacing in geometry.spacing_mm):
        raise bad_spacing(path, geometry.spacing_mm)
    if not geometry.is_orthogonal:
        raise GeometryError(
            path,
            f"its axes are not at right angles (the {name} is sheared)",
            "resample it to a grid with right angles",
            code="E_SHEAR",
        )
    return geometry


def flat_geometry(shape: tuple[int, int, int], spacing_mm: tuple[float, float]) -> Geometry:
    """The grid of a 2D image without a place: i to the left, j to the back, as on a screen."""
    affine_lps = np.diag([*spacing_mm, 1.0, 1.0])
    return Geometry(shape, LPS_TO_RAS @ affine_lps)


def bad_spacing(path: Path, spacing: tuple[float, ...]) -> GeometryError:
    """Error for a voxel size that is no size."""
    values = tuple(float(f"{value:.6g}") for value in spacing)
    return GeometryError(
        path,
        f"the voxel size is {values}, must be positive numbers of mm",
        "write the right voxel size into the header",
        code="E_SPACING",
    )


def no_orientation(path: Path, what: str) -> GeometryError:
    """Error for a file that does not say where left is."""
    return GeometryError(
        path,
        f"{what}: the file does not say which side is left",
        "write its orientation, or set allow_unknown_orientation=true to take R, A, S",
        code="E_NO_ORIENTATION",
    )
