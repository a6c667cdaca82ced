"""A small bundle and an image for the tests of export."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import phantoms
import torch
from learning_cases import LABELS, small_plan

from medseg.bundle import ModelBundle
from medseg.core.volume import Volume
from medseg.models.unet import UNet

PLAN = {
    "spatial_dims": 2,
    "orientation": "RAS",
    "spacing_mm": (2.0, 2.5, 3.0),
    "patch_size": (16, 16),
    "strides": ((1, 1), (2, 2)),
    "kernel_sizes": ((3, 3), (3, 3)),
}


def small_bundle(folder: Path) -> ModelBundle:
    """Two folds of a 2D U-Net with random weights and a rule for its label maps."""
    options = {
        "in_channels": 1,
        "spatial_dims": 2,
        "base_channels": 4,
        "strides": [[1, 1], [2, 2]],
        "kernel_sizes": [[3, 3], [3, 3]],
    }
    weights = {}
    for fold in range(2):
        torch.manual_seed(fold)
        weights[f"fold_{fold}"] = UNet(out_channels=len(LABELS), **options).state_dict()
    return ModelBundle.write(
        folder,
        weights=weights,
        plan=small_plan(**PLAN),
        labels=LABELS,
        config={},
        card={
            "name": "small",
            "postprocess": {"threshold": {LABELS.names[1]: 0.4}},
            "network": {"class": "medseg.models.unet.UNet", "options": options},
        },
    )


def scan() -> Volume:
    reference = phantoms.labelled_boxes(orientation="LPS")
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(1, *reference.array.shape)) * 20
    return Volume((100.0 * reference.array[None] + noise).astype(np.float32), reference.geometry)
