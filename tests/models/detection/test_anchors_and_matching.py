from __future__ import annotations

import pytest
import torch
from torch import nn

from medseg.core.errors import ConfigError
from medseg.models.detection import matching
from medseg.models.detection.anchors import grid_anchors, plan_anchors
from medseg.models.detection.boxes import as_strict_in, clip, decode, encode, iou
from medseg.models.detection.levels import level_of
from medseg.models.detection.mask_head import mask_cells, mask_grid
from medseg.models.detection.masks import detections_from_cells, masks_in_boxes
from medseg.models.detection.matching import (
    centre_is_known,
    match_adaptively,
    match_by_overlap,
    sampled,
)
from medseg.models.detection.pyramid import (
    PyramidEncoder,
    finest_stride_for,
    with_finest_stride,
)

STRIDES = [(4, 4), (8, 8), (16, 16), (32, 32)]


def random_boxes(count, dims, seed=0):
    generator = torch.Generator().manual_seed(seed)
    lower = torch.rand(count, dims, generator=generator) * 40
    return torch.cat([lower, lower + 2 + 20 * torch.rand(count, dims, generator=generator)], 1)


@pytest.mark.parametrize("dims", [2, 3])
def test_coding_a_box_and_back_gives_the_box(dims):
    boxes, anchors = random_boxes(20, dims), random_boxes(20, dims, seed=1)

    torch.testing.assert_close(decode(encode(boxes, anchors), anchors), boxes)
    moved = encode(torch.tensor([[2.0, 0, 6, 8]]), torch.tensor([[0.0, 0, 4, 4]]))
    # Centre (2, 2) to (4, 4) in extents of 4; extents 4x4 to 4x8.
    torch.testing.assert_close(moved, torch.tensor([[0.5, 0.5, 0.0, 0.6931472]]))


def test_clipped_boxes_end_at_the_image():
    assert clip(torch.tensor([[-3.0, 2, 9, 4]]), (5, 3)).tolist() == [[0, 2, 5, 3]]


def test_anchors_lie_around_voxel_centres_all_of_a_voxel_together():
    anchors = grid_anchors((2, 1), stride=(4, 2), sizes=[(2.0, 2.0), (4.0, 6.0)])

    assert anchors.tolist() == [[1, 0, 3, 2], [0, -2, 4, 4], [5, 0, 7, 2], [4, -2, 8, 4]]


def test_levels_without_objects_carry_no_anchors():
    plan = plan_anchors([[20.0, 22.0], [28.0, 24.0], [50.0, 44.0]], STRIDES)

    # 20 to 28 voxels span 5 to 7 cells of stride 4, 50 span 6 of stride 8.
    assert plan.levels == (0, 1)
    assert plan.num_anchors == 3
    extents = torch.tensor(plan.sizes[0])
    assert extents.min() >= 19
    assert extents.max() <= 29
    torch.testing.assert_close(torch.tensor(plan.sizes[1]), 2 * extents)


def test_every_representative_size_has_an_anchor_that_overlaps_it_well():
    sizes = [[9.0, 7.0], [12.0, 14.0], [25.0, 30.0], [60.0, 35.0], [110.0, 90.0]]
    plan = plan_anchors(sizes, STRIDES)

    for size in sizes:
        box = torch.tensor([[-size[0] / 2, -size[1] / 2, size[0] / 2, size[1] / 2]])
        anchors = torch.tensor([row for level in plan.sizes for row in level])
        best = iou(box, torch.cat([-anchors / 2, anchors / 2], 1)).max()
        assert best > 0.5, size


def test_without_sizes_the_anchors_are_the_papers():
    plan = plan_anchors(None, STRIDES)

    assert plan.levels == (0, 1, 2, 3)
    assert plan.sizes[0][1] == pytest.approx((32, 32))  # 32 voxels at stride 4
    assert plan.sizes[3][1] == pytest.approx((256, 256))
    assert plan.sizes[0][0][1] / plan.sizes[0][0][0] == pytest.approx(2)
    assert plan_anchors([[8.0, 8.0]], STRIDES).num_anchors == 3  # one size, three anchors


def test_adaptive_matching_follows_the_published_rule_by_hand():
    # One level, one anchor per voxel of stride 4 and extent 4; the object covers two voxels.
    anchors = [grid_anchors((1, 6), stride=(4, 4), sizes=[(4.0, 4.0)])]
    boxes = torch.tensor([[0.0, 4.0, 4.0, 12.0]])

    match = match_adaptively(anchors, boxes, candidates=4)

    # Nearest four: voxels 0 to 3 with IoU 0, 1/2, 1/2, 0: mean 1/4, deviation 1/4, limit 1/2.
    assert match.tolist() == [-1, 0, 0, -1, -1, -1]


