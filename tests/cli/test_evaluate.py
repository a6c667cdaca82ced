import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import object_cases
import pytest

from medseg.cli.commands import main

AFFINE = np.diag([1.5, 2.0, 4.0, 1.0])
BOX = np.zeros((11, 9, 7), np.uint8)
BOX[2:7, 3:7, 1:5] = 1


def save(folder: Path, **arrays: np.ndarray) -> Path:
    folder.mkdir(exist_ok=True)
    for key, array in arrays.items():
        nib.save(nib.Nifti1Image(array, AFFINE), folder / f"{key}.nii.gz")
    return folder


@pytest.fixture
def folders(tmp_path):
    """Overrides for a small evaluation: two cases, both predicted."""
    shorter = BOX.copy()
    shorter[:, :, 3:] = 0
    predictions = save(tmp_path / "p", a=BOX, b=shorter)
    references = save(tmp_path / "r", a=BOX, b=BOX)
    return [
        f"predictions={predictions}",
        f"references={references}",
        f"paths.output={tmp_path / 'out'}",
    ]


def test_scores_are_written_and_shown(folders, tmp_path, capsys):
    code = main(["evaluate", *folders, "labels={background: 0, liver: 1}"])

    shown = capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "out" / "scores.csv").open()))
    report = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert code == 0
    assert [(row["case"], row["label"], float(row["dice"])) for row in rows] == [
        ("a", "liver", 1.0),
        ("b", "liver", pytest.approx(2 / 3)),
    ]
    assert report["labels"]["liver"]["dice"]["mean"] == pytest.approx((1 + 2 / 3) / 2)
    assert "liver" in shown
    assert "0.833" in shown
    assert str(tmp_path / "out" / "scores.csv") in shown


def test_options_reach_the_measurement(folders, tmp_path):
    options = ["metrics.surface_dice_tolerance_mm=8", "metrics.surface=border_voxels"]

    main(["evaluate", *folders, *options, "metrics.confidence=0.5", "metrics.num_resamples=100"])

    report = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert report["labels"]["label_1"]["nsd"]["mean"] == 1.0
    assert report["surface"].startswith("border_voxels")
    assert report["bootstrap"] == {"confidence": 0.5, "num_resamples": 100, "seed": 0}


def test_a_missing_prediction_is_listed_and_gives_exit_code_3(folders, tmp_path, capsys):
    (tmp_path / "p" / "a.nii.gz").unlink()

    assert main(["evaluate", *folders]) == 3
    assert (
        "1 without a prediction (allow_missing=true accepts this):\n  a\n"
        in capsys.readouterr().out
    )
    assert main(["evaluate", *folders, "allow_missing=true"]) == 0


def test_a_case_on_another_grid_is_refused_and_the_others_are_scored(folders, tmp_path, capsys):
    nib.save(nib.Nifti1Image(BOX[::-1], AFFINE), tmp_path / "p" / "a.nii.gz")
    nib.save(nib.Nifti1Image(BOX[1:], AFFINE), tmp_path / "p" / "b.nii.gz")

    code = main(["evaluate", *folders])

    shown = capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "out" / "scores.csv").open()))
    assert code == 3
    assert [row["case"] for row in rows] == ["a"]
    assert "b: the reference's and the prediction's grids differ: shape (11, 9, 7) against" in shown


def test_labels_that_do_not_match_are_explained(folders, tmp_path, capsys):
    save(tmp_path / "p", a=BOX * 4)

    code = main(["evaluate", *folders, "labels={background: 0, liver: 1}"])

    assert code == 3
    assert (
        "a: the prediction holds the value 4, but the labels are background 0, liver 1"
        in capsys.readouterr().out
    )


def test_a_missing_folder_gives_one_message_and_exit_code_1(folders, capsys):
    code = main(["evaluate", *folders, "references=/nowhere/at/all"])

    error = capsys.readouterr().err
    assert code == 1
    assert (
        error == "/nowhere/at/all: there is no such folder; set references=<folder of label maps>\n"
    )


def test_parts_of_label_maps_are_scored_as_objects_where_that_is_wanted(tmp_path):
    two = BOX.copy()
    two[9:11, 0:2, 5:7] = 1
    predictions, references = save(tmp_path / "p", a=two), save(tmp_path / "r", a=BOX)

    code = main(
        ["evaluate", f"predictions={predictions}", f"references={references}",
         f"paths.output={tmp_path / 'out'}", "instances_from=components",
         "labels={background: 0, lesion: {id: 1, thing: true}}"]
    )  # fmt: skip

    found = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert code == 0
    assert found["kind"] == "objects"
    assert found["labels"]["lesion"]["num_references"] == 1
    assert found["labels"]["lesion"]["iou"]["0.50"]["accuracy"] == 0.5
    assert found["labels"]["lesion"]["iou"]["0.50"]["f1"] == pytest.approx(2 / 3)


