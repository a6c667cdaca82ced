"""The abdominal phantom's organs around the liver: bowel, stomach, vessels, kidneys, spleen.

The order of painting is the order of the functions; what is painted later lies on top.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medseg.sources.phantom_anatomy import Patient, Trunk, jitter
from medseg.sources.phantom_canvas import (
    Array,
    Canvas,
    Point,
    ellipsoid,
    overlap,
    rotation,
    smooth_field,
    tube,
    wave_field,
)

# The portal vein up to the gate of the liver, where its branches begin.
PORTAL_MM: tuple[Point, ...] = ((12.0, 2.0, -8.0), (24.0, 4.0, 4.0), (38.0, 6.0, 14.0))
_CAVA_MM: tuple[Point, ...] = (
    (22.0, -20.0, -140.0), (22.0, -20.0, -20.0), (27.0, -27.0, 30.0), (24.0, -20.0, 72.0),
    (10.0, -8.0, 112.0),
)  # fmt: skip
_AORTA_MM: tuple[Point, ...] = ((-9.0, -19.0, -140.0), (-10.0, -22.0, 0.0), (-13.0, -27.0, 140.0))


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Signed distances, on the whole canvas, to what the liver must leave room for."""

    right_kidney: Array
    stomach: Array
    cava: Array


def draw_organs(
    canvas: Canvas, patient: Patient, trunk: Trunk, *, rng: np.random.Generator
) -> Neighbours:
    """Paints every organ but the liver, and returns what the liver must leave room for."""
    _draw_bowel(canvas, patient, trunk, rng=rng)
    stomach = _draw_stomach(canvas, patient, rng=rng)
    _draw_pancreas(canvas, patient, rng=rng)
    cava = _draw_great_vessels(canvas, patient, rng=rng)
    right_kidney = _draw_kidneys(canvas, patient, rng=rng)
    _draw_spleen(canvas, patient, trunk, stomach=stomach, rng=rng)
    return Neighbours(right_kidney, stomach, cava)


def _draw_bowel(
    canvas: Canvas, patient: Patient, trunk: Trunk, *, rng: np.random.Generator
) -> None:
    """Small bowel and colon, with fluid, stool, gas and sometimes contrast agent inside."""
    hu = patient.hu
    oral = bool(rng.random() < 0.4)
    for _ in range(20):
        start = np.array([rng.uniform(-75, 60), rng.uniform(5, 62), rng.uniform(-115, -42)])
        steps = rng.normal(0.0, 1.0, (3, 3)) * (22.0, 14.0, 12.0)
        loop: list[Point] = [(p[0], p[1], p[2]) for p in start + np.cumsum(steps, axis=0)]
        radii = rng.uniform(9.0, 14.0, 3).tolist()
        content = (
            rng.uniform(130.0, 260.0) if oral and rng.random() < 0.6 else rng.uniform(8.0, 60.0)
        )
        gas = rng.random() < 0.25
        _draw_gut(
            canvas, loop, radii, wall_hu=hu["bowel_wall"], content_hu=content, gas=gas, rng=rng,
            cavity=trunk.cavity,
        )  # fmt: skip
    duodenum = jitter(
        rng,
        [(30.0, 34.0, -22.0), (46.0, 20.0, -30.0), (42.0, 4.0, -66.0), (8.0, -4.0, -80.0)],
        spread_mm=5.0,
    )
    _draw_gut(
        canvas, duodenum, (13.0, 14.0, 13.0, 12.0), wall_hu=hu["bowel_wall"],
        content_hu=180.0 if oral else 25.0, gas=rng.random() < 0.3, rng=rng, cavity=trunk.cavity,
    )  # fmt: skip
    colon = jitter(
        rng,
        [(96.0, -14.0, -150.0), (98.0, 0.0, -95.0), (86.0, 36.0, -82.0), (40.0, 62.0, -92.0),
         (-15.0, 66.0, -94.0), (-66.0, 58.0, -66.0), (-102.0, 22.0, -8.0), (-104.0, -26.0, -50.0),
         (-103.0, -30.0, -150.0)],
        spread_mm=6.0,
    )  # fmt: skip
    radii = rng.uniform(15.0, 23.0, len(colon)).tolist()
    for n in range(len(colon) - 1):
        _draw_gut(
            canvas, colon[n : n + 2], radii[n : n + 2], wall_hu=hu["bowel_wall"],
            content_hu=float(rng.uniform(-20.0, 70.0)), gas=bool(rng.random() < 0.7), rng=rng,
            haustra_mm=3.0, cavity=trunk.cavity,
        )  # fmt: skip


