"""The first stage of Mask R-CNN: how likely each anchor holds an object, and where it lies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medseg.models.blocks import Activation, Norm, activation_layer, conv, norm_layer
from medseg.models.detection.anchors import AnchorPlan, grid_anchors
from medseg.models.detection.boxes import as_strict_in, clip, decode, encode
from medseg.models.detection.matching import centre_is_known, match_adaptively, sampled
from medseg.models.detection.nms import nms
from medseg.models.detection.objects import Objects

SAMPLES = 256
"""Anchors of an image that the loss is taken over, at most half with an object (Ren 2015)."""


class RegionProposals(nn.Module):
    """A 3x3 convolution and two 1x1 ones, the same on every level with anchors.

    Args:
        spatial_dims: 2 or 3.
        channels: of the pyramid.
        anchors: of the pyramid.
        level_strides: of the pyramid.

    Shapes:
        levels of (N, channels, *L) to logits (N, A, *L) and shifts (N, A * 2 * dims, *L) for each
        level with anchors.

    Source: Ren et al. 2015, NIPS.
    """

    def __init__(
        self,
        spatial_dims: int,
        channels: int,
        *,
        anchors: AnchorPlan,
        level_strides: Sequence[Sequence[int]],
        norm: Norm,
        activation: Activation,
    ) -> None:
        super().__init__()
        self.anchors = anchors
        self.level_strides = [tuple(row) for row in level_strides]
        one = (1,) * spatial_dims
        count = anchors.num_anchors
        self.shared = nn.Sequential(
            conv(spatial_dims, channels, channels, kernel_size=(3,) * spatial_dims),
            norm_layer(norm, spatial_dims, channels),
            activation_layer(activation),
        )
        self.logits = conv(spatial_dims, channels, count, kernel_size=one)
        self.deltas = conv(spatial_dims, channels, count * 2 * spatial_dims, kernel_size=one)

    def reset_outputs(self) -> None:
        """Small weights, so that training begins with the anchors themselves."""
        for layer in (self.logits, self.deltas):
            nn.init.normal_(cast(Tensor, layer.weight), std=0.01)

    def forward(self, levels: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        hidden = [self.shared(levels[n]) for n in self.anchors.levels]
        return [self.logits(x) for x in hidden], [self.deltas(x) for x in hidden]

    def level_anchors(self, logits: Sequence[Tensor]) -> list[Tensor]:
        """Anchor boxes of every level, in the order of `flat`."""
        return [
            grid_anchors(
                tuple(part.shape[2:]),
                stride=self.level_strides[level],
                sizes=sizes,
                device=part.device,
            )
            for part, level, sizes in zip(
                logits, self.anchors.levels, self.anchors.sizes, strict=True
            )
        ]

    def losses(
        self,
        logits: Sequence[Tensor],
        deltas: Sequence[Tensor],
        objects: Sequence[Objects],
        classes: Tensor,
    ) -> dict[str, Tensor]:
        """Cross entropy of sampled anchors, and the smooth L1 distance of their boxes.

        Args:
            logits, deltas: of `forward`.
            objects: of each image.
            classes: of the images' voxels, (N, *S) long; anchors amid negative ones are no
                negatives.
        """
        anchors = self.level_anchors(logits)
        together = torch.cat(anchors)
        all_logits, all_deltas = flat(logits, 1), flat(deltas, together.shape[1])
        score_loss, box_loss = all_logits.sum() * 0, all_deltas.sum() * 0
        count = 0
        for n, reference in enumerate(objects):
            match = match_adaptively(anchors, reference.boxes)
            down = (match < 0) & centre_is_known(together, classes[n])
            ups, downs = sampled(match >= 0, down, count=SAMPLES, share=0.5)
            chosen = torch.cat((ups, downs))
            target = (match[chosen] >= 0).to(all_logits.dtype)
            score_loss = score_loss + F.binary_cross_entropy_with_logits(
                all_logits[n, chosen, 0], target, reduction="sum"
            )
            if len(ups):
                wanted = encode(reference.boxes[match[ups]], together[ups])
                box_loss = box_loss + F.smooth_l1_loss(
                    all_deltas[n, ups], wanted, reduction="sum", beta=0.1
                )
            count += len(chosen)
        return {"rpn_score": score_loss / max(1, count), "rpn_box": box_loss / max(1, count)}

    @torch.no_grad()
    def proposals(
        self,
        logits: Sequence[Tensor],
        deltas: Sequence[Tensor],
        *,
        shape: Sequence[int],
        max_candidates: int,
        max_proposals: int,
        max_iou: float = 0.7,
    ) -> list[Tensor]:
        """The best boxes of each image, those too alike left out.

        Args:
            logits, deltas: of `forward`.
            shape: extents of the image.
            max_candidates: per level, before suppression.
            max_proposals: of all levels.
            max_iou: of suppression in 2D, level by level; in 3D what is as strict.

        Returns:
            For each image (n, 2 * dims), best first.
        """
        anchors = self.level_anchors(logits)
        width = anchors[0].shape[1]
        found = []
        for n in range(len(logits[0])):
            boxes, scores, level_of = [], [], []
            for level, (part, shifts) in enumerate(zip(logits, deltas, strict=True)):
                values = flat([part[n : n + 1]], 1)[0, :, 0]
                best = values.topk(min(max_candidates, len(values))).indices
                moves = flat([shifts[n : n + 1]], width)[0, best]
                candidates = clip(decode(moves, anchors[level][best]), shape)
                dims = width // 2
                kept = (candidates[:, dims:] - candidates[:, :dims]).amin(1) > MIN_EXTENT
                boxes.append(candidates[kept])
                scores.append(values[best][kept])
                level_of.append(torch.full_like(best[kept], level))
            together, values = torch.cat(boxes), torch.cat(scores)
            limit = as_strict_in(width // 2, max_iou)
            kept_indices = nms(together, values, max_iou=limit, groups=torch.cat(level_of))
            found.append(together[kept_indices[:max_proposals]])
        return found


MIN_EXTENT = 0.5
"""Boxes narrower than half a voxel hold nothing."""


def flat(levels: Sequence[Tensor], width: int) -> Tensor:
    """(N, A * width, *L) per level as (N, anchors of all levels, width) in fp32, in the order of
    `grid_anchors`.
    """
    return torch.cat(
        [part.float().movedim(1, -1).reshape(len(part), -1, width) for part in levels], 1
    )
