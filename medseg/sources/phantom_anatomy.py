"""The trunk of the abdominal phantom: the patient, body wall, chest, spine and ribs.

Anatomical coordinates are mm to the right, front and head; the origin lies in the middle of the
trunk at the level of the first lumbar vertebra. Sizes and
Hounsfield units were chosen to look like an adult's; they were not measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medseg.sources.phantom_canvas import (
    Array,
    Canvas,
    Point,
    Region,
    ellipsoid,
    overlap,
    smooth_field,
    tube,
)

PHASES = ("native", "arterial", "portal_venous")

# Mean HU of a tissue in each phase, and how much it differs between people (standard deviation).
_HU: dict[str, tuple[tuple[float, float, float], float]] = {
    "liver": ((54.0, 74.0, 102.0), 10.0),
    "spleen": ((49.0, 112.0, 110.0), 9.0),
    "cortex": ((34.0, 180.0, 168.0), 14.0),
    "medulla": ((32.0, 72.0, 150.0), 10.0),
    "aorta": ((40.0, 285.0, 150.0), 18.0),
    "portal": ((40.0, 98.0, 160.0), 12.0),
    "cava": ((39.0, 70.0, 142.0), 10.0),
    "muscle": ((54.0, 62.0, 72.0), 6.0),
    "pancreas": ((38.0, 98.0, 88.0), 8.0),
    "bowel_wall": ((40.0, 66.0, 84.0), 7.0),
    "blood": ((41.0, 210.0, 145.0), 14.0),
    "fat": ((-104.0, -104.0, -102.0), 4.0),
    "bile": ((9.0, 9.0, 10.0), 5.0),
}  # fmt: skip

# Outer surface of the muscle layer: half axes in mm of a superellipse, before scaling.
_TRUNK_MM = (139.0, 97.0)
_TRUNK_EXPONENT = 2.35
_WALL_MM = 11.0

_VERTEBRA_MM = 34.0
_RIB_STEP_MM = 29.0


@dataclass(frozen=True)
class Patient:
    """What differs between two phantoms before any organ is drawn.

    Args:
        phase: native, arterial or portal_venous.
        hu: Hounsfield units of each tissue in this phase.
        fat_mm: thickness of subcutaneous fat at the flank.
        inset_mm: fat between the abdominal wall and the organs.
        scale: size along x, y and z against the standard anatomy.
    """

    phase: str
    hu: dict[str, float]
    fat_mm: float
    inset_mm: float
    scale: Point


@dataclass(frozen=True, eq=False)
class Trunk:
    """Surfaces that organs are fitted to, as signed distances on the whole canvas.

    Args:
        skin: to the skin.
        cavity: to the inside of the abdominal wall and ribs.
        diaphragm: to the diaphragm, negative below it.
    """

    skin: Array
    cavity: Array
    diaphragm: Array


def draw_patient(rng: np.random.Generator) -> Patient:
    """A random adult: a quarter native, a quarter arterial, half portal venous."""
    phase = str(rng.choice(PHASES, p=(0.25, 0.25, 0.50)))
    column = PHASES.index(phase)
    hu = {
        name: means[column] + spread * float(np.clip(rng.standard_normal(), -2, 2))
        for name, (means, spread) in _HU.items()
    }
    if rng.random() < 0.35:  # fatty liver
        hu["liver"] -= rng.uniform(10.0, 18.0 if phase == "native" else 34.0)
    width = rng.uniform(0.92, 1.1)
    return Patient(
        phase=phase,
        hu=hu,
        fat_mm=float(rng.uniform(6.0, 26.0)),
        inset_mm=float(rng.uniform(0.0, 3.0)),
        scale=(
            float(width),
            float(width * rng.uniform(0.93, 1.08)),
            float(rng.uniform(0.92, 1.06)),
        ),
    )


def jitter(rng: np.random.Generator, points: Sequence[Point], *, spread_mm: float) -> list[Point]:
    """The points, each moved by up to `spread_mm` along every axis."""
    moved = np.array(points) + rng.uniform(-spread_mm, spread_mm, (len(points), 3))
    return [(float(x), float(y), float(z)) for x, y, z in moved]


def draw_trunk(canvas: Canvas, patient: Patient, *, rng: np.random.Generator) -> Trunk:
    """Paints skin, fat, muscle, chest, ribs and spine, and returns the surfaces between them."""
    at = canvas.everywhere
    trunk, muscle_surface, angle = _surfaces(canvas, patient, rng=rng)
    hu = patient.hu
    fat = np.float32(hu["fat"]) + 5.0 * smooth_field(rng, at.x.shape, knots=(26, 22, 12))

    canvas.paint(trunk.skin, 35.0, at=at)  # skin
    canvas.paint(trunk.skin + 2.5, fat, at=at)
    # Streaks of fat between the muscles.
    muscle = np.float32(hu["muscle"]) + 9.0 * smooth_field(rng, at.x.shape, knots=(34, 28, 14))
    canvas.paint(muscle_surface, muscle, at=at)
    canvas.paint(trunk.cavity, fat + 4.0, at=at)
    _draw_back_muscles(canvas, muscle, rng=rng)
    _draw_chest(canvas, patient, trunk, rng=rng)
    _draw_ribs(canvas, trunk, angle, rng=rng)
    _draw_spine(canvas, rng=rng)
    return trunk


def spine_y_mm(z: Array | float) -> Array | float:
    """Position y of the middle of the vertebral bodies at height z: the lumbar curve."""
    return -52.0 + 5.0 * np.cos((z + 40.0) / 85.0)


def _surfaces(
    canvas: Canvas, patient: Patient, *, rng: np.random.Generator
) -> tuple[Trunk, Array, Array]:
    """Trunk, distance to the outside of the muscles, angle round the body (back 0, front pi)."""
    x, y, z = canvas.x, canvas.y, canvas.z
    across = np.abs(x)
    radius = np.sqrt(x * x + y * y) + 1e-3
    p = np.float32(_TRUNK_EXPONENT)
    level = (across / _TRUNK_MM[0]) ** p + (np.abs(y) / _TRUNK_MM[1]) ** p
    muscle_surface = radius * (1.0 - (level + 1e-9) ** (-1 / p))
    side, front = x / radius, y / radius

    # Fat lies thick on the flanks and the belly, thin on the chest and along the spine.
    thickness = 0.72 + 0.35 * side * side + 0.45 * np.clip(front, 0, 1) * _step(-z / 60.0)
    thickness += 0.10 * smooth_field(rng, x.shape, knots=(6, 6, 5))
    groove = np.exp(-np.square(x / 16.0)) * (front < 0)
    fat_mm = (
        np.float32(patient.fat_mm) * np.clip(thickness, 0.35, None) * (1.0 - 0.4 * groove) + 3.0
    )
    skin = muscle_surface - fat_mm + 5.0 * groove

    # The straight muscles of the belly stand out beside the midline, where there is only a tendon.
    belly = np.exp(-np.square((across - 36.0) / 24.0)) - 0.8 * np.exp(-np.square(x / 5.0))
    wall = _WALL_MM + 3.0 * belly * np.clip(front, 0, 1)
    cavity = muscle_surface + wall

    depth = np.clip(-cavity, 0.0, None)
    dome = 84.0 + 8.0 * np.tanh(x / 35.0) - 9.0 * np.exp(-np.square((x + 15.0) / 42.0))
    dome += 4.0 * smooth_field(rng, x.shape, knots=(6, 6, 4)) + rng.uniform(-6.0, 6.0)
    recess = (72.0 - 36.0 * np.tanh(y / 45.0)) * np.exp(-depth / 21.0)
    slope = np.sqrt(1.0 + np.square(recess / 21.0))
    diaphragm = (z - (dome - recess)) / slope
    angle = np.arctan2(across, -y)
    trunk = Trunk(_f32(skin), _f32(cavity), _f32(diaphragm))
    return trunk, _f32(muscle_surface), _f32(angle)


def _draw_back_muscles(canvas: Canvas, muscle: Array, *, rng: np.random.Generator) -> None:
    """Erector spinae, psoas and quadratus lumborum on both sides."""
    at = canvas.everywhere
    back = _f32(spine_y_mm(at.z))
    size = rng.uniform(0.85, 1.12)
    across = Region(at.slices, np.abs(at.x), at.y - back, at.z)
    endless = np.inf
    canvas.paint(
        ellipsoid(across, (33.0, -38.0, 0.0), (28.0 * size, 19.0 * size, endless)), muscle, at=at
    )
    grown = np.clip((10.0 - at.z) / 90.0, 0.0, 1.2)
    psoas = ellipsoid(across, (31.0, 1.0, 0.0), (14.0 * size, 16.0 * size, endless))
    canvas.paint(psoas + 14.0 * (1.0 - grown) ** 2 + 20.0 * (at.z > 12.0), muscle, at=at)
    loin = ellipsoid(across, (60.0, -26.0, -75.0), (15.0, 9.0 * size, 75.0))
    canvas.paint(loin, muscle, at=at)


def _draw_chest(
    canvas: Canvas, patient: Patient, trunk: Trunk, *, rng: np.random.Generator
) -> None:
    """Diaphragm, lung bases with their vessels, and the underside of the heart."""
    at = canvas.everywhere
    hu = patient.hu
    inside = overlap(trunk.cavity, -trunk.diaphragm, blend_mm=3.0)
    canvas.paint(inside, hu["muscle"], at=at)
    lung = overlap(trunk.cavity + 1.0, 2.8 - trunk.diaphragm, blend_mm=3.0)
    i, j, k = at.x.shape
    fine = smooth_field(rng, at.x.shape, knots=(i // 2, j // 2, k // 2))
    # Blood gathers at the back of the lung of a patient lying on it.
    air = -845.0 + 30.0 * np.tanh(-at.y / 60.0) + 300.0 * np.square(np.clip(fine - 0.9, 0.0, 1.4))
    canvas.paint(lung, _f32(air), at=at)

    heart: Point = jitter(rng, [(-24.0, 34.0, 109.0)], spread_mm=6.0)[0]
    region = canvas.near([heart], 75.0)
    above = -trunk.diaphragm[region.slices]
    size = rng.uniform(0.9, 1.08)
    shape = ellipsoid(region, heart, (62.0 * size, 48.0 * size, 44.0 * size))
    canvas.paint(overlap(shape - 7.0, above, blend_mm=2.0), hu["fat"] + 8.0, at=region)
    # Heart muscle takes up about half as much contrast agent as the blood in it.
    muscle = hu["muscle"] + 0.45 * (hu["blood"] - 40.0)
    canvas.paint(overlap(shape, above + 3.0, blend_mm=2.0), muscle, at=region)
    chamber = ellipsoid(region, (heart[0] - 14.0, heart[1] + 4.0, heart[2]), (34.0, 27.0, 34.0))
    canvas.paint(overlap(chamber, shape + 9.0, blend_mm=3.0), hu["blood"], at=region)
    gullet = jitter(
        rng, [(-8.0, -24.0, 140.0), (-10.0, -20.0, 85.0), (-24.0, -8.0, 66.0)], spread_mm=2.0
    )
    region = canvas.near(gullet, 12.0)
    canvas.paint(tube(region, gullet, (8.0, 8.0, 9.0)), hu["bowel_wall"], at=region)


def _draw_ribs(canvas: Canvas, trunk: Trunk, angle: Array, *, rng: np.random.Generator) -> None:
    """The lower ribs, running downwards from the spine round to the costal arch."""
    at = canvas.everywhere
    middle = trunk.cavity - 0.5 * _WALL_MM
    fall = 116.0 * np.clip((angle - 0.25) / 1.9, 0.0, 1.0) - 40.0 * _step((angle - 2.35) / 0.25)
    level = (at.z + fall - rng.uniform(-4.0, 12.0)) / _RIB_STEP_MM
    index = np.clip(np.round(level), 0, None)
    along_z = (level - index) * np.float32(_RIB_STEP_MM) * 0.8
    # The two lowest ribs end free in the flank.
    reach = np.array([0.95, 1.5, 2.2, 2.2, 2.2, 2.75], np.float32)[np.clip(index, 0, 5).astype(int)]
    distance = np.sqrt(np.square(middle / 4.3) + np.square(along_z / 5.6)) - 1.0
    distance = distance * 4.8 + 60.0 * np.clip(angle - reach, 0.0, 1.0)
    distance = _f32(distance + 60.0 * np.clip(0.28 - angle, 0.0, 1.0))
    is_bone = _step((2.15 - angle) / 0.08)
    canvas.paint(distance, _f32(95.0 + 460.0 * is_bone), at=at)
    canvas.paint(distance + 2.6, _f32(95.0 + 110.0 * is_bone), at=at)


def _draw_spine(canvas: Canvas, *, rng: np.random.Generator) -> None:
    """Vertebral bodies with discs between, canal, arches and processes."""
    at = canvas.near([(0.0, -52.0, -400.0), (0.0, -80.0, 400.0)], 62.0)
    back = _f32(spine_y_mm(at.z))
    at = Region(at.slices, at.x, at.y - back, at.z)
    level = (at.z + np.float32(rng.uniform(0.0, _VERTEBRA_MM))) / np.float32(_VERTEBRA_MM)
    height = (level - np.round(level)) * np.float32(
        _VERTEBRA_MM
    )  # mm from the middle of the vertebra
    marrow = rng.uniform(130.0, 230.0)
    texture = marrow + 22.0 * smooth_field(rng, at.x.shape, knots=(16, 16, 24))
    endless = np.inf

    waist = 2.2 * np.cos(height / 13.0 * np.pi / 2)
    body = ellipsoid(at, (0.0, 0.0, 0.0), (23.5, 18.5, endless))
    body = np.maximum(body, -ellipsoid(at, (0.0, -27.0, 0.0), (13.0, 11.0, endless)) - 2.0)
    canvas.paint(body, 85.0, at=at)  # disc
    bone = np.maximum(_f32(body + waist), np.abs(height) - 13.0)
    canvas.paint(bone, 420.0, at=at)
    canvas.paint(bone + 2.8, _f32(texture), at=at)

    across = Region(at.slices, np.abs(at.x), at.y, height)
    arch = ellipsoid(across, (0.0, -28.0, 0.0), (18.0, 15.0, endless))
    arch = np.maximum(arch, np.abs(height + 2.0) - 12.0)
    process = ellipsoid(across, (0.0, -50.0, -5.0), (4.5, 20.0, 11.0))
    wing = tube(across, [(14.0, -22.0, 2.0), (42.0, -30.0, 4.0)], (7.5, 4.0))
    joint = ellipsoid(across, (17.0, -34.0, -10.0), (8.0, 7.0, 13.0))
    rear = np.minimum(np.minimum(arch, process), np.minimum(wing, joint))
    canvas.paint(rear, 430.0, at=at)
    canvas.paint(rear + 3.0, _f32(texture + 60.0), at=at)
    canal = ellipsoid(at, (0.0, -28.0, 0.0), (11.0, 9.0, endless))
    canvas.paint(canal, 12.0, at=at)
    canvas.paint(ellipsoid(at, (0.0, -28.0, 0.0), (5.5, 4.5, endless)), 42.0, at=at)


def _step(values: Array) -> Array:
    """Smooth step from 0 to 1 around zero, two units wide on either side."""
    return _f32(0.5 + 0.5 * np.tanh(values))


def _f32(values: Array | float) -> Array:
    return np.asarray(values, np.float32)
