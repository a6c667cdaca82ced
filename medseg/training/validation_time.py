"""How much of a training's time goes into looking at validation cases."""

from __future__ import annotations

SHARE = 0.1
"""About this share of the training time is for validation (chosen): half of it while training goes
on, half for the look at its end.
"""
LEAST_S = 1.0
"""A validation that takes no longer than this is not cut."""


class ValidationTime:
    """Decides when a validation is due and which of its cases it can afford.

    Args:
        is_unlimited: every validation is due and looks at all cases, so that what comes out does
            not depend on the speed of the machine.
    """

    def __init__(self, *, is_unlimited: bool) -> None:
        self.is_unlimited = is_unlimited
        self.spent_s = 0.0
        self._limit_s = 0.0
        self._used_s = 0.0
        self._s_per_voxel: float | None = None

    def is_due(self, elapsed_s: float) -> bool:
        """True if the validations so far have left time for another one."""
        return self.is_unlimited or self.spent_s <= SHARE / 2 * elapsed_s

    def begin(self, *, elapsed_s: float, progress: float, training_s_per_voxel: float) -> None:
        """Starts a validation.

        Args:
            elapsed_s: duration of the training so far.
            progress: share of the training that is over.
            training_s_per_voxel: duration of a training step over its voxels; until a case has been
                validated, it stands for the time that a case takes. (A step goes forward and back,
                a validation forward with overlapping windows.)
        """
        self._limit_s = max(LEAST_S, SHARE / 2 * elapsed_s / max(progress, 1e-6))
        self._used_s = 0.0
        self._training_s_per_voxel = training_s_per_voxel

    def affords(self, num_voxels: int) -> bool:
        """True if a case of this size still fits into the running validation."""
        rate = self._training_s_per_voxel if self._s_per_voxel is None else self._s_per_voxel
        return self.is_unlimited or self._used_s + rate * num_voxels <= self._limit_s

    def add(self, seconds: float, *, num_voxels: int) -> None:
        """Notes what a case has cost."""
        self._used_s += seconds
        self.spent_s += seconds
        self._s_per_voxel = seconds / num_voxels
