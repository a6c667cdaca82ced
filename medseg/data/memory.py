"""A plan that fits into memory: batch, then patch are lowered until a measured step fits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from medseg.core.errors import ConfigError
from medseg.data.plan import Plan

GIB = 2**30
LEAST_BATCH = 2
"""Patches are made smaller before fewer than these are taken: a Dice loss over one patch, without
a class half of the time, is a poor guide (as nnU-Net, Isensee et al. 2021).
"""
SHRINK = 2 / 3
"""What remains of a batch or a patch that was too large: a few tries reach any size."""

LEAST_VOXELS = {2: 32**2, 3: 16**3}
"""A patch of fewer shows a network too little to learn from (chosen, untested)."""

Measure = Callable[[Plan], int | None]


@dataclass(frozen=True)
class MemoryFit:
    """A plan and what its step takes.

    Args:
        plan: with the reasons for what was changed.
        peak_bytes: measured; None if it is more than the budget.
    """

    plan: Plan
    peak_bytes: int | None


def fit_to_memory(
    plan: Plan,
    *,
    given: Plan,
    budget_bytes: int,
    measure: Measure,
    replan: Callable[[float], Plan],
    may_grow: bool = False,
) -> MemoryFit:
    """The plan, with the batch and then the patch lowered until a step fits into the budget.

    Args:
        plan: to begin with, for the network that is to be trained.
        given: batch and patch set by hand are kept. A patch set by hand that does not fit is given
            back with `peak_bytes` None.
        budget_bytes: for one training step.
        measure: most bytes of a step of a plan; None if they are more than the budget.
        replan: the plan whose patch has at most about so many voxels.
        may_grow: enlarge the patch, up to the median case, while a step fits.

    Raises:
        ConfigError: not even the smallest patch fits.
    """
    start, peak = plan, measure(plan)
    failed = ""
    while peak is None:
        failed = f"{plan.batch_size} x {_dims(plan)} voxels"
        smaller = _smaller(plan, given, replan)
        if smaller is None:
            if given.patch_size is not None:
                return MemoryFit(plan, None)
            raise ConfigError(
                "plan.memory_budget_gib",
                f"is {budget_bytes / GIB:.3g}, which a training step exceeds even with "
                f"{plan.batch_size} of the smallest patches, {_dims(plan)} voxels",
                "choose a smaller network (plan.base_channels, model), a coarser "
                "plan.spacing_mm, or set plan.memory_budget_gib to what may be used",
                code="E_MEMORY",
            )
        plan, peak = smaller, measure(smaller)
    if may_grow and not failed and given.patch_size is None and given.batch_size is None:
        plan, peak = _grown(plan, peak, measure, replan)
    reasons = dict(plan.reasons)
    if failed:
        why = f"; a step of {failed} takes more than {budget_bytes / GIB:.3g} GiB, measured"
        for name in ("batch_size", "patch_size"):
            if getattr(plan, name) != getattr(start, name):
                reasons[name] = reasons.get(name, "") + why
    elif plan is not start:
        reasons["patch_size"] += f"; enlarged from {_dims(start)} as the memory allows"
    return MemoryFit(replace(plan, reasons=reasons), peak)


def _smaller(plan: Plan, given: Plan, replan: Callable[[float], Plan]) -> Plan | None:
    """The next plan to try; None if everything is as small as it can be."""
    batch = plan.batch_size or 1
    if given.batch_size is None and batch > LEAST_BATCH:
        return replace(plan, batch_size=max(LEAST_BATCH, int(SHRINK * batch)))
    if given.patch_size is None:
        before = float(np.prod(plan.patch_size or ()))
        least = LEAST_VOXELS[plan.spatial_dims]
        voxels = SHRINK * before
        while before > least:
            smaller = replan(max(voxels, least))
            if np.prod(smaller.patch_size or ()) < before:
                reasons = {**smaller.reasons}
                if "batch_size" in plan.reasons:
                    reasons["batch_size"] = plan.reasons["batch_size"]
                return replace(smaller, batch_size=batch, reasons=reasons)
            if voxels <= least:
                break
            voxels *= SHRINK
    return replace(plan, batch_size=1) if given.batch_size is None and batch > 1 else None


def _grown(
    plan: Plan, peak: int, measure: Measure, replan: Callable[[float], Plan]
) -> tuple[Plan, int]:
    while True:
        voxels = float(np.prod(plan.patch_size or ()))
        larger = replan(2 * voxels)
        if np.prod(larger.patch_size or ()) <= voxels:
            return plan, peak
        found = measure(larger)
        if found is None:
            return plan, peak
        plan, peak = larger, found


def _dims(plan: Plan) -> str:
    return "x".join(map(str, plan.patch_size or ()))
