from __future__ import annotations

import brute_force
import numpy as np
import pytest
import torch

from medseg.models.detection import nms as module
from medseg.models.detection.boxes import iou
from medseg.models.detection.nms import fast_nms, nms

CASES = [pytest.param(0, 40), pytest.param(40, 1000, marks=pytest.mark.slow)]


def random_case(seed, dims):
    """Crowded boxes, some of them equal, some scores as well, several groups."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(0, 40))
    centres = rng.uniform(0, rng.uniform(5, 40), (count, dims))
    extents = rng.uniform(1, 20, (count, dims))
    if rng.random() < 0.3:
        centres, extents = centres.round(), extents.round()
    boxes = np.concatenate([centres - extents / 2, centres + extents / 2], 1)
    scores = rng.random(count)
    if rng.random() < 0.5:
        scores = scores.round(1)
    return boxes, scores, float(rng.uniform(0.1, 0.9)), rng.integers(0, 3, count)


@pytest.mark.parametrize("looped_on", [("cpu",), ()])
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(("first", "last"), CASES)
def test_the_greedy_definition_is_met_exactly(dims, first, last, looped_on, monkeypatch):
    monkeypatch.setattr(module, "LOOPED_ON", looped_on)
    for seed in range(first, last):
        monkeypatch.setattr(module, "BLOCK", 3 if seed % 2 else 512)
        boxes, scores, max_iou, groups = random_case(seed, dims)
        inputs = torch.tensor(boxes), torch.tensor(scores)

        kept = nms(*inputs, max_iou=max_iou, groups=torch.tensor(groups))
        alone = nms(*inputs, max_iou=max_iou)

        assert kept.tolist() == brute_force.greedy_nms(boxes, scores, max_iou, groups), seed
        assert alone.tolist() == brute_force.greedy_nms(boxes, scores, max_iou, groups * 0), seed


@pytest.mark.parametrize("looped_on", [("cpu",), ()])
@pytest.mark.parametrize("dims", [2, 3])
def test_the_fast_definition_is_met_exactly(dims, looped_on, monkeypatch):
    monkeypatch.setattr(module, "LOOPED_ON", looped_on)
    for seed in range(40):
        monkeypatch.setattr(module, "BLOCK", 3 if seed % 2 else 512)
        boxes, scores, max_iou, groups = random_case(seed, dims)

        kept = fast_nms(
            torch.tensor(boxes), torch.tensor(scores), max_iou=max_iou, groups=torch.tensor(groups)
        )

        assert kept.tolist() == brute_force.yolact_nms(boxes, scores, max_iou, groups), seed


@pytest.mark.parametrize("looped_on", [("cpu",), ()])
def test_a_chain_of_neighbours_keeps_every_other_one(looped_on, monkeypatch):
    monkeypatch.setattr(module, "LOOPED_ON", looped_on)
    # Each overlaps the next alone, so that the rule must be applied as often as the chain is long.
    lower = torch.arange(50.0)[:, None] * 0.6
    boxes = torch.cat([lower, lower * 0, lower + 1, lower * 0 + 1], 1)
    scores = torch.linspace(1, 0, 50)

    assert nms(boxes, scores, max_iou=0.2).tolist() == list(range(0, 50, 2))
    assert fast_nms(boxes, scores, max_iou=0.2).tolist() == [0]


def test_scores_of_kept_boxes_pass_the_gradient_on():
    boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 5], [9, 9, 12, 12]])
    scores = torch.tensor([0.2, 0.9, 0.5], requires_grad=True)

    scores[nms(boxes, scores.detach(), max_iou=0.5)].sum().backward()

    assert scores.grad.tolist() == [0, 1, 1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_coarse_numbers_and_compiled_callers_find_the_same(dtype):
    boxes, scores, max_iou, _ = random_case(5, 2)
    exact = torch.tensor(boxes).round(), torch.tensor(scores)
    compiled = torch.compile(nms, backend="eager")

    kept = nms(exact[0].to(dtype), exact[1], max_iou=max_iou)

    assert len(boxes) > 10
    assert kept.tolist() == nms(*exact, max_iou=max_iou).tolist()
    assert compiled(*exact, max_iou=max_iou).tolist() == kept.tolist()


@pytest.mark.parametrize("dims", [2, 3])
def test_the_overlap_of_boxes_is_the_brute_force_one(dims):
    for seed in range(20):
        boxes = random_case(seed, dims)[0]
        found = iou(torch.tensor(boxes), torch.tensor(boxes[::-1].copy()))

        wanted = [[brute_force.box_iou(a, b) for b in boxes[::-1]] for a in boxes]
        np.testing.assert_allclose(found.numpy(), np.reshape(wanted, found.shape), atol=1e-12)
