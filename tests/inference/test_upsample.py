import numpy as np
import pytest
import torch
import torch.nn.functional as F

from medseg.inference import upsample
from medseg.inference.upsample import upsample_labels

CASES = [
    ((7, 9, 6), (13, 10, 17)),
    ((12, 8, 10), (5, 8, 21)),
    ((1, 4, 5), (3, 9, 9)),
    ((6, 7), (15, 9)),
    ((9, 5), (4, 5)),
]


@pytest.mark.parametrize(("old", "new"), CASES)
@pytest.mark.parametrize("slab_bytes", [1, 1 << 28])
def test_labels_are_those_of_pytorchs_interpolation(old, new, slab_bytes, monkeypatch):
    monkeypatch.setattr(upsample, "SLAB_BYTES", slab_bytes)
    logits = torch.randn(4, *old, generator=torch.Generator().manual_seed(0))
    mode = "bilinear" if len(old) == 2 else "trilinear"
    wanted = F.interpolate(logits[None], new, mode=mode, align_corners=False)[0]
    best = wanted.topk(2, dim=0).values
    clear = (best[0] - best[1] > 1e-5).numpy()

    labels = upsample_labels(logits, new)

    assert labels.shape == new
    assert labels.dtype == np.uint8
    # Where two classes are equal to rounding, either may win.
    assert clear.mean() > 0.999
    assert np.array_equal(labels[clear], wanted.argmax(0).numpy()[clear])


def test_logits_of_the_wanted_shape_are_not_interpolated():
    logits = np.random.default_rng(0).normal(size=(3, 5, 6, 7))

    assert np.array_equal(upsample_labels(logits, (5, 6, 7)), logits.argmax(0))


def test_more_than_256_classes_get_a_wider_type():
    logits = torch.zeros(300, 2, 2, 2)
    logits[299] = 1

    labels = upsample_labels(logits, (3, 3, 3))

    assert labels.dtype == np.uint16
    assert (labels == 299).all()


def test_the_lowest_class_wins_a_tie():
    assert (upsample_labels(torch.zeros(3, 4, 4, 4), (7, 7, 7)) == 0).all()


def test_half_precision_logits_are_interpolated_in_full_precision():
    logits = torch.randn(3, 6, 6, 6, generator=torch.Generator().manual_seed(1)).bfloat16()

    assert np.array_equal(
        upsample_labels(logits, (11, 12, 13)), upsample_labels(logits.float(), (11, 12, 13))
    )
