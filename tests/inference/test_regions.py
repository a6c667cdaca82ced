import numpy as np
import pytest
import torch
from learning_cases import LABELS

from medseg.core.labels import LabelSet
from medseg.inference.regions import (
    FOREGROUND_FROM,
    background_logits,
    foreground_mask,
    narrowed,
)
from medseg.inference.sliding_window import SlidingWindow
from medseg.inference.tiling import tile
from medseg.tasks.decoding import probabilities


def test_a_voxel_counts_if_all_classes_together_are_likely_enough():
    shares = torch.tensor(
        [[1 - FOREGROUND_FROM - 0.01, 1 - FOREGROUND_FROM + 0.01], [0.1, 0.1], [0.0, 0.0]]
    )
    shares[2] = 1 - shares[:2].sum(0)

    mask = foreground_mask(shares.log()[:, :, None, None], LABELS)

    assert mask.ravel().tolist() == [True, False]


def test_with_regions_the_likeliest_counts():
    labels = LabelSet.from_mapping(
        {"background": 0, "rim": 1, "core": 2, "regions": {"whole": [1, 2], "inner": [2]}}
    )
    logits = torch.tensor([[-5.0, 0.0], [-5.0, -5.0]])[:, :, None, None]

    assert foreground_mask(logits, labels).ravel().tolist() == [False, True]


def test_windows_are_computed_whose_middle_is_near_the_mask():
    tiling = tile((40, 8, 8), (16, 8, 8), overlap=0.5, stride=None)
    mask = np.zeros((40, 1, 1), bool)  # on a grid that is as fine along the first axis alone
    mask[20] = True
    assert tiling.starts == ((0, 0, 0), (8, 0, 0), (16, 0, 0), (24, 0, 0))

    # The middles are 0 to 12, 12 to 20, 20 to 28 and 28 to 40.
    assert narrowed(tiling, mask, margin=(0, 0, 0)).chosen == {(16, 0, 0)}
    assert narrowed(tiling, mask, margin=(1, 0, 0)).chosen == {(8, 0, 0), (16, 0, 0)}
    assert narrowed(tiling, mask, margin=(8, 0, 0)).chosen == {(8, 0, 0), (16, 0, 0), (24, 0, 0)}


def test_nothing_is_computed_for_an_empty_mask():
    tiling = tile((20, 20, 20), (8, 8, 8), overlap=0.5, stride=None)

    narrow = narrowed(tiling, np.zeros((5, 5, 5), bool), margin=(9, 9, 9))

    assert narrow.num_windows == 0
    assert len(narrow.layers) == len(tiling.layers)


@pytest.mark.parametrize("shape", [(31, 20, 16), (7, 30, 5), (40, 41, 42)])
@pytest.mark.parametrize("grid", [(9, 7, 5), (31, 33, 35)])
def test_every_voxel_of_the_mask_is_seen_and_all_else_is_background(shape, grid):
    mask = np.random.default_rng(0).random(grid) < 0.004
    window = SlidingWindow()
    whole = window.tiling(shape, (8, 8, 8), None)
    tiling = narrowed(whole, mask, margin=(0, 0, 0))
    seen = torch.full((3, *shape), torch.nan)
    planes = seen.movedim(tiling.axis + 1, 1)

    slabs = window.slabs(
        lambda patches: torch.full((len(patches), 3, 8, 8, 8), 5.0),
        torch.zeros(1, *shape),
        tiling,
        out_channels=3,
        elsewhere=background_logits(LABELS),
    )
    for slab in slabs:
        planes[:, slab.first : slab.first + slab.logits.shape[1]] = slab.logits

    centres = [np.arange(n) * m // n for n, m in zip(shape, grid, strict=True)]
    near = torch.from_numpy(mask[np.ix_(*centres)])
    assert mask.any()
    torch.testing.assert_close(seen[:, near], torch.full((3, int(near.sum())), 5.0))
    outside = seen[1] < 0
    torch.testing.assert_close(seen[:, ~outside], torch.full((3, int((~outside).sum())), 5.0))
    assert (seen[:, outside] == torch.tensor([10.0, -10.0, -10.0])[:, None]).all()


def test_background_is_sure_with_classes_and_with_regions():
    labels = LabelSet.from_mapping(
        {"background": 0, "rim": 1, "core": 2, "regions": {"whole": [1, 2], "inner": [2]}}
    )

    assert probabilities(background_logits(LABELS), LABELS)[0] > 0.9999
    assert probabilities(background_logits(labels), labels).max() < 0.0001
