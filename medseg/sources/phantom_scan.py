"""One phantom from its number: the scanner's grid, patient, noise and orientation put together."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg.core.geometry import Geometry, Shape3
from medseg.core.labels import CodedConcept, Label, LabelSet
from medseg.core.segmentation import LabelMap
from medseg.core.volume import Volume, permute_array
from medseg.sources.phantom_anatomy import Patient, draw_patient, draw_trunk
from medseg.sources.phantom_canvas import Array, Canvas, rotation, smooth_field
from medseg.sources.phantom_liver import draw_liver
from medseg.sources.phantom_organs import draw_organs

# Raise it when a change makes any phantom differ; written studies are kept apart by it.
PHANTOM_VERSION = 4

PHANTOM_LABELS = LabelSet(
    (
        Label("background", 0),
        Label(
            "liver",
            1,
            CodedConcept("123037004", "SCT", "Anatomical Structure"),
            CodedConcept("10200004", "SCT", "Liver"),
            (221, 130, 101),
        ),
        Label(
            "tumour",
            2,
            CodedConcept("49755003", "SCT", "Morphologically Abnormal Structure"),
            CodedConcept("108369006", "SCT", "Neoplasm"),
            (144, 238, 144),
        ),
    )
)

# Axial series as scanners store them, and what conversion and resampling make of them.
AXIAL_ORIENTATIONS = ("LPS", "LPI", "RAS", "RPS", "LAS", "LAI", "PLS", "ARS")
OTHER_ORIENTATIONS = ("SRA", "PIR", "ASR", "LSA", "IPL", "RSP")

# What a 12-bit scanner stores.
_HU_RANGE = (-1024.0, 3071.0)


def make_phantom(
    seed: int, number: int, *, stream: int = 0, for_series: bool = False
) -> tuple[Volume, LabelMap]:
    """An abdominal CT and its reference, the same bit for bit for the same arguments.

    Args:
        seed: of the data set, at least 0.
        number: of the case, at least 0.
        stream: 0 for training cases, 1 for held-out ones; the streams share no phantom.
        for_series: on the grid that a DICOM series gives it: k along the body, axes right-handed.
            The anatomy is the same as without.

    Returns:
        int16 volume in HU, shape (1, I, J, K), and uint8 label map (0, 1 liver, 2 tumour) on its
        grid.
    """
    rng = np.random.default_rng([seed, stream, number])
    patient = draw_patient(rng)
    shape, spacing_mm = _field_of_view(patient, rng=rng)
    canvas, directions = _canvas(patient, shape, spacing_mm, rng=rng)
    trunk = draw_trunk(canvas, patient, rng=rng)
    neighbours = draw_organs(canvas, patient, trunk, rng=rng)
    labels = draw_liver(canvas, patient, trunk, neighbours, rng=rng)
    hu = _scanned(canvas.hu, trunk.skin, rng=rng)

    affine = np.eye(4)
    affine[:3, :3] = directions * np.array(spacing_mm)
    affine[:3, 3] = rng.uniform(-150.0, 150.0, 3).round(2)
    geometry = Geometry(shape, affine)
    orientations: tuple[str, ...] = AXIAL_ORIENTATIONS
    if not for_series and rng.random() < 0.25:
        orientations = OTHER_ORIENTATIONS
    orientation = str(rng.choice(orientations))
    order, flips = geometry.reorientation(orientation)
    if for_series and np.linalg.det(geometry.permuted(order, flips).affine[:3, :3]) < 0:
        flips = tuple(sorted({2} ^ set(flips)))
    geometry = geometry.permuted(order, flips)
    hu = np.ascontiguousarray(permute_array(hu[None], order, flips))
    labels = np.ascontiguousarray(permute_array(labels[None], order, flips)[0])
    return Volume(hu, geometry, "CT"), LabelMap(labels, geometry, PHANTOM_LABELS)


def _field_of_view(
    patient: Patient, *, rng: np.random.Generator
) -> tuple[Shape3, tuple[float, float, float]]:
    """Voxels and spacing of a grid, (right, front, head), that holds the trunk with a margin."""
    margin = rng.uniform(8.0, 22.0)
    width = 2 * (139.0 * patient.scale[0] + patient.fat_mm + margin)
    depth = 2 * (97.0 * patient.scale[1] + patient.fat_mm + margin)
    across = int(rng.integers(112, 145))
    in_plane = round(float(np.clip(width / across, 2.5, 3.5)), 3)
    along = round(float(rng.uniform(4.0, 6.0)), 2)
    height = rng.uniform(182.0, 214.0) * patient.scale[2]
    shape = (
        int(np.clip(round(width / in_plane), 112, 144)),
        int(np.clip(round(depth / in_plane), 96, 128)),
        int(np.clip(round(height / along), 28, 48)),
    )
    return shape, (in_plane, in_plane, along)


def _canvas(
    patient: Patient,
    shape: Shape3,
    spacing_mm: tuple[float, float, float],
    *,
    rng: np.random.Generator,
) -> tuple[Canvas, NDArray[np.float64]]:
    """Canvas with bent, scaled and turned coordinates, and the grid's axes in RAS as columns."""
    oblique = rng.random() < 0.15
    directions = rotation(
        about_x=rng.uniform(-7, 7) * oblique,
        about_y=rng.uniform(-4, 4) * oblique,
        about_z=rng.uniform(-5, 5) * oblique,
    )
    lying = rotation(
        about_x=rng.uniform(-3, 3), about_y=rng.uniform(-3, 3), about_z=rng.uniform(-4, 4)
    )
    matrix = (lying @ directions).astype(np.float32)
    axes = [
        ((np.arange(n) - (n - 1) / 2) * step).astype(np.float32).reshape(view)
        for n, step, view in zip(
            shape, spacing_mm, ((-1, 1, 1), (1, -1, 1), (1, 1, -1)), strict=True
        )
    ]
    # The middle of the field lies a little to the front and head of the anatomy's origin.
    shift = (rng.uniform(-6, 6), rng.uniform(-6, 6), rng.uniform(-2, 14))
    # Bending by up to 2 x 5 mm over 80 mm and more keeps the map one to one.
    knots = tuple(
        max(4, round(n * step / 85.0) + 3) for n, step in zip(shape, spacing_mm, strict=True)
    )
    coordinates = []
    for row in range(3):
        values = matrix[row, 0] * axes[0] + matrix[row, 1] * axes[1] + matrix[row, 2] * axes[2]
        values = (values + np.float32(shift[row])) / np.float32(patient.scale[row])
        coordinates.append(values + np.float32(4.5) * smooth_field(rng, shape, knots=knots))
    softness = float(np.cbrt(np.prod(spacing_mm))) * 1.05
    x, y, z = coordinates
    return Canvas(x, y, z, softness), directions


