"""Memory layout of a network's weights, and what computes its convolutions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


def in_fast_layout(model: nn.Module, device: str) -> nn.Module:
    """The network itself, its convolution weights laid out as the device computes them fastest.

    On CPU that is channels last: a training step of the U-Net with 16 channels takes 0.55 s instead
    of 0.70 s (docs/benchmarks.md). Networks with PyTorch's InstanceNorm stay as they are, since it
    is several times slower on channels-last tensors (docs/decisions/0003), and so does everything
    on GPUs, where it has not been measured. Convolutions that step over voxels stay too: the
    backward pass of narrow ones in 2D writes beyond its memory (MedNeXt, PyTorch 2.13.0).
    Convolutions in 3D become `SingleImageConv3d`.
    """
    if torch.device(device).type != "cpu":
        return model
    modules = list(model.modules())
    for module in modules:
        if type(module) is nn.Conv3d and torch.backends.mkldnn.is_available():
            module.__class__ = SingleImageConv3d
    if any(isinstance(module, _INSTANCE_NORMS) for module in modules):
        return model
    for module in modules:
        if _skips_voxels(module):
            continue
        if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
            module.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def _skips_voxels(module: nn.Module) -> bool:
    """True of a convolution whose kernel is smaller than its stride."""
    kinds = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    return isinstance(module, kinds) and any(
        size < step for size, step in zip(module.kernel_size, module.stride, strict=True)
    )


class SingleImageConv3d(nn.Conv3d):
    """A convolution that is as fast for one image as for several.

    Given one image of few voxels, PyTorch leaves oneDNN for a way of its own, which takes 80 ms
    instead of 7 for 32 channels of 20x28x20 voxels (docs/benchmarks.md). This asks for oneDNN.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if (
            input.ndim == 5
            and input.shape[0] == 1
            and input.device.type == "cpu"
            and input.dtype == torch.float32
            and max(self.kernel_size) > 1
            and self.padding_mode == "zeros"
            and not isinstance(self.padding, str)
            and not torch.is_autocast_enabled("cpu")
        ):
            return torch.mkldnn_convolution(
                input, weight, bias, self.padding, self.stride, self.dilation, self.groups
            )
        return super()._conv_forward(input, weight, bias)