def _draw_gut(
    canvas: Canvas,
    points: list[Point],
    radii: tuple[float, ...] | list[float],
    *,
    wall_hu: float,
    content_hu: float,
    gas: bool,
    cavity: Array,
    rng: np.random.Generator,
    haustra_mm: float = 0.0,
) -> None:
    """A length of gut: wall, content, and gas in front, as the patient lies on the back."""
    at = canvas.near(points, max(radii) + 6.0)
    distance = tube(at, points, radii)
    if haustra_mm:
        distance += haustra_mm * wave_field(rng, at, wavelength_mm=38.0, num_waves=4)
    texture = wave_field(rng, at, wavelength_mm=14.0, num_waves=5)
    distance = overlap(distance, cavity[at.slices] + 2.0, blend_mm=3.0)
    canvas.paint(distance, wall_hu, at=at)
    inner = distance + 2.8
    canvas.paint(inner, content_hu + (22.0 if haustra_mm else 5.0) * texture, at=at)
    if gas:
        level = float(np.mean([p[1] for p in points])) + rng.uniform(-4.0, 8.0)
        canvas.paint(overlap(inner, level - at.y, blend_mm=2.0), -920.0, at=at)


def _draw_stomach(canvas: Canvas, patient: Patient, *, rng: np.random.Generator) -> Array:
    """Stomach with wall, meal and gas; returns its signed distance on the whole canvas."""
    at = canvas.everywhere
    fill = rng.uniform(0.72, 1.08)
    points = jitter(
        rng,
        [(-58.0, -22.0, 60.0), (-66.0, 4.0, 36.0), (-60.0, 28.0, 8.0), (-36.0, 44.0, -20.0),
         (-4.0, 44.0, -30.0), (26.0, 34.0, -22.0)],
        spread_mm=5.0,
    )  # fmt: skip
    radii = [33.0 * fill, 34.0 * fill, 29.0 * fill, 22.0 * fill, 18.0 * fill, 12.0]
    distance = tube(at, points, radii) + 2.0 * smooth_field(rng, at.x.shape, knots=(12, 12, 10))
    meals = (15.0, 35.0, patient.hu["liver"] - 12.0, patient.hu["liver"] + 8.0, 200.0)
    meal = float(rng.choice(meals, p=(0.2, 0.2, 0.25, 0.25, 0.1)))
    texture = smooth_field(rng, at.x.shape, knots=(22, 20, 14))
    canvas.paint(distance, patient.hu["bowel_wall"] + 5.0, at=at)
    inner = distance + 4.5
    canvas.paint(inner, (meal + (14.0 if meal > 30 else 4.0) * texture).astype(np.float32), at=at)
    level = rng.uniform(18.0, 48.0)
    canvas.paint(overlap(inner, level - at.y, blend_mm=2.0), -930.0, at=at)
    return distance


def _draw_pancreas(canvas: Canvas, patient: Patient, *, rng: np.random.Generator) -> None:
    points = jitter(
        rng,
        [
            (34.0, 8.0, -46.0),
            (32.0, 14.0, -22.0),
            (8.0, 20.0, -8.0),
            (-24.0, 6.0, 6.0),
            (-62.0, -20.0, 24.0),
        ],
        spread_mm=4.0,
    )
    at = canvas.near(points, 24.0)
    lobules = 2.2 * wave_field(rng, at, wavelength_mm=13.0)
    canvas.paint(
        tube(at, points, (13.0, 14.0, 9.5, 9.5, 8.0)) + lobules, patient.hu["pancreas"], at=at
    )


