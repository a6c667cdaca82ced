"""From the folds of a cross-validation to one bundle: trained, joined and predicted on phantoms."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import yaml
from command_line import medseg_main
from learning_cases import block, write_blocks

from medseg.bundle import ModelBundle

pytestmark = pytest.mark.filterwarnings("ignore")

LABELS = "{background: 0, box: 1, corner: 2}"


def train(work: Path, *more: str) -> int:
    return medseg_main(
        [
            "train", "data=folder", f"data.source.folder={work / 'blocks'}",
            "data.modality=CT", f"data.labels={LABELS}", "data.num_folds=3", "trainer=cpu",
            "trainer.max_epochs=4", "loader.steps_per_epoch=20", "plan.patch_size=[16,16,8]",
            "plan.base_channels=8", "plan.batch_size=2", "optimizer.lr=0.02", "augment=none",
            f"paths.runs={work / 'runs'}", f"paths.cache={work / 'cache'}", "logger=none", *more,
        ]
    )  # fmt: skip


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with six cases, three folds trained on them for seconds, and their ensemble."""
    folder = tmp_path_factory.mktemp("folds")
    write_blocks(folder / "blocks", 6)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert train(folder, "-m", "name=blocks", "fold=0,1,2") == 0
        assert medseg_main(["ensemble", f"folds={folder / 'runs' / 'blocks'}"]) == 0
    return folder


def test_the_bundle_holds_every_folds_weights_under_one_plan(work):
    folder = work / "runs" / "blocks"

    bundle = ModelBundle.load(folder / "ensemble" / "bundle")

    assert bundle.weight_files == [f"weights/fold_{n}.safetensors" for n in range(3)]
    for n in range(3):
        own = ModelBundle.load(folder / f"fold_{n}" / "bundle")
        assert bundle.plan == own.plan
        name = f"fold_{n}.safetensors"
        weights = folder / f"fold_{n}" / "bundle" / "weights" / name
        kept = weights_in(folder / "ensemble" / "bundle" / "weights" / name)
        for key, value in weights_in(weights).items():
            assert np.array_equal(kept[key], value)
    assert bundle.card["data"]["num_training_cases"] == 6
    assert 0.05 < bundle.temperature < 20


def weights_in(path: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(path)


def test_every_case_is_scored_by_the_fold_that_kept_it_back(work):
    folder = work / "runs" / "blocks"
    with (folder / "ensemble" / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))

    assert sorted({row["case"] for row in rows}) == [f"case_{n:03d}" for n in range(6)]
    if ModelBundle.load(folder / "ensemble" / "bundle").postprocess == {}:
        # Without rules these are the scores that each fold printed for its validation cases.
        for n in range(3):
            with (folder / f"fold_{n}" / "scores.csv").open() as file:
                for own in csv.DictReader(file):
                    (row,) = (
                        r for r in rows if (r["case"], r["label"]) == (own["case"], own["label"])
                    )
                    assert row["dice"] == own["dice"]


def test_the_report_says_what_was_tried_and_how_well_it_is_calibrated(work):
    report = json.loads((work / "runs" / "blocks" / "ensemble" / "ensemble.json").read_text())

    assert any("box: threshold" in rule["rule"] for rule in report["rules_tried"])
    assert any("corner" in rule["rule"] for rule in report["rules_tried"])
    calibration = report["calibration"]
    assert calibration["num_samples"] > 0
    for moment in ("before", "after"):
        assert 0 <= calibration[moment]["ece"] <= 1
        assert 0 <= calibration[moment]["brier"] <= 2
    assert [set(fold) for fold in report["folds"].values()] == [{"bundle_sha256", "cases"}] * 3


