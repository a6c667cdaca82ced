import numpy as np
import pytest

from medseg.core.errors import ConfigError, GeometryError
from medseg.core.geometry import Geometry
from medseg.core.segmentation import LabelMap
from medseg.inference.fusion import fuse


def map_of(*rows) -> LabelMap:
    array = np.array(rows, np.uint8)[..., None]
    geometry = Geometry.from_spacing(array.shape, spacing_mm=(1, 1, 1), orientation="RAS")
    return LabelMap(array, geometry)


def test_most_votes_win_and_the_first_map_where_they_are_equal():
    maps = [map_of([0, 1, 2, 1]), map_of([0, 1, 1, 2]), map_of([0, 2, 1, 0])]

    assert fuse(maps, "majority").array[0, :, 0].tolist() == [0, 1, 1, 1]


def test_weights_are_counted_as_votes():
    maps = [map_of([1, 1]), map_of([2, 0]), map_of([2, 1])]

    assert fuse(maps, "weighted", weights=[0.9, 0.4, 0.4]).array[0, :, 0].tolist() == [1, 1]
    assert fuse(maps, "weighted", weights=[0.9, 0.5, 0.5]).array[0, :, 0].tolist() == [2, 1]
    # Equal sums, added up in another order.
    ties = [map_of([1]), map_of([2]), map_of([2])]
    assert fuse(ties, "weighted", weights=[0.3, 0.1, 0.2]).array[0, :, 0].tolist() == [1]


def test_staple_trusts_the_maps_that_agree_more_than_their_number():
    # Two maps with few errors against three with many.
    truth = np.zeros((30, 30, 10), np.uint8)
    truth[6:24, 6:24, 2:8] = 1
    truth[6:14, 6:14, 2:8] = 2
    geometry = Geometry.from_spacing(truth.shape, spacing_mm=(1, 1, 1), orientation="RAS")
    generator = np.random.default_rng(0)

    def spoiled(share: float) -> LabelMap:
        wrong = generator.random(truth.shape) < share
        noise = generator.integers(0, 3, truth.shape)
        return LabelMap(np.where(wrong, noise, truth).astype(np.uint8), geometry)

    maps = [spoiled(0.6), spoiled(0.6), spoiled(0.6), spoiled(0.05), spoiled(0.05)]

    def wrong(found: LabelMap) -> int:
        return int((found.array != truth).sum())

    assert wrong(fuse(maps, "staple")) < 0.5 * wrong(fuse(maps, "majority"))


@pytest.mark.parametrize("method", ["majority", "staple"])
def test_nothing_and_unanimous_maps_stay_as_they_are(method):
    empty, full = map_of([0, 0], [0, 0]), map_of([1, 2], [0, 1])

    assert not fuse([empty, empty], method).array.any()
    assert np.array_equal(fuse([full, full, full], method).array, full.array)


def test_maps_of_different_images_and_missing_weights_are_refused():
    one, other = map_of([1, 2]), map_of([1, 2], [1, 2])

    with pytest.raises(GeometryError, match="ensembles: the label maps' grids differ: shape"):
        fuse([one, other], "majority")
    with pytest.raises(ConfigError, match="weights: is None, for 2 predictions; give 2 positive"):
        fuse([one, one], "weighted")
