"""Mask R-CNN: boxes proposed by anchors, then classified, moved and given masks, in 2D and 3D."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medseg.core.errors import ConfigError
from medseg.models.blocks import Activation, Initialisation, Norm, conv, initialise
from medseg.models.detection.anchors import NUM_ANCHORS, plan_anchors
from medseg.models.detection.box_head import BoxHead
from medseg.models.detection.boxes import as_strict_in, clip, decode, encode
from medseg.models.detection.dense import classes_of, dense_loss
from medseg.models.detection.levels import BoxLevels
from medseg.models.detection.maps import covered_by
from medseg.models.detection.mask_head import MaskHead, mask_cells, mask_grid
from medseg.models.detection.masks import detections_from_cells
from medseg.models.detection.matching import centre_is_known, match_by_overlap, sampled
from medseg.models.detection.nms import nms
from medseg.models.detection.objects import Detections, Objects, Output
from medseg.models.detection.options import require_at_least, require_share, require_sizes
from medseg.models.detection.pyramid import PyramidEncoder, Sizes, UNetPyramid, finest_stride_for
from medseg.models.detection.rpn import RegionProposals
from medseg.models.resnet import Depth
from medseg.models.strides import Strides, scaled

Backbone = Literal["resnet", "unet"]

MIN_IOU = 0.5
"""Of a proposal with its object in 2D; in 3D what is as strict (`as_strict_in`)."""

BOX_SCALE = (0.1, 0.2)
"""Deviations of shifts and of logarithms in the second stage, by which its targets are divided."""


class MaskRCNN(nn.Module):
    """A pyramid on a ResNet or from a U-Net, a region proposal network, a box head and a mask head.

    Deviations: sizes of anchors and the finest level follow the objects of the data, anchors are
    matched adaptively (`medseg.models.detection.matching`), boxes are moved without regard to the
    class, everything is normalised (group by group, since batches are small and nothing was
    trained before). In 3D the box head reads 5x5x5 cells, masks are as fine as the objects' voxels,
    and every IoU that boxes are compared with is lower (`as_strict_in`).

    Args:
        in_channels: image channels.
        out_channels: classes with background.
        spatial_dims: 2 or 3.
        backbone: "resnet", or "unet", whose decoder's levels below the finest one are the pyramid.
        depth: of the ResNet, 18, 34, 50 or 101.
        base_channels: 32 gives the paper's widths; others scale them.
        strides: see `medseg.models.resnet.ResNet`.
        kernel_sizes, light_finest: of the U-Net, see `medseg.models.unet.UNet`.
        object_sizes: extents of typical objects in voxels, rows of `spatial_dims` numbers; None
            takes the papers' anchors.
        finest_stride: of the ResNet's pyramid, per axis 1, 2 or 4; None follows `object_sizes`.
        pyramid_channels: of the pyramid and the mask head; None takes the paper's 256 at its width.
        mask_layers: convolutions of the mask head before the enlargement.
        num_anchors: per voxel of a level.
        max_proposals: of an image, for the second stage, in training and in prediction.
        num_samples: of them, those of an image that the second stage learns from.
        max_iou: of two detections of one class in 2D; in 3D what is as strict (`as_strict_in`).
        dense_weight: of a loss on the class of each voxel, of the U-Net's or of the ResNet's finest
            level with boxes, stuff included, which teaches the features more in a step than a few
            boxes can (Jaeger et al. 2020); 0 leaves it out.
        norm, activation, initialisation: see `medseg.models.blocks`.

    Attributes:
        stride: see `medseg.models.detection.objects.Detector`.

    Shapes:
        image (N, in_channels, *S), any S, to "features", "rpn_logits" and "rpn_deltas", lists of
        tensors, and with `dense_weight` to "semantic" (N, out_channels, *L); `losses` and `detect`
        run the second stage on them.

    Source: He et al. 2017, ICCV; Ren et al. 2015, NIPS; Lin et al. 2017, CVPR 936; for the dense
        loss Jaeger et al. 2020, PMLR 116:171.
    """

    tasks: ClassVar[tuple[str, ...]] = ("instance",)
    reads_stuff: ClassVar[bool] = True

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
        mask_layers: int = 4,
        num_anchors: int = NUM_ANCHORS,
        max_proposals: int = 1000,
        num_samples: int = 128,
        max_iou: float = 0.5,
        dense_weight: float = 0.0,
        norm: Norm = "group",
        activation: Activation = "relu",
        initialisation: Initialisation = "he",
    ) -> None:
        super().__init__()
        require_sizes(spatial_dims, object_sizes)
        require_at_least(1, pyramid_channels=pyramid_channels, num_anchors=num_anchors)
        require_at_least(1, num_samples=num_samples, max_proposals=max_proposals)
        require_at_least(0, mask_layers=mask_layers, dense_weight=dense_weight)
        require_share(max_iou=max_iou)
        if backbone == "unet" and not dense_weight:
            raise ConfigError(
                "model.dense_weight",
                "is 0, and nothing would teach the finest resolution of the U-Net",
                "set model.dense_weight=1, or model.backbone=resnet",
            )
        if backbone == "unet" and finest_stride is not None:
            raise ConfigError(
                "model.finest_stride",
                f"is {list(finest_stride)}, but the levels of a U-Net follow plan.strides",
                "leave it out, or set model.backbone=resnet",
            )
        width = pyramid_channels or scaled(256, base_channels)
        self.spatial_dims = spatial_dims
        self.max_proposals = max_proposals
        self.num_samples = num_samples
        self.max_iou = as_strict_in(spatial_dims, max_iou)
        self.pyramid: PyramidEncoder | UNetPyramid
        if backbone == "unet":
            self.pyramid = UNetPyramid(
                in_channels,
                out_channels,
                spatial_dims=spatial_dims,
                base_channels=base_channels,
                channels=width,
                strides=strides,
                kernel_sizes=kernel_sizes,
                light_finest=light_finest,
                norm=norm,
                activation=activation,
                initialisation=initialisation,
            )
        else:
            self.pyramid = PyramidEncoder(
                in_channels,
                spatial_dims=spatial_dims,
                depth=depth,
                base_channels=base_channels,
                channels=width,
                strides=strides,
                finest_stride=finest_stride_for(object_sizes, spatial_dims, given=finest_stride),
                norm=norm,
                activation=activation,
            )
        self.proposals = RegionProposals(
            spatial_dims,
            width,
            anchors=plan_anchors(object_sizes, self.pyramid.level_strides, num_anchors=num_anchors),
            level_strides=self.pyramid.level_strides,
            norm=norm,
            activation=activation,
        )
        self.pyramid.smooth_only(self.proposals.anchors.levels)
        chosen = self.proposals.anchors.levels
        self.levels = BoxLevels(chosen, tuple(tuple(self.pyramid.level_strides[n]) for n in chosen))
        self.boxes = BoxHead(
            width,
            out_channels,
            cells=(7,) * 2 if spatial_dims == 2 else (5,) * 3,
            hidden=scaled(1024, base_channels),
            activation=activation,
        )
        self.dense_weight = dense_weight
        self.dense: nn.Module | None = None
        class_stride: Sequence[int] | None = (1,) * spatial_dims if dense_weight else None
        if dense_weight and backbone == "resnet":
            self.dense = conv(spatial_dims, width, out_channels, kernel_size=(1,) * spatial_dims)
            class_stride = self.levels.strides[0]
        self.masks = MaskHead(
            width,
            out_channels,
            levels=self.levels,
            cells=mask_cells(spatial_dims, object_sizes),
            num_layers=mask_layers,
            class_stride=class_stride,
            norm=norm,
            activation=activation,
        )
        self.stride = self.pyramid.stride
        self.min_size = (1,) * spatial_dims
        initialise(self, initialisation, negative_slope=0.0)
        self.proposals.reset_outputs()
        self.boxes.reset_outputs()

    def forward(self, image: Tensor) -> dict[str, Output]:
        classes: Tensor | None = None
        if isinstance(self.pyramid, UNetPyramid):
            levels, classes = self.pyramid(image)
        else:
            levels = self.pyramid(image)
            if self.dense is not None:
                classes = self.dense(levels[self.levels.indices[0]])
        logits, deltas = self.proposals(levels)
        outputs = {"features": levels, "rpn_logits": logits, "rpn_deltas": deltas}
        if classes is not None:
            outputs["semantic"] = classes
        return outputs

    def losses(
        self,
        outputs: dict[str, Output],
        objects: Sequence[Objects],
        semantic: Tensor | None = None,
    ) -> dict[str, Tensor]:
        levels, logits, deltas = _parts(outputs)
        semantic = classes_of(objects) if semantic is None else semantic
        terms = self.proposals.losses(logits, deltas, objects, semantic)
        shape = covered_by(levels[0], self.pyramid.level_strides[0])
        proposals = self.proposals.proposals(
            logits,
            deltas,
            shape=shape,
            max_candidates=self.max_proposals,
            max_proposals=self.max_proposals,
        )
        rois, matches = [], []
        for boxes, reference, known in zip(proposals, objects, semantic, strict=True):
            chosen, match = self._sample(boxes, reference, known)
            rois.append(chosen)
            matches.append(match)
        scores, shifts = self.boxes(self.levels.pooled(levels, rois, self.boxes.cells))
        classes = torch.cat(
            [_class_of(match, reference) for match, reference in zip(matches, objects, strict=True)]
        )
        together = torch.cat(rois)
        wanted = torch.cat(
            [
                reference.boxes[match.clamp_min(0)] if len(reference) else torch.zeros_like(boxes)
                for boxes, match, reference in zip(rois, matches, objects, strict=True)
            ]
        )
        ups = (classes > 0).nonzero()[:, 0]
        count = max(1, len(classes))
        terms["score"] = F.cross_entropy(scores, classes, reduction="sum") / count
        targets = encode(wanted[ups], together[ups]) / self._box_scale(together)
        terms["box"] = F.smooth_l1_loss(shifts[ups], targets, reduction="sum") / count
        class_logits = self._class_logits(outputs)
        terms["mask"] = self.masks.loss(
            levels, class_logits, rois=rois, matches=matches, objects=objects
        )
        if class_logits is not None:
            terms["dense"] = self.dense_weight * dense_loss(class_logits, semantic)
        return terms

    @torch.no_grad()
    def detect(
        self,
        outputs: dict[str, Output],
        *,
        shape: Sequence[int],
        max_objects: int = 1000,
        min_score: float = 0.05,
    ) -> list[Detections]:
        levels, logits, deltas = _parts(outputs)
        proposals = self.proposals.proposals(
            logits,
            deltas,
            shape=shape,
            max_candidates=max(self.max_proposals, max_objects),
            max_proposals=max(self.max_proposals, max_objects),
        )
        scores, shifts = self.boxes(self.levels.pooled(levels, proposals, self.boxes.cells))
        probabilities = scores.softmax(1)
        rows: list[tuple[Tensor, Tensor, Tensor]] = []
        start = 0
        for boxes in proposals:
            of_image = slice(start, start + len(boxes))
            start += len(boxes)
            moved = clip(decode(shifts[of_image] * self._box_scale(boxes), boxes), shape)
            rows.append(self._best(moved, probabilities[of_image], max_objects, min_score))
        grids = [mask_grid(boxes, shape=shape) for boxes, _, _ in rows]
        cells = self.masks.probabilities(
            levels,
            self._class_logits(outputs),
            grids=grids,
            classes=[classes for *_, classes in rows],
        )
        return [
            detections_from_cells(boxes, values, classes, part, grids=grid, shape=shape)
            for (boxes, values, classes), part, grid in zip(rows, cells, grids, strict=True)
        ]

    def semantic_logits(self, outputs: dict[str, Output], *, shape: Sequence[int]) -> Tensor | None:
        return None

    def _best(
        self, boxes: Tensor, probabilities: Tensor, max_objects: int, min_score: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes, scores and classes that are left after suppression within each class."""
        index, column = (probabilities[:, 1:] >= min_score).nonzero(as_tuple=True)
        classes, scores = column + 1, probabilities[index, column + 1]
        kept = nms(boxes[index], scores, max_iou=self.max_iou, groups=classes)[:max_objects]
        return boxes[index][kept], scores[kept], classes[kept]

    def _sample(
        self, proposals: Tensor, reference: Objects, classes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Boxes for the second stage to learn from and the object of each, -1 for none.

        The objects' own boxes are among the candidates (Ren et al. 2015), so that the heads learn
        before the proposals are any good.
        """
        candidates = torch.cat((proposals, reference.boxes))
        least = as_strict_in(self.spatial_dims, MIN_IOU)
        match, _ = match_by_overlap(candidates, reference.boxes, min_iou=least)
        down = (match < 0) & centre_is_known(candidates, classes)
        ups, downs = sampled(match >= 0, down, count=self.num_samples, share=0.25)
        chosen = torch.cat((ups, downs))
        return candidates[chosen], match[chosen]

    def _class_logits(self, outputs: dict[str, Output]) -> Tensor | None:
        """What the dense loss teaches, None without one."""
        return cast(Tensor, outputs["semantic"]).float() if self.dense_weight else None

    def _box_scale(self, boxes: Tensor) -> Tensor:
        shift, ratio = BOX_SCALE
        dims = self.spatial_dims
        return torch.tensor([shift] * dims + [ratio] * dims, device=boxes.device)


def _class_of(match: Tensor, reference: Objects) -> Tensor:
    """Class of each box's object, 0 for background."""
    if not len(reference):
        return torch.zeros_like(match)
    return torch.where(match >= 0, reference.classes[match.clamp_min(0)], 0)


def _parts(outputs: dict[str, Output]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    return (
        cast(list[Tensor], outputs["features"]),
        cast(list[Tensor], outputs["rpn_logits"]),
        cast(list[Tensor], outputs["rpn_deltas"]),
    )
