"""Numbered objects from a folder through training, prediction and evaluation, on the command line.

The network finds bright parts by itself, so every object must come out where it went in.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import nibabel
import numpy as np
import object_cases
import pytest
from PIL import Image

from medseg.bundle import ModelBundle
from medseg.cli.commands import main

OPTION = """# Bright parts are objects.
defaults:
  - override /task@_global_.task: {task}
_target_: object_networks.BrightObjects
spatial_dims: {dims}
object_sizes: ${{plan.object_sizes}}
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEDSEG_ALLOWED_TARGETS", "object_networks")
    return tmp_path


def option(place: Path, *, task: str, dims: int) -> None:
    path = place / "conf" / "model" / "bright.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(OPTION.format(task=task, dims=dims))


TRAINING = [
    "model=bright", "trainer=cpu", "trainer.max_epochs=1", "loader.steps_per_epoch=2",
    "recipe=fast", "trainer.enable_progress_bar=false", "logger=none", "optimizer=adamw",
    "data.num_folds=2", "data.modality=OT", "name=bright",
]  # fmt: skip


def test_nuclei_are_found_again(place, capsys):
    option(place, task="instance", dims=2)
    data = object_cases.nuclei_folder(place / "nuclei", 4, shape=(80, 60), objects=7)

    # The network's scores are a tenth of the brightness, so that usual ones would leave out all;
    # validation tells from which on objects are kept.
    trained = main(["train", "data=folder", f"data.source.folder={data}", *TRAINING])
    bundle = place / "runs" / "bright" / "fold_0" / "bundle"
    predicted = main(["predict", f"bundle={bundle}", f"source.folder={data}", "paths.output=out"])
    evaluated = main(["evaluate", "predictions=out", f"references={data}", "paths.output=scores"])

    assert (trained, predicted, evaluated) == (0, 0, 0)
    assert ModelBundle.load(bundle).best_score < 0.5
    listed = json.loads((place / "out" / "n00.json").read_text())["instances"]
    assert all(0.5 <= found["score"] < 1 for found in listed)
    assert sorted(path.name for path in (place / "out").iterdir()) == [
        name for n in range(4) for name in (f"n{n:02d}.json", f"n{n:02d}.png")
    ]
    pixels = np.asarray(Image.open(place / "out" / "n00.png"))
    reference = np.asarray(Image.open(data / "instances" / "n00.png"))
    assert pixels.dtype == np.uint16
    assert np.array_equal(pixels > 0, reference > 0)
    scores = json.loads((place / "scores" / "scores.json").read_text())
    (label,) = scores["labels"].values()
    assert label["num_references"] == 28
    assert label["iou"]["0.90"]["accuracy"] == 1.0
    assert label["ap50"] == 1.0
    assert label["intervals"]["pq"] == [label["pq"], label["pq"]]  # every case is found
    run = json.loads((place / "runs" / "bright" / "fold_0" / "scores.json").read_text())
    assert run["kind"] == "objects"
    page = (place / "runs" / "bright" / "fold_0" / "run.html").read_text()
    shown = re.search(r'data-value="([^"]*)" data-key="summary//[^"]*/accuracy"', page)
    (label,) = run["labels"].values()
    assert float(shown.group(1)) == label["iou"]["0.50"]["accuracy"]
    folds = place / "runs" / "bright"
    shutil.copytree(folds / "fold_0", folds / "fold_1")
    card = folds / "fold_1" / "bundle" / "card.yaml"
    card.write_text(re.sub(r"best_score: .*", "best_score: 0.9", card.read_text()))
    assert main(["ensemble", f"folds={folds}"]) == 1
    told = capsys.readouterr()
    assert "networks that find objects, which are not averaged in one" in told.out + told.err
    together = f"bundle=[{bundle},{folds / 'fold_1' / 'bundle'}]"
    mirrored = ["inference.tta=mirror", "paths.output=mirrored"]
    assert main(["predict", together, f"source.folder={data}", *mirrored]) == 0
    assert not (np.asarray(Image.open(place / "mirrored" / "n00.png")) > 0).any()
    doubted = ["inference.tta=mirror", "objects.min_score=0.2", "paths.output=doubted"]
    assert main(["predict", together, f"source.folder={data}", *doubted]) == 0
    again = np.asarray(Image.open(place / "doubted" / "n00.png"))
    assert np.array_equal(again > 0, pixels > 0)
    both = json.loads((place / "doubted" / "n00.json").read_text())["instances"]
    assert max(found["score"] for found in both) < min(found["score"] for found in listed)
    assert (
        main(["evaluate", together, f"source.folder={data}", "paths.output=both", "report=html"])
        == 0
    )
    assert (place / "both" / "report.html").exists()
    predict = ["predict", f"bundle={bundle}", f"source.folder={data}", "paths.output=other"]
    evaluate = ["evaluate", "predictions=out", f"references={data}", "paths.output=other"]
    for command, chosen in (
        (predict, "inference.weights=[1]"),
        (predict, "inference.engine=onnx"),
        (evaluate, "ensembles=[majority]"),
    ):
        assert main([*command, chosen]) == 1
        told = capsys.readouterr()
        assert f"{chosen.split('=')[0]}: is " in told.out + told.err
    assert not (place / "other").exists()


