"""YOLACT: boxes with coefficients that mix prototype masks of the whole image, in 2D and 3D."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medseg.models.blocks import (
    Activation,
    ConvNormAct,
    Initialisation,
    Norm,
    conv,
    initialise,
    resize,
)
from medseg.models.detection.anchors import NUM_ANCHORS, grid_anchors, plan_anchors
from medseg.models.detection.boxes import as_strict_in, clip, decode, encode, volumes
from medseg.models.detection.masks import detections_from_maps
from medseg.models.detection.matching import match_adaptively, match_by_overlap
from medseg.models.detection.nms import fast_nms
from medseg.models.detection.objects import Detections, Objects, Output
from medseg.models.detection.options import require_at_least, require_share, require_sizes
from medseg.models.detection.pyramid import (
    PyramidEncoder,
    Sizes,
    finest_stride_for,
    upsample_twice,
)
from medseg.models.detection.rpn import flat
from medseg.models.resnet import Depth
from medseg.models.strides import Strides, scaled

WEIGHTS = {"score": 1.0, "box": 1.5, "mask": 6.125, "semantic": 1.0}
"""Of the terms, the paper's (section 6)."""

MASKS_LEARNT = 100
"""Anchors of an image whose masks are learnt in a step, as in the paper's code."""

HARD_NEGATIVES = 3
"""Anchors without an object for each one with, the hardest (Liu et al. 2016, ECCV)."""


NEUTRAL_IOU = 0.4
"""In 2D, from which on an anchor that is matched with no object counts as neither with nor without
one, as in the paper; in 3D what is as strict (`as_strict_in`). Else the hardest negatives would be
the neighbours of matched anchors, which see the same object: in 3D there are dozens of them.
"""


