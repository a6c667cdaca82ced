import itertools
import math

import numpy as np
import pytest

from medseg.core.errors import GeometryError
from medseg.metrics.surface import SurfaceDistances, bounding_box, surface_distances

SPACING_MM = (0.7, 1.3, 2.9)
CUBE = np.zeros((9, 8, 7), bool)
CUBE[2:6, 3:6, 2:5] = True


def ellipsoid(shape, centre, radii) -> np.ndarray:
    """Voxels inside an ellipsoid; everything in voxels."""
    indices = np.indices(shape).astype(float)
    return sum(((indices[n] - centre[n]) / radii[n]) ** 2 for n in range(len(shape))) <= 1


def shell_and_ellipsoid(num_axes: int) -> tuple[np.ndarray, np.ndarray]:
    """An ellipsoid with a hole as reference and a shifted, flatter one as prediction."""
    shape, centre, radii = (30, 24, 14), (13.2, 11.7, 6.4), (9.3, 6.1, 4.2)
    other_centre, other_radii = (15.1, 10.9, 7.2), (8.2, 7.4, 3.7)
    cut = slice(num_axes)
    hole = ellipsoid(shape[cut], centre[cut], tuple(radius / 3 for radius in radii[cut]))
    reference = ellipsoid(shape[cut], centre[cut], radii[cut]) & ~hole
    return reference, ellipsoid(shape[cut], other_centre[cut], other_radii[cut])