def _draw_great_vessels(canvas: Canvas, patient: Patient, *, rng: np.random.Generator) -> Array:
    """Aorta, vena cava, portal vein and their branches; returns the distance to the cava."""
    hu = patient.hu
    size = rng.uniform(0.85, 1.15)
    aorta = jitter(rng, _AORTA_MM, spread_mm=2.0)
    at = canvas.near(aorta, 24.0)
    distance = tube(at, aorta, (8.5 * size, 10.0 * size, 12.0 * size))
    canvas.paint(distance, hu["aorta"], at=at)
    if rng.random() < 0.5:  # calcified wall
        plaque = wave_field(rng, at, wavelength_mm=16.0)
        spots = np.maximum(np.abs(distance) - 1.2, (1.5 - plaque) * 6.0)
        canvas.paint(spots, 520.0, at=at)
    mesenteric: list[Point] = [(-9.0, -14.0, -4.0), (-8.0, 6.0, -22.0), (-4.0, 12.0, -110.0)]
    coeliac: list[Point] = [(-10.0, -16.0, 12.0), (-8.0, 4.0, 16.0), (16.0, 8.0, 14.0)]
    for branch in (mesenteric, coeliac):
        branch = jitter(rng, branch, spread_mm=2.0)
        at = canvas.near(branch, 8.0)
        canvas.paint(tube(at, branch, (4.5, 3.8, 3.2)), hu["aorta"], at=at)
    for side, vessel, root in ((1.0, "cava", (22.0, -22.0)), (-1.0, "cava", (10.0, -8.0))):
        renal = jitter(rng, [(root[0], root[1], -25.0), (side * 52.0, -44.0, -32.0)], spread_mm=2.0)
        at = canvas.near(renal, 8.0)
        canvas.paint(tube(at, renal, (5.0, 4.5)), hu[vessel], at=at)
    splenic = jitter(rng, [PORTAL_MM[0], (-20.0, -2.0, 8.0), (-74.0, -28.0, 30.0)], spread_mm=2.0)
    mesenteric_vein = jitter(
        rng, [PORTAL_MM[0], (14.0, 12.0, -40.0), (10.0, 16.0, -120.0)], spread_mm=2.0
    )
    for vein in (splenic, mesenteric_vein, list(PORTAL_MM)):
        at = canvas.near(vein, 10.0)
        canvas.paint(tube(at, vein, (7.0, 6.0, 6.0)), hu["portal"], at=at)

    everywhere = canvas.everywhere
    cava = tube(everywhere, jitter(rng, _CAVA_MM, spread_mm=2.0), (10.5, 10.5, 11.5, 12.5, 13.0))
    cava += np.float32(rng.uniform(-1.5, 2.0))
    canvas.paint(cava, hu["cava"], at=everywhere)
    return cava


def _draw_kidneys(canvas: Canvas, patient: Patient, *, rng: np.random.Generator) -> Array:
    """Kidneys with cortex, pyramids and fatty sinus; returns the distance to the right one."""
    hu = patient.hu
    right = np.full(canvas.x.shape, 99.0, np.float32)
    for side, middle in ((1.0, (64.0, -46.0, -44.0)), (-1.0, (-64.0, -46.0, -28.0))):
        centre = jitter(rng, [middle], spread_mm=6.0)[0]
        at = canvas.near([centre], 66.0)
        axes = rotation(
            about_x=rng.uniform(-14, -4), about_y=-side * rng.uniform(8, 18), about_z=side * 25.0
        )
        size = rng.uniform(0.88, 1.1)
        distance = ellipsoid(at, centre, (27.0 * size, 23.0 * size, 51.0 * size), axes=axes)
        distance += 1.3 * wave_field(rng, at, wavelength_mm=34.0)
        canvas.paint(distance, hu["cortex"], at=at)
        pyramids = 3.2 * wave_field(rng, at, wavelength_mm=24.0)
        canvas.paint(distance + 8.5 + pyramids, hu["medulla"], at=at)
        hilum: Point = (centre[0] - side * 13.0, centre[1] + 6.0, centre[2])
        sinus = ellipsoid(at, hilum, (17.0, 11.0, 27.0), axes=axes)
        sinus += 2.5 * wave_field(rng, at, wavelength_mm=16.0)
        canvas.paint(sinus, hu["fat"] + 12.0, at=at)
        pelvis: Point = (centre[0] - side * 14.0, centre[1] + 5.0, centre[2] - 2.0)
        canvas.paint(ellipsoid(at, pelvis, (10.0, 5.0, 9.0), axes=axes), 14.0, at=at)
        if side > 0:
            right[at.slices] = distance
    return right


def _draw_spleen(
    canvas: Canvas, patient: Patient, trunk: Trunk, *, stomach: Array, rng: np.random.Generator
) -> None:
    centre = jitter(rng, [(-101.0, -30.0, 34.0)], spread_mm=6.0)[0]
    at = canvas.near([centre], 74.0)
    size = rng.uniform(0.85, 1.2)
    axes = rotation(about_x=rng.uniform(10, 30), about_z=rng.uniform(-25, -5))
    shape = ellipsoid(at, centre, (28.0 * size, 43.0 * size, 50.0 * size), axes=axes)
    shape += 2.0 * wave_field(rng, at, wavelength_mm=45.0)
    inside = trunk.cavity[at.slices] + np.float32(patient.inset_mm)
    shape = overlap(shape, inside, blend_mm=4.0)
    shape = overlap(shape, trunk.diaphragm[at.slices] + 2.0, blend_mm=4.0)
    shape = overlap(shape, 2.0 - stomach[at.slices], blend_mm=4.0)
    tissue = np.full(at.x.shape, patient.hu["spleen"], np.float32)
    if patient.phase == "arterial":  # the red pulp fills unevenly
        tissue += 22.0 * wave_field(rng, at, wavelength_mm=22.0)
    canvas.paint(shape, tissue, at=at)
