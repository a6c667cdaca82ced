"""Mask2Former for label maps through training, prediction, scores and another runtime."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from medseg.cli.commands import main

SMALL = [
    "model.pyramid_channels=16", "model.num_queries=4", "model.num_layers=3", "model.num_heads=2",
    "plan.base_channels=8", "plan.patch_size=[32,32]", "plan.batch_size=4",
]  # fmt: skip


def pictures_of_discs(folder: Path, count: int) -> Path:
    """A bright disc in each, its rim less so, on noise."""
    rng = np.random.default_rng(0)
    rows, columns = np.indices((32, 32))  # one window, in each runtime
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    for n in range(count):
        centre = rng.uniform(13, 19, size=2)
        distance = np.hypot(rows - centre[0], columns - centre[1])
        classes = np.where(distance < 6, 2, np.where(distance < 11, 1, 0)).astype(np.uint8)
        image = 60 + 60 * classes + rng.normal(0, 8, classes.shape)
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / f"images/d{n}.png")
        Image.fromarray(classes).save(folder / f"labels/d{n}.png")
    return folder


@pytest.mark.slow
def test_discs_and_their_rims_are_learnt_as_segments(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = pictures_of_discs(tmp_path / "discs", 6)

    trained = main(
        [
            "train", "data=folder", f"data.source.folder={data}", "model=mask2former",
            "task=semantic", "model.spatial_dims=2", *SMALL, "trainer=cpu", "trainer.max_epochs=2",
            "loader.steps_per_epoch=40", "trainer.enable_progress_bar=false", "logger=none",
            "data.num_folds=3", "data.modality=OT", "name=discs",
        ]
    )  # fmt: skip
    run = tmp_path / "runs" / "discs" / "fold_0"
    exported = main(["export", f"bundle={run / 'bundle'}", "format=[onnx]"])
    for engine in ("torch", "onnx"):
        assert main(
            ["predict", f"bundle={run / 'bundle'}", f"source.folder={data}/images",
             f"paths.output={engine}", f"inference.engine={engine}", "inference.precision=32-true"]
        ) == 0  # fmt: skip

    assert (trained, exported) == (0, 0)
    scores = json.loads((run / "scores.json").read_text())
    assert all(label["dice"]["mean"] > 0.8 for label in scores["labels"].values())
    found = sorted((tmp_path / "torch").glob("*.nii.gz"))
    assert len(found) == 6
    for path in found:
        classes = np.asarray(nibabel.load(path).dataobj)
        others = np.asarray(nibabel.load(tmp_path / "onnx" / path.name).dataobj)
        assert (classes != others).mean() < 0.001  # ties
