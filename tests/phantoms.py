"""Synthetic volumes, label maps and DICOM series with known answers, for the tests.

Nothing here is symmetric: extents, spacings and positions differ along every axis, origins are not
zero, and no flip or permutation maps one of these onto itself, so mirrored or swapped output is
seen.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medseg.core.geometry import ALL_ORIENTATIONS, Geometry, Shape3, Spacing3
from medseg.core.labels import LabelSet
from medseg.core.segmentation import LabelMap
from medseg.core.volume import Volume

ALL_48_ORIENTATIONS: tuple[str, ...] = ALL_ORIENTATIONS

TWO_LABELS = LabelSet.from_names(["background", "liver", "tumour"])

# Where `grid` puts the middle of the field of view if not told otherwise: no two coordinates are
# alike.
FIELD_CENTRE_MM: Spacing3 = (13.0, -27.0, 41.0)

# Corners of the boxes of `labelled_boxes`, as offsets in RAS mm from the middle of the grid: (low,
# high).
BOX_MM = {
    1: ((-22.0, -17.0, -19.0), (14.0, 9.0, 17.0)),
    2: ((-16.0, -11.0, 2.0), (-4.0, 5.0, 11.0)),
}


def grid(
    *,
    orientation: str = "RAS",
    spacing_mm: Spacing3 = (2.0, 2.5, 3.5),
    shape: Shape3 = (36, 30, 22),
    centre_mm: Spacing3 = FIELD_CENTRE_MM,
) -> Geometry:
    """An axis-aligned grid whose field of view has its middle at `centre_mm` (RAS), away from the
    origin.

    Spacing and shape follow the index axes (i, j, k), whatever the orientation.
    """
    geometry = Geometry.from_spacing(shape, spacing_mm=spacing_mm, orientation=orientation)
    affine = geometry.affine.copy()
    affine[:3, 3] = np.array(centre_mm) - geometry.centre_mm
    return Geometry(shape, affine)


def positions_mm(geometry: Geometry) -> NDArray[np.float64]:
    """RAS position of every voxel centre, shape (I, J, K, 3)."""
    indices = np.stack(np.meshgrid(*(np.arange(n) for n in geometry.shape), indexing="ij"), axis=-1)
    return geometry.to_world_mm(indices)


def sphere(
    centre_mm: Spacing3 = (10.0, -20.0, 30.0),
    radius_mm: float = 12.0,
    *,
    orientation: str = "RAS",
    spacing_mm: Spacing3 = (2.0, 2.5, 3.5),
    shape: Shape3 = (36, 30, 22),
    inside: float = 1.0,
    outside: float = 0.0,
    modality: str = "CT",
) -> Volume:
    """A ball with soft edges; it lies off the middle of the grid by 5, -4 and 3 mm along R, A and
    S.

    Returns:
        float32 volume of one channel: `inside` within the ball, `outside` beyond it, partial
        volume between.
    """
    offset = np.array(centre_mm) - (5.0, -4.0, 3.0)
    geometry = grid(
        orientation=orientation,
        spacing_mm=spacing_mm,
        shape=shape,
        centre_mm=(offset[0], offset[1], offset[2]),
    )
    distance = np.linalg.norm(positions_mm(geometry) - np.array(centre_mm), axis=-1) - radius_mm
    share = np.clip(0.5 - distance / np.mean(spacing_mm), 0.0, 1.0)
    array = (outside + (inside - outside) * share).astype(np.float32)
    return Volume(array[None], geometry, modality)


def labelled_boxes(
    *,
    orientation: str = "RAS",
    spacing_mm: Spacing3 = (2.0, 2.5, 3.5),
    shape: Shape3 = (36, 30, 22),
    centre_mm: Spacing3 = FIELD_CENTRE_MM,
) -> LabelMap:
    """A box of class 1 (liver) with a box of class 2 (tumour) in one of its corners, uint8.

    The corners in RAS mm are `centre_mm` + BOX_MM, the same in every orientation.
    """
    geometry = grid(
        orientation=orientation, spacing_mm=spacing_mm, shape=shape, centre_mm=centre_mm
    )
    offset = positions_mm(geometry) - np.array(centre_mm)
    array = np.zeros(shape, np.uint8)
    for class_id, (low, high) in BOX_MM.items():
        array[((offset >= low) & (offset <= high)).all(axis=-1)] = class_id
    return LabelMap(array, geometry, TWO_LABELS)


def ct_of(label_map: LabelMap, *, seed: int = 0, noise_hu: float = 5.0) -> Volume:
    """CT-like int16 volume of a label map: background -90 HU, then 110, 45, ... with noise."""
    hu = np.array([-90.0, 110.0, 45.0, 200.0, 20.0])[label_map.array]
    hu += np.random.default_rng(seed).normal(0.0, noise_hu, hu.shape)
    return Volume(np.round(hu).astype(np.int16)[None], label_map.geometry, "CT")


def centre_of_mass_mm(
    image: Volume | LabelMap, *, class_id: int | None = None
) -> tuple[float, ...]:
    """RAS centre of the intensities above the minimum, or of one class (every class but 0 if not
    given)."""
    if isinstance(image, Volume):
        weights = image.array[0].astype(np.float64)
        weights = weights - weights.min()
    else:
        weights = (image.array > 0 if class_id is None else image.array == class_id).astype(float)
    where = np.argwhere(weights > 0)
    share = weights[tuple(where.T)] / weights.sum()
    centre = image.geometry.to_world_mm((where * share[:, None]).sum(axis=0))
    return tuple(float(value) for value in centre)


def corners_mm(geometry: Geometry) -> NDArray[np.float64]:
    """RAS positions of the centres of the eight corner voxels, shape (8, 3)."""
    ends = product(*((0, extent - 1) for extent in geometry.shape))
    return geometry.to_world_mm(np.array(list(ends)))


def dicom_series(
    folder: Path, volume: Volume | None = None, *, case_key: str = "phantom", seed: int = 0
) -> list[Path]:
    """Writes a CT series into `folder` (made if needed) and returns its files in the order of k.

    Without a volume it writes the CT of `labelled_boxes` in orientation LPS.
    """
    from medseg.dicom.ct_series import write_ct_series

    if volume is None:
        volume = ct_of(labelled_boxes(orientation="LPS"))
    return write_ct_series(volume, folder, case_key=case_key, seed=seed)
