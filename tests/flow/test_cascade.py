"""Coarse to fine: two networks trained one after the other, written as one bundle, and used as any
other.
"""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import yaml
from command_line import medseg_main
from learning_cases import block, write_blocks

from medseg.bundle import ModelBundle

pytestmark = pytest.mark.filterwarnings("ignore")

SHAPE = (26, 24, 18)


def train(work: Path, *more: str) -> int:
    return medseg_main(
        [
            "train", "data=folder", f"data.source.folder={work / 'blocks'}", "data.modality=MR",
            "data.labels={background: 0, box: 1, corner: 2}", "data.num_folds=3", "trainer=cpu",
            "trainer.max_epochs=16", "loader.steps_per_epoch=18", "plan.patch_size=[16,16,8]",
            "plan.base_channels=8", "plan.batch_size=2", "optimizer.lr=0.02", "augment=none",
            f"paths.runs={work / 'runs'}", f"paths.cache={work / 'cache'}", "logger=csv",
            "plan.cascade=true", "plan.coarse_spacing_mm=[2,2.5,2]", "name=blocks", *more,
        ]
    )  # fmt: skip


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cascade trained for seconds."""
    folder = tmp_path_factory.mktemp("cascade")
    write_blocks(folder / "blocks", 6, shape=SHAPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert train(folder) == 0
    return folder


def test_a_run_leaves_one_bundle_with_both_networks(work):
    run = work / "runs" / "blocks" / "fold_0"

    bundle = ModelBundle.load(run / "bundle")

    assert bundle.plan.cascade is True
    assert list(bundle.coarse.plan.spacing_mm) == [2.0, 2.5, 2.0]
    assert bundle.coarse.plan.normalisation == bundle.plan.normalisation
    # A quarter of 16 epochs of 18 steps, and the rest.
    assert bundle.coarse.card["training"]["steps"] == 4 * 18
    assert bundle.card["training"]["steps"] == 12 * 18
    for name in ("plan.yaml", "checkpoints/last.ckpt", "csv"):
        assert (run / "coarse" / name).exists()
    assert yaml.safe_load((run / "plan.yaml").read_text())["cascade"] is True


def predict(bundle: Path, folder: Path) -> float:
    """Dice of the foreground of an image that was not trained on, stored another way."""
    volume, reference = block(77, shape=SHAPE, orientation="LPS")
    path = folder / "images" / "unseen.nii.gz"
    path.parent.mkdir()
    nibabel.save(nibabel.Nifti1Image(volume.array[0], volume.geometry.affine), path)

    code = medseg_main(
        [
            "predict", f"bundle={bundle}", f"source.folder={path.parent}", "output=[nifti]",
            f"paths.output={folder / 'out'}",
        ]
    )  # fmt: skip

    assert code == 0
    (written,) = (folder / "out").glob("*.nii.gz")
    image = nibabel.load(written)
    np.testing.assert_allclose(image.affine, reference.geometry.affine, atol=1e-4)
    found, wanted = np.asarray(image.dataobj) > 0, reference.array > 0
    return float(2 * (found & wanted).sum() / (found.sum() + wanted.sum()))


def test_it_predicts_on_the_grid_of_the_image(work, tmp_path):
    # Output that is shifted or mirrored stays below 0.6.
    assert predict(work / "runs" / "blocks" / "fold_0" / "bundle", tmp_path) > 0.75


@pytest.mark.slow
def test_folds_of_cascades_make_an_ensemble(work, tmp_path, monkeypatch):
    monkeypatch.chdir(work)
    assert train(work, "fold=1") == 0

    assert medseg_main(["ensemble", f"folds={work / 'runs' / 'blocks'}"]) == 0

    folder = work / "runs" / "blocks" / "ensemble" / "bundle"
    bundle = ModelBundle.load(folder)
    wanted = ["weights/fold_0.safetensors", "weights/fold_1.safetensors"]
    assert bundle.weight_files == bundle.coarse.weight_files == wanted
    assert predict(folder, tmp_path) > 0.75


def test_a_finished_cascade_goes_on_without_training_again(work, monkeypatch):
    monkeypatch.chdir(work)
    before = ModelBundle.load(work / "runs" / "blocks" / "fold_0" / "bundle")
    steps = [before.coarse.card["training"]["steps"], before.card["training"]["steps"]]

    assert train(work, "resume=true") == 0

    after = ModelBundle.load(work / "runs" / "blocks" / "fold_0" / "bundle")
    assert [after.coarse.card["training"]["steps"], after.card["training"]["steps"]] == steps
    for name in ("weights/fold_0.safetensors", "coarse/weights/fold_0.safetensors"):
        assert (after.folder / name).read_bytes() == (before.folder / name).read_bytes()


def test_a_second_training_does_not_overwrite_a_cascade(work, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / "blocks" / "fold_0"
    (run / "coarse" / "checkpoints").mkdir(parents=True)
    (run / "coarse" / "checkpoints" / "last.ckpt").write_bytes(b"of an interrupted coarse stage")

    assert train(work, f"paths.runs={tmp_path / 'runs'}") == 1

    assert "set resume=true to go on with it" in capsys.readouterr().err
