from __future__ import annotations

import numpy as np
import pytest
import torch

from medseg.core.errors import ConfigError
from medseg.data.plan import Plan
from medseg.models.detection.object_sizes import representative_sizes
from medseg.models.detection.objects import Detections, Objects


def test_boxes_lie_on_the_edges_of_the_voxels_they_hold():
    masks = torch.zeros(3, 5, 6, 7, dtype=torch.bool)
    masks[0, 0, 0, 0] = True
    masks[1, 1:4, 2, 3:7] = True

    objects = Objects.from_masks(masks, torch.tensor([2, 1, 1]))

    assert objects.boxes.tolist() == [[0, 0, 0, 1, 1, 1], [1, 2, 3, 4, 3, 7]]
    assert objects.classes.tolist() == [2, 1]
    assert objects.masks.shape == (2, 5, 6, 7)


def test_no_masks_give_no_objects():
    objects = Objects.from_masks(torch.zeros(0, 4, 5, dtype=torch.bool), torch.zeros(0))

    assert objects.boxes.shape == (0, 4)
    assert len(objects) == 0


def test_a_piece_is_put_where_it_belongs():
    piece = torch.tensor([[True, False], [True, True]])
    found = Detections(
        torch.tensor([[1.0, 2.0, 3.0, 4.0]]),
        torch.tensor([0.9]),
        torch.tensor([1]),
        torch.tensor([[1, 2]]),
        (piece,),
    )

    mask = found.mask(0, (4, 5))

    assert mask.nonzero().tolist() == [[1, 2], [2, 2], [2, 3]]
    assert torch.equal(mask[found.region(0)], piece)
    assert len(found.select(torch.tensor([], dtype=torch.long))) == 0
    assert len(Detections.none(3)) == 0


def test_sizes_of_a_data_set_keep_its_rare_large_objects():
    small = np.tile([[10.0, 12.0]], (500, 1)) * np.linspace(0.9, 1.1, 500)[:, None]
    sizes = representative_sizes(np.vstack([small, [[100.0, 40.0]]]), num_sizes=3)

    assert len(sizes) == 3
    assert sizes[-1] == [100.0, 40.0]
    assert sizes[0][1] / sizes[0][0] == pytest.approx(1.2, abs=0.02)
    assert representative_sizes(np.zeros((0, 3))) == []
    assert representative_sizes(np.array([[3.0, 4.0]] * 9)) == [[3.0, 4.0]]


def test_a_plan_holds_sizes_of_objects_of_its_axes():
    plan = Plan(spatial_dims=2, object_sizes=[[10.0, 12.0]])

    assert Plan.from_dict(plan.to_dict()).object_sizes == [[10.0, 12.0]]
    with pytest.raises(ConfigError) as caught:
        Plan(spatial_dims=3, object_sizes=[[10.0, 12.0]])
    assert caught.value.where == "plan.object_sizes"


def test_specks_of_an_annotation_have_no_size_of_their_own():
    cells = np.tile([[10.0, 12.0]], (96, 1)) * np.linspace(0.5, 2.0, 96)[:, None]
    specks = np.array([[1.0, 1.0], [1.0, 5.0], [2.0, 1.0], [2.0, 2.0]])

    sizes = representative_sizes(np.vstack([cells, specks]))

    assert min(map(min, sizes)) > 4
