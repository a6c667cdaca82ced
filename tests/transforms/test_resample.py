import numpy as np
import pytest
from learning_cases import numbers
from scipy import ndimage
from skimage import transform

from medseg.transforms.resample import resample_image, resample_labels

SHAPES = [((9, 14, 11), (13, 20, 7)), ((5, 8, 30), (5, 16, 10)), ((1, 9, 12), (1, 18, 5))]


@pytest.mark.parametrize(("old", "new"), SHAPES)
def test_images_get_the_values_of_scipys_cubic_zoom_clipped_to_their_range(old, new):
    image = numbers((2, *old))
    factors = [b / a for a, b in zip(old, new, strict=True)]
    wanted = [
        ndimage.zoom(channel, factors, order=3, mode="nearest", grid_mode=True).clip(
            channel.min(), channel.max()
        )
        for channel in image.astype(np.float64)
    ]

    resampled = resample_image(image, new)

    # 2e-5 is twenty rounding errors of float32 at values of four.
    np.testing.assert_allclose(resampled, wanted, atol=2e-5)
    assert resampled.dtype == np.float32


def test_images_get_the_values_of_skimages_cubic_resize():
    image = numbers((1, 12, 10, 9))
    wanted = transform.resize(
        image[0], (18, 15, 12), order=3, mode="edge", anti_aliasing=False, clip=True
    )

    resampled = resample_image(image, (18, 15, 12))

    # skimage pads edges by 12 voxels where scipy.ndimage.zoom with order 3 does the same.
    np.testing.assert_allclose(resampled[0], wanted, atol=1e-4)


def test_values_stay_within_the_range_of_their_channel():
    image = np.zeros((2, 8, 8, 8), np.float32)
    image[0, 4:], image[1, :, 4:] = 100.0, -7.0

    resampled = resample_image(image, (21, 19, 17))

    assert resampled[0].min() == 0.0
    assert resampled[0].max() == 100.0
    assert resampled[1].min() == -7.0
    assert resampled[1].max() == 0.0


def test_an_image_of_the_wanted_shape_is_given_back_as_it_is():
    image = numbers((1, 3, 4, 5))

    assert np.array_equal(resample_image(image, (3, 4, 5)), image)


def test_a_label_is_the_class_with_the_largest_linear_share():
    labels = np.zeros((4, 1, 1), np.uint8)
    labels[2:] = 3

    resampled = resample_labels(labels, (8, 1, 1))

    # Centres lie at 0.25, 0.75, 1.25 | 1.75, ...: between 1 and 2, the nearer class has three
    # quarters.
    assert resampled[:, 0, 0].tolist() == [0, 0, 0, 0, 3, 3, 3, 3]


def test_labels_agree_with_skimages_interpolation_of_each_class():
    labels = np.random.default_rng(1).integers(0, 4, (7, 9, 6)).astype(np.uint8)
    shape = (12, 13, 11)
    shares = [
        transform.resize(
            (labels == n).astype(float), shape, order=1, mode="edge", anti_aliasing=False
        )
        for n in range(4)
    ]
    two_best = np.sort(shares, axis=0)[-2:]
    clear = two_best[1] - two_best[0] > 1e-4

    resampled = resample_labels(labels, shape)

    assert clear.mean() > 0.9
    assert np.array_equal(resampled[clear], np.argmax(shares, axis=0)[clear])


def test_labels_keep_their_type_and_high_values():
    labels = np.zeros((4, 4, 4), np.int16)
    labels[1:3, 1:3, 1:3] = 255

    resampled = resample_labels(labels, (8, 8, 8))

    assert resampled.dtype == np.int16
    assert set(np.unique(resampled)) == {0, 255}
