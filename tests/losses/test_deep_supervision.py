import pytest
import torch
from torch import Tensor, nn

from medseg.losses.deep_supervision import DeepSupervision, reduce_target


class MeanTarget(nn.Module):
    """The mean of the target; the logits only give its shape."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        assert logits.shape[2:] == target.shape[1:]
        return target.float().mean()


def test_a_single_output_is_passed_on():
    target = torch.ones(2, 4, 4, dtype=torch.long)

    assert float(DeepSupervision(MeanTarget())(torch.zeros(2, 3, 4, 4), target)) == 1.0


def test_each_coarser_output_counts_half_of_the_finer():
    # 4 x 4 with value 1 at odd rows: mean 1/2; every second row from the second on: mean 1.
    target = torch.zeros(1, 4, 4, dtype=torch.long)
    target[:, 1::2] = 1
    logits = [torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 2, 2)]

    value = DeepSupervision(MeanTarget())(logits, target)

    assert float(value) == pytest.approx((0.5 + 0.5 * 1.0) / 1.5)


def test_the_reduced_target_takes_the_middle_of_each_block():
    target = torch.arange(24).view(1, 6, 4)

    reduced = reduce_target(target, (2, 4))

    assert torch.equal(reduced, target[:, [1, 4]])


def test_axes_may_be_reduced_differently():
    assert reduce_target(torch.zeros(2, 8, 12, 5), (2, 6, 5)).shape == (2, 2, 6, 5)


def test_gradients_reach_every_output():
    logits = [
        torch.randn(1, 2, 4, 4, requires_grad=True),
        torch.randn(1, 2, 2, 2, requires_grad=True),
    ]

    DeepSupervision(nn.CrossEntropyLoss())(logits, torch.ones(1, 4, 4, dtype=torch.long)).backward()

    assert all((output.grad != 0).all() for output in logits)
