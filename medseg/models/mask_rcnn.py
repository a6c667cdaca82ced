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
from medseg.models.detection.boxes import as_strict_in, clip, decode, encode
from medseg.models.detection.dense import classes_of, dense_loss
from medseg.models.detection.levels import pooled_from_levels
from medseg.models.detection.maps import covered_by
from medseg.models.detection.masks import detections_from_cells, masks_in_boxes
from medseg.models.detection.matching import centre_is_known, match_by_overlap, sampled
from medseg.models.detection.nms import nms
from medseg.models.detection.objects import Detections, Objects, Output
from medseg.models.detection.options import require_at_least, require_share
from medseg.models.detection.pyramid import PyramidEncoder, Sizes, UNetPyramid, finest_stride_for
from medseg.models.detection.roi_heads import BoxHead, MaskHead, mask_cells_in_3d
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
        gives_classes: whether logits of the classes of voxels are among the outputs in evaluation
            too; set by networks that are made of this one.

    Shapes:
        image (N, in_channels, *S), any S, to "features", "rpn_logits" and "rpn_deltas", lists of
        tensors, and in training with `dense_weight` to "semantic" (N, out_channels, *L); `losses`
        and `detect` run the second stage on them.

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
                finest_stride=finest_stride or finest_stride_for(object_sizes, spatial_dims),
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
        self.box_size = (7,) * 2 if spatial_dims == 2 else (5,) * 3
        self.mask_size = (14,) * 2 if spatial_dims == 2 else mask_cells_in_3d(object_sizes)
        self.boxes = BoxHead(
            width,
            out_channels,
            cells=self.box_size,
            hidden=scaled(1024, base_channels),
            activation=activation,
        )
        self.masks = MaskHead(
            spatial_dims,
            width,
            out_channels,
            num_layers=mask_layers,
            norm=norm,
            activation=activation,
        )
        self.dense_weight = dense_weight
        self.gives_classes = False
        self.dense: nn.Module | None = None
        if dense_weight and backbone == "resnet":
            self.dense = conv(spatial_dims, width, out_channels, kernel_size=(1,) * spatial_dims)
        self.stride = self.pyramid.stride
        self.min_size = (1,) * spatial_dims
        initialise(self, initialisation, negative_slope=0.0)
        self.proposals.reset_outputs()
        self.boxes.reset_outputs()

    def forward(self, image: Tensor) -> dict[str, Output]:
        wants_classes = self.training or self.gives_classes
        classes: Tensor | None = None
        if isinstance(self.pyramid, UNetPyramid):
            levels, classes = self.pyramid(image, with_logits=wants_classes)
        else:
            levels = self.pyramid(image)
            if self.dense is not None and wants_classes:
                classes = self.dense(levels[self.proposals.anchors.levels[0]])
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
        scores, shifts = self.boxes(self._pooled(levels, rois, self.box_size))
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
        terms["mask"] = self._mask_loss(levels, rois, matches, objects)
        if self.dense_weight:
            classes_of_voxels = cast(Tensor, outputs["semantic"]).float()
            terms["dense"] = self.dense_weight * dense_loss(classes_of_voxels, semantic)
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
        scores, shifts = self.boxes(self._pooled(levels, proposals, self.box_size))
        probabilities = scores.softmax(1)
        rows: list[tuple[Tensor, Tensor, Tensor]] = []
        start = 0
        for boxes in proposals:
            of_image = slice(start, start + len(boxes))
            start += len(boxes)
            moved = clip(decode(shifts[of_image] * self._box_scale(boxes), boxes), shape)
            rows.append(self._best(moved, probabilities[of_image], max_objects, min_score))
        found = [boxes for boxes, _, _ in rows]
        cells = self._mask_cells(levels, found, torch.cat([classes for *_, classes in rows]))
        pieces = cells.split([len(boxes) for boxes in found])
        return [
            detections_from_cells(boxes, values, classes, part, shape=shape)
            for (boxes, values, classes), part in zip(rows, pieces, strict=True)
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

    def _pooled(
        self, levels: Sequence[Tensor], boxes: Sequence[Tensor], size: tuple[int, ...]
    ) -> Tensor:
        return pooled_from_levels(
            [levels[n] for n in self.proposals.anchors.levels],
            boxes,
            output_size=size,
            strides=[self.pyramid.level_strides[n] for n in self.proposals.anchors.levels],
        )

    def _mask_loss(
        self,
        levels: Sequence[Tensor],
        rois: Sequence[Tensor],
        matches: Sequence[Tensor],
        objects: Sequence[Objects],
    ) -> Tensor:
        """Cross entropy of the masks of boxes with an object, in the channel of its class."""
        inside = [match >= 0 for match in matches]
        boxes = [rows[keep] for rows, keep in zip(rois, inside, strict=True)]
        logits = self.masks(self._pooled(levels, boxes, self.mask_size)).float()
        size = tuple(logits.shape[2:])
        targets = torch.cat(
            [
                masks_in_boxes(reference.masks, match[keep], rows, output_size=size)
                for reference, match, keep, rows in zip(
                    objects, matches, inside, boxes, strict=True
                )
            ]
        )
        classes = torch.cat(
            [
                reference.classes[match[keep]]
                for reference, match, keep in zip(objects, matches, inside, strict=True)
            ]
        )
        chosen = logits[torch.arange(len(classes), device=classes.device), classes - 1]
        loss = F.binary_cross_entropy_with_logits(
            chosen, (targets >= 0.5).to(chosen.dtype), reduction="sum"
        )
        return loss / max(1, chosen.numel())

    def _mask_cells(
        self, levels: Sequence[Tensor], boxes: Sequence[Tensor], classes: Tensor
    ) -> Tensor:
        """Mask probabilities (n, *cells) of all images' boxes, some boxes at a time."""
        size = tuple(2 * n for n in self.mask_size)
        parts = []
        start = 0
        for n, rows in enumerate(boxes):
            of_image = [level[n : n + 1] for level in levels]
            for chunk in rows.split(MASKS_AT_ONCE):
                own = classes[start : start + len(chunk)]
                start += len(chunk)
                logits = self.masks(self._pooled(of_image, [chunk], self.mask_size)).float()
                parts.append(logits[torch.arange(len(own), device=own.device), own - 1].sigmoid())
        if not parts:
            return torch.zeros(0, *size, device=levels[0].device)
        return torch.cat(parts)

    def _box_scale(self, boxes: Tensor) -> Tensor:
        shift, ratio = BOX_SCALE
        dims = self.spatial_dims
        return torch.tensor([shift] * dims + [ratio] * dims, device=boxes.device)


MASKS_AT_ONCE = 128
"""Boxes whose masks are computed together in prediction, which bounds memory."""


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
