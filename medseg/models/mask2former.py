"""Mask2Former: queries that each find one segment by masked attention, in 2D and 3D."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medseg.models.blocks import Activation, Initialisation, Norm, conv, initialise, resize
from medseg.models.detection.assignment import Segments, assigned, point_losses
from medseg.models.detection.maps import covered_by, on_the_image
from medseg.models.detection.masks import detections_from_maps
from medseg.models.detection.middles import middle_loss
from medseg.models.detection.objects import Detections, Objects, Output
from medseg.models.detection.options import require_at_least, require_sizes
from medseg.models.detection.pyramid import PyramidEncoder, Sizes, finest_stride_for
from medseg.models.detection.queries import DecoderLayer, wave_places
from medseg.models.detection.starts import Placement, QueryStarts, Starts, placement
from medseg.models.resnet import Depth
from medseg.models.strides import Strides, scaled

WEIGHTS = (2.0, 5.0, 5.0)
"""Of class, cross entropy and Dice, in cost and loss (Cheng et al. 2022, section 4.1)."""

NO_SEGMENT_WEIGHT = 0.1
"""Of queries without a segment in the class term."""

UNANNOTATED = -1
"""Class of the queries of an image that says nothing about them."""

LEAST_POINTS, MOST_POINTS = 2048, 12544
"""Places at which masks are compared; the paper's 12544 are a fifth of the voxels of its masks. The
least are chosen, so that small patches have some in each object.
"""

NUM_LEVELS = 3
"""Levels that the layers look at in turn, coarsest first."""

LEARNT_QUERIES = 16
"""At most, for stuff and background, where the others begin at the middles of objects (chosen)."""


class Mask2Former(nn.Module):
    """A pyramid, and a transformer's decoder whose queries give a class and a mask each.

    The same head answers every task: objects are learnt as segments, and where a class map is
    given, so is the region of every class of it that has no objects, background included. In the
    semantic task that is all there is.

    Deviations: the pyramid is one of convolutions, where the paper's best has deformable attention
    in it; masks have the stride of its finest level. Where the data have objects (`object_sizes`),
    all but a few queries begin at their likeliest middles (`medseg.models.detection.starts`).

    Args:
        in_channels: image channels.
        out_channels: classes with background.
        spatial_dims: 2 or 3.
        depth: of the ResNet, 18, 34, 50 or 101.
        base_channels: 32 gives the paper's widths; others scale them.
        strides: see `medseg.models.resnet.ResNet`.
        object_sizes: extents of typical objects in voxels, rows of `spatial_dims` numbers; None
            for label maps, all of whose queries are learnt.
        finest_stride: of the pyramid, per axis 1, 2 or 4; None follows `object_sizes`, and is 2
            without them.
        pyramid_channels: of pyramid and decoder; None takes the paper's 256 at its width.
        num_queries: the most segments that can be found in a patch.
        patch_size: of the plan: larger images have more queries, see `QueryStarts`.
        num_layers: of the decoder; all of them learn to answer.
        num_heads: of attention.
        num_points: places at which masks are compared in training; None takes a fifth of the masks'
            voxels, as the paper does, at least LEAST_POINTS and at most the paper's 12544.
        norm, activation, initialisation: see `medseg.models.blocks`.

    Attributes:
        stride: see `medseg.models.detection.objects.Detector`.

    Shapes:
        image (N, in_channels, *S), any S, to "classes" (N, Q, out_channels + 1), whose last class
        is "no segment", and "masks" (N, Q, *M); in training mode also to "earlier_classes" and
        "earlier_masks", the same of every layer before, and with objects to "middles" (N, 1, *L)
        and "starts" (N, K, dims), where the last K queries began.

    Source: Cheng et al. 2022, CVPR 1280; He et al. 2023, CVPR 23663, for where queries begin.
    """

    tasks: ClassVar[tuple[str, ...]] = ("instance", "panoptic", "semantic")
    reads_stuff: ClassVar[bool] = True

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
        num_queries: int = 100,
        patch_size: Sequence[int] | None = None,
        num_layers: int = 9,
        num_heads: int = 8,
        num_points: int | None = None,
        norm: Norm = "group",
        activation: Activation = "relu",
        initialisation: Initialisation = "he",
    ) -> None:
        super().__init__()
        require_sizes(spatial_dims, object_sizes)
        require_at_least(
            1,
            pyramid_channels=pyramid_channels,
            num_queries=num_queries,
            num_layers=num_layers,
            num_heads=num_heads,
            num_points=num_points,
        )
        width = pyramid_channels or scaled(256, base_channels)
        self.spatial_dims = spatial_dims
        self.out_channels = out_channels
        self.num_points = num_points
        self.pyramid = PyramidEncoder(
            in_channels,
            spatial_dims=spatial_dims,
            depth=depth,
            base_channels=base_channels,
            channels=width,
            strides=strides,
            finest_stride=finest_stride_for(
                object_sizes, spatial_dims, usual=2, given=finest_stride
            ),
            norm=norm,
            activation=activation,
        )
        count = len(self.pyramid.level_strides)
        self.looked_at = list(range(count))[max(0, min(1, count - 1)) :][-NUM_LEVELS:][::-1]
        self.pyramid.smooth_only((0, *self.looked_at))
        self.pixels = conv(spatial_dims, width, width, kernel_size=(1,) * spatial_dims)
        num_learnt = num_queries
        self.starts: QueryStarts | None = None
        if object_sizes:
            num_learnt = min(LEARNT_QUERIES, num_queries // 2)
            self.starts = QueryStarts(
                spatial_dims,
                width,
                count=num_queries - num_learnt,
                object_sizes=object_sizes,
                patch_size=patch_size,
                norm=norm,
                activation=activation,
            )
        self.queries = nn.Parameter(torch.randn(num_learnt, width))
        self.places = nn.Parameter(torch.randn(num_learnt, width))
        self.level_places = nn.Parameter(torch.randn(len(self.looked_at), width))
        self.layers = nn.ModuleList(
            DecoderLayer(width, num_heads=num_heads, hidden=8 * width) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.classes = nn.Linear(width, out_channels + 1)
        self.mask_weights = nn.Sequential(
            nn.Linear(width, width),
            nn.ReLU(inplace=True),
            nn.Linear(width, width),
            nn.ReLU(inplace=True),
            nn.Linear(width, width),
        )
        self.stride = self.pyramid.stride
        self.min_size = (1,) * spatial_dims
        initialise(self, initialisation, negative_slope=0.0)
        for layer in self.layers:
            for parameter in layer.parameters():
                if parameter.ndim > 1:
                    nn.init.xavier_uniform_(parameter)
        if self.starts is not None:
            self.starts.reset_outputs()

    def forward(self, image: Tensor) -> dict[str, Output]:
        levels = self.pyramid(image)
        pixels = self.pixels(levels[0])
        memories, places = [], []
        for n, level in enumerate(self.looked_at):
            x = levels[level]
            memories.append(x.flatten(2).transpose(1, 2))  # (N, L, D)
            places.append((wave_places(x) + self.level_places[n]).to(x.dtype))
        queries = self.queries.repeat(image.shape[0], 1, 1)
        own_places = self.places.repeat(image.shape[0], 1, 1)
        outputs: dict[str, Output] = {}
        starts: Starts | None = None
        if self.starts is not None:
            level = self.looked_at[-1]
            starts = self.starts(levels[level], stride=self.pyramid.level_strides[level])
            first = self.starts.queries(starts, memories[-1])
            queries = torch.cat((queries, first.to(queries.dtype)), 1)
            around = places[-1].to(own_places.dtype)[starts.index]
            own_places = torch.cat((own_places, around), 1)
            if self.training:
                outputs |= {"middles": starts.middles, "starts": starts.places}
        classes, masks = [], []
        answer = self._answer(queries, pixels, starts)
        for n, layer in enumerate(self.layers):
            if self.training:
                classes.append(answer[0])
                masks.append(answer[1])
            turn = n % len(self.looked_at)
            level = self.looked_at[turn]
            blocked = _blocked(answer[1], tuple(levels[level].shape[2:]))
            queries = layer(queries, own_places, memories[turn], places[turn], blocked)
            answer = self._answer(queries, pixels, starts)
        outputs |= {"masks": answer[1], "classes": answer[0]}
        if self.training:
            outputs |= {"earlier_classes": classes, "earlier_masks": masks}
        return outputs

    def losses(
        self,
        outputs: dict[str, Output],
        objects: Sequence[Objects],
        semantic: Tensor | None = None,
    ) -> dict[str, Tensor]:
        segments = [
            _segments(reference, None if semantic is None else semantic[n])
            for n, reference in enumerate(objects)
        ]
        answers = [(cast(Tensor, outputs["classes"]), cast(Tensor, outputs["masks"]))]
        answers += zip(
            outputs.get("earlier_classes", []), outputs.get("earlier_masks", []), strict=True
        )
        placements: Sequence[Placement | None] = [None] * len(objects)
        terms: dict[str, Tensor] = {}
        if self.starts is not None:
            middles, starts = cast(Tensor, outputs["middles"]), cast(Tensor, outputs["starts"])
            stride = self.pyramid.level_strides[self.looked_at[-1]]
            terms["middle"] = middle_loss(middles, objects, semantic, stride=stride)
            placements = [
                placement(places, entry, num_objects=len(reference), num_learnt=len(self.queries))
                for places, entry, reference in zip(starts, segments, objects, strict=True)
            ]
        for classes, masks in answers:
            own = self._layer_losses(classes.float(), masks.float(), segments, placements)
            for name, value in own.items():
                terms[name] = terms[name] + value if name in terms else value
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
        logits = cast(Tensor, outputs["masks"]).float()
        probabilities = cast(Tensor, outputs["classes"]).float().softmax(2)
        found = []
        for n in range(len(logits)):
            # Neither background nor "no segment" is an object.
            scores, classes = probabilities[n, :, 1:-1].max(1)
            inside = (logits[n] > 0).flatten(1)
            shares = logits[n].flatten(1).sigmoid()
            sure = (shares * inside).sum(1) / inside.sum(1).clamp_min(1)
            scores = scores * sure
            index = ((scores >= min_score) & inside.any(1)).nonzero()[:, 0]
            index = index[torch.argsort(scores[index], descending=True, stable=True)][:max_objects]
            if not len(index):
                found.append(Detections.none(self.spatial_dims, device=logits.device))
                continue
            maps = self._on_the_image(logits[n : n + 1, index], shape)[0].sigmoid_()
            found.append(detections_from_maps(maps, scores[index], classes[index] + 1))
        return found

    @torch.no_grad()
    def semantic_logits(self, outputs: dict[str, Output], *, shape: Sequence[int]) -> Tensor:
        masks = cast(Tensor, outputs["masks"]).float()
        classes = cast(Tensor, outputs["classes"]).float().softmax(2)[..., :-1]
        with torch.autocast(masks.device.type, enabled=False):  # half precision would make ties
            evidence = torch.einsum("nqc,nq...->nc...", classes, masks.sigmoid())
        shares = evidence / evidence.sum(1, keepdim=True).clamp_min(1e-6)
        return self._on_the_image(shares, shape).clamp_min(1e-6).log()

    def _answer(
        self, queries: Tensor, pixels: Tensor, starts: Starts | None
    ) -> tuple[Tensor, Tensor]:
        """Class logits and mask logits of the queries as they are."""
        x = self.norm(queries)
        weights = self.mask_weights(x)
        masks = torch.einsum("nqd,nd...->nq...", weights, pixels.to(weights.dtype))
        if self.starts is not None and starts is not None:
            num_learnt = len(self.queries)
            around = self.starts.drawn(
                x[:, num_learnt:],
                starts,
                shape=masks.shape[2:],
                stride=self.pyramid.level_strides[0],
            )
            drawn = masks[:, num_learnt:] + around.to(masks.dtype)
            masks = torch.cat((masks[:, :num_learnt], drawn), 1)
        return self.classes(x), masks

    def _layer_losses(
        self,
        classes: Tensor,
        masks: Tensor,
        segments: Sequence[Segments],
        placements: Sequence[Placement | None],
    ) -> dict[str, Tensor]:
        covered = covered_by(masks, self.pyramid.level_strides[0])
        num_points = self.num_points or _num_points(math.prod(masks.shape[2:]))
        no_segment = self.out_channels
        weight = torch.ones(no_segment + 1, device=classes.device)
        weight[no_segment] = NO_SEGMENT_WEIGHT
        target = torch.full(classes.shape[:2], no_segment, device=classes.device)
        entropy = dice = masks.sum() * 0
        count = max(1, sum(len(entry.classes) for entry in segments))
        for n, entry in enumerate(segments):
            if entry.known is not None and not entry.known.any():
                target[n] = UNANNOTATED
                continue
            placed = placements[n]
            if placed is not None:  # a query that began amid unknown voxels may be right
                target[n, placed.is_unknown] = UNANNOTATED
            rows, columns = assigned(
                classes[n], masks[n], entry, num_points=num_points, covered=covered,
                weights=WEIGHTS, further=None if placed is None else placed.cost,
            )  # fmt: skip
            if not len(rows):
                continue
            target[n, rows] = entry.classes[columns]
            own = point_losses(
                masks[n, rows], entry.masks[columns], num_points=num_points, covered=covered,
                known=entry.known,
            )  # fmt: skip
            entropy, dice = entropy + own[0], dice + own[1]
        score = classes.sum() * 0
        if (target != UNANNOTATED).any():
            score = F.cross_entropy(
                classes.transpose(1, 2), target, weight=weight, ignore_index=UNANNOTATED
            )
        return {
            "score": WEIGHTS[0] * score,
            "mask": WEIGHTS[1] * entropy / count,
            "dice": WEIGHTS[2] * dice / count,
        }

    def _on_the_image(self, maps: Tensor, shape: Sequence[int]) -> Tensor:
        return on_the_image(maps, stride=self.pyramid.level_strides[0], shape=shape)


def _num_points(num_voxels: int) -> int:
    return min(num_voxels, MOST_POINTS, max(LEAST_POINTS, num_voxels // 5))


def _blocked(mask_logits: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Where each query must not look: (N, Q, L) bool; nowhere for those whose mask is empty."""
    blocked = resize(mask_logits.detach().float(), shape).flatten(2) < 0
    return blocked & ~blocked.all(2, keepdim=True)


def _segments(reference: Objects, semantic: Tensor | None) -> Segments:
    """The objects, and the regions of all classes of the class map that have no objects."""
    masks, classes = [reference.masks], [reference.classes]
    if semantic is not None:
        objects = set(reference.classes.tolist())
        for class_id in torch.unique(semantic).tolist():
            if class_id >= 0 and class_id not in objects:
                masks.append((semantic == class_id)[None])
                classes.append(torch.tensor([class_id], device=semantic.device))
    known = None if semantic is None else semantic >= 0
    return Segments(torch.cat(masks), torch.cat(classes), known)
