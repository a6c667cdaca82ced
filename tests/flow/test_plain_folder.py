"""A folder of images and labels that nothing describes trains as it is."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
from learning_cases import write_blocks
from PIL import Image

from medseg.bundle import ModelBundle
from medseg.cli.commands import main


def train(data: Path, folder: Path) -> tuple[ModelBundle, dict]:
    """Trains for two steps with no option that describes the data; returns bundle and scores."""
    code = main(
        [
            "train", "data=folder", f"data.source.folder={data}", "name=plain", "trainer=cpu",
            "trainer.max_epochs=1", "loader.steps_per_epoch=2", "plan.base_channels=4",
            f"paths.runs={folder / 'runs'}", f"paths.cache={folder / 'cache'}", "logger=none",
        ]
    )  # fmt: skip
    assert code == 0
    run = folder / "runs" / "plain" / "fold_0"
    return ModelBundle.load(run / "bundle"), json.loads((run / "scores.json").read_text())


def test_volumes_whose_labels_have_gaps(tmp_path):
    write_blocks(tmp_path / "data", 3)
    for path in (tmp_path / "data" / "labels").iterdir():
        label = nibabel.load(path)
        numbers = np.array([0, 5, 9], np.uint8)[np.asarray(label.dataobj)]
        nibabel.save(nibabel.Nifti1Image(numbers, label.affine), path)

    bundle, scores = train(tmp_path / "data", tmp_path)

    assert bundle.labels.names == ("background", "label_5", "label_9")
    assert list(scores["labels"]) == ["label_5", "label_9"]
    assert scores["num_cases"] == 1  # three patients make three folds


def test_grey_and_coloured_pictures_with_masks_of_black_and_white(tmp_path):
    for part in ("images", "masks"):
        (tmp_path / "data" / part).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for n in range(3):
        mask = np.zeros((40, 48), np.uint8)
        mask[8 + 3 * n : 24, 10:30] = 255
        grey = (mask // 2 + rng.integers(0, 60, mask.shape)).astype(np.uint8)
        picture = Image.fromarray(grey)
        picture.convert("RGB" if n else "L").save(tmp_path / "data" / "images" / f"{n}.png")
        Image.fromarray(mask).save(tmp_path / "data" / "masks" / f"{n}.png")

    bundle, scores = train(tmp_path / "data", tmp_path)

    assert bundle.plan.spatial_dims == 2
    assert bundle.labels.names == ("background", "label_255")
    assert scores["overall"]["num_both"] + scores["overall"]["num_missed"] == 1
