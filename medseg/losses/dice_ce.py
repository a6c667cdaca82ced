"""Soft Dice plus cross entropy, the usual loss for semantic segmentation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DiceCELoss(nn.Module):
    """Weighted sum of soft Dice over the foreground classes and cross entropy over all.

    Args:
        dice_weight, ce_weight: factors of the two terms.
        smooth: added to numerator and denominator of the Dice.
        batch_dice: sums over the batch before dividing, which keeps patches without a class from
            dominating.
        label_smoothing: of the cross entropy.
        ignore_id: target value left out of both terms.

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
        ignore_id: int | None = None,
    ) -> None:
        super().__init__()
        self.dice_weight = dice_weight
        self.ce_weight = ce_weight
        self.smooth = smooth
        self.batch_dice = batch_dice
        self.label_smoothing = label_smoothing
        self.ignore_id = ignore_id

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        logits = logits.float()
        known = None
        if self.ignore_id is not None:
            known = (target != self.ignore_id)[:, None]
            target = torch.where(known[:, 0], target, torch.zeros_like(target))
        loss = logits.new_zeros(())
        if self.ce_weight:
            loss = loss + self.ce_weight * self._cross_entropy(logits, target, known)
        if self.dice_weight:
            loss = loss + self.dice_weight * self._dice(logits, target, known)
        return loss

    def _cross_entropy(self, logits: Tensor, target: Tensor, known: Tensor | None) -> Tensor:
        entropy = F.cross_entropy(
            logits,
            target,
            reduction="none" if known is not None else "mean",
            label_smoothing=self.label_smoothing,
        )
        if known is None:
            return entropy
        return (entropy * known[:, 0]).sum() / known.sum().clamp_min(1)

    def _dice(self, logits: Tensor, target: Tensor, known: Tensor | None) -> Tensor:
        probabilities = logits.softmax(1)[:, 1:]
        one_hot = torch.stack([target == n for n in range(1, logits.shape[1])], dim=1)
        if known is not None:
            probabilities = probabilities * known
            one_hot = one_hot & known
        axes = tuple(range(2, logits.ndim))
        overlap = (probabilities * one_hot).sum(axes)  # (N, C - 1)
        volume = probabilities.sum(axes) + one_hot.sum(axes)
        if self.batch_dice:
            overlap, volume = overlap.sum(0), volume.sum(0)
        return 1 - ((2 * overlap + self.smooth) / (volume + self.smooth).clamp_min(1e-8)).mean()
