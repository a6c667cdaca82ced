"""Organs of the abdominal phantom: bowel, vessels, kidneys, spleen, liver and its tumours.

The order of painting is the order of the functions; what is painted later lies on top.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medseg.sources.phantom_anatomy import Patient, Trunk, jitter, spine_y_mm
from medseg.sources.phantom_canvas import (
    Array,
    Canvas,
    Point,
    Region,
    ellipsoid,
    overlap,
    rotation,
    smooth_field,
    tube,
    union,
    wave_field,
)

LIVER, TUMOUR = 1, 2

_PORTAL_MM: tuple[Point, ...] = ((12.0, 2.0, -8.0), (24.0, 4.0, 4.0), (38.0, 6.0, 14.0))
_CAVA_MM: tuple[Point, ...] = (
    (22.0, -20.0, -140.0), (22.0, -20.0, -20.0), (27.0, -27.0, 30.0), (24.0, -20.0, 72.0), (10.0, -8.0, 112.0),
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
) -> NDArray[np.uint8]:
    """Paints every abdominal organ and returns the label map: 0, LIVER or TUMOUR, shape (I, J, K)."""
    draw_bowel(canvas, patient, rng=rng)
    stomach = _draw_stomach(canvas, patient, rng=rng)
    _draw_pancreas(canvas, patient, rng=rng)
    cava = _draw_great_vessels(canvas, patient, rng=rng)
    right_kidney = _draw_kidneys(canvas, patient, rng=rng)
    _draw_spleen(canvas, patient, trunk, stomach=stomach, rng=rng)
    return draw_liver(canvas, patient, trunk, Neighbours(right_kidney, stomach, cava), rng=rng)


def draw_bowel(canvas: Canvas, patient: Patient, *, rng: np.random.Generator) -> None:
    """Small bowel loops and the colon, with fluid, stool, gas and sometimes contrast agent inside."""
    hu = patient.hu
    oral = bool(rng.random() < 0.4)
    for _ in range(11):
        start = np.array([rng.uniform(-75, 60), rng.uniform(5, 62), rng.uniform(-115, -42)])
        steps = rng.normal(0.0, 1.0, (3, 3)) * (22.0, 14.0, 12.0)
        loop: list[Point] = [(p[0], p[1], p[2]) for p in start + np.cumsum(steps, axis=0)]
        radii = rng.uniform(9.0, 14.0, 3).tolist()
        content = (
            rng.uniform(130.0, 260.0) if oral and rng.random() < 0.6 else rng.uniform(8.0, 60.0)
        )
        gas = rng.random() < 0.25
        _draw_gut(
            canvas, loop, radii, wall_hu=hu["bowel_wall"], content_hu=content, gas=gas, rng=rng
        )
    duodenum = jitter(
        rng,
        [(30.0, 34.0, -22.0), (46.0, 20.0, -30.0), (42.0, 4.0, -66.0), (8.0, -4.0, -80.0)],
        spread_mm=5.0,
    )
    _draw_gut(
        canvas, duodenum, (13.0, 14.0, 13.0, 12.0), wall_hu=hu["bowel_wall"],
        content_hu=180.0 if oral else 25.0, gas=rng.random() < 0.3, rng=rng,
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
            content_hu=float(rng.uniform(-20.0, 70.0)), gas=bool(rng.random() < 0.7), rng=rng, haustra_mm=3.0,
        )  # fmt: skip


def draw_liver(
    canvas: Canvas,
    patient: Patient,
    trunk: Trunk,
    neighbours: Neighbours,
    *,
    rng: np.random.Generator,
) -> NDArray[np.uint8]:
    """Paints liver, gall bladder, hepatic vessels and tumours, and returns the label map."""
    at = canvas.everywhere
    hu = patient.hu
    bladder, bladder_box = _gall_bladder(canvas, rng=rng)
    distance = _liver_shape(canvas, patient, trunk, neighbours, rng=rng)
    distance[bladder_box.slices] = np.maximum(distance[bladder_box.slices], 1.0 - bladder)

    tissue = np.float32(hu["liver"]) + 2.5 * smooth_field(rng, at.x.shape, knots=(9, 9, 7))
    share = canvas.paint(distance, tissue, at=at)
    _draw_hepatic_vessels(canvas, patient, share, rng=rng)
    canvas.paint(bladder, hu["bowel_wall"], at=bladder_box)
    canvas.paint(bladder + 2.0, hu["bile"], at=bladder_box)
    labels = np.where(distance < 0, np.uint8(LIVER), np.uint8(0))
    _draw_tumours(canvas, patient, distance, share, labels, rng=rng)
    return labels


def _draw_gut(
    canvas: Canvas,
    points: list[Point],
    radii: tuple[float, ...] | list[float],
    *,
    wall_hu: float,
    content_hu: float,
    gas: bool,
    rng: np.random.Generator,
    haustra_mm: float = 0.0,
) -> None:
    """A length of gut: wall, content, and gas above a level where `gas` (the patient lies on the back)."""
    at = canvas.near(points, max(radii) + 6.0)
    distance = tube(at, points, radii)
    if haustra_mm:
        distance += haustra_mm * wave_field(rng, at, wavelength_mm=38.0, num_waves=4)
    texture = wave_field(rng, at, wavelength_mm=14.0, num_waves=5)
    share = canvas.paint(distance, wall_hu, at=at)
    inner = distance + 2.8
    canvas.paint(inner, content_hu + (22.0 if haustra_mm else 5.0) * texture, at=at)
    if gas and share.size:
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
    meal = float(rng.choice([15.0, 35.0, 60.0, 110.0, 200.0], p=(0.25, 0.25, 0.2, 0.18, 0.12)))
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
    """Aorta with its front branches, vena cava, portal and splenic vein; returns the distance to the cava."""
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
    splenic = jitter(rng, [_PORTAL_MM[0], (-20.0, -2.0, 8.0), (-74.0, -28.0, 30.0)], spread_mm=2.0)
    mesenteric_vein = jitter(
        rng, [_PORTAL_MM[0], (14.0, 12.0, -40.0), (10.0, 16.0, -120.0)], spread_mm=2.0
    )
    for vein in (splenic, mesenteric_vein, list(_PORTAL_MM)):
        at = canvas.near(vein, 10.0)
        canvas.paint(tube(at, vein, (7.0, 6.0, 6.0)), hu["portal"], at=at)

    everywhere = canvas.everywhere
    cava = tube(everywhere, jitter(rng, _CAVA_MM, spread_mm=2.0), (10.5, 10.5, 11.5, 12.5, 13.0))
    cava += np.float32(rng.uniform(-1.5, 2.0))
    canvas.paint(cava, hu["cava"], at=everywhere)
    return cava


def _draw_kidneys(canvas: Canvas, patient: Patient, *, rng: np.random.Generator) -> Array:
    """Kidneys with cortex, pyramids and fatty sinus; returns the distance to the right one on the canvas."""
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


def _liver_shape(
    canvas: Canvas,
    patient: Patient,
    trunk: Trunk,
    neighbours: Neighbours,
    *,
    rng: np.random.Generator,
) -> Array:
    """Signed distance to the liver: lobes fitted into the right upper abdomen around its neighbours."""
    at = canvas.everywhere
    size = rng.uniform(0.9, 1.1)
    centre, left, tail = jitter(
        rng, [(64.0, -2.0, 10.0), (-2.0, 44.0, 40.0), (18.0, -8.0, 30.0)], spread_mm=5.0
    )
    right = ellipsoid(at, centre, (84.0 * size, 88.0, 88.0 * size))
    # The underside faces the kidney, the duodenum and the colon: down, left and back.
    tilt = np.array([-0.6 + rng.uniform(-0.12, 0.12), -0.25, -0.76], np.float32)
    tilt /= np.linalg.norm(tilt)
    foot = jitter(rng, [(46.0, 6.0, -16.0)], spread_mm=8.0)[0]
    under = tilt[0] * (at.x - foot[0]) + tilt[1] * (at.y - foot[1]) + tilt[2] * (at.z - foot[2])
    under += 4.0 * smooth_field(rng, at.x.shape, knots=(8, 8, 7))
    right = overlap(right, under, blend_mm=12.0)

    long = rng.uniform(0.75, 1.2)
    axes = rotation(about_y=rng.uniform(-4, 10), about_z=rng.uniform(-6, 8))
    left_lobe = ellipsoid(at, left, (76.0 * long, 33.0, 38.0 * size), axes=axes)
    liver = union(right, left_lobe, blend_mm=10.0)
    liver = union(liver, ellipsoid(at, tail, (19.0, 15.0, 24.0)), blend_mm=6.0)
    liver += 2.6 * smooth_field(rng, at.x.shape, knots=(10, 9, 8))

    # The fissure of the round ligament cuts in from the front below.
    cut_x, cut_y = rng.uniform(6.0, 20.0), rng.uniform(34.0, 48.0)
    fissure = np.abs(at.x - np.float32(cut_x) + 0.15 * (at.y - 60.0)) - 3.0
    fissure = np.maximum(fissure, np.maximum(cut_y - at.y, 0.5 * (at.z - rng.uniform(10.0, 30.0))))
    hilum = tube(at, [(14.0, 8.0, 6.0), (40.0, 10.0, 12.0)], (7.0, 5.0))
    spine = ellipsoid(
        Region(at.slices, at.x, at.y - np.float32(1.0) * spine_y_mm(at.z), at.z),
        (0.0, 2.0, 0.0),
        (33.0, 26.0, np.inf),
    )
    for obstacle, gap_mm in (
        (fissure, 0.0),
        (hilum, 0.0),
        (spine, 0.0),
        (neighbours.cava, 0.0),
        (neighbours.right_kidney, rng.uniform(2.5, 6.0)),
        (neighbours.stomach, rng.uniform(1.0, 3.0)),
    ):
        liver = overlap(liver, np.float32(gap_mm) - obstacle, blend_mm=2.5)
    liver = overlap(liver, trunk.cavity + np.float32(patient.inset_mm), blend_mm=5.0)
    return np.asarray(overlap(liver, trunk.diaphragm + 1.5, blend_mm=4.0), np.float32)


def _gall_bladder(canvas: Canvas, *, rng: np.random.Generator) -> tuple[Array, Region]:
    centre = jitter(rng, [(50.0, 38.0, -24.0)], spread_mm=6.0)[0]
    size = rng.uniform(0.75, 1.2)
    axes = rotation(about_x=rng.uniform(15, 40), about_z=rng.uniform(-20, 5))
    at = canvas.near([centre], 45.0)
    return ellipsoid(at, centre, (13.0 * size, 27.0 * size, 14.0 * size), axes=axes), at


def _draw_hepatic_vessels(
    canvas: Canvas, patient: Patient, liver: Array, *, rng: np.random.Generator
) -> None:
    """Portal branches from the hilum and hepatic veins to the cava, drawn only inside the liver."""
    porta = _PORTAL_MM[-1]
    join: Point = (25.0, -16.0, 66.0)
    trees: list[tuple[str, list[Point], tuple[float, ...]]] = [
        ("portal", [porta, (68.0, 2.0, 16.0), (94.0, 30.0, 44.0)], (6.5, 5.0, 2.6)),
        ("portal", [(66.0, 2.0, 16.0), (92.0, -28.0, -8.0), (102.0, -34.0, -30.0)], (5.0, 3.8, 2.4)),
        ("portal", [porta, (14.0, 26.0, 30.0), (-10.0, 42.0, 38.0), (-38.0, 44.0, 46.0)], (5.5, 4.6, 3.4, 2.2)),
        ("cava", [join, (70.0, -28.0, 48.0), (108.0, -18.0, 20.0)], (6.0, 4.4, 2.4)),
        ("cava", [join, (48.0, 18.0, 52.0), (56.0, 50.0, 24.0)], (5.6, 4.2, 2.4)),
        ("cava", [join, (6.0, 18.0, 56.0), (-26.0, 40.0, 54.0)], (5.2, 4.0, 2.2)),
    ]  # fmt: skip
    for name, course, radii in trees:
        points = [course[0], *jitter(rng, course[1:], spread_mm=7.0)]
        at = canvas.near(points, 10.0)
        distance = tube(at, points, radii)
        for _ in range(3):
            n = int(rng.integers(1, len(points)))
            tip = np.array(points[n]) + rng.normal(0.0, 1.0, 3) * (20.0, 18.0, 18.0)
            twig: list[Point] = [points[n], (float(tip[0]), float(tip[1]), float(tip[2]))]
            distance = np.minimum(distance, tube(at, twig, (radii[n] * 0.8, 1.6)))
        share = canvas.occupancy(distance) * liver[at.slices]
        canvas.blend(share, patient.hu[name], at=at)


def _draw_tumours(
    canvas: Canvas,
    patient: Patient,
    liver_distance: Array,
    liver: Array,
    labels: NDArray[np.uint8],
    *,
    rng: np.random.Generator,
) -> None:
    """Paints 0 to 5 tumours of 4 to 25 mm radius inside the liver and enters them in `labels`."""
    count = int(rng.choice(6, p=(0.08, 0.24, 0.26, 0.20, 0.13, 0.09)))
    placed: list[tuple[Point, float]] = []
    for _ in range(count):
        radius = float(np.exp(rng.uniform(np.log(4.5), np.log(25.0))))
        centre = _tumour_centre(canvas, liver_distance, placed, radius_mm=radius, rng=rng)
        if centre is None:
            continue
        placed.append((centre, radius))
        at = canvas.near([centre], 1.7 * radius + 5.0)
        _draw_tumour(canvas, patient, at, centre, radius, liver=liver, labels=labels, rng=rng)


def _tumour_centre(
    canvas: Canvas,
    liver_distance: Array,
    placed: list[tuple[Point, float]],
    *,
    radius_mm: float,
    rng: np.random.Generator,
) -> Point | None:
    """A point of the liver, at most two thirds of the radius from its surface and clear of other tumours."""
    candidates = np.flatnonzero(liver_distance < -0.7 * radius_mm - 2.0)
    if candidates.size == 0:
        return None
    for index in rng.choice(candidates, 40):
        centre: Point = (
            float(canvas.x.flat[index]),
            float(canvas.y.flat[index]),
            float(canvas.z.flat[index]),
        )
        if all(
            np.linalg.norm(np.subtract(centre, other)) > radius_mm + other_radius + 5.0
            for other, other_radius in placed
        ):
            return centre
    return None


def _draw_tumour(
    canvas: Canvas,
    patient: Patient,
    at: Region,
    centre: Point,
    radius_mm: float,
    *,
    liver: Array,
    labels: NDArray[np.uint8],
    rng: np.random.Generator,
) -> None:
    axes = rotation(about_x=rng.uniform(0, 180), about_z=rng.uniform(0, 180))
    stretch = np.exp(rng.uniform(-0.22, 0.22, 3))
    stretch /= np.cbrt(stretch.prod())
    radii: Point = tuple((radius_mm * stretch).tolist())
    rough = rng.uniform(0.06, 0.2) * radius_mm
    distance = ellipsoid(at, centre, radii, axes=axes)
    distance += rough * wave_field(rng, at, wavelength_mm=1.5 * radius_mm)
    softness = canvas.softness_mm * rng.uniform(1.0, 1.7)

    contrast = _contrast_hu(patient.phase, rng=rng)
    base = patient.hu["liver"]
    hu = np.full(at.x.shape, base + contrast, np.float32)
    hu += 0.12 * abs(contrast) * wave_field(rng, at, wavelength_mm=0.8 * radius_mm)
    inside = liver[at.slices]
    share = canvas.occupancy(distance, softness_mm=softness) * inside
    if radius_mm > 8.0 and contrast < 0 and patient.phase != "native" and rng.random() < 0.3:
        # An enhancing rim, as many metastases have; the rim is part of the tumour.
        rim = canvas.occupancy(np.abs(distance + 1.5) - 1.5, softness_mm=softness)
        hu += rim * (0.55 * abs(contrast) - np.float32(contrast))
    canvas.blend(share, hu, at=at)
    if radius_mm > 13.0 and rng.random() < 0.4:  # dead centre
        core = distance + rng.uniform(0.45, 0.65) * radius_mm
        core += 0.15 * radius_mm * wave_field(rng, at, wavelength_mm=radius_mm)
        canvas.blend(canvas.occupancy(core, softness_mm=2 * softness) * inside, 22.0, at=at)
    view = labels[at.slices]
    view[(distance < 0) & (view == LIVER)] = TUMOUR


def _contrast_hu(phase: str, *, rng: np.random.Generator) -> float:
    """Difference of a tumour to the liver; one in six is hard to see in any phase."""
    if rng.random() < 1 / 6:
        return float(rng.choice([-1.0, -1.0, 1.0]) * rng.uniform(12.0, 18.0))
    if phase == "native":
        return float(-rng.uniform(16.0, 32.0))
    if phase == "arterial":
        return float(rng.uniform(35.0, 65.0) if rng.random() < 0.5 else -rng.uniform(22.0, 42.0))
    return float(rng.uniform(26.0, 45.0) if rng.random() < 0.12 else -rng.uniform(25.0, 62.0))
