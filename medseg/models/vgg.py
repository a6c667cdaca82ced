"""VGG-16 without its classifier: the encoder of FCN, SegNet and DeepLab v1."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from medseg.models.blocks import Activation, ConvNormAct, Norm
from medseg.models.strides import Strides, dilate_beyond, encoder_strides, product, scaled

CONVS_PER_STAGE = (2, 2, 3, 3, 3)
CHANNELS = (64, 128, 256, 512, 512)


class VGG16(nn.Module):
    """Thirteen 3x3 convolutions in five stages, a maximum over 2x2 voxels after each.

    Args:
        in_channels: image channels.
        spatial_dims: 2 or 3.
        base_channels: 32 gives the paper's widths (64 to 512); others scale them.
        strides: of the five poolings, see `medseg.models.strides.encoder_strides`.
        output_stride: beyond it, poolings keep the resolution and later convolutions are dilated;
            None pools everywhere.
        norm, activation: see `medseg.models.blocks`; the paper has none and "relu".

    Attributes:
        channels: feature channels of the five stages.
        steps: stride of each stage's pooling, per axis.
        stride: product of the steps.

    Shapes:
        image (N, in_channels, *S) to a list of five pooled features (N, channels[n], *S / steps so
        far, rounded up).

    Source: Simonyan and Zisserman 2015, ICLR, configuration D.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        spatial_dims: int,
        base_channels: int = 32,
        strides: Strides | None = None,
        output_stride: int | None = None,
        norm: Norm = "instance",
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        planned = encoder_strides(strides, spatial_dims)
        self.steps, dilations = dilate_beyond(planned, output_stride)
        self.stride = product(self.steps)
        self.channels = [scaled(width, base_channels) for width in CHANNELS]
        before = [(1,) * spatial_dims, *dilations[:-1]]
        stages, pools = [], []
        width = in_channels
        for n, channels in enumerate(self.channels):
            layers = []
            for _ in range(CONVS_PER_STAGE[n]):
                layers.append(
                    ConvNormAct(
                        spatial_dims,
                        width,
                        channels,
                        kernel_size=(3,) * spatial_dims,
                        dilation=before[n],
                        norm=norm,
                        activation=activation,
                    )
                )
                width = channels
            stages.append(nn.Sequential(*layers))
            pools.append(_pool(planned[n], self.steps[n]))
        self.stages = nn.ModuleList(stages)
        self.pools = nn.ModuleList(pools)

    def forward(self, image: Tensor) -> list[Tensor]:
        features = []
        x = image
        for stage, pool in zip(self.stages, self.pools, strict=True):
            x = pool(stage(x))
            features.append(x)
        return features


def _pool(planned: Sequence[int], step: Sequence[int]) -> nn.Module:
    """Maximum over two voxels along halved axes, over three where a stride was taken away."""
    kernel = tuple(
        2 if taken == 2 else 3 if wanted == 2 else 1
        for wanted, taken in zip(planned, step, strict=True)
    )
    if max(kernel) == 1:
        return nn.Identity()
    kind = {2: nn.MaxPool2d, 3: nn.MaxPool3d}[len(kernel)]
    padding = tuple(1 if size == 3 else 0 for size in kernel)
    return kind(kernel, stride=tuple(step), padding=padding, ceil_mode=True)
