"""Cases whose images are unlike those that a bundle was trained on, judged by its plan and card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medseg.bundle import ModelBundle
from medseg.core.geometry import Geometry
from medseg.reports.case_facts import CaseFacts

SPACING_FACTOR = 1.5
"""Where the card knows the range of the training's spacings, this far beyond it is unlike."""
PLAN_FACTOR = 2.5
"""Where only the plan's spacing is known, the middle of that range, this far from it is unlike."""
INTENSITY_SPREADS = 4.0
"""Chosen, untested: the middle of a foreground lies within one spread or two of the training's."""


def unlike_training(facts: Sequence[CaseFacts], bundle: ModelBundle) -> dict[str, list[str]]:
    """Why a case is unlike the training data, by case key; cases that are like it are left out."""
    found = {fact.key: _differences(fact, bundle) for fact in facts}
    return {key: reasons for key, reasons in found.items() if reasons}


def _differences(fact: CaseFacts, bundle: ModelBundle) -> list[str]:
    data = bundle.card.get("data")
    data = data if isinstance(data, Mapping) else {}
    reasons = []
    trained_on = str(data.get("modality", "OT"))
    if fact.modality not in ("", "OT", trained_on) and trained_on != "OT":
        reasons.append(f"modality {fact.modality}, trained on {trained_on}")
    if fact.num_channels not in (0, bundle.num_channels):
        reasons.append(f"{fact.num_channels} channels, trained on {bundle.num_channels}")
    reasons += _spacing(fact, bundle, data.get("fingerprint"))
    reasons += _intensity(fact, bundle)
    return reasons


def _spacing(fact: CaseFacts, bundle: ModelBundle, fingerprint: Any) -> list[str]:
    """The voxels' extents, sorted, since the axes of an image may be stored in any order."""
    own = sorted(fact.spacing_mm)
    seen = fingerprint.get("spacing_mm") if isinstance(fingerprint, Mapping) else None
    if isinstance(seen, Mapping) and {"smallest", "largest"} <= set(seen):
        smallest, largest = ([float(v) for v in sorted(seen[n])] for n in ("smallest", "largest"))
        low = [v / SPACING_FACTOR for v in smallest]
        high = [v * SPACING_FACTOR for v in largest]
        described = f"trained on {_numbers(smallest)} to {_numbers(largest)}"
    else:
        plan = [float(v) for v in bundle.plan.spacing_mm or ()]
        if bundle.plan.spatial_dims == 2 and bundle.plan.orientation is not None:
            grid = Geometry.from_spacing(
                fact.shape, spacing_mm=fact.spacing_mm, orientation=fact.orientation
            ).reoriented(bundle.plan.orientation)
            own, plan = sorted(grid.spacing_mm[:2]), sorted(plan[:2])
        plan = sorted(plan)[-len(own) :]
        low, high = [v / PLAN_FACTOR for v in plan], [v * PLAN_FACTOR for v in plan]
        described = f"the plan's is {_numbers(plan)}"
    if any(not a <= v <= b for v, a, b in zip(own, low, high, strict=False)):
        return [f"spacing {_numbers(own)} mm, {described} mm"]
    return []


def _intensity(fact: CaseFacts, bundle: ModelBundle) -> list[str]:
    """Of CT alone: other images have no unit."""
    reasons = []
    for n, (rule, (_, middle, _)) in enumerate(
        zip(bundle.plan.normalisation or (), fact.foreground, strict=False)
    ):
        if rule.get("kind") != "clip_zscore":
            continue
        mean, std = float(rule["mean"]), max(float(rule["std"]), 1e-6)
        if not abs(middle - mean) <= INTENSITY_SPREADS * std or not np.isfinite(middle):
            channel = f" in channel {n}" if len(fact.foreground) > 1 else ""
            reasons.append(
                f"foreground at {middle:.4g}{channel}, trained on {mean:.4g} with spread {std:.3g}"
            )
    return reasons


def _numbers(values: Sequence[float]) -> str:
    return " x ".join(f"{float(value):.3g}" for value in values)