def test_the_bundle_predicts_label_maps_and_probabilities(work, tmp_path):
    volume, reference = block(17)
    (tmp_path / "images").mkdir()
    image = nibabel.Nifti1Image(volume.array[0], volume.geometry.affine)
    nibabel.save(image, tmp_path / "images" / "new.nii.gz")
    bundle = work / "runs" / "blocks" / "ensemble" / "bundle"

    code = medseg_main(
        [
            "predict", f"bundle={bundle}", f"source.folder={tmp_path / 'images'}",
            f"paths.output={tmp_path / 'out'}", "output.nifti.probabilities=true",
            "postprocess=none",
        ]
    )  # fmt: skip

    assert code == 0
    found = np.asarray(nibabel.load(tmp_path / "out" / "new.nii.gz").dataobj)
    shares = nibabel.load(tmp_path / "out" / "new_probabilities.nii.gz")
    probabilities = np.asarray(shares.dataobj)
    assert np.array_equal(shares.affine, volume.geometry.affine)
    assert probabilities.shape == (*volume.geometry.shape, 3)
    np.testing.assert_allclose(probabilities.sum(axis=-1), 1, atol=1e-5)
    assert np.array_equal(probabilities.argmax(axis=-1), found)
    both = ((found > 0) & (reference.array > 0)).sum()
    assert 2 * both / ((found > 0).sum() + (reference.array > 0).sum()) > 0.75


def test_folds_of_different_plans_are_refused(work, tmp_path, capsys):
    folder = tmp_path / "blocks"
    for n in (0, 1):
        shutil.copytree(work / "runs" / "blocks" / f"fold_{n}", folder / f"fold_{n}")
    own = ModelBundle.load(folder / "fold_1" / "bundle")
    plan = type(own.plan)(**{**own.plan.to_dict(), "spacing_mm": [2.0, 2.0, 2.0]})
    weights = {"fold_1": own.build_networks()[0].state_dict()}
    card = {k: v for k, v in own.card.items() if k not in ("sha256", "format_version")}
    ModelBundle.write(
        own.folder, weights=weights, plan=plan, labels=own.labels, config={}, card=card
    )

    code = medseg_main(["ensemble", f"folds={folder}"])

    assert code == 1
    told = capsys.readouterr().err
    assert "holds folds that cannot be averaged: plan.spacing_mm is [" in told
    assert "in fold_0 and [2.0, 2.0, 2.0] in fold_1" in told
    assert "train -m fold=0,1,2,3,4" in told


def test_a_division_that_would_score_trained_cases_is_refused(work, tmp_path, capsys):
    folder = tmp_path / "blocks"
    for n in (0, 1):
        shutil.copytree(work / "runs" / "blocks" / f"fold_{n}", folder / f"fold_{n}")
    path = folder / "fold_1" / "split.yaml"
    split = yaml.safe_load(path.read_text())
    split["validation"].append(split["train"][0])
    path.write_text(yaml.safe_dump(split))

    assert medseg_main(["ensemble", f"folds={folder}"]) == 1
    assert "divide the cases differently" in capsys.readouterr().err


@pytest.mark.parametrize("names", [(), ("fold_2",)])
def test_fewer_than_two_folds_are_no_ensemble(work, tmp_path, capsys, names):
    (tmp_path / "blocks").mkdir()
    for name in names:
        shutil.copytree(work / "runs" / "blocks" / name, tmp_path / "blocks" / name)

    assert medseg_main(["ensemble", f"folds={tmp_path / 'blocks'}"]) == 1
    told = capsys.readouterr().err
    assert f"bundles of these folds: {'2' if names else 'none'}" in told