def test_the_rest_of_a_data_set_is_counted(tmp_path, capsys):
    predictions = save(tmp_path / "p", a=BOX)
    (tmp_path / "set").mkdir()
    save(tmp_path / "set" / "images", a=BOX, b=BOX, c=BOX)
    save(tmp_path / "set" / "labels", a=BOX, b=BOX, c=BOX)

    options = [f"predictions={predictions}", f"references={tmp_path / 'set'}"]
    code = main(["evaluate", *options, f"paths.output={tmp_path / 'out'}"])

    assert code == 0
    assert "2 other references of the data set have no prediction" in capsys.readouterr().out


def test_a_mask_for_each_class_is_a_reference(tmp_path, capsys):
    image = np.zeros((12, 10), np.uint8)
    axon, myelin = image.copy(), image.copy()
    axon[2:5, 2:5], axon[8:10, 2:5], myelin[1:6, 1:6] = 255, 255, 255
    place = tmp_path / "bids" / "derivatives" / "labels" / "sub-1" / "micr"
    object_cases.picture(tmp_path / "bids" / "sub-1" / "micr" / "a.png", image)
    object_cases.picture(place / "a_axon.png", axon)
    object_cases.picture(place / "a_myelin.png", myelin)
    classes = np.where(axon > 0, 1, np.where(myelin > 0, 2, 0)).astype(np.uint8)
    object_cases.picture(tmp_path / "p" / "a.png", classes)
    options = [
        "evaluate", f"predictions={tmp_path / 'p'}", "source=class_masks",
        f"source.folder={tmp_path / 'bids'}", "source.masks={2: myelin, 1: axon}",
        "instances_from=components", f"paths.output={tmp_path / 'out'}",
        "labels={background: 0, axon: {id: 1, thing: true}, myelin: 2}",
    ]  # fmt: skip

    code = main(options)

    found = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert code == 0
    assert found["labels"]["axon"]["num_references"] == 2
    assert found["labels"]["axon"]["pq"] == 1.0
    assert found["panoptic"]["myelin"]["pq"] == 1.0
    capsys.readouterr()
    assert main([*options[:2], f"references={tmp_path / 'bids'}", *options[5:]]) == 1
    assert "set source=class_masks source.folder=" in capsys.readouterr().err


def test_a_reference_that_cannot_be_read_ends_its_case_alone(tmp_path, capsys):
    image = np.zeros((12, 10), np.uint8)
    mask = image.copy()
    mask[2:5, 2:5] = 255
    for name, reference in (("a", mask), ("b", mask[1:]), ("c", mask)):
        place = tmp_path / "bids" / "derivatives" / "labels" / "sub-1" / "micr"
        object_cases.picture(tmp_path / "bids" / "sub-1" / "micr" / f"{name}.png", image)
        object_cases.picture(place / f"{name}_axon.png", reference)
    for name in ("a", "b"):  # nobody predicted c
        object_cases.picture(tmp_path / "p" / f"{name}.png", mask // 255)

    code = main(
        ["evaluate", f"predictions={tmp_path / 'p'}", "source=class_masks",
         f"source.folder={tmp_path / 'bids'}", "source.masks={1: axon}",
         "labels={background: 0, axon: 1}", f"paths.output={tmp_path / 'out'}"]
    )  # fmt: skip

    shown = capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "out" / "scores.csv").open()))
    assert code == 3
    assert "not scored: " in shown
    assert "b_axon.png" in shown
    assert [(row["case"], float(row["dice"])) for row in rows] == [("a", 1.0)]
    assert not (tmp_path / "out" / "references").exists()


def test_parts_of_classes_without_a_label_are_told(tmp_path, caplog, capsys):
    two = BOX.copy()
    two[9:11, 0:2, 5:7] = 7
    options = [
        "evaluate", f"predictions={save(tmp_path / 'p', a=BOX)}", "instances_from=components",
        f"references={save(tmp_path / 'r', a=two)}", f"paths.output={tmp_path / 'out'}",
    ]  # fmt: skip

    assert main(options) == 0
    assert "a: holds 7, left out; set labels={background: 0, ...}" in caplog.text

    assert main([*options, "labels={background: 0, lesion: {id: 1, thing: true}}"]) == 3
    assert "a: holds 7, but the labels are 0 background, 1 lesion" in capsys.readouterr().out
