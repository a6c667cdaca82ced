import logging

import pytest
import torch
from torch import nn

from medseg.inference.engines import SteadyEngine, TorchEngine, is_out_of_memory


class Small:
    """An engine whose memory holds some patches; the others are refused as PyTorch does it."""

    name = "torch"
    precision = "32-true"

    def __init__(self, fits, *, device="cpu", other=None):
        self.fits = fits
        self.device = device
        self.other = other
        self.sizes = []

    def __call__(self, patches):
        if len(patches) > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        self.sizes.append(len(patches))
        return patches * 3

    def on_cpu(self):
        return self.other


def test_fewer_patches_are_taken_at_once_when_they_do_not_fit(caplog):
    small = Small(3)
    steady = SteadyEngine(small)
    patches = torch.randn(16, 1, 4, 4, 4)

    with caplog.at_level(logging.WARNING):
        first = steady(patches)
    second = steady(patches[:5])

    assert torch.equal(first, patches * 3)
    assert torch.equal(second, patches[:5] * 3)
    assert max(small.sizes) == 2  # 16, 8 and 4 did not fit
    assert "going on with 2 at once" in caplog.text


def test_the_cpu_takes_over_when_not_even_one_patch_fits(caplog):
    cpu = Small(99)
    steady = SteadyEngine(Small(0, other=cpu))
    patches = torch.randn(4, 1, 4, 4, 4)

    assert torch.equal(steady(patches), patches * 3)
    assert steady.engine is cpu
    assert sum(cpu.sizes) == 4
    assert "going on with the CPU" in caplog.text


def test_nothing_is_left_to_try_when_the_cpu_has_no_memory():
    with pytest.raises(torch.OutOfMemoryError):
        SteadyEngine(Small(0))(torch.zeros(2, 1, 4, 4, 4))


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    class Broken(Small):
        def __call__(self, patches):
            raise RuntimeError("sizes of tensors must match")

    with pytest.raises(RuntimeError, match="sizes"):
        SteadyEngine(Broken(1, other=Small(9)))(torch.zeros(2, 1, 4))
    assert is_out_of_memory(
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
    )


def test_folds_are_averaged_window_by_window():
    networks = [nn.Conv3d(1, 2, 1) for _ in range(3)]
    engine = TorchEngine(networks, device="cpu", precision="32-true")
    patches = torch.randn(2, 1, 4, 4, 4)

    logits = engine(patches)

    wanted = torch.stack([network(patches) for network in networks]).mean(0)
    torch.testing.assert_close(logits, wanted)
    assert not logits.requires_grad
    assert engine.on_cpu() is None