def test_every_object_has_an_anchor_even_one_voxel_between_two(monkeypatch):
    anchors = [grid_anchors((8, 8), stride=(4, 4), sizes=[(16.0, 16.0)])]
    boxes = torch.tensor([[3.5, 3.5, 4.5, 4.5], [10.0, 10, 26, 26], [28.0, 28, 30, 30]])

    whole = match_adaptively(anchors, boxes)
    monkeypatch.setattr(matching, "CHUNK", 1)
    one_by_one = match_adaptively(anchors, boxes)

    assert set(whole.tolist()) == {-1, 0, 1, 2}
    assert torch.equal(whole, one_by_one)
    assert match_adaptively(anchors, boxes[:0]).unique().tolist() == [-1]


def test_an_anchor_of_two_objects_goes_to_the_one_it_overlaps_more():
    anchors = [torch.tensor([[0.0, 0, 4, 4]])]
    boxes = torch.tensor([[0.0, 0, 4, 3], [0.0, 0, 4, 4], [0.0, 0, 3, 3]])

    assert match_adaptively(anchors, boxes).tolist() == [1]


def test_boxes_belong_to_the_object_they_overlap_most():
    boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 2], [20, 20, 24, 24]])
    objects = torch.tensor([[0.0, 0, 4, 5], [0, 0, 4, 2]])

    match, overlap = match_by_overlap(boxes, objects, min_iou=0.5)

    assert match.tolist() == [0, 1, -1]
    assert overlap.tolist() == pytest.approx([0.8, 1.0, 0.0])
    assert match_by_overlap(boxes, objects[:0], min_iou=0.5)[0].tolist() == [-1, -1, -1]


def test_samples_keep_their_share_of_positives_but_for_a_few_negatives():
    positive = torch.tensor([True] * 30 + [False] * 970)

    ups, downs = sampled(positive, ~positive, count=40, share=0.5)
    few_ups, few = sampled(positive & (torch.arange(1000) < 3), ~positive, count=40, share=0.25)
    none, some = sampled(positive & False, ~positive, count=40, share=0.25)

    assert len(ups) == len(downs) == 20
    assert set(ups.tolist()) <= set(range(30))
    assert min(downs.tolist()) >= 30
    assert (len(few_ups), len(few)) == (3, 10)
    assert (len(none), len(some)) == (0, 10)


def test_boxes_amid_what_nobody_annotated_are_told():
    classes = torch.zeros(8, 8, dtype=torch.long)
    classes[4:] = -1
    boxes = torch.tensor([[0.0, 0, 4, 4], [3, 0, 7, 4], [2, 2, 5, 4], [6, 6, 12, 12]])

    assert centre_is_known(boxes, classes).tolist() == [True, False, True, False]


@pytest.mark.parametrize("dims", [2, 3])
def test_a_mask_read_in_a_box_and_put_back_is_the_mask(dims):
    shape = (24,) * dims
    grid = torch.stack(torch.meshgrid(*(torch.arange(24.0) + 0.5,) * dims, indexing="ij"), -1)
    disc = ((grid - 11.3) ** 2).sum(-1) < 64
    box = torch.tensor([[2.4] * dims + [20.1] * dims])

    cells = masks_in_boxes(disc[None], torch.tensor([0]), box, output_size=(28,) * dims)
    found = detections_from_cells(
        box, torch.tensor([0.9]), torch.tensor([1]), cells, grids=box, shape=shape
    )

    mask = found.mask(0, shape)
    assert float((mask & disc).sum() / (mask | disc).sum()) > 0.95
    assert masks_in_boxes(disc[None], torch.zeros(0).long(), box[:0], output_size=(4,) * dims).shape


@pytest.mark.parametrize("dims", [2, 3])
def test_a_mask_may_reach_beyond_a_box_that_is_too_small(dims):
    shape = (24,) * dims
    square = torch.zeros(shape, dtype=torch.bool)
    square[(slice(5, 17),) * dims] = True
    box = torch.tensor([[6.0] * dims + [16.0] * dims])
    grid = mask_grid(box, shape=shape)

    cells = masks_in_boxes(square[None], torch.tensor([0]), grid, output_size=(24,) * dims)
    found = detections_from_cells(
        box, torch.tensor([0.9]), torch.tensor([1]), cells, grids=grid, shape=shape
    )

    assert torch.equal(found.mask(0, shape), square)
    assert torch.equal(found.boxes, box)


