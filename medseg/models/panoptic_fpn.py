"""Panoptic FPN: Mask R-CNN and a class for every voxel from the same pyramid, in 2D and 3D."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, cast

from torch import Tensor, nn

from medseg.core.errors import TrainingError
from medseg.models.blocks import (
    Activation,
    ConvNormAct,
    Initialisation,
    Norm,
    conv,
    crop,
    initialise,
    resize,
)
from medseg.models.detection.anchors import NUM_ANCHORS
from medseg.models.detection.dense import dense_loss
from medseg.models.detection.maps import on_the_image
from medseg.models.detection.objects import Detections, Objects, Output
from medseg.models.detection.pyramid import PyramidEncoder, Sizes
from medseg.models.mask_rcnn import Backbone, MaskRCNN
from medseg.models.resnet import Depth
from medseg.models.strides import Strides, scaled

SEMANTIC_WEIGHT = 1.0
"""Of cross entropy and Dice of the classes beside the terms of objects (chosen; the paper has 0.5
of the cross entropy).
"""


class PanopticFPN(nn.Module):
    """Mask R-CNN with a semantic branch; `medseg.inference.network_space.panoptic_map` joins what
    the two find.

    Deviations: those of `medseg.models.mask_rcnn.MaskRCNN`; the semantic branch names the classes
    of things, too, where the paper has one class for all of them, and learns from their Dice beside
    the cross entropy.

    Args:
        semantic_channels: of the semantic branch on a ResNet; None takes the paper's 128 at its
            width. A U-Net has its own logits and needs no such branch.
        in_channels, out_channels, spatial_dims, backbone, depth, base_channels, strides,
            kernel_sizes, light_finest, object_sizes, finest_stride, pyramid_channels, mask_layers,
            num_anchors, max_proposals, num_samples, max_iou, norm, activation, initialisation: see
            `medseg.models.mask_rcnn.MaskRCNN`.

    Attributes:
        stride: see `medseg.models.detection.objects.Detector`.

    Shapes:
        image (N, in_channels, *S), any S, to Mask R-CNN's outputs and "semantic" (N, out_channels,
        *L).

    Source: Kirillov et al. 2019, CVPR 6399.
    """

    tasks: ClassVar[tuple[str, ...]] = ("panoptic",)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        spatial_dims: int = 3,
        backbone: Backbone = "resnet",
        depth: Depth = 50,
        base_channels: int = 32,
        strides: Strides | None = None,
        kernel_sizes: Strides | None = None,
        light_finest: bool = False,
        object_sizes: Sizes | None = None,
        finest_stride: Sequence[int] | None = None,
        pyramid_channels: int | None = None,
        semantic_channels: int | None = None,
        mask_layers: int = 4,
        num_anchors: int = NUM_ANCHORS,
        max_proposals: int = 1000,
        num_samples: int = 128,
        max_iou: float = 0.5,
        norm: Norm = "group",
        activation: Activation = "relu",
        initialisation: Initialisation = "he",
    ) -> None:
        super().__init__()
        self.instances = MaskRCNN(
            in_channels,
            out_channels,
            spatial_dims=spatial_dims,
            backbone=backbone,
            depth=depth,
            base_channels=base_channels,
            strides=strides,
            kernel_sizes=kernel_sizes,
            light_finest=light_finest,
            object_sizes=object_sizes,
            finest_stride=finest_stride,
            pyramid_channels=pyramid_channels,
            mask_layers=mask_layers,
            num_anchors=num_anchors,
            max_proposals=max_proposals,
            num_samples=num_samples,
            max_iou=max_iou,
            dense_weight=SEMANTIC_WEIGHT if backbone == "unet" else 0.0,
            norm=norm,
            activation=activation,
            initialisation=initialisation,
        )
        pyramid = self.instances.pyramid
        self.semantic: SemanticBranch | None = None
        if isinstance(pyramid, PyramidEncoder):
            self.semantic = SemanticBranch(
                spatial_dims,
                pyramid.channels,
                out_channels,
                num_levels=len(pyramid.level_strides),
                width=semantic_channels or scaled(128, base_channels),
                norm=norm,
                activation=activation,
            )
            initialise(self.semantic, initialisation, negative_slope=0.0)
        self.stride = self.instances.stride
        self.min_size = self.instances.min_size

    def forward(self, image: Tensor) -> dict[str, Output]:
        outputs: dict[str, Output] = self.instances(image)
        if self.semantic is not None:
            outputs["semantic"] = self.semantic(cast(list[Tensor], outputs["features"]))
        return outputs

    def losses(
        self,
        outputs: dict[str, Output],
        objects: Sequence[Objects],
        semantic: Tensor | None = None,
    ) -> dict[str, Tensor]:
        if semantic is None:
            raise TrainingError(
                "model=panoptic_fpn",
                "learns a class for every voxel, and the task gives none",
                "set task=panoptic, or model=mask_rcnn for objects alone",
            )
        terms = self.instances.losses(outputs, objects, semantic)
        if self.semantic is None:
            return terms
        logits = self.semantic_logits(outputs, shape=tuple(semantic.shape[1:]))
        return {**terms, "semantic": SEMANTIC_WEIGHT * dense_loss(logits, semantic)}

    def detect(
        self,
        outputs: dict[str, Output],
        *,
        shape: Sequence[int],
        max_objects: int = 1000,
        min_score: float = 0.05,
    ) -> list[Detections]:
        return self.instances.detect(
            outputs, shape=shape, max_objects=max_objects, min_score=min_score
        )

    def semantic_logits(self, outputs: dict[str, Output], *, shape: Sequence[int]) -> Tensor:
        logits = cast(Tensor, outputs["semantic"]).float()
        if self.semantic is None:
            return crop(logits, shape)
        stride = self.instances.pyramid.level_strides[0]
        return on_the_image(logits, stride=stride, shape=shape)


class SemanticBranch(nn.Module):
    """Every level brought to the finest one by convolutions and enlargements, and their sum.

    Source: Kirillov et al. 2019, CVPR 6399, figure 3.
    """

    def __init__(
        self,
        spatial_dims: int,
        channels: int,
        out_channels: int,
        *,
        num_levels: int,
        width: int,
        norm: Norm,
        activation: Activation,
    ) -> None:
        super().__init__()

        def step(features: int) -> nn.Module:
            return ConvNormAct(
                spatial_dims,
                features,
                width,
                kernel_size=(3,) * spatial_dims,
                norm=norm,
                activation=activation,
            )

        self.steps = nn.ModuleList(
            nn.ModuleList(step(width if n else channels) for n in range(max(1, level)))
            for level in range(num_levels)
        )
        self.logits = conv(spatial_dims, width, out_channels, kernel_size=(1,) * spatial_dims)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        total: Tensor | None = None
        for n, steps in enumerate(self.steps):
            x = levels[n]
            for k, step in enumerate(cast(nn.ModuleList, steps)):
                x = step(x)
                if n:
                    x = resize(x, levels[n - 1 - k].shape[2:])
            total = x if total is None else total + x.to(total.dtype)
        assert total is not None
        return self.logits(total)
