import numpy as np
import pytest
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.segmentation import watershed

from medseg.baselines.objects import split_touching
from medseg.baselines.predictor import Baseline
from medseg.baselines.thresholding import Otsu
from medseg.core.geometry import Geometry
from medseg.core.identity import Case
from medseg.core.segmentation import InstanceSet, LabelMap
from medseg.metrics.detection import hit_counts
from medseg.metrics.object_pairs import compare_objects
from medseg.sources.picture_io import read_picture


def discs(*circles: tuple[int, int, int]) -> np.ndarray:
    i, j = np.ogrid[:60, :80]
    found = np.zeros((60, 80), np.uint8)
    for a, b, radius in circles:
        found |= (i - a) ** 2 + (j - b) ** 2 <= radius**2
    return found[..., None]


def test_two_discs_that_touch_are_cut_where_they_are_narrow():
    geometry = Geometry.from_spacing((60, 80, 1), spacing_mm=(1, 1, 1), orientation="RAS")
    label_map = LabelMap(discs((30, 25, 13), (30, 48, 13), (8, 8, 4)), geometry)

    found = split_touching(label_map, apart_mm=6.0)

    assert len(found) == 3
    middles = sorted(found.centroids_mm[:, 1])
    assert middles == pytest.approx([8, 24.5, 48.5], abs=1.0)
    assert found.num_voxels.sum() == np.count_nonzero(label_map.array)


def test_balls_that_touch_are_cut_with_the_true_distances_of_a_flat_grid():
    geometry = Geometry.from_spacing((40, 24, 10), spacing_mm=(1, 1, 3), orientation="RAS")
    world = np.stack(np.meshgrid(*(np.arange(n) for n in geometry.shape), indexing="ij"), -1)
    place = world * np.array(geometry.spacing_mm)
    near = [np.linalg.norm(place - middle, axis=-1) <= 9 for middle in ((11, 12, 14), (27, 12, 14))]
    label_map = LabelMap((near[0] | near[1]).astype(np.uint8), geometry)

    assert len(split_touching(label_map, apart_mm=6.0)) == 2
    assert len(split_touching(label_map, apart_mm=6.0, smallest_mm3=1e6)) == 0


def test_nothing_gives_no_objects():
    geometry = Geometry.from_spacing((5, 4, 3), spacing_mm=(1, 1, 1), orientation="RAS")

    assert len(split_touching(LabelMap(np.zeros((5, 4, 3), np.uint8), geometry), apart_mm=2)) == 0


@pytest.mark.slow
@pytest.mark.real_data
def test_nuclei_reach_the_score_of_scikit_images_own_recipe(real_data):
    folder = real_data("nuclei_dsb2018")
    ours = theirs = None
    for path in sorted((folder / "images").glob("*.png"))[:40]:
        volume = read_picture(path)
        case = Case(path.stem, lambda volume=volume: volume)
        numbers = read_picture(folder / "instances" / path.name).array[0].astype(int)
        reference = InstanceSet.from_map(numbers, volume.geometry)
        mask = Baseline(Otsu()).predict(case).array > 0
        # The gallery's "Watershed segmentation": peaks of the distance transform as markers.
        distance = ndimage.distance_transform_edt(mask[..., 0])
        peaks = np.zeros(distance.shape, bool)
        peaks[
            tuple(
                peak_local_max(
                    distance, footprint=np.ones((3, 3)), labels=mask[..., 0].astype(int)
                ).T
            )
        ] = True
        recipe = watershed(-distance, ndimage.label(peaks)[0], mask=mask[..., 0])[..., None]
        found = Baseline(Otsu(), smallest_mm3=20.0).predict_objects(case)
        for name, result in (
            ("ours", found),
            ("theirs", InstanceSet.from_map(recipe, volume.geometry)),
        ):
            pairs = compare_objects(reference, result, class_ids=[1])[0]
            counts = hit_counts(pairs, 0.5)
            if name == "ours":
                ours = counts if ours is None else ours + counts
            else:
                theirs = counts if theirs is None else theirs + counts

    assert ours.f1 >= theirs.f1
    assert ours.f1 > 0.65
