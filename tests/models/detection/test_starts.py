"""Queries that begin where objects seem to lie, against values worked out by hand."""

from __future__ import annotations

import pytest
import torch

from medseg.models.detection.assignment import Segments
from medseg.models.detection.middles import OUTSIDE, STEEPNESS
from medseg.models.detection.starts import MISPLACED, QueryStarts, placement


def starts_of(dims, **options):
    torch.manual_seed(0)
    chosen = {"count": 3, "object_sizes": [[6.0] * dims], "patch_size": None} | options
    module = QueryStarts(dims, 8, norm="group", activation="relu", **chosen)
    module.reset_outputs()
    return module.eval()


def test_an_object_is_for_queries_that_began_in_it_and_stuff_for_the_learnt():
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[0, :4], masks[1, 4:] = True, True
    known = torch.ones(8, 8, dtype=torch.bool)
    known[:, 6:] = False
    segments = Segments(masks, torch.tensor([1, 2]), known)
    places = torch.tensor([[1.5, 1.5], [6.5, 1.5], [1.5, 7.5]])

    found = placement(places, segments, num_objects=1, num_learnt=1)

    assert found.cost.tolist() == [
        [MISPLACED, 0],  # learnt
        [0, MISPLACED],
        [MISPLACED, MISPLACED],
        [0, MISPLACED],
    ]
    assert found.is_unknown.tolist() == [False, False, False, True]


def test_without_segments_nothing_costs_and_all_is_known():
    none = Segments(torch.zeros(0, 8, 8, dtype=torch.bool), torch.zeros(0).long())

    found = placement(torch.ones(2, 2), none, num_objects=0, num_learnt=1)

    assert found.cost.shape == (3, 0)
    assert not found.is_unknown.any()


@pytest.mark.parametrize(
    ("patch_size", "shape", "count"),
    [(None, (8, 8), 3), ([8, 16], (2, 4), 3), ([8, 16], (4, 4), 6), ([8, 16], (16, 16), 12)],
)
def test_larger_images_have_more_starts(patch_size, shape, count):
    module = starts_of(2, patch_size=patch_size)

    starts = module(torch.randn(2, 8, *shape), stride=(4, 4))

    assert starts.places.shape == (2, count, 2)


@pytest.mark.parametrize("dims", [2, 3])
def test_masks_are_drawn_around_the_starts_at_first(dims):
    module = starts_of(dims)
    level = torch.randn(1, 8, *(8,) * dims)
    starts = module(level, stride=(4,) * dims)
    queries = module.queries(starts, level.flatten(2).transpose(1, 2))

    maps = module.drawn(queries, starts, shape=(16,) * dims, stride=(2,) * dims).detach()

    assert maps.shape == (1, 3, *(16,) * dims)
    for place, drawn in zip(starts.places[0], maps[0], strict=True):
        cells = torch.stack((drawn > 0).nonzero(as_tuple=True), 1)
        distance = ((2 * cells + 1 - place) ** 2).sum(1).sqrt()
        assert (distance < 3).all()  # half of the usual extent
        assert 0 < float(drawn.max()) <= STEEPNESS
        assert float(drawn.min()) == OUTSIDE


def test_queries_have_the_features_of_their_starts():
    module = starts_of(2)
    level = torch.randn(1, 8, 4, 4)
    starts = module(level, stride=(2, 2))

    queries = module.queries(starts, level.flatten(2).transpose(1, 2))

    cells = (starts.places[0] / 2).long()
    wanted = module.first(level[0, :, cells[:, 0], cells[:, 1]].T)
    torch.testing.assert_close(queries[0], wanted)
