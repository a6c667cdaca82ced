"""Medical image segmentation: train and run networks on DICOM and NIfTI volumes.

The names below are medseg's public ones, imported on first use, so that `import medseg` is quick.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Volume": "medseg.core.volume",
    "LabelMap": "medseg.core.segmentation",
    "LabelSet": "medseg.core.labels",
    "DatasetSpec": "medseg.data.spec",
    "Plan": "medseg.data.plan",
    "ModelBundle": "medseg.bundle",
    "Predictor": "medseg.core.protocols",
    "MedsegError": "medseg.core.errors",
    "InputError": "medseg.core.errors",
    "read_volumes": "medseg.sources.read",
    "read_segmentation": "medseg.sources.segmentations",
    "write_dicom_seg": "medseg.writers.dicom_seg",
    "build_model": "medseg.models.build",
    "load_config": "medseg.config.check",
    "train": "medseg.cli.train",
    "predict": "medseg.cli.predict",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'medseg' has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
