"""Whether to segment coarse to fine, and the coarse plan: a first network sees the whole case at a
wide spacing, a second one only where the first found something.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from medseg.core.errors import ConfigError
from medseg.data.plan import Plan

COVERED = 0.25
"""Share of the median case below which a patch sees little of it: nnU-Net's rule for a cascade
(Isensee et al. 2021).
"""
MARGIN = 1.0
"""Coarse voxels that regions go beyond what the coarse network found (docs/recipe.md)."""


def with_cascade(plan: Plan, *, given: Plan, median: np.ndarray) -> Plan:
    """The plan with `cascade`, and with the coarse spacing and margin if it is True.

    Args:
        plan: finished but for these.
        given: what was set by hand.
        median: voxels of the median case at the plan's spacing.

    Raises:
        ConfigError: a cascade is wanted in 2D.
    """
    reasons = dict(plan.reasons)
    if plan.spatial_dims == 2:
        if given.cascade:
            raise ConfigError(
                "plan.cascade",
                "is true, but networks that see single slices have no coarse-to-fine cascade",
                "set plan.cascade=false or model.spatial_dims=3",
            )
        if given.cascade is None:
            reasons["cascade"] = "2D networks see single slices"
        return replace(plan, cascade=False, reasons=reasons)
    patch = np.array(plan.patch_size, dtype=float)
    is_cascade = given.cascade
    if is_cascade is None:
        covered = float(np.prod(patch / np.maximum(median, patch)))
        is_cascade, reasons["cascade"] = choose_cascade(covered)
    if not is_cascade:
        return replace(plan, cascade=False, reasons=reasons)
    spacing = given.coarse_spacing_mm
    if spacing is None:
        spacing = coarse_spacing(median, plan.spacing_mm or (), float(np.prod(patch)))
        reasons["coarse_spacing_mm"] = "the median case has as many voxels as a patch"
    margin = given.coarse_margin_mm
    if margin is None:
        margin = float(f"{MARGIN * max(spacing):.3g}")
        reasons["coarse_margin_mm"] = "a coarse voxel"
    return replace(
        plan,
        cascade=True,
        coarse_spacing_mm=tuple(float(value) for value in spacing),
        coarse_margin_mm=margin,
        reasons=reasons,
    )


def choose_cascade(covered: float) -> tuple[bool, str]:
    """Whether a cascade is planned where nobody says, from the share of the median case that a
    patch covers, and why.
    """
    if covered >= COVERED:
        return False, f"a patch covers {covered:.0%} of the median case"
    return False, (
        f"a patch covers {100 * covered:.2g} % of the median case, so plan.cascade=true is worth "
        "trying"
    )


def coarse_spacing(
    shape: Sequence[float] | np.ndarray, spacing_mm: Sequence[float], voxels: float
) -> list[float]:
    """A spacing at which a shape holds at most about `voxels`; finest axes are widened first."""
    extent, spacing = np.array(shape, dtype=float), np.array(spacing_mm, dtype=float)
    while np.prod(extent) > voxels:
        widened = np.where(spacing <= 1.01 * spacing.min(), 1.01, 1.0)
        spacing, extent = spacing * widened, extent / widened
    return [float(f"{value:.3g}") for value in spacing]


def coarse_given(plan: Plan) -> Plan:
    """What the coarse plan takes from the fine one; the rest is planned anew for its spacing."""
    return Plan(
        spatial_dims=plan.spatial_dims,
        orientation=plan.orientation,
        spacing_mm=plan.coarse_spacing_mm,
        memory_budget_gib=plan.memory_budget_gib,
        base_channels=plan.base_channels,
        light_finest=plan.light_finest,
        normalisation=plan.normalisation,
        colour=plan.colour,
        cascade=False,
    )
