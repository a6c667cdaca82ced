"""The abdominal phantom's liver: its shape among its neighbours, vessels, gall bladder, tumours."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

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
from medseg.sources.phantom_organs import PORTAL_MM, Neighbours

LIVER, TUMOUR = 1, 2

# Tissue, points and radii in mm of the vessels inside the liver, from root to tip.
_ROOT_MM: Point = PORTAL_MM[-1]
_JOIN_MM: Point = (25.0, -16.0, 66.0)
_VESSELS_MM: tuple[tuple[str, tuple[Point, ...], tuple[float, ...]], ...] = (
    ("portal", (_ROOT_MM, (68, 2, 16), (94, 30, 44)), (6.5, 5.0, 2.6)),
    ("portal", ((66, 2, 16), (92, -28, -8), (102, -34, -30)), (5.0, 3.8, 2.4)),
    ("portal", (_ROOT_MM, (14, 26, 30), (-10, 42, 38), (-38, 44, 46)), (5.5, 4.6, 3.4, 2.2)),
    ("cava", (_JOIN_MM, (70, -28, 48), (108, -18, 20)), (6.0, 4.4, 2.4)),
    ("cava", (_JOIN_MM, (48, 18, 52), (56, 50, 24)), (5.6, 4.2, 2.4)),
    ("cava", (_JOIN_MM, (6, 18, 56), (-26, 40, 54)), (5.2, 4.0, 2.2)),
)


def draw_liver(
    canvas: Canvas,
    patient: Patient,
    trunk: Trunk,
    neighbours: Neighbours,
    *,
    rng: np.random.Generator,
) -> NDArray[np.uint8]:
    """Paints liver, vessels, gall bladder and tumours, and returns the label map.

    Returns:
        0, LIVER or TUMOUR, shape (I, J, K). Vessels inside the liver count as liver, the cava and
        the gall bladder do not.
    """
    at = canvas.everywhere
    hu = patient.hu
    bladder, bladder_box = _gall_bladder(canvas, rng=rng)
    distance = _liver_shape(canvas, patient, trunk, neighbours, rng=rng)
    distance[bladder_box.slices] = np.maximum(distance[bladder_box.slices], 1.0 - bladder)
    _keep_largest_part(distance, canvas.softness_mm)

    tissue = np.float32(hu["liver"]) + rng.uniform(2.0, 7.0) * smooth_field(
        rng, at.x.shape, knots=(10, 9, 8)
    )
    share = canvas.paint(distance, tissue, at=at)
    _draw_hepatic_vessels(canvas, patient, share, rng=rng)
    canvas.paint(bladder, hu["bowel_wall"], at=bladder_box)
    canvas.paint(bladder + 2.0, hu["bile"], at=bladder_box)

    labels = np.where(distance < 0, np.uint8(LIVER), np.uint8(0))
    _draw_tumours(canvas, patient, distance, share, labels, rng=rng)
    return labels


def _liver_shape(
    canvas: Canvas,
    patient: Patient,
    trunk: Trunk,
    neighbours: Neighbours,
    *,
    rng: np.random.Generator,
) -> Array:
    """Signed distance to the liver: lobes fitted between wall, diaphragm and neighbours."""
    at = canvas.everywhere
    size = rng.uniform(0.88, 1.04)
    centre, left, tail = jitter(
        rng, [(64.0, -2.0, 10.0), (-2.0, 44.0, 40.0), (18.0, -8.0, 30.0)], spread_mm=5.0
    )
    right = ellipsoid(at, centre, (82.0 * size, 86.0 * size, 86.0 * size))
    # The underside faces the kidney, the duodenum and the colon: down, left and back.
    tilt = np.array([-0.6 + rng.uniform(-0.12, 0.12), -0.25, -0.76], np.float32)
    tilt /= np.linalg.norm(tilt)
    foot = jitter(rng, [(46.0, 6.0, -16.0)], spread_mm=8.0)[0]
    under = tilt[0] * (at.x - foot[0]) + tilt[1] * (at.y - foot[1]) + tilt[2] * (at.z - foot[2])
    under += 4.0 * smooth_field(rng, at.x.shape, knots=(8, 8, 7))
    right = overlap(right, under, blend_mm=12.0)

    long = rng.uniform(0.65, 1.2)
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
        (neighbours.right_kidney, rng.uniform(0.5, 5.0)),
        (neighbours.stomach, rng.uniform(0.0, 2.0)),
    ):
        liver = overlap(liver, np.float32(gap_mm) - obstacle, blend_mm=2.5)
    liver = overlap(liver, trunk.cavity + np.float32(patient.inset_mm), blend_mm=5.0)
    return np.asarray(overlap(liver, trunk.diaphragm + 0.8, blend_mm=4.0), np.float32)


def _keep_largest_part(distance: Array, softness_mm: float) -> None:
    """Removes, in place, the crumbs that the neighbours have cut off the liver."""
    parts, _ = ndimage.label(distance < 0)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    cut_off = (parts > 0) & (parts != sizes.argmax())
    distance[cut_off] = softness_mm


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
    for name, course, radii in _VESSELS_MM:
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
        # The first is never tiny, so that every case with tumours holds one that can be found.
        smallest = 4.0 if placed else 9.0
        radius = float(np.exp(rng.uniform(np.log(smallest), np.log(25.0))))
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
    """A point of the liver deep enough for the tumour and clear of the others; None if none is."""
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
    rough = rng.uniform(0.05, 0.16) * radius_mm
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
