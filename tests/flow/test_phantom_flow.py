"""From labelled files to a bundle, from a DICOM series to its segmentation, and to scores."""

from __future__ import annotations

import csv
import html
import json
import re
from pathlib import Path

import highdicom
import nibabel
import numpy as np
import phantoms
import pydicom
import pytest
from command_line import medseg_main

from medseg.bundle import ModelBundle
from medseg.core.segmentation import LabelMap

ORIENTATIONS = ["LPS", "RAS", "LAS", "SRA", "PIR", "LPS"]

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with six labelled CT images of boxes, differently placed and stored, as NIfTI."""
    folder = tmp_path_factory.mktemp("flow")
    for name in ("images", "labels"):
        (folder / "data" / name).mkdir(parents=True)
    for n, orientation in enumerate(ORIENTATIONS):
        reference = moved_boxes(n, orientation=orientation)
        image = phantoms.ct_of(reference, seed=n)
        save(image.array[0], reference, folder / "data" / "images" / f"box_{n}.nii.gz")
        save(reference.array, reference, folder / "data" / "labels" / f"box_{n}.nii.gz")
    return folder


@pytest.fixture(scope="module")
def bundle(work: Path) -> Path:
    """A bundle trained for a few seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(work)
        code = medseg_main(
            [
                "train", "data=folder", f"data.source.folder={work / 'data'}", "data.modality=CT",
                "data.labels={background: 0, liver: 1, tumour: 2}", "data.num_folds=3",
                "trainer=cpu", "trainer.max_epochs=6", "loader.steps_per_epoch=20", "name=boxes",
                "plan.patch_size=[24,24,16]", "plan.base_channels=16", "plan.batch_size=2",
                "augment=none", f"paths.runs={work / 'runs'}",
                f"paths.cache={work / 'cache'}", "logger=csv",
            ]
        )  # fmt: skip
    assert code == 0
    (card,) = (work / "runs").glob("**/card.yaml")
    return card.parent


@pytest.fixture(scope="module")
def predictions(work: Path, bundle: Path) -> Path:
    """Predictions for a DICOM series of a case that was not trained on."""
    phantoms.dicom_series(work / "dicom" / "unseen", phantoms.ct_of(unseen(), seed=99))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(work)
        code = medseg_main(
            [
                "predict", f"bundle={bundle}", f"source.folder={work / 'dicom'}",
                f"paths.output={work / 'predictions'}", "output=[nifti,dicom_seg]",
            ]
        )  # fmt: skip
    assert code == 0
    return work / "predictions"


def moved_boxes(number: int, *, orientation: str) -> LabelMap:
    offset = np.array(phantoms.FIELD_CENTRE_MM) + np.random.default_rng(number).uniform(-5, 5, 3)
    return phantoms.labelled_boxes(
        orientation=orientation, centre_mm=(offset[0], offset[1], offset[2])
    )


def unseen() -> LabelMap:
    return moved_boxes(42, orientation="LPS")


def save(array, reference: LabelMap, path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(array, reference.geometry.affine), path)


def test_training_leaves_a_bundle_with_scores_and_a_run_that_can_be_read(work, bundle):
    loaded = ModelBundle.load(bundle)

    assert loaded.labels.names == ("background", "liver", "tumour")
    assert loaded.plan.normalisation[0]["kind"] == "clip_zscore"
    folder = bundle.parent
    for name in ("config.yaml", "plan.yaml", "split.yaml", "fingerprint.json", "scores.csv"):
        assert (folder / name).stat().st_size > 0
    assert len(list((folder / "predictions").glob("*.nii.gz"))) == 2


def test_the_nifti_prediction_lies_on_the_series_and_finds_the_boxes(predictions):
    (path,) = predictions.glob("*.nii.gz")
    image = nibabel.load(path)
    reference = unseen()

    assert image.shape == reference.array.shape
    np.testing.assert_allclose(image.affine, reference.geometry.affine, atol=1e-3)
    found = np.asarray(image.dataobj)
    for class_id in (1, 2):
        both = ((found == class_id) & (reference.array == class_id)).sum()
        sizes = (found == class_id).sum() + (reference.array == class_id).sum()
        # 120 steps reach 0.9 and more; mirrored or shifted output would stay below 0.5.
        assert 2 * both / sizes > 0.75


def test_the_dicom_segmentation_holds_the_same_voxels_and_refers_to_the_series(work, predictions):
    (seg_path,) = predictions.glob("*.dcm")
    (nifti_path,) = predictions.glob("*.nii.gz")
    series = [pydicom.dcmread(path) for path in sorted((work / "dicom").rglob("*.dcm"))]

    segmentation = highdicom.seg.segread(seg_path)
    volume = segmentation.get_volume(combine_segments=True, skip_overlap_checks=True)

    nifti = nibabel.load(nifti_path)
    lps_to_ras = np.diag([-1.0, -1.0, 1.0, 1.0])
    positions = np.argwhere(volume.array > 0)
    world = nibabel.affines.apply_affine(lps_to_ras @ volume.affine, positions)
    indices = nibabel.affines.apply_affine(np.linalg.inv(nifti.affine), world)
    rounded = np.round(indices).astype(int)
    voxels = np.asarray(nifti.dataobj)
    np.testing.assert_allclose(indices, rounded, atol=1e-3)
    assert len(positions) == (voxels > 0).sum() > 0
    assert np.array_equal(voxels[tuple(rounded.T)], volume.array[tuple(positions.T)])
    assert segmentation.StudyInstanceUID == series[0].StudyInstanceUID
    assert segmentation.FrameOfReferenceUID == series[0].FrameOfReferenceUID
    referenced = segmentation.ReferencedSeriesSequence[0]
    assert referenced.SeriesInstanceUID == series[0].SeriesInstanceUID
    assert {item.ReferencedSOPInstanceUID for item in referenced.ReferencedInstanceSequence} <= {
        item.SOPInstanceUID for item in series
    }