def random_masks(seed: int, *, share: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.random((7, 6, 5)) < share, random.random((7, 6, 5)) < share


def brute_force(reference: np.ndarray, prediction: np.ndarray, steps_mm: np.ndarray):
    """Distances between 2x2x2 elements by comparing every pair."""
    points = []
    for mask in (np.pad(reference, 1), np.pad(prediction, 1)):
        elements = [
            corner
            for corner in itertools.product(*(range(extent - 1) for extent in mask.shape))
            if mask[tuple(slice(n, n + 2) for n in corner)].any()
            and not mask[tuple(slice(n, n + 2) for n in corner)].all()
        ]
        points.append(np.array(elements) @ steps_mm.T)
    table = np.linalg.norm(points[0][:, None] - points[1][None], axis=-1)
    return table.min(axis=1), table.min(axis=0)


@pytest.mark.parametrize(
    ("num_axes", "nsd", "hd95_mm", "hd_mm", "assd_mm"),
    [
        (
            3,
            {0.7: 0.5395964359254849, 2.0: 0.8112028239133364},
            3.472751070837068,
            5.06951674225463,
            1.057183574601268,
        ),
        (
            2,
            {0.7: 0.3679483188625322, 2.0: 0.7604619996797459},
            4.8999999999999995,
            5.5470712993434645,
            1.4813450341805396,
        ),
    ],
)
def test_elements_equal_surface_distance(num_axes, nsd, hd95_mm, hd_mm, assd_mm):
    # Numbers of surface-distance 0.1 (DeepMind): surface Dice, robust Hausdorff, and the mean of
    # all distances weighted by its surfel areas.
    reference, prediction = shell_and_ellipsoid(num_axes)

    distances = surface_distances(reference, prediction, spacing_mm=SPACING_MM[:num_axes])

    for tolerance_mm, value in nsd.items():
        assert distances.surface_dice(tolerance_mm) == pytest.approx(value, abs=1e-9)
    assert distances.hausdorff_mm(95.0) == pytest.approx(hd95_mm, abs=1e-9)
    assert distances.hausdorff_mm(100.0) == pytest.approx(hd_mm, abs=1e-9)
    assert distances.average_mm() == pytest.approx(assd_mm, abs=1e-9)


@pytest.mark.parametrize(
    ("num_axes", "nsd", "hd95_mm", "hd_mm", "assd_mm"),
    [
        (
            3,
            {1.0: 0.41849711537361145, 2.0: 0.7213872671127319},
            3.5,
            5.06951674225463,
            1.35869891577,
        ),
        (
            2,
            {1.0: 0.3106796145439148, 2.0: 0.7184466123580933},
            4.208002090454102,
            5.06951674225463,
            1.61999812836,
        ),
    ],
)
def test_border_voxels_equal_monai_and_medpy(num_axes, nsd, hd95_mm, hd_mm, assd_mm):
    # Surface Dice and HD95 of MONAI 1.6.0 (float32), Hausdorff distance and ASSD of MedPy 0.5.2.
    reference, prediction = shell_and_ellipsoid(num_axes)

    distances = surface_distances(
        reference, prediction, spacing_mm=SPACING_MM[:num_axes], kind="border_voxels"
    )

    for tolerance_mm, value in nsd.items():
        assert distances.surface_dice(tolerance_mm) == pytest.approx(value, abs=1e-6)
    assert distances.hausdorff_mm(95.0) == pytest.approx(hd95_mm, abs=1e-6)
    assert distances.hausdorff_mm(100.0) == pytest.approx(hd_mm, abs=1e-9)
    assert distances.average_mm() == pytest.approx(assd_mm, abs=1e-9)


@pytest.mark.parametrize("share", [0.02, 0.3])
@pytest.mark.parametrize(
    "steps_mm",
    [
        np.diag(SPACING_MM),
        np.diag([0.2, 0.2, 6.0]),
        np.array([[1.0, 0.0, 0.2], [0.0, 1.5, 1.1], [0.0, 0.0, 2.0]]),
    ],
    ids=["anisotropic", "very anisotropic", "sheared"],
)
def test_every_distance_is_the_shortest_one(steps_mm, share):
    for seed in range(4):
        reference, prediction = random_masks(seed, share=share)
        reference[1, 2, 1] = prediction[5, 4, 3] = True
        expected = brute_force(reference, prediction, steps_mm)

        distances = surface_distances(reference, prediction, spacing_mm=steps_mm)

        assert np.sort(distances.reference_mm) == pytest.approx(np.sort(expected[0]))
        assert np.sort(distances.prediction_mm) == pytest.approx(np.sort(expected[1]))


def test_surfaces_far_apart_are_measured_right():
    reference = np.zeros((60, 5, 4), bool)
    prediction = reference.copy()
    reference[1:3, 1:3, 1:3] = True
    prediction[51:53, 1:3, 1:3] = True

    distances = surface_distances(reference, prediction, spacing_mm=(0.5, 1.0, 1.0))

    assert distances.hausdorff_mm(100.0) == pytest.approx(25.0)
    assert distances.reference_mm.min() == pytest.approx(24.0)


def test_a_shift_along_thick_slices_costs_their_thickness():
    shifted = np.roll(CUBE, 1, axis=2)

    distances = surface_distances(CUBE, shifted, spacing_mm=SPACING_MM)

    # The faces across k lie 2.9 mm from the other's; the sides overlap or end there.
    assert distances.hausdorff_mm(100.0) == pytest.approx(2.9)
    assert distances.surface_dice(2.9) == 1.0
    assert 0.3 < distances.surface_dice(2.8) < 1.0


def test_equal_masks_have_no_distance():
    for kind in ("elements", "border_voxels"):
        distances = surface_distances(CUBE, CUBE.copy(), spacing_mm=SPACING_MM, kind=kind)

        assert distances.surface_dice(0.0) == 1.0
        assert distances.hausdorff_mm() == 0.0
        assert distances.average_mm() == 0.0


def test_exchanging_the_masks_changes_nothing():
    reference, prediction = shell_and_ellipsoid(3)

    there = surface_distances(reference, prediction, spacing_mm=SPACING_MM)
    back = surface_distances(prediction, reference, spacing_mm=SPACING_MM)

    assert there.surface_dice(1.0) == pytest.approx(back.surface_dice(1.0))
    assert there.hausdorff_mm() == back.hausdorff_mm()
    assert there.average_mm() == pytest.approx(back.average_mm())


def test_axis_order_and_direction_change_nothing():
    reference, prediction = shell_and_ellipsoid(3)
    expected = surface_distances(reference, prediction, spacing_mm=SPACING_MM)

    turned = surface_distances(
        np.flip(reference.transpose(2, 0, 1), 1),
        np.flip(prediction.transpose(2, 0, 1), 1),
        spacing_mm=(2.9, 0.7, 1.3),
    )

    assert turned.surface_dice(1.0) == pytest.approx(expected.surface_dice(1.0))
    assert turned.hausdorff_mm() == pytest.approx(expected.hausdorff_mm())
    assert turned.average_mm() == pytest.approx(expected.average_mm())


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("kind", ["elements", "border_voxels"])
def test_one_voxel_along_an_axis_is_measured_as_a_2d_image(axis, kind):
    reference, prediction = shell_and_ellipsoid(2)
    flat = surface_distances(reference, prediction, spacing_mm=(0.7, 1.3), kind=kind)

    thin = surface_distances(
        np.expand_dims(reference, axis),
        np.expand_dims(prediction, axis),
        spacing_mm=np.insert([0.7, 1.3], axis, 5.0),
        kind=kind,
    )

    assert thin.surface_dice(1.0) == pytest.approx(flat.surface_dice(1.0))
    assert thin.hausdorff_mm() == pytest.approx(flat.hausdorff_mm())
    assert thin.average_mm() == pytest.approx(flat.average_mm())


@pytest.mark.parametrize("kind", ["elements", "border_voxels"])
def test_a_mask_that_fills_the_array_has_a_surface_at_its_edge(kind):
    full = np.ones((4, 3, 2), bool)

    distances = surface_distances(full, full, spacing_mm=SPACING_MM, kind=kind)

    assert len(distances.reference_mm) > 0
    assert distances.surface_dice(0.0) == 1.0


def test_two_empty_masks_have_no_surface_dice_and_no_distances():
    empty = np.zeros((4, 3, 2), bool)

    distances = surface_distances(empty, empty, spacing_mm=SPACING_MM)

    assert math.isnan(distances.surface_dice(1.0))
    assert math.isnan(distances.hausdorff_mm())
    assert math.isnan(distances.average_mm())


@pytest.mark.parametrize("kind", ["elements", "border_voxels"])
@pytest.mark.parametrize("is_missed", [True, False])
def test_one_empty_mask_gives_zero_surface_dice_and_no_distances(kind, is_missed):
    masks = (CUBE, np.zeros_like(CUBE)) if is_missed else (np.zeros_like(CUBE), CUBE)

    distances = surface_distances(*masks, spacing_mm=SPACING_MM, kind=kind)

    assert distances.surface_dice(1000.0) == 0.0
    assert math.isnan(distances.hausdorff_mm())
    assert math.isnan(distances.average_mm())


@pytest.mark.parametrize("kind", ["elements", "border_voxels"])
def test_what_lies_in_ignored_voxels_is_not_measured(kind):
    prediction = CUBE.copy()
    prediction[6:9, 3:6, 2:5] = True  # grows only where nobody annotated
    ignored = np.zeros_like(CUBE)
    ignored[6:9] = True

    plain = surface_distances(CUBE, prediction, spacing_mm=SPACING_MM, kind=kind)
    masked = surface_distances(CUBE, prediction, spacing_mm=SPACING_MM, kind=kind, ignored=ignored)

    assert plain.surface_dice(0.5) < 0.9
    assert masked.surface_dice(0.0) == 1.0
    assert 0 < len(masked.reference_mm) < len(plain.reference_mm)


def test_nothing_ignored_is_the_same_as_no_ignored_voxels():
    reference, prediction = shell_and_ellipsoid(3)
    expected = surface_distances(reference, prediction, spacing_mm=SPACING_MM)

    distances = surface_distances(
        reference, prediction, spacing_mm=SPACING_MM, ignored=np.zeros_like(reference)
    )

    assert distances.average_mm() == expected.average_mm()


def test_a_deviation_of_exactly_the_tolerance_counts_despite_float32_spacing():
    shifted = np.roll(CUBE, 1, axis=2)

    distances = surface_distances(CUBE, shifted, spacing_mm=(1.0, 1.0, float(np.float32(2.9))))

    assert float(np.float32(2.9)) > 2.9
    assert distances.surface_dice(2.9) == 1.0


def test_the_percentile_of_elements_counts_area():
    distances = SurfaceDistances(
        reference_mm=np.array([0.0, 1.0, 5.0]),
        prediction_mm=np.array([0.0]),
        reference_sizes=np.array([1.0, 8.5, 0.5]),  # 5 % of the area lies at 5 mm
        prediction_sizes=np.array([1.0]),
        kind="elements",
    )

    assert distances.hausdorff_mm(94.0) == 1.0
    assert distances.hausdorff_mm(96.0) == 5.0
    assert distances.average_mm() == pytest.approx((8.5 + 2.5) / 11)


def test_the_bounding_box_is_tight():
    assert bounding_box(CUBE) == (slice(2, 6), slice(3, 6), slice(2, 5))
    assert bounding_box(np.zeros((3, 2), bool)) == (slice(0, 0), slice(0, 0))


def test_fortran_order_changes_nothing():
    reference, prediction = shell_and_ellipsoid(3)
    expected = surface_distances(reference, prediction, spacing_mm=SPACING_MM)

    distances = surface_distances(
        np.asfortranarray(reference), np.asfortranarray(prediction), spacing_mm=SPACING_MM
    )

    assert distances.average_mm() == expected.average_mm()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prediction": np.ones((2, 2, 2), bool)}, r"prediction: has shape.*\(9, 8, 7\).*one grid"),
        ({"ignored": np.ones((2, 2, 2), bool)}, r"ignored: has shape.*\(9, 8, 7\).*one grid"),
        ({"spacing_mm": (1.0, 1.0)}, r"spacing_mm: \[1.0, 1.0\].*3 axes.*one distance in mm"),
        ({"spacing_mm": (1.0, 0.0, 1.0)}, "spacing_mm: .*length zero"),
    ],
)
def test_masks_and_spacing_that_do_not_fit_are_refused(arguments, message):
    given = {"reference": CUBE, "prediction": CUBE, "spacing_mm": SPACING_MM} | arguments

    with pytest.raises(GeometryError, match=message):
        surface_distances(given.pop("reference"), given.pop("prediction"), **given)


def test_masks_of_one_axis_are_refused():
    with pytest.raises(GeometryError, match="reference: has 1 axes; give a mask of 2 or 3 axes"):
        surface_distances(np.ones(3, bool), np.ones(3, bool), spacing_mm=(1.0,))
