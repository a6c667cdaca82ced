import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.segmentation import watershed

from medseg.baselines.objects import split_touching
from medseg.baselines.predictor import Baseline
from medseg.baselines.thresholding import Otsu
from medseg.cli.commands import main
from medseg.core.geometry import Geometry
from medseg.core.identity import Case
from medseg.core.segmentation import InstanceSet, LabelMap
from medseg.sources.picture_io import read_picture
from medseg.writers.instance_files import write_instances


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
def test_nuclei_reach_the_score_of_scikit_images_own_recipe(real_data, tmp_path):
    folder = real_data("nuclei_dsb2018")
    for path in sorted((folder / "images").glob("*.png"))[::20]:
        for name in ("images", "instances"):
            (tmp_path / "nuclei" / name).mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / name / path.name, tmp_path / "nuclei" / name)
        write_recipe(path, tmp_path / "recipe")
    references = f"references={tmp_path / 'nuclei'}"
    ours = ["baseline=otsu", "baseline.task=instance", "baseline.smallest_mm3=20"]

    main(["evaluate", f"predictions={tmp_path / 'recipe'}", references, f"paths.output={tmp_path}"])
    recipe = scores_in(tmp_path)
    source = f"source.folder={tmp_path / 'nuclei'}"
    assert main(["evaluate", *ours, source, f"paths.output={tmp_path / 'ours'}"]) == 0
    found = scores_in(tmp_path / "ours")

    assert found["num_references"] == recipe["num_references"] > 500
    assert found["ap50"] >= recipe["ap50"]
    assert found["ap50"] > 0.5
    assert found["iou"]["0.50"]["f1"] >= recipe["iou"]["0.50"]["f1"]


def write_recipe(path: Path, folder: Path) -> None:
    """The objects of scikit-image's gallery example "Watershed segmentation" on Otsu's threshold:
    every peak of the distance transform in a 3 x 3 window is a marker.
    """
    volume = read_picture(path)
    mask = Baseline(Otsu()).predict_volume(volume).array[..., 0] > 0
    distance = ndimage.distance_transform_edt(mask)
    peaks = np.zeros(distance.shape, bool)
    places = peak_local_max(distance, footprint=np.ones((3, 3)), labels=mask.astype(int))
    peaks[tuple(places.T)] = True
    numbers = watershed(-distance, ndimage.label(peaks)[0], mask=mask)[..., None]
    case = Case(path.stem, lambda: volume, paths=(path,))
    write_instances(InstanceSet.from_map(numbers, volume.geometry), case, folder=folder)


def scores_in(folder: Path) -> dict:
    (scores,) = json.loads((folder / "scores.json").read_text())["labels"].values()
    return scores
