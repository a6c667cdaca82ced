"""Small data sets on disk for the tests of file-based sources."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

AFFINE = np.array([[-1.5, 0, 0, 30], [0, 2, 0, -7], [0, 0, 2.5, 11], [0, 0, 0, 1]], dtype=float)
SHAPE = (6, 5, 4)


def image(seed: int = 0, *, shape: tuple[int, ...] = SHAPE) -> NDArray[Any]:
    return np.random.default_rng(seed).integers(-100, 100, shape).astype(np.int16)


def label(seed: int = 0, *, shape: tuple[int, ...] = SHAPE) -> NDArray[Any]:
    return np.random.default_rng(seed + 1000).integers(0, 3, shape).astype(np.uint8)


def write(path: Path, array: NDArray[Any], *, affine: NDArray[Any] = AFFINE) -> Path:
    """Writes an array as NIfTI, making the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def decathlon(
    folder: Path, *, num_cases: int = 3, num_test: int = 1, **changes: Any
) -> dict[str, Any]:
    """A data set in Decathlon layout; returns its dataset.json."""
    keys = [f"liver_{n:03d}" for n in range(num_cases)]
    tests = [f"liver_{n:03d}" for n in range(100, 100 + num_test)]
    for n, key in enumerate(keys):
        write(folder / "imagesTr" / f"{key}.nii.gz", image(n))
        write(folder / "labelsTr" / f"{key}.nii.gz", label(n))
    for n, key in enumerate(tests):
        write(folder / "imagesTs" / f"{key}.nii.gz", image(50 + n))
    content = {
        "name": "liver",
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "liver", "2": "tumour"},
        "training": [
            {"image": f"./imagesTr/{key}.nii.gz", "label": f"./labelsTr/{key}.nii.gz"}
            for key in keys
        ],
        "test": [f"./imagesTs/{key}.nii.gz" for key in tests],
        **changes,
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    return content


def nnunet(folder: Path, *, num_cases: int = 2, num_channels: int = 2, **changes: Any) -> None:
    """A data set in nnU-Net's raw layout, one case set aside with a label."""
    for part, count in (("Tr", num_cases), ("Ts", 1)):
        for n in range(count):
            for channel in range(num_channels):
                name = f"brain{part}_{n:02d}_{channel:04d}.nii.gz"
                write(folder / f"images{part}" / name, image(10 * n + channel))
            write(folder / f"labels{part}" / f"brain{part}_{n:02d}.nii.gz", label(n))
    content = {
        "channel_names": {str(n): name for n, name in enumerate(["T1", "FLAIR"][:num_channels])},
        "labels": {"background": 0, "oedema": 1, "core": 2},
        "numTraining": num_cases,
        "file_ending": ".nii.gz",
        **changes,
    }
    (folder / "dataset.json").write_text(json.dumps(content))