@pytest.mark.parametrize("cells", [4, 8, 20])
def test_an_object_at_the_border_keeps_its_outermost_voxels(cells):
    """Cells of several voxels must not mix the object with what lies beyond the image."""
    shape = (16, 40, 40)
    column = torch.zeros(shape, dtype=torch.bool)
    column[:, 10:30, :24] = True
    box = torch.tensor([[0.0, 10, 0, 16, 30, 24]])
    grid = mask_grid(box, shape=shape)

    read = masks_in_boxes(column[None], torch.tensor([0]), grid, output_size=(cells,) * 3)
    read = (read >= 0.5).float()  # what the head learns
    found = detections_from_cells(
        box, torch.tensor([0.9]), torch.tensor([1]), read, grids=grid, shape=shape
    )

    mask = found.mask(0, shape)
    assert torch.equal(mask[0], mask[8])
    assert torch.equal(mask[15], mask[8])
    assert mask[:, 20, 0].all()


def test_masks_outside_the_image_are_empty():
    mask = torch.ones(1, 4, 4, dtype=torch.bool)

    cells = masks_in_boxes(
        mask, torch.tensor([0]), torch.tensor([[-4.0, 0, 4, 4]]), output_size=(4, 2)
    )

    # Cells centred at -3, -1, 1 and 3 along the first axis.
    assert cells[0, :, 0].tolist() == [0, 0, 1, 1]


def test_a_box_is_read_where_it_spans_six_voxels():
    boxes = torch.tensor([[0.0, 0, 24, 24], [0, 0, 60, 40], [0, 0, 2, 2], [0, 0, 900, 900]])

    assert level_of(boxes, STRIDES).tolist() == [0, 1, 0, 3]


@pytest.mark.parametrize("iou_2d", [0.5, 0.7])
def test_an_iou_is_as_strict_in_3d_as_in_2d(iou_2d):
    # Of two boxes of side 1, the second is moved by as much along each axis.
    shift = 1 - (2 * iou_2d / (1 + iou_2d)) ** 0.5
    corners = [0.0, 1.0]
    square, cube = (
        iou(
            torch.tensor([[value for value in corners for _ in range(dims)]]),
            torch.tensor([[value + shift for value in corners for _ in range(dims)]]),
        )
        for dims in (2, 3)
    )

    assert as_strict_in(2, iou_2d) == pytest.approx(iou_2d)
    assert float(square) == pytest.approx(iou_2d, abs=1e-6)
    assert as_strict_in(3, iou_2d) == pytest.approx(float(cube), abs=1e-6)


def test_masks_in_3d_are_as_fine_as_large_objects():
    assert mask_cells(3, None) == (10, 10, 10)
    assert mask_cells(3, [[12.0, 14.0, 3.0]]) == (6, 7, 4)
    assert mask_cells(3, [[12.0, 90.0, 8.0]] * 3 + [[99.0, 99.0, 99.0]]) == (10, 10, 10)


def test_small_objects_get_a_finer_level():
    assert finest_stride_for(None, 2) == (4, 4)
    assert finest_stride_for([[20.0, 9.0]], 2) == (4, 2)
    assert finest_stride_for([[20.0, 7.0]], 2) == (4, 1)
    # In 3D two voxels of the level are enough.
    assert finest_stride_for([[8.0, 4.0, 3.0]], 3) == (4, 2, 1)
    rows = with_finest_stride([1, 2, 2, 2], (2, 4), 2)
    assert rows == [(1, 1), (1, 2), (2, 2), (2, 2), (2, 1), (1, 1)]
    with pytest.raises(ConfigError, match=r"model\.finest_stride"):
        with_finest_stride(None, (3, 4), 2)


def test_levels_that_share_a_stride_become_one():
    pyramid = PyramidEncoder(
        1, spatial_dims=2, depth=18, base_channels=4, channels=8, strides=[1, 2, 2, 2]
    )
    pyramid.smooth_only([0])

    levels = pyramid(torch.zeros(1, 1, 33, 40))

    assert pyramid.level_strides == [(4, 4), (8, 8)]
    assert [tuple(level.shape) for level in levels] == [(1, 8, 9, 10), (1, 8, 5, 5)]
    assert isinstance(pyramid.smooth[1], nn.Identity)