def test_predictions_are_scored_against_references(work, bundle, predictions, monkeypatch):
    monkeypatch.chdir(work)
    (path,) = predictions.glob("*.nii.gz")
    reference = unseen()
    (work / "references").mkdir()
    save(reference.array, reference, work / "references" / path.name)

    code = medseg_main(
        [
            "evaluate", f"predictions={predictions}", f"references={work / 'references'}",
            f"bundle={bundle}", f"paths.output={work / 'scores'}",
        ]
    )  # fmt: skip

    assert code == 0
    with (work / "scores" / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == ["liver", "tumour"]
    found = np.asarray(nibabel.load(path).dataobj)
    both = ((found == 1) & (reference.array == 1)).sum()
    sizes = (found == 1).sum() + (reference.array == 1).sum()
    assert float(rows[0]["dice"]) == pytest.approx(2 * both / sizes, abs=1e-4)
    assert json.loads((work / "scores" / "scores.json").read_text())


def test_a_broken_series_is_reported_and_the_others_are_predicted(
    work, bundle, predictions, tmp_path, capsys
):
    reference = moved_boxes(7, orientation="RAS")
    image = phantoms.ct_of(reference, seed=7).array[0].astype(np.float32)
    save(image, reference, tmp_path / "whole.nii.gz")
    image[3, 4, 5] = np.nan
    save(image, reference, tmp_path / "holed.nii.gz")

    code = medseg_main(
        ["predict", f"bundle={bundle}", f"source.folder={tmp_path}", "output=[nifti]",
         f"paths.output={tmp_path / 'out'}"]
    )  # fmt: skip

    assert code == 3
    assert [path.name for path in (tmp_path / "out").glob("*.nii.gz")] == ["whole.nii.gz"]
    printed = capsys.readouterr().out
    assert "1 of 2 cases predicted" in printed
    assert "holed" in printed
    assert "NaN" in printed


def test_the_public_functions_do_the_same(work, bundle, predictions, tmp_path):
    import medseg

    outcomes = medseg.predict(bundle, work / "dicom", output=tmp_path)

    assert [outcome.error for outcome in outcomes] == [None]
    (again,), (before,) = tmp_path.glob("*.nii.gz"), predictions.glob("*.nii.gz")
    assert np.array_equal(
        np.asarray(nibabel.load(again).dataobj), np.asarray(nibabel.load(before).dataobj)
    )


def test_a_2d_network_trains_and_predicts_too(work, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    code = medseg_main(
        [
            "train", "data=folder", f"data.source.folder={work / 'data'}", "data.modality=CT",
            "data.labels={background: 0, liver: 1, tumour: 2}", "data.num_folds=3",
            "model.spatial_dims=2", "trainer=cpu", "trainer.max_epochs=3",
            "loader.steps_per_epoch=20", "plan.patch_size=[32,32]", "plan.base_channels=16",
            "plan.batch_size=4", "augment=none",
            f"paths.runs={tmp_path / 'runs'}", f"paths.cache={work / 'cache'}", "logger=none",
        ]
    )  # fmt: skip

    assert code == 0
    with (tmp_path / "runs" / "folder" / "fold_0" / "scores.csv").open() as file:
        dice = [float(row["dice"]) for row in csv.DictReader(file) if row["label"] == "liver"]
    assert len(dice) == 2
    # Sixty steps reach 0.9; an image turned against its reference would stay below 0.7.
    assert min(dice) > 0.75


def test_preparing_prints_the_plan_with_its_reasons(work, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)

    code = medseg_main(
        [
            "prepare", "data=folder", f"data.source.folder={work / 'data'}", "data.modality=CT",
            "data.labels={background: 0, liver: 1, tumour: 2}", "data.num_folds=3",
            "trainer=cpu", "plan.batch_size=3", f"paths.runs={tmp_path / 'runs'}",
            f"paths.cache={work / 'cache'}",
        ]
    )  # fmt: skip

    assert code == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "4 cases to train on, 2 to validate, 0 held out" in printed
    assert "set by hand" in printed
    assert (tmp_path / "runs" / "folder" / "fold_0" / "plan.yaml").is_file()


def test_training_leaves_a_page_with_its_scores_curves_options_and_pictures(bundle):
    run = bundle.parent
    text = (run / "run.html").read_text()
    scores = json.loads((run / "scores.json").read_text())
    shown = {
        html.unescape(key): float(value)
        for value, key in re.findall(r'data-value="([^"]*)" data-key="([^"]*)"', text)
    }

    for label, metrics in scores["labels"].items():
        for metric in ("dice", "nsd", "hd95_mm", "assd_mm"):
            assert shown[f"summary/{label}/{metric}"] == pytest.approx(metrics[metric]["mean"])
    assert len(re.findall("<polyline", text)) >= 4  # loss, both labels, learning rate
    options = re.search(r'<section id="options">.*?</section>', text, re.DOTALL).group()
    assert "loader.steps_per_epoch" in options
    assert "optimizer.momentum" not in options  # as by default
    samples = re.search(r'<section id="samples">.*?</section>', text, re.DOTALL).group()
    assert len(re.findall("<img", samples)) == len(list((run / "samples").glob("*.png"))) > 0
    assert re.search(r"git commit</dt><dd>(?:[0-9a-f]{40}|not a git checkout)</dd>", text)
    assert not re.search(r'(?:src|href)="(?:https?:)?//', text)
