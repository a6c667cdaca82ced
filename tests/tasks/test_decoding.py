import math

import pytest
import torch

from medseg.core.labels import LabelSet
from medseg.tasks.decoding import decode, probabilities

CLASSES = LabelSet.from_names(["background", "liver", "tumour"])
REGIONS = LabelSet.from_mapping(
    {"background": 0, "rim": 1, "core": 2, "regions": {"whole": [1, 2], "inner": [2]}}
)


def test_the_largest_logit_wins_and_the_lowest_class_on_ties():
    logits = torch.tensor([[0.0, 1.0, 3.0], [2.0, 1.0, 3.0], [1.0, 0.0, 3.0]])

    assert decode(logits, CLASSES).tolist() == [1, 0, 0]


def test_inner_regions_are_painted_over_outer_ones():
    # Columns: neither, the outer alone, both, and the inner without the outer.
    logits = torch.tensor([[-1.0, 2.0, 2.0, -1.0], [-1.0, -1.0, 1.0, 1.0]])

    assert decode(logits, REGIONS).tolist() == [0, 1, 2, 2]


@pytest.mark.parametrize("labels", [CLASSES, REGIONS])
def test_channels_may_lie_at_another_axis(labels):
    logits = torch.randn(labels.num_outputs, 4, 5, generator=torch.Generator().manual_seed(0))

    assert torch.equal(decode(logits.movedim(0, 1), labels, axis=1), decode(logits, labels))


def test_a_temperature_divides_the_logits():
    logits = torch.tensor([0.0, 2 * math.log(3.0), -1e9])[:, None]

    found = probabilities(logits, CLASSES, temperature=2.0)

    assert found[:, 0].tolist() == pytest.approx([0.25, 0.75, 0.0])


def test_regions_have_a_probability_each():
    logits = torch.tensor([[math.log(3.0)], [math.log(3.0)]])

    assert probabilities(logits, REGIONS).flatten().tolist() == pytest.approx([0.75, 0.75])