def test_a_volume_with_things_and_stuff_is_found_again(place):
    option(place, task="panoptic", dims=3)
    data = place / "volumes"
    for n in range(4):
        numbers = object_cases.discs((28, 26, 24), 4, seed=n, radius=(3.0, 4.0))
        image = np.where(numbers > 0, 500.0, 0.0)
        image[:, :6] = np.where(numbers[:, :6] > 0, 500.0, -500.0)
        classes = np.where(numbers > 0, 1, np.where(image < 0, 2, 0)).astype(np.uint8)
        affine = np.diag([-1.0, 1.0, 2.0, 1.0])
        for name, array in (("images", image.astype(np.float32)), ("labels", classes)):
            (data / name).mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(array, affine), data / name / f"v{n}.nii.gz")
    labels = "data.labels={background: 0, cell: {id: 1, thing: true}, wall: 2}"

    trained = main(
        ["train", "data=folder", f"data.source.folder={data}", labels,
         "task.instances_from=components", *TRAINING]
    )  # fmt: skip
    bundle = place / "runs" / "bright" / "fold_0" / "bundle"
    predicted = main(
        ["predict", f"bundle={bundle}", f"source.folder={data / 'images'}", "paths.output=out",
         "objects.min_score=0.05"]
    )  # fmt: skip
    evaluated = main(
        ["evaluate", "predictions=out", f"references={data / 'labels'}", f"bundle={bundle}",
         "instances_from=components", "objects.min_score=0", "paths.output=scores"]
    )  # fmt: skip

    assert (trained, predicted, evaluated) == (0, 0, 0)
    assert (place / "out" / "v0_classes.nii.gz").exists()
    scores = json.loads((place / "scores" / "scores.json").read_text())
    assert scores["labels"]["cell"]["iou"]["0.90"]["f1"] == 1.0
    assert scores["panoptic"]["cell"]["pq"] == pytest.approx(1.0)
    assert scores["panoptic"]["wall"]["pq"] > 0.8


def test_networks_and_tasks_that_do_not_go_together_are_told_at_once(place, capsys):
    option(place, task="instance", dims=2)
    data = object_cases.nuclei_folder(place / "nuclei", 2)
    folder = ["data=folder", f"data.source.folder={data}"]

    semantic = main(["train", *folder, *TRAINING, "task=semantic"])
    told = capsys.readouterr()
    unet = main(["train", *folder, *TRAINING, "model=unet", "task=instance"])
    told_too = capsys.readouterr()

    assert (semantic, unet) == (1, 1)
    assert "is semantic, but BrightObjects is for instance" in told.out + told.err
    assert "UNet gives a class for each voxel and no objects" in told_too.out + told_too.err
