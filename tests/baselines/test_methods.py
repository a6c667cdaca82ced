"""Each method on images whose answer is known by construction, in 2D and 3D."""

import itertools

import numpy as np
import phantoms
import pytest

from medseg.baselines.clustering import KMeans
from medseg.baselines.edges import Edges
from medseg.baselines.intensities import Picture
from medseg.baselines.predictor import Baseline
from medseg.baselines.regions import Saliency, Superpixels
from medseg.baselines.thresholding import HistogramPeaks, Otsu, Threshold
from medseg.core.errors import ConfigError
from medseg.core.geometry import Geometry
from medseg.core.volume import Volume

TWO_LEVELS = [
    Threshold(), Otsu(), HistogramPeaks(), KMeans(), Edges(), Superpixels(num_regions=200),
    Saliency(num_regions=200),
]  # fmt: skip


def volume_of(array: np.ndarray, spacing_mm=(1.0, 1.5, 2.0)) -> Volume:
    shape = array.shape[1:]
    geometry = Geometry.from_spacing(shape, spacing_mm=spacing_mm, orientation="RAS")
    return Volume(array.astype(np.float32), geometry)


def noisy_box(shape: tuple[int, int, int], *, inside: float, outside: float):
    """A box off the middle in noise, and its mask."""
    mask = np.zeros(shape, bool)
    mask[tuple(slice(n // 4, n // 4 + max(1, n // 2)) for n in shape)] = True
    noise = np.random.default_rng(0).normal(0, 4, shape)
    return volume_of((np.where(mask, inside, outside) + noise)[None]), mask


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


@pytest.mark.parametrize("method", TWO_LEVELS, ids=lambda method: type(method).__name__)
@pytest.mark.parametrize("shape", [(36, 30, 1), (26, 22, 18)], ids=["2D", "3D"])
@pytest.mark.parametrize(("inside", "outside"), [(100, 20), (20, 100)], ids=["bright", "dark"])
def test_a_box_is_found_whether_it_is_bright_or_dark(method, shape, inside, outside):
    volume, mask = noisy_box(shape, inside=inside, outside=outside)

    found = Baseline(method).predict_volume(volume)

    assert found.geometry is volume.geometry
    assert set(np.unique(found.array)) == {0, 1}
    assert dice(found.array == 1, mask) > 0.9


@pytest.mark.parametrize(
    "method", [Otsu(3), HistogramPeaks(3), KMeans(3), Edges(3), Superpixels(3, num_regions=300)],
    ids=lambda method: type(method).__name__,
)  # fmt: skip
def test_three_levels_become_background_and_two_classes_from_dark_to_bright(method):
    noise = np.random.default_rng(1).normal(0, 3, (48, 44, 40))
    truth = np.zeros(noise.shape, int)
    truth[6:42, 5:39, 4:36] = 1
    truth[15:33, 14:30, 13:27] = 2

    found = Baseline(method).predict_volume(volume_of((truth * 60 + noise)[None]))

    assert dice(found.array == 1, truth == 1) > 0.85
    assert dice(found.array == 2, truth == 2) > 0.85


def test_fixed_bounds_count_in_the_images_unit_and_exclude_the_bound_itself():
    volume = volume_of(np.array([-5.0, 199.0, 200.0, 201.0, 900.0]).reshape(1, 5, 1, 1))

    method = Threshold(bounds=(200.0, 500.0), unit="value")
    found = Baseline(method, background="darkest").predict_volume(volume)

    assert found.array.ravel().tolist() == [0, 0, 0, 1, 2]


@pytest.mark.parametrize("levels", [2, 3, 4, 5])
def test_otsu_equals_a_search_over_all_thresholds(levels):
    generator = np.random.default_rng(levels)
    kinds = np.array(
        [0, 17, 51, 80, 100, 160, 190, 255]
    )  # each in the histogram's bin of that number
    values = generator.choice(kinds, (40, 30, 1), p=generator.dirichlet(np.ones(len(kinds))))

    found = Otsu(levels).find_levels(Picture.of(volume_of(values[None])))

    def within(bounds):
        parts = np.digitize(values, bounds, right=True)
        return sum(values[parts == n].var() * np.sum(parts == n) for n in range(levels))

    best = min(itertools.combinations(np.unique(values)[:-1], levels - 1), key=within)
    assert np.array_equal(found, np.digitize(values, best, right=True))


def test_kmeans_tells_colours_of_equal_brightness_apart():
    image = np.zeros((3, 30, 20, 1))
    image[0] = 100  # red
    image[:, 8:22, 5:15] = np.array([0.0, 0.299 / 0.587 * 100, 0.0])[:, None, None, None]

    found = Baseline(KMeans()).predict_volume(volume_of(image))
    brightness = Picture.of(volume_of(image)).grey

    assert np.ptp(brightness) < 1e-3
    assert dice(found.array == 1, image[0] == 0) == 1.0


@pytest.mark.parametrize("method", TWO_LEVELS, ids=lambda method: type(method).__name__)
@pytest.mark.parametrize("shape", [(9, 8, 1), (7, 6, 5), (1, 1, 1)])
def test_an_even_image_holds_nothing(method, shape):
    found = Baseline(method).predict_volume(volume_of(np.full((1, *shape), 7.0)))

    assert not found.array.any()


def test_values_that_are_not_finite_count_as_the_lowest():
    volume, mask = noisy_box((20, 18, 1), inside=100, outside=20)
    volume.array[0, :3] = np.nan

    found = Baseline(Otsu()).predict_volume(volume)

    assert dice(found.array == 1, mask) > 0.95


def test_a_coarser_grid_is_used_for_large_images_and_gives_the_same_box():
    volume, mask = noisy_box((64, 60, 48), inside=100, outside=20)

    whole = Baseline(Edges()).predict_volume(volume)
    coarse = Baseline(Edges(max_voxels=40_000)).predict_volume(volume)

    assert coarse.array.shape == mask.shape
    assert dice(whole.array == 1, coarse.array == 1) > 0.9


@pytest.mark.parametrize("orientation", ["RAS", "LPI", "SAR", "PIL"])
def test_the_result_lies_on_the_grid_of_the_image(orientation):
    ball = phantoms.sphere(orientation=orientation, inside=100.0)

    found = Baseline(Otsu()).predict_volume(ball)

    middle = found.geometry.to_world_mm(np.argwhere(found.array == 1)).mean(axis=0)
    assert middle == pytest.approx((10.0, -20.0, 30.0), abs=0.3)


def test_small_parts_go_and_holes_are_filled():
    image = np.zeros((1, 20, 20, 1))
    image[0, 4:14, 4:14] = 1
    image[0, 8, 8] = 0
    image[0, 17, 17] = 1
    volume = volume_of(image, spacing_mm=(2.0, 2.0, 1.0))  # 4 mm3 per pixel

    plain = Baseline(Otsu()).predict_volume(volume).array
    tidy = Baseline(Otsu(), fill_holes=True, smallest_mm3=5.0).predict_volume(volume).array

    assert np.count_nonzero(plain) == 100
    assert np.count_nonzero(tidy) == 100
    assert (tidy[8, 8, 0], tidy[17, 17, 0]) == (1, 0)


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: Otsu(17), "baseline.method.levels: is 17; use 2 to 16"),
        (lambda: KMeans(1), "baseline.method.levels: is 1; use 2 to 16"),
        (
            lambda: Threshold(bounds=(3.0, 2.0)),
            "baseline.method.bounds: is .3.0, 2.0.; give ascend",
        ),
        (lambda: Edges(depth=1.0), "baseline.method.depth: is 1.0; use 0 to 1"),
        (lambda: Superpixels(num_regions=1), "num_regions: is 1; use 2 to 5000"),
        (lambda: Saliency(reach=0.0), "reach: is 0.0; use more than 0"),
        (lambda: Baseline(Otsu(3), classes=(0, 1)), "classes: is .0, 1., but the method has 3 lev"),
        (lambda: Baseline(Otsu(), classes=(0, -1)), "classes: is .0, -1.; use 0 for background"),
        (lambda: Baseline(Otsu(), classes=(0, 256)), "classes: is .0, 256.; use 0 for background"),
        (
            lambda: Baseline(Otsu(3), labels={"background": 0, "liver": 1}),
            "labels: names 2 classes with background, but class 2 is used; name all classes",
        ),
        (lambda: Baseline(Otsu(), smooth_mm=-1.0), "smooth_mm: is -1.0; use 0 or more"),
        (lambda: Baseline(Otsu(), apart_mm=0.0), "apart_mm: is 0.0; use more than 0"),
    ],
)
def test_options_out_of_range_are_refused_with_the_range(make, what):
    with pytest.raises(ConfigError, match=what):
        make()
