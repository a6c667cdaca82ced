"""Small networks that find objects, with random weights, in bundles."""

from __future__ import annotations

from pathlib import Path

import torch
from learning_cases import small_plan
from network_options import accepted, node_of

from medseg.bundle import ModelBundle
from medseg.config.build import build
from medseg.core.labels import LabelSet

LABELS = LabelSet.from_mapping(
    {"background": 0, "cell": {"id": 1, "thing": True}, "stroma": {"id": 2, "thing": True}}
)
SIZES = {2: (32, 48), 3: (16, 24, 16)}
SMALL = {"pyramid_channels": 8, "mask_layers": 1, "max_proposals": 50, "num_queries": 6,
         "num_layers": 3, "base_channels": 4, "depth": 18, "strides": [1, 2, 2, 2]}  # fmt: skip


def detector_bundle(
    folder: Path, name: str, dims: int, *, folds: int = 1, **changes: object
) -> ModelBundle:
    """A small detector with random weights, in a bundle; `changes` are options of the network."""
    target = node_of(name)["_target_"]
    options = {
        "in_channels": 1,
        "spatial_dims": dims,
        **{key: value for key, value in SMALL.items() if key in accepted(name)},
        "object_sizes": [[8.0] * dims],
        **changes,
    }
    torch.manual_seed(0)
    network = build({"_target_": target, **options}, out_channels=len(LABELS))
    return ModelBundle.write(
        folder,
        weights={f"fold_{n}": network.state_dict() for n in range(folds)},
        plan=small_plan(
            spatial_dims=dims,
            spacing_mm=(1.0, 1.0, 1.0),
            patch_size=SIZES[dims],
            strides=((1,) * dims, *((2,) * dims,) * 3),
            kernel_sizes=((3,) * dims,) * 4,
        ),
        labels=LABELS,
        config={},
        card={
            "name": name,
            "task": "panoptic" if name == "panoptic_fpn" else "instances",
            "network": {"class": target, "options": options},
        },
    )