def _scanned(hu: Array, skin: Array, *, rng: np.random.Generator) -> NDArray[np.int16]:
    """What the scanner makes of the tissue: blur, noise of its dose, streaks across the body,
    couch."""
    shape = hu.shape
    dose_noise_hu = np.float32(np.exp(rng.uniform(np.log(9.0), np.log(20.0))))
    _draw_couch(hu, skin, rng=rng)
    blurred = ndimage.gaussian_filter(hu, (0.42, 0.42, 0.0), mode="nearest", truncate=3.0)

    # Noise grows with the square root of the attenuation, from the skin to the middle of the body.
    depth = np.sqrt(np.clip(-skin, 0.0, 110.0) / np.float32(55.0))
    grain = rng.standard_normal(shape, dtype=np.float32)
    fine = ndimage.gaussian_filter(grain, (0.7, 0.7, 0.35), mode="wrap", truncate=3.0)
    # Reconstruction filters hold back low frequencies: noise is granular, without wide blotches.
    fine -= 0.6 * ndimage.gaussian_filter(fine, (1.8, 1.8, 0.0), mode="wrap", truncate=2.5)
    fine *= dose_noise_hu / np.float32(fine.std()) * (0.45 + 0.55 * depth)
    # Photons are fewest along the wide axis of the body, so streaks run from side to side.
    lines = rng.standard_normal((1, *shape[1:]), dtype=np.float32)
    lines = ndimage.gaussian_filter(lines, (0.0, 0.6, 0.2), mode="wrap")
    bend = smooth_field(rng, shape, knots=(6, shape[1] // 2, max(4, shape[2] // 2)))
    streaks = lines / np.float32(lines.std()) * (0.7 + 0.3 * bend)
    streaks *= np.float32(rng.uniform(0.1, 0.35)) * dose_noise_hu * depth
    # Scatter and hardened beams shade the body unevenly.
    shade = smooth_field(rng, shape, knots=(6, 6, 4)) * np.float32(rng.uniform(2.0, 9.0))
    shade *= np.minimum(depth, 1.0)
    return np.clip(np.round(blurred + fine + streaks + shade), *_HU_RANGE).astype(np.int16)


def _draw_couch(hu: Array, skin: Array, *, rng: np.random.Generator) -> None:
    """A thin curved shell under the patient's back, where the field of view reaches it."""
    shape = hu.shape
    body = np.flatnonzero((skin < 0).any(axis=(0, 2)))
    if body.size == 0 or body[0] < 3 or rng.random() < 0.2:
        return
    columns = np.arange(shape[0], dtype=np.float32) - shape[0] / 2
    surface = body[0] - 1.2 + 6.0 * (columns / (shape[0] / 2)) ** 2
    below = surface[:, None] - np.arange(shape[1], dtype=np.float32)[None]
    shell = np.exp(-np.square((below - 0.8) / 0.7)) * (np.abs(columns) < 0.42 * shape[0])[:, None]
    outside = np.clip(skin / 3.0, 0.0, 1.0)
    hu += (shell * np.float32(rng.uniform(450.0, 750.0)))[:, :, None] * outside
