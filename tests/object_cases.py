"""Small images with numbered objects, for the tests of instance and panoptic segmentation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medseg.core.geometry import Geometry
from medseg.core.identity import Case
from medseg.core.labels import LabelSet
from medseg.core.segmentation import InstanceSet
from medseg.core.volume import Volume

NUCLEI = LabelSet.from_mapping({"background": 0, "nucleus": {"id": 1, "thing": True}})
AXONS = LabelSet.from_mapping(
    {"background": 0, "axon": {"id": 1, "thing": True}, "myelin": 2, "ignore": 255}
)


def discs(
    shape: tuple[int, ...], count: int, *, seed: int = 0, radius: tuple[float, float] = (3.0, 8.0)
) -> NDArray[np.uint16]:
    """Discs (2D) or balls (3D) that do not touch, numbered from 1; shape (I, J, 1) or (I, J, K)."""
    rng = np.random.default_rng(seed)
    found = np.zeros(shape, np.uint16)
    axes = np.indices(shape)
    kept: list[tuple[NDArray[Any], float]] = []
    for _ in range(60 * count):
        if len(kept) == count:
            break
        size = rng.uniform(*radius)
        centre = rng.uniform(size, np.array(shape) - 1 - size)
        if all(np.linalg.norm(centre - c) > size + s + 2 for c, s in kept):
            kept.append((centre, size))
            squares = sum((axis - c) ** 2 for axis, c in zip(axes, centre, strict=True))
            found[squares <= size**2] = len(kept)
    return found if found.ndim == 3 else found[..., None]


def flat(shape: tuple[int, int]) -> Geometry:
    """The grid of a picture: `shape` is columns and rows, pixels are 1 mm."""
    return Geometry.from_spacing((*shape, 1), spacing_mm=(1.0, 1.0, 1.0))


def instances(array: NDArray[Any], *, labels: LabelSet | None = None) -> InstanceSet:
    """The numbers of an array as objects, voxels of 1 mm."""
    array = array if array.ndim == 3 else array[..., None]
    geometry = Geometry.from_spacing(array.shape, spacing_mm=(1.0, 1.0, 1.0))
    return InstanceSet.from_map(array, geometry, labels=labels)


def picture(path: Path, array: NDArray[Any]) -> Path:
    """Writes an array (columns, rows[, channels]) as a picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(np.swapaxes(array, 0, 1))).save(path)
    return path


def nuclei_folder(
    folder: Path, count: int, *, shape: tuple[int, int] = (64, 48), objects: int = 6
) -> Path:
    """images/n.png (RGBA) and instances/n.png (uint16, numbers with gaps) of bright discs."""
    for n in range(count):
        numbers = discs(shape, objects, seed=n)[..., 0]
        rng = np.random.default_rng(1000 + n)
        grey = np.clip(30 + 150 * (numbers > 0) + rng.normal(0, 8, shape), 0, 255)
        rgba = np.stack([grey] * 3 + [np.full(shape, 255)], axis=-1).astype(np.uint8)
        picture(folder / "images" / f"n{n:02d}.png", rgba)
        picture(folder / "instances" / f"n{n:02d}.png", (numbers * 3).astype(np.uint16))
    return folder


def memory_case(
    numbers: NDArray[Any],
    *,
    key: str = "case_a",
    labels: LabelSet | None = None,
    seed: int = 0,
) -> Case:
    """A case in memory: bright objects on noise, and their numbers."""
    reference = instances(numbers, labels=labels)
    rng = np.random.default_rng(seed)
    shape = reference.geometry.shape
    image = 3.0 * (reference.array > 0) + rng.normal(0, 0.3, shape)
    volume = Volume(image.astype(np.float32)[None], reference.geometry)
    return Case(key, read_image=lambda: volume, read_reference=lambda: reference)
