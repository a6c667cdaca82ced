from dataclasses import replace

import numpy as np
import pytest
import torch
from learning_cases import numbers
from scipy import ndimage

from medseg.transforms.augment import NO_AUGMENT, Augment

ALWAYS = Augment(
    rotation_probability=1.0,
    scaling_probability=1.0,
    elastic_probability=1.0,
    noise_probability=1.0,
    blur_probability=1.0,
    brightness_probability=1.0,
    contrast_probability=1.0,
    low_resolution_probability=1.0,
    gamma_probability=1.0,
)
ONLY_MIRRORED = Augment(rotation_probability=0.0, scaling_probability=0.0, mirror_probability=1.0)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("shape", [(2, 12, 10, 8), (1, 16, 12)])
def test_the_same_generator_gives_the_same_intensities(shape):
    image = torch.from_numpy(numbers(shape))

    first, second = (ALWAYS.intensity(image, rng=rng(5)) for _ in range(2))

    assert first.shape == image.shape
    assert torch.equal(first, second)
    assert torch.isfinite(first).all()
    assert not torch.equal(first, ALWAYS.intensity(image, rng=rng(6)))


def test_intensity_changes_leave_the_given_image_as_it_is():
    values = numbers((1, 8, 8, 8))
    image = torch.from_numpy(values.copy())

    ALWAYS.intensity(image, rng=rng())

    assert np.array_equal(image.numpy(), values)


def test_no_augmentation_changes_nothing():
    image = torch.from_numpy(numbers((1, 8, 8, 8)))

    assert NO_AUGMENT.intensity(image, rng=rng()) is image
    assert NO_AUGMENT.spatial_matrix((1.0, 2.0, 3.0), mirror_axes=(0, 1), rng=rng()) is None
    assert NO_AUGMENT.displacement_knots((8, 8, 8), (1.0, 1.0, 1.0), rng=rng()) is None


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (0.7, 0.8, 5.0), (0.5, 3.0)])
def test_rotation_keeps_distances_in_millimetres(spacing_mm):
    augment = Augment(rotation_probability=1.0, scaling_probability=0.0)

    matrix = augment.spatial_matrix(spacing_mm, mirror_axes=(), rng=rng())

    scale = np.diag(spacing_mm)
    in_mm = scale @ matrix @ np.linalg.inv(scale)
    np.testing.assert_allclose(in_mm.T @ in_mm, np.eye(len(spacing_mm)), atol=1e-12)
    assert np.linalg.det(in_mm) == pytest.approx(1.0)


def test_rotation_angles_stay_within_their_range():
    augment = Augment(rotation_probability=1.0, rotation_degrees=10.0, scaling_probability=0.0)
    generator = rng()

    turned = [augment.spatial_matrix((1.0, 1.0), mirror_axes=(), rng=generator) for _ in range(200)]

    degrees = [np.degrees(np.arctan2(m[1, 0], m[0, 0])) for m in turned]
    assert -10 <= min(degrees) < -8
    assert 8 < max(degrees) <= 10


def test_mirroring_turns_only_the_named_axes():
    matrix = ONLY_MIRRORED.spatial_matrix((1.0, 2.0, 3.0), mirror_axes=(0, 2), rng=rng())

    assert np.array_equal(matrix, np.diag([-1.0, 1.0, -1.0]))


def test_displacement_has_its_standard_deviation_in_millimetres():
    augment = Augment(elastic_probability=1.0, elastic_mm=4.0)
    generator = rng()

    knots = [
        augment.displacement_knots((48, 36, 24), (2.0, 1.0, 4.0), rng=generator) for _ in range(40)
    ]

    in_mm = np.stack(knots) * np.array([2.0, 1.0, 4.0])[:, None, None, None]
    assert in_mm.shape == (40, 3, 4, 3, 3)
    # 1440 numbers an axis give the deviation to about 2 %.
    np.testing.assert_allclose(in_mm.std(axis=(0, 2, 3, 4)), 4.0, rtol=0.1)


def test_noise_has_the_drawn_deviation():
    augment = Augment(
        noise_probability=1.0, noise_std=(0.2, 0.2), blur_probability=0, brightness_probability=0,
        contrast_probability=0, low_resolution_probability=0, gamma_probability=0,
    )  # fmt: skip

    noisy = augment.intensity(torch.zeros(1, 24, 24, 24), rng=rng())

    assert float(noisy.std()) == pytest.approx(0.2, rel=0.03)


def test_blur_is_a_gaussian():
    augment = Augment(
        noise_probability=0, blur_probability=1.0, blur_sigma=(0.8, 0.8), brightness_probability=0,
        contrast_probability=0, low_resolution_probability=0, gamma_probability=0,
    )  # fmt: skip
    image = numbers((1, 12, 11, 10))

    blurred = augment.intensity(torch.from_numpy(image), rng=rng())

    wanted = ndimage.gaussian_filter(image[0], 0.8, mode="nearest", radius=3)
    np.testing.assert_allclose(blurred[0].numpy(), wanted, atol=1e-5)


def test_gamma_keeps_mean_and_deviation():
    augment = Augment(
        noise_probability=0, blur_probability=0, brightness_probability=0, contrast_probability=0,
        low_resolution_probability=0, gamma_probability=1.0, gamma=(2.0, 2.0),
    )  # fmt: skip
    image = torch.from_numpy(numbers((2, 10, 10, 10)))

    changed = augment.intensity(image, rng=rng())

    assert not torch.allclose(changed, image)
    torch.testing.assert_close(changed.mean((1, 2, 3)), image.mean((1, 2, 3)), atol=1e-4, rtol=0)
    torch.testing.assert_close(changed.std((1, 2, 3)), image.std((1, 2, 3)), atol=1e-4, rtol=0)


@pytest.mark.parametrize("exponent", [0.7, 1.5])
def test_gamma_is_a_power_of_the_range(exponent):
    augment = replace(NO_AUGMENT, gamma_probability=1.0, gamma=(exponent, exponent))
    image = numbers((1, 10, 10, 10)).astype(np.float64)

    changed = augment.intensity(torch.from_numpy(image).float(), rng=rng())

    # The negative image is drawn by chance; either is a power, up to a factor and an offset.
    upright = (image - image.min()) ** exponent
    negative = -((image.max() - image) ** exponent)
    wanted = [(v - v.mean()) / v.std() * image.std() + image.mean() for v in (upright, negative)]
    assert min(np.abs(changed.numpy() - v).max() for v in wanted) < 1e-4


def test_a_constant_patch_stays_finite():
    assert torch.isfinite(ALWAYS.intensity(torch.full((1, 9, 9, 9), 3.0), rng=rng())).all()


@pytest.mark.parametrize("shape", [(1, 17, 12, 20), (2, 15, 9)])
@pytest.mark.parametrize("zoom", [0.5, 0.73, 1.0])
def test_low_resolution_equals_coarsening_and_interpolating_back(shape, zoom):
    image = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    augment = replace(NO_AUGMENT, low_resolution_probability=1.0, low_resolution=(zoom, zoom))

    changed = augment.intensity(image, rng=rng())

    coarse = [max(1, round(n * zoom)) for n in shape[1:]]
    small = torch.nn.functional.interpolate(image[None], coarse, mode="nearest-exact")
    mode = "trilinear" if len(shape) == 4 else "bilinear"
    wanted = torch.nn.functional.interpolate(small, shape[1:], mode=mode, align_corners=False)[0]
    assert torch.allclose(changed, wanted, atol=1e-5)
