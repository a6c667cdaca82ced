"""`predict` without a bundle."""

from pathlib import Path

import nibabel
import numpy as np
import phantoms
import pytest
import yaml

import medseg
from medseg.cli.commands import main
from medseg.dicom.ct_series import write_ct_series
from medseg.sources.segmentations import read_segmentation

NAMES = (
    "edges", "histogram", "kmeans", "multi_otsu", "otsu", "saliency", "superpixels", "threshold",
)  # fmt: skip
AFFINE = np.diag([1.5, 2.0, 4.0, 1.0])


@pytest.fixture
def pairs(tmp_path) -> Path:
    """Two dark boxes of class 1 on bright ground, with references."""
    for number in range(2):
        truth = np.zeros((18, 16, 10), np.uint8)
        truth[4 + number : 13, 3:12, 2:8] = 1
        image = np.random.default_rng(number).normal(np.where(truth, 20.0, 90.0), 4)
        for name, array in (("images", image.astype(np.float32)), ("labels", truth)):
            folder = tmp_path / "pairs" / name
            folder.mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(array, AFFINE), folder / f"case_{number}.nii.gz")
    return tmp_path / "pairs"


def dice(folder: Path, pairs: Path, key: str) -> float:
    found, truth = (
        np.asanyarray(nibabel.load(path / f"{key}.nii.gz").dataobj) == 1
        for path in (folder, pairs / "labels")
    )
    return 2 * (found & truth).sum() / (found.sum() + truth.sum())


def test_every_baseline_predicts_without_a_bundle(pairs, tmp_path):
    image = pairs / "images" / "case_1.nii.gz"

    for name in NAMES:
        medseg.predict(None, image, output=tmp_path / name, overrides=[f"baseline={name}"])

        result = nibabel.load(tmp_path / name / "case_1.nii.gz")
        assert result.affine == pytest.approx(AFFINE)
        if name not in ("kmeans", "multi_otsu"):  # these have a level to spare
            assert dice(tmp_path / name, pairs, "case_1") > 0.9


def test_parameters_are_chosen_on_labelled_cases_and_can_be_used_again(
    pairs, tmp_path, monkeypatch, capsys
):
    options = [f"source.folder={pairs / 'images'}", f"paths.output={tmp_path / 'first'}"]

    assert main(["predict", "baseline=multi_otsu", f"fit_on={pairs}", *options]) == 0

    kept = yaml.safe_load((tmp_path / "first" / "baseline.yaml").read_text())
    assert "fitted on 2 cases: Dice label_1 " in capsys.readouterr().out
    assert dice(tmp_path / "first", pairs, "case_0") > 0.97
    (tmp_path / "conf" / "baseline").mkdir(parents=True)
    (tmp_path / "first" / "baseline.yaml").rename(tmp_path / "conf" / "baseline" / "mine.yaml")
    monkeypatch.setenv("MEDSEG_CONF", str(tmp_path / "conf"))
    again = [options[0], f"paths.output={tmp_path / 'again'}"]
    assert main(["predict", "baseline=mine", *again]) == 0
    assert kept["classes"][0] == 1  # the dark level
    assert dice(tmp_path / "again", pairs, "case_0") == dice(tmp_path / "first", pairs, "case_0")


def test_dicom_comes_back_as_dicom_seg(tmp_path):
    ball = phantoms.sphere(inside=300.0, outside=-50.0)
    write_ct_series(ball, tmp_path / "study", case_key="case", seed=0)
    folders = [f"source.folder={tmp_path / 'study'}", f"paths.output={tmp_path / 'out'}"]

    assert main(["predict", "baseline=otsu", "output=[dicom_seg]", *folders]) == 0

    (path,) = (tmp_path / "out").glob("*.dcm")
    (volume,) = medseg.read_volumes(tmp_path / "study")
    found = read_segmentation(path, source=volume.geometry)
    assert b"medseg baseline Otsu" in path.read_bytes()
    truth = volume.array[0] > 125
    assert 2 * (truth & (found.array == 1)).sum() > 0.9 * (truth.sum() + (found.array == 1).sum())


def test_post_processing_applies_to_baselines_as_well(pairs, tmp_path):
    path = pairs / "images" / "case_0.nii.gz"
    image = np.asanyarray(nibabel.load(path).dataobj).copy()
    image[15:17, 13:15, 4:6] = 20.0  # a second dark part
    nibabel.save(nibabel.Nifti1Image(image, AFFINE), path)
    options = ["baseline=otsu", f"source.folder={path}"]

    main(["predict", *options, f"paths.output={tmp_path / 'all'}"])
    main(["predict", *options, "postprocess=largest_component", f"paths.output={tmp_path / 'one'}"])

    assert dice(tmp_path / "one", pairs, "case_0") > dice(tmp_path / "all", pairs, "case_0")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "bundle: has no value; set bundle=<folder of a model>, or baseline=otsu"),
        (
            ["baseline=otsu", "bundle=b"],
            "baseline: is given beside bundle=b; leave one of them out: either segments by itself",
        ),
        (
            ["baseline=otzu"],
            "there is no baseline 'otzu'; did you mean 'otsu'? there are: edges, histogram, kmeans",
        ),
        (
            ["bundle=b", "fit_on=x"],
            "fit_on: is given without a baseline; train a bundle with train",
        ),
    ],
)
def test_options_that_do_not_go_together_are_explained(pairs, tmp_path, capsys, options, message):
    given = [f"source.folder={pairs / 'images'}", f"paths.output={tmp_path / 'out'}"]

    assert main(["predict", *options, *given]) == 1

    assert message in capsys.readouterr().err