def test_moved_data_are_found_where_they_are_said_to_be(work, tmp_path, capsys):
    for n in (0, 1):
        shutil.copytree(work / "runs" / "blocks" / f"fold_{n}", tmp_path / "blocks" / f"fold_{n}")
        config = tmp_path / "blocks" / f"fold_{n}" / "config.yaml"
        config.write_text(config.read_text().replace(str(work / "blocks"), "/nowhere"))

    assert medseg_main(["ensemble", f"folds={tmp_path / 'blocks'}"]) == 1
    assert "/nowhere" in capsys.readouterr().err
    code = medseg_main(
        [
            "ensemble", f"folds={tmp_path / 'blocks'}", f"source.folder={work / 'blocks'}",
            "postprocess=largest_component",
        ]
    )  # fmt: skip
    assert code == 0
    printed = capsys.readouterr().out
    assert "without fold 2" in printed
    bundle = ModelBundle.load(tmp_path / "blocks" / "ensemble" / "bundle")
    assert bundle.postprocess == {"largest_component": "all"}


def test_a_training_goes_on_from_a_bundle_with_another_label(work, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bundle = ModelBundle.load(work / "runs" / "blocks" / "fold_0" / "bundle")

    code = medseg_main(
        [
            "train", "data=folder", f"data.source.folder={work / 'blocks'}", "data.modality=CT",
            "data.labels={background: 0, corner: 2, whole: 1}", "data.num_folds=3", "trainer=cpu",
            "trainer.max_epochs=1", "loader.steps_per_epoch=1", "optimizer.lr=0.0001",
            f"start_from={bundle.folder}", f"paths.runs={tmp_path / 'runs'}", "name=more",
            f"paths.cache={work / 'cache'}", "logger=none", "callbacks=none",
        ]
    )  # fmt: skip

    assert code == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "labels kept: background, corner" in printed
    assert "labels that are new: whole" in printed
    assert "labels left out: box" in printed
    more = ModelBundle.load(tmp_path / "runs" / "more" / "fold_0" / "bundle")
    assert more.plan.patch_size == bundle.plan.patch_size
    assert more.plan.reasons["patch_size"] == "that of the bundle to start from"
    assert more.card["training"]["started_from"]["sha256"] == bundle.sha256
    before, after = (b.build_networks()[0].state_dict() for b in (bundle, more))
    # One step at this rate moves a weight by 0.0001 at most; a random start lies further off.
    for name in ("encoder.1.0.conv.weight", "ups.0.weight"):
        np.testing.assert_allclose(after[name], before[name], atol=2e-4)
    head = after["heads.0.weight"]
    np.testing.assert_allclose(head[[0, 2]], before["heads.0.weight"][[0, 2]], atol=2e-4)
    assert np.abs(head[1] - before["heads.0.weight"][1]).max() > 1e-3


def test_a_bundle_of_another_kind_is_no_start(work, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bundle = work / "runs" / "blocks" / "fold_0" / "bundle"
    more = [f"start_from={bundle}", "fold=0", f"paths.runs={tmp_path / 'runs'}"]
    words = ["name=other", *more]

    assert train(work, *words, "model.spatial_dims=2", "plan.patch_size=[16,16]") == 1
    assert "start_from: is a 3D network" in capsys.readouterr().err


def test_regions_are_trained_predicted_and_scored(work, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    code = medseg_main(
        [
            "train", "data=folder", f"data.source.folder={work / 'blocks'}", "data.modality=CT",
            "data.labels={background: 0, box: 1, corner: 2, "
            "regions: {whole: [1, 2], inner: [2]}}",
            "data.num_folds=3", "trainer=cpu", "trainer.max_epochs=4", "loader.steps_per_epoch=20",
            "plan.patch_size=[16,16,8]", "plan.base_channels=16", "plan.batch_size=2",
            "optimizer.lr=0.02", "augment=none", f"paths.runs={tmp_path / 'runs'}",
            f"paths.cache={work / 'cache'}", "logger=none", "name=regions",
        ]
    )  # fmt: skip

    assert code == 0
    folder = tmp_path / "runs" / "regions" / "fold_0"
    assert ModelBundle.load(folder / "bundle").labels.num_outputs == 2
    with (folder / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["label"] for row in rows} == {"whole", "inner"}
    # Without learning every voxel would be background and every Dice 0.
    assert min(float(row["dice"]) for row in rows if row["label"] == "whole") > 0.6
