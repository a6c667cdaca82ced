"""Soft Dice plus cross entropy, the usual loss for semantic segmentation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medseg.core.errors import ConfigError


class DiceCELoss(nn.Module):
    """Weighted sum of soft Dice over the foreground classes and cross entropy over all.

    With regions each channel is one region, which may overlap others: sigmoid in place of softmax,
    binary cross entropy, and a Dice for every channel.

    Args:
        dice_weight, ce_weight: factors of the two terms.
        smooth: added to numerator and denominator of the Dice.
        batch_dice: sums over the batch before dividing, which keeps patches without a class from
            dominating.
        label_smoothing: of the cross entropy; the share of the target that is spread evenly over
            all classes (over yes and no for a region).
        class_weights: factor of each channel in the cross entropy, background first; a mean
            weighted by them, as in PyTorch.
        ignore_id: target value left out of both terms.
        regions: class numbers of each region, one region per channel; empty for one channel per
            class.

    Shapes:
        logits (N, C, *S), target (N, *S) with class numbers; returns a scalar.

    Source: Milletari et al. 2016, 3DV; Isensee et al. 2021, Nat Methods 18:203.
    """

    def __init__(
        self,
        *,
        dice_weight: float = 1.0,
        ce_weight: float = 1.0,
        smooth: float = 1e-5,
        batch_dice: bool = True,
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | None = None,
        ignore_id: int | None = None,
        regions: Sequence[Sequence[int]] = (),
    ) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ConfigError("loss.label_smoothing", f"is {label_smoothing}", "use 0 to 0.5")
        if class_weights is not None and not (min(class_weights) >= 0 and max(class_weights) > 0):
            raise ConfigError(
                "loss.class_weights", f"is {list(class_weights)}", "use numbers above 0"
            )
        self.dice_weight = dice_weight
        self.ce_weight = ce_weight
        self.smooth = smooth
        self.batch_dice = batch_dice
        self.label_smoothing = label_smoothing
        self.class_weights = None if class_weights is None else tuple(map(float, class_weights))
        self.ignore_id = ignore_id
        self.regions = tuple(tuple(region) for region in regions)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        logits = logits.float()
        known = None
        if self.ignore_id is not None:
            known = (target != self.ignore_id)[:, None]
            target = torch.where(known[:, 0], target, torch.zeros_like(target))
        masks = self._masks(target, logits.shape[1])
        loss = logits.new_zeros(())
        if self.ce_weight:
            entropy = self._binary if self.regions else self._cross_entropy
            loss = loss + self.ce_weight * entropy(logits, masks if self.regions else target, known)
        if self.dice_weight:
            loss = loss + self.dice_weight * self._dice(logits, masks, known)
        return loss

    def _masks(self, target: Tensor, num_channels: int) -> Tensor:
        """bool (N, C - 1, *S), the foreground classes; with regions (N, C, *S)."""
        if not self.regions:
            return torch.stack([target == n for n in range(1, num_channels)], dim=1)
        return torch.stack(
            [torch.stack([target == n for n in ids]).any(0) for ids in self.regions], dim=1
        )

    def _weights(self, logits: Tensor) -> Tensor | None:
        if self.class_weights is None:
            return None
        if len(self.class_weights) != logits.shape[1]:
            raise ConfigError(
                "loss.class_weights",
                f"has {len(self.class_weights)} numbers, but the network has {logits.shape[1]} "
                "channels",
                "give one per region, in order"
                if self.regions
                else "give one per class, background first",
            )
        return logits.new_tensor(self.class_weights)

    def _cross_entropy(self, logits: Tensor, target: Tensor, known: Tensor | None) -> Tensor:
        weights = self._weights(logits)
        entropy = F.cross_entropy(
            logits,
            target,
            weight=weights,
            reduction="none" if known is not None else "mean",
            label_smoothing=self.label_smoothing,
        )
        if known is None:
            return entropy
        counted = known[:, 0] if weights is None else weights[target] * known[:, 0]
        return (entropy * known[:, 0]).sum() / counted.sum().clamp_min(1e-8)

    def _binary(self, logits: Tensor, masks: Tensor, known: Tensor | None) -> Tensor:
        share = masks * (1 - self.label_smoothing) + self.label_smoothing / 2
        entropy = F.binary_cross_entropy_with_logits(logits, share, reduction="none")
        counted = torch.ones_like(entropy)
        weights = self._weights(logits)
        if weights is not None:
            counted = counted * weights.view(1, -1, *[1] * (logits.ndim - 2))
        if known is not None:
            counted = counted * known
        return (entropy * counted).sum() / counted.sum().clamp_min(1e-8)

    def _dice(self, logits: Tensor, masks: Tensor, known: Tensor | None) -> Tensor:
        probabilities = logits.sigmoid() if self.regions else logits.softmax(1)[:, 1:]
        if known is not None:
            probabilities = probabilities * known
            masks = masks & known
        axes = tuple(range(2, logits.ndim))
        overlap = (probabilities * masks).sum(axes)  # (N, C - 1), with regions (N, C)
        volume = probabilities.sum(axes) + masks.sum(axes)
        if self.batch_dice:
            overlap, volume = overlap.sum(0), volume.sum(0)
        return 1 - ((2 * overlap + self.smooth) / (volume + self.smooth).clamp_min(1e-8)).mean()
