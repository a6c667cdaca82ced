from functools import partial

import numpy as np
import pytest
import torch
from learning_cases import LABELS, small_unet
from network_options import SHAPES, every_network, small_network
from torch import nn

from medseg.losses.dice_ce import DiceCELoss
from medseg.tasks.semantic import SemanticTask
from medseg.training.muon import Muon
from medseg.training.trial import free_bytes, step_bytes

TASK = SemanticTask(labels=LABELS, loss=DiceCELoss())


def step(network=small_unet, **changes):
    options = {
        "optimizer": partial(torch.optim.AdamW, lr=0.01),
        "in_channels": 1,
        "patch_size": (16, 16, 8),
        "batch_size": 2,
        "device": "cpu",
        "precision": "32-true",
        "limit": 2**30,
        **changes,
    }
    return step_bytes(network(), TASK, **options)


class Wide(nn.Module):
    """Many weights and hardly any features."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Conv3d(1, 3, 1)
        self.weights = nn.Parameter(torch.zeros(1_000_000))

    def forward(self, image):
        return self.last(image) + self.weights.mean()


def test_weights_average_gradients_and_the_optimizers_state_are_counted():
    adam = step(Wide, batch_size=1, patch_size=(2, 2, 2))
    plain = step(
        Wide, batch_size=1, patch_size=(2, 2, 2), optimizer=partial(torch.optim.SGD, lr=0.1)
    )

    # Weights, their average, their gradients, and twice as much for Adam; a few steps of the
    # update hold one or two more for a moment.
    assert 5 * 4e6 <= adam <= 8 * 4e6
    assert 3 * 4e6 <= plain <= 5 * 4e6


def test_features_are_counted_for_every_patch_and_voxel():
    one, two, large = step(batch_size=1), step(batch_size=2), step(patch_size=(32, 16, 8))

    assert 1.7 * one < two < 2.1 * one
    assert large == pytest.approx(2 * two, rel=0.15)


@pytest.mark.parametrize("optimizer", [partial(Muon, lr=0.02), partial(torch.optim.SGD, lr=0.1)])
def test_the_limit_itself_fits_and_a_byte_less_does_not(optimizer):
    needed = step(optimizer=optimizer)

    assert step(optimizer=optimizer, limit=needed) == needed
    assert step(optimizer=optimizer, limit=needed - 1) is None


def test_a_step_is_broken_off_at_the_limit():
    counted = []

    class Watched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Conv3d(1, 3, 1)

        def forward(self, image):
            kept = []
            for n in range(1000):
                counted.append(n)
                kept.append(image + n)
            return self.last(sum(kept))

    assert step(Watched, limit=20 * 4 * 2 * 16 * 16 * 8) is None
    assert len(counted) < 30


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        MemoryError(),
    ],
)
def test_a_device_that_runs_out_of_memory_gives_no_number(error):
    class Fails(nn.Conv3d):
        def __init__(self) -> None:
            super().__init__(1, 3, 1)

        def forward(self, image):
            raise error

    assert step(Fails) is None


def test_other_errors_are_passed_on():
    class Fails(nn.Conv3d):
        def __init__(self) -> None:
            super().__init__(1, 3, 1)

        def forward(self, image):
            raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        step(Fails)


def test_random_numbers_go_on_as_if_nothing_had_been_tried():
    network = small_unet()
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)

    step(lambda: network)

    assert torch.equal(torch.rand(4), expected)


@pytest.mark.slow
@every_network
def test_every_network_can_be_tried(name, dims):
    network = small_network(name, dims)

    needed = step(lambda: network, patch_size=SHAPES[dims])

    weights = sum(4 * weights.numel() for weights in network.parameters())
    assert needed > 3 * weights
    assert step(lambda: small_network(name, dims), patch_size=SHAPES[dims], limit=weights) is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpus_allocator_counts_and_gives_back_what_it_took():
    before = torch.cuda.memory_allocated()

    needed = step(device="cuda", patch_size=(64, 64, 64))

    assert needed > 4 * 4 * 2 * 64**3
    assert step(device="cuda", patch_size=(64, 64, 64), limit=needed // 2) is None
    assert step(device="cuda", patch_size=(4096, 4096, 4096)) is None
    assert torch.cuda.memory_allocated() == before
    assert np.isfinite(free_bytes("cuda"))