class Yolact(nn.Module):
    """A pyramid, one head for all its levels, and prototypes from the finest one.

    Deviations: sizes of anchors and the finest level follow the objects of the data, anchors are
    matched adaptively (`medseg.models.detection.matching`), and everything is normalised.

    Args:
        in_channels: image channels.
        out_channels: classes with background.
        spatial_dims: 2 or 3.
        depth: of the ResNet, 18, 34, 50 or 101.
        base_channels: 32 gives the paper's widths; others scale them.
        strides: see `medseg.models.resnet.ResNet`.
        object_sizes: extents of typical objects in voxels, rows of `spatial_dims` numbers; None
            takes the papers' anchors.
        finest_stride: of the pyramid, per axis 1, 2 or 4; None follows `object_sizes`. Prototypes
            have twice its resolution.
        pyramid_channels: of pyramid and heads; None takes the paper's 256 at its width.
        num_prototypes: masks that are mixed.
        num_anchors: per voxel of a level.
        max_iou: of two detections of one class in 2D; in 3D what is as strict (`as_strict_in`).
        norm, activation, initialisation: see `medseg.models.blocks`.

    Attributes:
        stride: see `medseg.models.detection.objects.Detector`.

    Shapes:
        image (N, in_channels, *S), any S, to "prototypes" (N, P, *M), "semantic" (N, out_channels -
        1, *L), and lists over the levels: "scores" (N, A * out_channels, *L), "deltas" (N, A * 2 *
        dims, *L), "coefficients" (N, A * P, *L).

    Source: Bolya et al. 2019, ICCV.
    """

    tasks: ClassVar[tuple[str, ...]] = ("instance",)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        spatial_dims: int = 3,
        depth: Depth = 50,
        base_channels: int = 32,
        strides: Strides | None = None,
        object_sizes: Sizes | None = None,
        finest_stride: Sequence[int] | None = None,
        pyramid_channels: int | None = None,
        num_prototypes: int = 32,
        num_anchors: int = NUM_ANCHORS,
        max_iou: float = 0.5,
        norm: Norm = "group",
        activation: Activation = "relu",
        initialisation: Initialisation = "he",
    ) -> None:
        super().__init__()
        require_sizes(spatial_dims, object_sizes)
        require_at_least(
            1,
            pyramid_channels=pyramid_channels,
            num_prototypes=num_prototypes,
            num_anchors=num_anchors,
        )
        require_share(max_iou=max_iou)
        width = pyramid_channels or scaled(256, base_channels)
        self.spatial_dims = spatial_dims
        self.out_channels = out_channels
        self.num_prototypes = num_prototypes
        self.max_iou = as_strict_in(spatial_dims, max_iou)
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
        self.anchors = plan_anchors(
            object_sizes, self.pyramid.level_strides, num_anchors=num_anchors
        )
        self.pyramid.smooth_only((0, *self.anchors.levels))
        self.stride = self.pyramid.stride
        self.min_size = (1,) * spatial_dims

        def step() -> nn.Module:
            return ConvNormAct(
                spatial_dims,
                width,
                width,
                kernel_size=(3,) * spatial_dims,
                norm=norm,
                activation=activation,
            )

        def output(channels: int) -> nn.Module:
            return conv(spatial_dims, width, channels, kernel_size=(1,) * spatial_dims)

        count = self.anchors.num_anchors
        self.shared = step()
        self.scores = output(count * out_channels)
        self.deltas = output(count * 2 * spatial_dims)
        self.coefficients = output(count * num_prototypes)
        self.before = nn.Sequential(step(), step(), step())
        self.after = nn.Sequential(step(), output(num_prototypes))
        self.semantic = output(out_channels - 1)
        initialise(self, initialisation, negative_slope=0.0)
        for layer in (self.scores, self.deltas, self.coefficients):
            nn.init.normal_(cast(Tensor, layer.weight), std=0.01)

    def forward(self, image: Tensor) -> dict[str, Output]:
        levels = self.pyramid(image)
        hidden = [self.shared(levels[n]) for n in self.anchors.levels]
        prototypes = self.after(upsample_twice(self.before(levels[0])))
        return {
            "prototypes": prototypes.relu(),
            "semantic": self.semantic(levels[0]),
            "scores": [self.scores(x) for x in hidden],
            "deltas": [self.deltas(x) for x in hidden],
            "coefficients": [self.coefficients(x).tanh() for x in hidden],
        }

    def losses(
        self,
        outputs: dict[str, Output],
        objects: Sequence[Objects],
        semantic: Tensor | None = None,
    ) -> dict[str, Tensor]:
        scores, deltas, coefficients, prototypes = self._parts(outputs)
        levels = self._level_anchors(outputs)
        anchors = torch.cat(levels)
        zero = prototypes.sum() * 0 + deltas.sum() * 0 + coefficients.sum() * 0
        terms = dict.fromkeys(("score", "box", "mask"), zero)
        num_matched = num_masks = 0
        for n, reference in enumerate(objects):
            match = match_adaptively(levels, reference.boxes)
            ups = (match >= 0).nonzero()[:, 0]
            terms["score"] = terms["score"] + self._score_loss(scores[n], match, anchors, reference)
            num_matched += len(ups)
            if not len(ups):
                continue
            wanted = encode(reference.boxes[match[ups]], anchors[ups])
            terms["box"] = terms["box"] + F.smooth_l1_loss(
                deltas[n, ups], wanted, reduction="sum", beta=0.1
            )
            some = ups[torch.randperm(len(ups), device=ups.device)[:MASKS_LEARNT]]
            terms["mask"] = terms["mask"] + self._mask_loss(
                prototypes[n], coefficients[n, some], match[some], reference
            )
            num_masks += len(some)
        terms["score"] = terms["score"] / max(1, num_matched)
        terms["box"] = terms["box"] / max(1, num_matched)
        terms["mask"] = terms["mask"] / max(1, num_masks)
        terms["semantic"] = self._semantic_loss(cast(Tensor, outputs["semantic"]), objects)
        return {name: WEIGHTS[name] * value for name, value in terms.items()}

    @torch.no_grad()
    def detect(
        self,
        outputs: dict[str, Output],
        *,
        shape: Sequence[int],
        max_objects: int = 1000,
        min_score: float = 0.05,
    ) -> list[Detections]:
        scores, deltas, coefficients, prototypes = self._parts(outputs)
        anchors = torch.cat(self._level_anchors(outputs))
        dims = self.spatial_dims
        found = []
        for n in range(len(scores)):
            values, classes = scores[n].softmax(1)[:, 1:].max(1)
            index = (values >= min_score).nonzero()[:, 0]
            index = index[torch.argsort(values[index], descending=True, stable=True)]
            index = index[: CANDIDATES_PER_OBJECT * max_objects]
            boxes = clip(decode(deltas[n, index], anchors[index]), shape)
            index, boxes = _with_extent(index, boxes, dims)
            kept = fast_nms(boxes, values[index], max_iou=self.max_iou, groups=classes[index])
            kept = kept[:max_objects]
            index, boxes = index[kept], boxes[kept]
            found.append(
                self._masked(
                    prototypes[n], coefficients[n, index], boxes, values[index], classes[index] + 1,
                    shape=shape,
                )
            )  # fmt: skip
        return found

    def semantic_logits(self, outputs: dict[str, Output], *, shape: Sequence[int]) -> Tensor | None:
        return None

    def _masked(
        self,
        prototypes: Tensor,
        coefficients: Tensor,
        boxes: Tensor,
        scores: Tensor,
        classes: Tensor,
        *,
        shape: Sequence[int],
    ) -> Detections:
        """Detections whose masks are mixed, enlarged and cut to their boxes, a few at a time."""
        dims = self.spatial_dims
        covered = self._covered(prototypes)
        parts = []
        at_once = max(1, VOXELS_AT_ONCE // int(torch.tensor(covered).prod()))
        for rows in torch.arange(len(boxes), device=boxes.device).split(at_once):
            logits = torch.einsum("kp,p...->k...", coefficients[rows], prototypes)
            maps = resize(logits[None], covered)[0][
                (slice(None), *(slice(0, extent) for extent in shape))
            ]
            inside = _inside(boxes[rows], shape)
            parts.append(
                detections_from_maps(
                    maps.float().sigmoid() * inside, scores[rows], classes[rows],
                    boxes=boxes[rows],
                )
            )  # fmt: skip
        if not parts:
            return Detections.none(dims, device=boxes.device)
        return Detections(
            torch.cat([part.boxes for part in parts]),
            torch.cat([part.scores for part in parts]),
            torch.cat([part.classes for part in parts]),
            torch.cat([part.corners for part in parts]),
            tuple(mask for part in parts for mask in part.masks),
            tuple(piece for part in parts for piece in part.probabilities or ()),
        )

    def _score_loss(
        self, scores: Tensor, match: Tensor, anchors: Tensor, reference: Objects
    ) -> Tensor:
        """Cross entropy of the anchors with objects and of the hardest without."""
        target = torch.zeros_like(match)
        ups = match >= 0
        if len(reference):
            target = torch.where(ups, reference.classes[match.clamp_min(0)], 0)
        loss = F.cross_entropy(scores, target, reduction="none")
        count = HARD_NEGATIVES * max(1, int(ups.sum()))
        limit = as_strict_in(self.spatial_dims, NEUTRAL_IOU)
        near, _ = match_by_overlap(anchors, reference.boxes, min_iou=limit)
        without = ~ups & (near < 0)
        hardest = loss[without].topk(min(count, int(without.sum()))).values
        return loss[ups].sum() + hardest.sum()

    def _mask_loss(
        self, prototypes: Tensor, coefficients: Tensor, match: Tensor, reference: Objects
    ) -> Tensor:
        """Cross entropy within each object's box, divided by the box's extent, summed."""
        shape = tuple(prototypes.shape[1:])
        covered = self._covered(prototypes)
        owners, row = torch.unique(match, return_inverse=True)
        masks = _reduced(reference.masks[owners], covered, shape)
        steps = torch.tensor(
            [whole / part for whole, part in zip(covered, shape, strict=True)],
            device=prototypes.device,
        )
        boxes = reference.boxes[owners] / steps.repeat(2)
        logits = torch.einsum("kp,p...->k...", coefficients, prototypes)
        loss = F.binary_cross_entropy_with_logits(logits, masks[row], reduction="none")
        inside = _inside(boxes, shape)[row]
        return ((loss * inside).flatten(1).sum(1) / volumes(boxes)[row].clamp_min(1)).sum()

    def _semantic_loss(self, logits: Tensor, objects: Sequence[Objects]) -> Tensor:
        """Cross entropy of a map per class, which trains the features only (section 4)."""
        logits = logits.float()
        shape = tuple(logits.shape[2:])
        covered = tuple(
            extent * step for extent, step in zip(shape, self.pyramid.level_strides[0], strict=True)
        )
        target = torch.zeros_like(logits)
        for n, reference in enumerate(objects):
            for class_id in reference.classes.unique().tolist():
                union = reference.masks[reference.classes == class_id].any(0, keepdim=True)
                target[n, class_id - 1] = _reduced(union, covered, shape)[0]
        return F.binary_cross_entropy_with_logits(logits, target)

    def _level_anchors(self, outputs: dict[str, Output]) -> list[Tensor]:
        return [
            grid_anchors(
                tuple(part.shape[2:]),
                stride=self.pyramid.level_strides[level],
                sizes=sizes,
                device=part.device,
            )
            for part, level, sizes in zip(
                outputs["deltas"], self.anchors.levels, self.anchors.sizes, strict=True
            )
        ]

    def _covered(self, prototypes: Tensor) -> tuple[int, ...]:
        """Extents of the image that the prototypes stand for, its own rounded up."""
        return tuple(
            extent * step // 2
            for extent, step in zip(
                prototypes.shape[1:], self.pyramid.level_strides[0], strict=True
            )
        )

    def _parts(self, outputs: dict[str, Output]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Scores, shifts and coefficients of all anchors, (N, anchors, ...), and prototypes."""
        return (
            flat(cast(list[Tensor], outputs["scores"]), self.out_channels),
            flat(cast(list[Tensor], outputs["deltas"]), 2 * self.spatial_dims),
            flat(cast(list[Tensor], outputs["coefficients"]), self.num_prototypes),
            cast(Tensor, outputs["prototypes"]).float(),
        )


CANDIDATES_PER_OBJECT = 5
"""Boxes that suppression may look at for each object that may be kept."""

VOXELS_AT_ONCE = 2**25
"""Mask voxels computed together in prediction: 128 MiB in fp32."""


def _with_extent(index: Tensor, boxes: Tensor, dims: int) -> tuple[Tensor, Tensor]:
    kept = (boxes[:, dims:] - boxes[:, :dims]).amin(1) > 0
    return index[kept], boxes[kept]


def _inside(boxes: Tensor, shape: Sequence[int]) -> Tensor:
    """Which voxels each box touches: (n, *shape) bool."""
    dims = len(shape)
    result: Tensor | None = None
    for axis, extent in enumerate(shape):
        places = torch.arange(extent, device=boxes.device)
        along = (places + 1 > boxes[:, axis, None]) & (places < boxes[:, dims + axis, None])
        view = [len(boxes)] + [extent if n == axis else 1 for n in range(dims)]
        result = along.reshape(view) if result is None else result & along.reshape(view)
    assert result is not None
    return result


def _reduced(masks: Tensor, covered: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Share of each coarse voxel that masks (n, *S) fill, zeros outside: (n, *shape) float."""
    sides: list[int] = []
    for extent, whole in zip(reversed(masks.shape[1:]), reversed(covered), strict=True):
        sides += [0, whole - extent]
    padded = F.pad(masks.float(), sides)[:, None]
    pool = F.adaptive_avg_pool2d if padded.ndim == 4 else F.adaptive_avg_pool3d
    return pool(padded, tuple(shape))[:, 0]  # type: ignore[arg-type]
